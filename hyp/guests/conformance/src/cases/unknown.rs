//! Reset values that the architecture leaves UNKNOWN, or to the implementation: the values that
//! software in the wild relies on.

use super::gits;
use super::kvm;
use crate::gic::interface::{self, Control, EOI_MODE};
use crate::harness::{Case, Cpus, Outcome, equal, holds};

/// `GITS_BASER<n>.Page_Size` of 64 KiB.
const PAGES_OF_64K: u64 = 0b10;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "reset.unknown_gicd_igroupr",
        "GICD_IGROUPR<n> (12.9), UNKNOWN",
        |m| equal("SPIs are in Group 0", m.at_reset.unknown.igroupr, 0),
    )
    .unlike_kvm(kvm::UNKNOWN),
    Case::new(
        "reset.unknown_gicd_ipriorityr",
        "GICD_IPRIORITYR<n> (12.9), UNKNOWN",
        |m| equal("SPIs are the most urgent", m.at_reset.unknown.ipriorityr, 0),
    ),
    Case::new(
        "reset.unknown_gicd_icfgr",
        "GICD_ICFGR<n> (12.9), UNKNOWN",
        |m| equal("SPIs are level-sensitive", m.at_reset.icfgr, 0),
    )
    .unlike_kvm(kvm::UNKNOWN),
    Case::new(
        "reset.unknown_gicd_irouter",
        "GICD_IROUTER<n> (12.9), UNKNOWN",
        |m| {
            equal(
                "SPIs are routed to the first CPU",
                m.at_reset.unknown.irouter,
                m.affinity(0),
            )
        },
    ),
    Case::new(
        "reset.unknown_gicr_igroupr0",
        "GICR_IGROUPR0 (12.11), UNKNOWN",
        |m| {
            let groups = m.at_reset.unknown.gicr_igroupr0;
            equal("SGIs and PPIs are in Group 0", groups, 0)
        },
    )
    .unlike_kvm(kvm::UNKNOWN),
    Case::new(
        "reset.unknown_gicr_ipriorityr",
        "GICR_IPRIORITYR<n> (12.11), UNKNOWN",
        |m| {
            let [sgis, ppis] = m.at_reset.unknown.gicr_ipriorityr;
            equal("SGIs are the most urgent", sgis, 0)?;
            equal("PPIs are the most urgent", ppis, 0)
        },
    ),
    Case::new(
        "reset.unknown_gicr_icfgr1",
        "GICR_ICFGR1 (12.11), UNKNOWN",
        |m| {
            let triggers = m.at_reset.unknown.gicr_icfgr1;
            equal("PPIs are level-sensitive", triggers, 0)
        },
    ),
    Case::new(
        "reset.unknown_lpi_tables",
        "GICR_PROPBASER, GICR_PENDBASER (12.11), UNKNOWN",
        |m| {
            equal("GICR_PROPBASER", m.at_reset.unknown.propbaser, 0)?;
            equal("GICR_PENDBASER", m.at_reset.unknown.pendbaser, 0)
        },
    )
    .unlike_kvm(kvm::UNKNOWN),
    Case::new(
        "reset.unknown_gits_queue",
        "GITS_CBASER, GITS_CWRITER (12.19), UNKNOWN",
        |m| {
            gits(m)?;
            equal("GITS_CBASER", m.at_reset.gits_cbaser, 0)?;
            equal("GITS_CWRITER", m.at_reset.unknown.gits_cwriter, 0)?;
            equal("GITS_CREADR", m.at_reset.unknown.gits_creadr, 0)
        },
    ),
    Case::new(
        "reset.unknown_gits_baser",
        "GITS_BASER<n>.Page_Size (12.19), UNKNOWN",
        |m| {
            gits(m)?;
            let basers = m.at_reset.unknown.gits_basers.into_iter();
            for baser in basers.filter(|baser| baser >> 56 & 7 != 0) {
                equal("Page_Size is 64 KiB", baser >> 8 & 3, PAGES_OF_64K)?;
                equal("Valid and Indirect", baser >> 62, 0)?;
                equal("Physical_Address", baser & 0xffff_ffff_f000, 0)?;
                equal("Size", baser & 0xff, 0)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "reset.unknown_interface",
        "ICC_CTLR_EL1, ICC_BPR<n>_EL1, ICC_AP<n>R0_EL1 (12.2), UNKNOWN",
        |m| check_interface(m.at_reset.unknown.interface),
    ),
    Case::new(
        "reset.unknown_secondary",
        "ICC_CTLR_EL1, ICC_BPR<n>_EL1 (12.2), UNKNOWN",
        |m| {
            crate::cpus::on(1, || {
                interface::set_ctlr(interface::CBPR | EOI_MODE);
                interface::set_bpr_0(6);
                interface::set_pmr(0x80);
            });
            crate::cpus::turn_off(m, 1);
            crate::cpus::turn_on(m, 1);
            let (control, mask) = crate::cpus::on(1, || (Control::read(), interface::pmr()));
            equal("PMR", mask, 0)?;
            check_interface(control)
        },
    )
    .unlike_kvm(kvm::NO_RESET_BY_CPU_ON)
    .on(Cpus::Two),
];

/// Checks a CPU interface that comes out of reset.
fn check_interface(control: Control) -> Outcome {
    equal("CBPR and EOImode", control.ctlr & 3, 0)?;
    // The binary points come up at their minimum, by the number of preemption bits.
    holds("BPR0 is at most 2", control.bpr_0 <= 2)?;
    equal("BPR1 is one more", control.bpr_1, control.bpr_0 + 1)?;
    equal("active priorities of Group 0", control.ap_0, 0)?;
    equal("active priorities of Group 1", control.ap_1, 0)?;
    equal("no priority runs", control.running, 0xff)
}
