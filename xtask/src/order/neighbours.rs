//! Instructions that have a barrier beside them: before it or after it, with neither an access to
//! memory nor another way in or out between the two.

use super::instruction::{Instruction, Register};
use super::program::{INSTRUCTION, Program};
use super::{Fault, Outcome};

/// Most instructions between an instruction and its barrier.
const REACH: usize = 16;

/// A rule about an instruction's neighbours.
struct Rule {
    name: &'static str,
    /// Selects the instructions that the rule is about.
    is_site: fn(Instruction) -> bool,
    /// The barriers that have to be there, in any order.
    barriers: &'static [Barrier],
}

/// A barrier beside an instruction.
struct Barrier {
    /// Its place: before the instruction, or after it.
    before: bool,
    name: &'static str,
    is_it: fn(Instruction) -> bool,
}

const RULES: [Rule; 4] = [
    Rule {
        name: "stores are complete before an SGI, and the SGI is sent before what follows",
        is_site: |at| at == Instruction::Msr(Register::ICC_SGI1R_EL1),
        barriers: &[
            Barrier {
                before: true,
                name: "DSB ISHST",
                is_it: |at| matches!(at, Instruction::Dsb { stores: true, .. }),
            },
            ISB_AFTER,
        ],
    },
    Rule {
        name: "an acknowledge is complete before the interrupt is handled",
        is_site: |at| at == Instruction::Mrs(Register::ICC_IAR1_EL1),
        barriers: &[Barrier {
            before: false,
            name: "DSB SY",
            is_it: |at| matches!(at, Instruction::Dsb { full: true, .. }),
        }],
    },
    Rule {
        name: "the timer of EL2 is set before what follows",
        is_site: |at| at == Instruction::Msr(Register::CNTHP_CTL_EL2),
        barriers: &[ISB_AFTER],
    },
    Rule {
        name: "nothing is speculated past an ERET",
        is_site: |at| at == Instruction::Eret,
        barriers: &[
            Barrier {
                before: false,
                name: "SB or DSB",
                is_it: |at| matches!(at, Instruction::Sb | Instruction::Dsb { .. }),
            },
            Barrier {
                before: false,
                name: "SB or ISB",
                is_it: |at| matches!(at, Instruction::Sb | Instruction::Isb),
            },
        ],
    },
];

const ISB_AFTER: Barrier = Barrier {
    before: false,
    name: "ISB",
    is_it: |at| at == Instruction::Isb,
};

/// Checks each rule.
pub(super) fn check(program: &Program) -> Vec<(&'static str, Outcome)> {
    RULES.map(|rule| (rule.name, rule.check(program))).into()
}

impl Rule {
    fn check(&self, program: &Program) -> Outcome {
        let mut outcome = Outcome::default();
        let sites =
            (program.instructions()).filter(|(_, instruction)| (self.is_site)(*instruction));
        for (address, _) in sites {
            outcome.sites += 1;
            for barrier in self.barriers {
                if !barrier.is_beside(program, address) {
                    let side = if barrier.before { "before" } else { "after" };
                    let message = format!("no {} {side} it", barrier.name);
                    outcome.faults.push(Fault { address, message });
                }
            }
        }
        outcome
    }
}

impl Barrier {
    /// Returns true if the barrier is beside the instruction at `address`.
    fn is_beside(&self, program: &Program, address: u64) -> bool {
        let mut at = address;
        for _ in 0..REACH {
            // A way in between the barrier and the instruction leads around the barrier.
            if self.before && program.is_target(at) {
                return false;
            }
            at = if self.before {
                at - INSTRUCTION
            } else {
                at + INSTRUCTION
            };
            match program.at(at) {
                Some(instruction) if (self.is_it)(instruction) => return true,
                Some(Instruction::Access) | None => return false,
                Some(instruction) if instruction.leaves_the_line() => return false,
                Some(_) => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::tests::program;
    use super::*;

    const MSR_SGI1R: u32 = 0xd518_cba0;
    const MRS_IAR1: u32 = 0xd538_cc00;
    const MSR_CNTHP_CTL: u32 = 0xd51c_e220;
    const ERET: u32 = 0xd69f_03e0;
    const DSB_SY: u32 = 0xd503_3f9f;
    const DSB_ISHST: u32 = 0xd503_3a9f;
    const DSB_ISHLD: u32 = 0xd503_399f;
    const DSB_NSH: u32 = 0xd503_379f;
    const ISB: u32 = 0xd503_3fdf;
    const SB: u32 = 0xd503_30ff;
    const STORE: u32 = 0xf900_0020;
    const NOP: u32 = 0xd503_201f;
    const CBZ_BACK_ONE: u32 = 0xb4ff_ffe0;
    const RET: u32 = 0xd65f_03c0;

    /// Returns the messages about a function of these words.
    fn messages(words: &[u32]) -> Vec<String> {
        let outcomes = check(&program(&[("f", words)]));
        let faults = outcomes.into_iter().flat_map(|(_, outcome)| outcome.faults);
        faults.map(|fault| fault.message).collect()
    }

    #[test]
    fn an_sgi_has_a_dsb_before_it_and_an_isb_after_it() {
        let none: [&str; 0] = [];
        let no_dsb = ["no DSB ISHST before it"];
        assert_eq!(messages(&[DSB_ISHST, MSR_SGI1R, ISB, RET]), none);
        assert_eq!(messages(&[DSB_SY, NOP, MSR_SGI1R, NOP, ISB, RET]), none);
        assert_eq!(messages(&[DSB_ISHST, MSR_SGI1R, RET]), ["no ISB after it"]);
        assert_eq!(messages(&[MSR_SGI1R, ISB, RET]), no_dsb);
        assert_eq!(messages(&[DSB_ISHLD, MSR_SGI1R, ISB, RET]), no_dsb);
        assert_eq!(messages(&[DSB_NSH, MSR_SGI1R, ISB, RET]), no_dsb);
        // A store that the barrier does not complete.
        assert_eq!(messages(&[DSB_ISHST, STORE, MSR_SGI1R, ISB, RET]), no_dsb);
        // A way around the barrier.
        let around = [DSB_ISHST, MSR_SGI1R, CBZ_BACK_ONE, ISB, RET];
        assert_eq!(messages(&around).len(), 2);
    }

    #[test]
    fn an_acknowledge_has_a_dsb_after_it() {
        assert!(messages(&[MRS_IAR1, DSB_SY, RET]).is_empty());
        for wrong in [
            &[MRS_IAR1, RET][..],
            &[MRS_IAR1, DSB_ISHST],
            &[MRS_IAR1, STORE, DSB_SY],
            &[MRS_IAR1, CBZ_BACK_ONE, DSB_SY],
        ] {
            assert_eq!(messages(wrong), ["no DSB SY after it"], "{wrong:x?}");
        }
    }

    #[test]
    fn the_timer_has_an_isb_after_it() {
        assert!(messages(&[MSR_CNTHP_CTL, ISB, RET]).is_empty());
        assert_eq!(messages(&[MSR_CNTHP_CTL, RET]), ["no ISB after it"]);
    }

    #[test]
    fn an_eret_ends_speculation() {
        assert!(messages(&[ERET, SB]).is_empty());
        assert!(messages(&[ERET, DSB_NSH, ISB]).is_empty());
        assert_eq!(messages(&[ERET, DSB_NSH, RET]), ["no SB or ISB after it"]);
        assert_eq!(messages(&[ERET, ISB]), ["no SB or DSB after it"]);
        assert_eq!(messages(&[ERET, STORE, SB]).len(), 2);
    }

    #[test]
    fn a_rule_without_a_subject_does_not_hold() {
        let outcomes = check(&program(&[("f", &[RET])]));
        assert!(outcomes.iter().all(|(_, outcome)| !outcome.holds()));
    }
}
