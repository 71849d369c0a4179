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
    // Inlined: a caller pays for the conditions that it looks at.
    #[inline]
    #[must_use]
    pub fn misr(&self) -> u64 {
        if cfg!(debug_assertions) {
            self.assert_list_registers_agree();
        }
        let hcr = self.hcr.get();
        let enabled = |group1| self.vmcr.get() & vmcr::group_enable(group1) != 0;
        let valid = || self.list_registers().filter(|lr| !lr.is_empty()).count();
        let is_pending = |lr: ListRegister| lr.is_pending() && !lr.is_active();
        let condition = |bit, holds| if holds { bit } else { 0 };

        condition(misr::EOI, self.eisr() != 0)
            | condition(misr::U, hcr & hcr::UIE != 0 && valid() <= 1)
            | condition(
                misr::LRENP,
                hcr & hcr::LRENPIE != 0 && hcr & hcr::EOI_COUNT != 0,
            )
            | condition(
                misr::NP,
                hcr & hcr::NPIE != 0 && !self.list_registers().any(is_pending),
            )
            | condition(misr::VGRP0E, hcr & hcr::VGRP0EIE != 0 && enabled(false))
            | condition(misr::VGRP0D, hcr & hcr::VGRP0DIE != 0 && !enabled(false))
            | condition(misr::VGRP1E, hcr & hcr::VGRP1EIE != 0 && enabled(true))
            | condition(misr::VGRP1D, hcr & hcr::VGRP1DIE != 0 && !enabled(true))
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
