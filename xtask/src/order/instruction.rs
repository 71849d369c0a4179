//! Instructions of A64 by their encodings (DDI 0487, C4.1), as far as the rules tell them apart.

/// A system register, as the 15 bits of `MSR` and `MRS` that name it: `o0`, `op1`, `CRn`, `CRm`,
/// `op2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register(u16);

impl Register {
    pub(super) const ICC_IAR1_EL1: Self = Self::new(3, 0, 12, 12, 0);
    pub(super) const ICC_SGI1R_EL1: Self = Self::new(3, 0, 12, 11, 5);
    pub(super) const CNTHP_CTL_EL2: Self = Self::new(3, 4, 14, 2, 1);
    pub(super) const ICH_HCR_EL2: Self = Self::new(3, 4, 12, 11, 0);
    pub(super) const ICH_MISR_EL2: Self = Self::new(3, 4, 12, 11, 2);
    pub(super) const ICH_EISR_EL2: Self = Self::new(3, 4, 12, 11, 3);
    pub(super) const ICH_ELRSR_EL2: Self = Self::new(3, 4, 12, 11, 5);

    const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self((op0 & 1) << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    /// Returns true for `ICH_LR<n>_EL2`.
    pub(super) fn is_list_register(self) -> bool {
        (0..16).any(|n| self == Self::new(3, 4, 12, 12 + n / 8, n % 8))
    }
}

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `DSB`.
    Dsb {
        /// It completes writes for the inner shareable domain at least.
        stores: bool,
        /// It completes all accesses for the whole system.
        full: bool,
    },
    /// `ISB`.
    Isb,
    /// `SB`.
    Sb,
    /// `ERET`.
    Eret,
    /// `MSR` of a register.
    Msr(Register),
    /// `MRS`.
    Mrs(Register),
    /// `HVC`, `SMC` or `SVC`: an exception that returns.
    Call,
    /// `BRK`, `UDF` and the like: nothing is executed after it.
    End,
    /// `B`, to an offset in bytes.
    Branch(i64),
    /// `B.cond`, `CBZ`, `CBNZ`, `TBZ` or `TBNZ`.
    BranchIf(i64),
    /// `BL`.
    BranchLink(i64),
    /// `BLR`.
    BranchLinkRegister,
    /// `BR`, with the number of its register.
    BranchRegister(u8),
    /// `RET`.
    Return,
    /// `ADD` of two registers, with the number of the register that holds the sum.
    Add(u8),
    /// A load, a store, or an atomic access.
    Access,
    /// Any other instruction.
    Other,
}

impl Instruction {
    /// Decodes an instruction word.
    pub(super) fn decode(word: u32) -> Self {
        match word {
            0xd69f_03e0 => return Self::Eret,
            0xd503_30ff => return Self::Sb,
            _ => {}
        }
        if word & 0xffff_f0ff == 0xd503_309f {
            return Self::barrier((word >> 8) & 0xf);
        }
        if word & 0xffff_f0ff == 0xd503_30df {
            return Self::Isb;
        }
        let register = Register((word >> 5) as u16 & 0x7fff);
        match word & 0xfff0_0000 {
            0xd510_0000 => return Self::Msr(register),
            0xd530_0000 => return Self::Mrs(register),
            _ => {}
        }
        match word & 0xffe0_001f {
            0xd400_0001..=0xd400_0003 => return Self::Call,
            0xd420_0000 | 0xd440_0000 => return Self::End,
            _ if word >> 16 == 0 => return Self::End,
            _ => {}
        }
        match word & 0xffff_fc1f {
            0xd61f_0000 => return Self::BranchRegister((word >> 5 & 0x1f) as u8),
            0xd63f_0000 => return Self::BranchLinkRegister,
            0xd65f_0000 => return Self::Return,
            _ => {}
        }
        match (word >> 26, word >> 24) {
            (0b00_0101, _) => Self::Branch(offset(word, 0, 26)),
            (0b10_0101, _) => Self::BranchLink(offset(word, 0, 26)),
            (_, 0x54 | 0x34 | 0x35 | 0xb4 | 0xb5) => Self::BranchIf(offset(word, 5, 19)),
            (_, 0x36 | 0x37 | 0xb6 | 0xb7) => Self::BranchIf(offset(word, 5, 14)),
            _ if word & 0xff20_0000 == 0x8b00_0000 => Self::Add((word & 0x1f) as u8),
            _ if (word >> 25) & 0b0101 == 0b0100 => Self::Access,
            _ => Self::Other,
        }
    }

    /// Returns the `DSB` with an option. Options without a type are `SSBB` and `PSSBB`, which
    /// complete nothing.
    fn barrier(option: u32) -> Self {
        let (domain, types) = (option >> 2, option & 3);
        if types == 0 {
            return Self::Other;
        }
        Self::Dsb {
            // 0b00 is the outer shareable domain, which has the inner one in it.
            stores: domain != 0b01 && types != 0b01,
            full: option == 0b1111,
        }
    }

    /// Returns the offset of a direct branch's target in bytes.
    pub(super) fn target(self) -> Option<i64> {
        match self {
            Self::Branch(offset) | Self::BranchIf(offset) | Self::BranchLink(offset) => {
                Some(offset)
            }
            _ => None,
        }
    }

    /// Returns true if the next instruction is not the one behind it in memory, unless there is a
    /// branch to that one. `ERET` is none of them: the walks treat an exit from the guest as the
    /// `ERET`'s return.
    pub(super) fn is_last(self) -> bool {
        matches!(
            self,
            Self::Branch(_) | Self::BranchRegister(_) | Self::Return | Self::End
        )
    }

    /// Returns true if other instructions may come next than the one behind it in memory.
    pub(super) fn leaves_the_line(self) -> bool {
        self.is_last()
            || matches!(
                self,
                Self::BranchIf(_)
                    | Self::BranchLink(_)
                    | Self::BranchLinkRegister
                    | Self::Eret
                    | Self::Call
            )
    }
}

/// Returns the signed field of `bits` bits at bit `shift`, in bytes.
fn offset(word: u32, shift: u32, bits: u32) -> i64 {
    let unused = 32 - bits;
    i64::from(((word >> shift) << unused).cast_signed() >> unused) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_are_told_apart() {
        let dsb = |stores, full| Instruction::Dsb { stores, full };
        for (word, instruction) in [
            (0xd503_3f9f, dsb(true, true)),    // dsb sy
            (0xd503_3a9f, dsb(true, false)),   // dsb ishst
            (0xd503_3b9f, dsb(true, false)),   // dsb ish
            (0xd503_399f, dsb(false, false)),  // dsb ishld
            (0xd503_379f, dsb(false, false)),  // dsb nsh
            (0xd503_309f, Instruction::Other), // ssbb
            (0xd503_3bbf, Instruction::Other), // dmb ish
            (0xd503_3fdf, Instruction::Isb),
            (0xd503_30ff, Instruction::Sb),
            (0xd69f_03e0, Instruction::Eret),
        ] {
            assert_eq!(Instruction::decode(word), instruction, "{word:#x}");
        }
    }

    #[test]
    fn registers_are_named_by_their_encodings() {
        for (word, instruction) in [
            (0xd518_cba8, Instruction::Msr(Register::ICC_SGI1R_EL1)),
            (0xd538_cc08, Instruction::Mrs(Register::ICC_IAR1_EL1)),
            (0xd51c_cb09, Instruction::Msr(Register::ICH_HCR_EL2)),
            (0xd53c_cb4a, Instruction::Mrs(Register::ICH_MISR_EL2)),
            (0xd53c_cb68, Instruction::Mrs(Register::ICH_EISR_EL2)),
            (0xd53c_cba8, Instruction::Mrs(Register::ICH_ELRSR_EL2)),
            (0xd51c_e228, Instruction::Msr(Register::CNTHP_CTL_EL2)),
        ] {
            assert_eq!(Instruction::decode(word), instruction, "{word:#x}");
        }
        for (word, is_list_register) in [
            (0xd51c_cc08, true),  // ICH_LR0_EL2
            (0xd51c_cde8, true),  // ICH_LR15_EL2
            (0xd51c_cbe8, false), // ICH_VMCR_EL2
            (0xd51c_c908, false), // ICH_AP1R0_EL2
        ] {
            let Instruction::Msr(register) = Instruction::decode(word) else {
                panic!("{word:#x}");
            };
            assert_eq!(register.is_list_register(), is_list_register, "{word:#x}");
        }
    }

    #[test]
    fn branches_have_their_targets() {
        for (word, instruction) in [
            (0x1400_0002, Instruction::Branch(8)),
            (0x17ff_ffff, Instruction::Branch(-4)),
            (0x9400_0001, Instruction::BranchLink(4)),
            (0x54ff_ffe0, Instruction::BranchIf(-4)), // b.eq
            (0xb400_0040, Instruction::BranchIf(8)),  // cbz x0
            (0x3500_0040, Instruction::BranchIf(8)),  // cbnz w0
            (0x37ff_ffe0, Instruction::BranchIf(-4)), // tbnz w0, #31
            (0xd61f_0140, Instruction::BranchRegister(10)),
            (0xd63f_0140, Instruction::BranchLinkRegister),
            (0xd65f_03c0, Instruction::Return),
            (0xd400_0003, Instruction::Call), // smc
            (0xd420_0020, Instruction::End),  // brk
            (0x0000_0000, Instruction::End),  // udf
        ] {
            assert_eq!(Instruction::decode(word), instruction, "{word:#x}");
        }
    }

    #[test]
    fn accesses_are_told_from_arithmetic() {
        for word in [0xf940_0000, 0xa9bf_7bfd, 0xf8e1_0002, 0x8820_7c41] {
            assert_eq!(Instruction::decode(word), Instruction::Access, "{word:#x}");
        }
        assert_eq!(Instruction::decode(0x8b0d_018c), Instruction::Add(12));
        for word in [0x9100_0421, 0xaa00_03e1, 0xd503_201f, 0x9000_0000] {
            assert_eq!(Instruction::decode(word), Instruction::Other, "{word:#x}");
        }
    }
}
