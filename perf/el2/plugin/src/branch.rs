//! Branches that enter or leave a function (DDI 0487, C4.1.65 and C6.2).

/// A branch that may enter or leave a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Branch {
    /// `BL`, or `BLR` with or without pointer authentication.
    Call,
    /// `B`, to an address.
    Jump(u64),
    /// `BR` or `RET`, with or without pointer authentication, to the address in a register.
    Register(u8),
    /// `ERET`, with or without pointer authentication.
    ExceptionReturn,
}

impl Branch {
    /// Decodes the instruction `word` at `address`. Returns `None` for any other instruction.
    /// `B.cond`, `CBZ`, `TBZ` and the like are others: compilers do not leave a function by them.
    pub(crate) const fn decode(word: u32, address: u64) -> Option<Self> {
        match word >> 26 {
            0b10_0101 => return Some(Self::Call),
            0b00_0101 => {
                // imm26, in words.
                let offset = (word << 6) as i32 >> 4;
                return Some(Self::Jump(address.wrapping_add_signed(offset as i64)));
            }
            _ => {}
        }
        if word & 0xfe1f_0000 != 0xd61f_0000 {
            return None;
        }

        // Bit 3 tells pointer authentication with a modifier, which BR, BLR and ERET may have.
        let register = (word >> 5 & 0x1f) as u8;
        match (word >> 21) & 0xf {
            0b0000 | 0b1000 => Some(Self::Register(register)),
            0b0001 | 0b1001 => Some(Self::Call),
            // RETAA and RETAB have 31 there, and mean X30.
            0b0010 if register == 31 => Some(Self::Register(30)),
            0b0010 => Some(Self::Register(register)),
            0b0100 => Some(Self::ExceptionReturn),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_decoded() {
        let of = |word| Branch::decode(word, 0x1000);
        assert_eq!(of(0x9400_0001), Some(Branch::Call), "bl .+4");
        assert_eq!(of(0xd63f_0100), Some(Branch::Call), "blr x8");
        assert_eq!(of(0xd73f_0909), Some(Branch::Call), "blraa x8, x9");
        assert_eq!(of(0xd63f_091f), Some(Branch::Call), "blraaz x8");
        assert_eq!(of(0x1400_0002), Some(Branch::Jump(0x1008)), "b .+8");
        assert_eq!(of(0x17ff_ffff), Some(Branch::Jump(0xffc)), "b .-4");
        assert_eq!(of(0xd61f_0200), Some(Branch::Register(16)), "br x16");
        assert_eq!(of(0xd71f_0a11), Some(Branch::Register(16)), "braa x16, x17");
        assert_eq!(of(0xd65f_03c0), Some(Branch::Register(30)), "ret");
        assert_eq!(of(0xd65f_0120), Some(Branch::Register(9)), "ret x9");
        assert_eq!(of(0xd65f_0bff), Some(Branch::Register(30)), "retaa");
        assert_eq!(of(0xd69f_03e0), Some(Branch::ExceptionReturn), "eret");
        assert_eq!(of(0xd69f_0bff), Some(Branch::ExceptionReturn), "eretaa");
    }

    #[test]
    fn other_instructions_are_no_branches() {
        for word in [
            0xd503_201f,
            0x5400_0000,
            0xb400_0000,
            0xd400_0002,
            0xf940_0000,
        ] {
            assert_eq!(Branch::decode(word, 0), None, "{word:#x}");
        }
    }
}
