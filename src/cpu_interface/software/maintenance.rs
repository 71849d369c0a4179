//! Status of the list registers for the hypervisor: empty registers, outstanding EOI maintenance
//! interrupts, and the maintenance conditions (IHI 0069, chapter 6 and 12.4).

use super::SoftwareInterface;
use crate::{
    cpu_interface::{hcr, misr, vmcr},
    lr::ListRegister,
};

impl SoftwareInterface {
    /// Returns `ICH_MISR_EL2`, the maintenance conditions that hold, as bits of [`misr`]. Counts no
    /// access.
    #[must_use]
    pub fn misr(&self) -> u64 {
        self.assert_list_registers_agree();
        let hcr = self.hcr.get();
        let enabled = |group1| self.vmcr.get() & vmcr::group_enable(group1) != 0;
        let valid = self.list_registers().filter(|lr| !lr.is_empty()).count();
        let none_pending = !self
            .list_registers()
            .any(|lr| lr.is_pending() && !lr.is_active());

        [
            (misr::EOI, self.eisr() != 0),
            (misr::U, hcr & hcr::UIE != 0 && valid <= 1),
            (
                misr::LRENP,
                hcr & hcr::LRENPIE != 0 && hcr & hcr::EOI_COUNT != 0,
            ),
            (misr::NP, hcr & hcr::NPIE != 0 && none_pending),
            (misr::VGRP0E, hcr & hcr::VGRP0EIE != 0 && enabled(false)),
            (misr::VGRP0D, hcr & hcr::VGRP0DIE != 0 && !enabled(false)),
            (misr::VGRP1E, hcr & hcr::VGRP1EIE != 0 && enabled(true)),
            (misr::VGRP1D, hcr & hcr::VGRP1DIE != 0 && !enabled(true)),
        ]
        .into_iter()
        .filter(|&(_, holds)| holds)
        .fold(0, |misr, (bit, _)| misr | bit)
    }

    /// Returns true if the maintenance interrupt is asserted.
    #[must_use]
    pub fn maintenance(&self) -> bool {
        self.misr() != 0 && self.hcr.get() & hcr::EN != 0
    }

    /// Returns `ICH_ELRSR_EL2`: empty list registers without an EOI maintenance interrupt.
    pub(super) fn elrsr(&self) -> u16 {
        self.status(|lr| lr.is_empty() && !lr.wants_eoi())
    }

    /// Returns `ICH_EISR_EL2`: empty list registers with an EOI maintenance interrupt outstanding.
    pub(super) fn eisr(&self) -> u16 {
        self.status(|lr| lr.is_empty() && lr.wants_eoi())
    }

    /// Returns a mask with bit n set if `is_set` holds for list register n.
    fn status(&self, is_set: impl Fn(ListRegister) -> bool) -> u16 {
        self.list_registers()
            .enumerate()
            .fold(0, |status, (index, lr)| {
                status | u16::from(is_set(lr)) << index
            })
    }
}
