//! The kinds of instruction that are counted apart (DDI 0487, C4.1).

/// A kind of instruction that is counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `MRS` or `MSR` (register) of an `ICH_*` register.
    Ich,
    /// `MRS` or `MSR` (register) of any other system register.
    SystemRegister,
    /// `DSB`, `DMB`, `ISB` or `SB`.
    Barrier,
    /// Anything else.
    Other,
}

/// Decodes an instruction.
pub(crate) const fn kind(word: u32) -> Kind {
    const MOVE: u32 = 0xd510_0000;
    const MOVE_MASK: u32 = 0xffd0_0000;
    const BARRIER: u32 = 0xd503_3000;
    const BARRIER_MASK: u32 = 0xffff_f000;
    if word & MOVE_MASK == MOVE {
        return if is_ich(word) {
            Kind::Ich
        } else {
            Kind::SystemRegister
        };
    }
    // 2 is CLREX.
    if word & BARRIER_MASK == BARRIER && matches!((word >> 5) & 7, 1 | 4..=7) {
        return Kind::Barrier;
    }
    Kind::Other
}

/// Tells whether a move names `ICH_*`: S3_4_C12_C8_n, C9_0 to C9_3, C11_n, C12_n, C13_n.
const fn is_ich(word: u32) -> bool {
    let (op0, op1) = (2 | (word >> 19) & 1, (word >> 16) & 7);
    let (crn, crm, op2) = ((word >> 12) & 0xf, (word >> 8) & 0xf, (word >> 5) & 7);
    op0 == 3 && op1 == 4 && crn == 12 && matches!((crm, op2), (8 | 11..=13, _) | (9, 0..=3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(0xd53c_cba0), Kind::Ich, "mrs x0, ich_elrsr_el2");
        assert_eq!(kind(0xd51c_cc00), Kind::Ich, "msr ich_lr0_el2, x0");
        assert_eq!(kind(0xd51c_cb00), Kind::Ich, "msr ich_hcr_el2, x0");
        assert_eq!(
            kind(0xd53c_c9a0),
            Kind::SystemRegister,
            "mrs x0, icc_sre_el2"
        );
        assert_eq!(
            kind(0xd538_cc08),
            Kind::SystemRegister,
            "mrs x8, icc_iar1_el1"
        );
        assert_eq!(kind(0xd503_3f9f), Kind::Barrier, "dsb sy");
        assert_eq!(kind(0xd503_3fdf), Kind::Barrier, "isb");
        assert_eq!(kind(0xd503_3f5f), Kind::Other, "clrex");
        assert_eq!(kind(0xd503_201f), Kind::Other, "nop");
        assert_eq!(kind(0xf940_0000), Kind::Other, "ldr x0, [x0]");
    }
}
