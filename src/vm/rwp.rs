//! `GICD_CTLR.RWP` and `GICR_CTLR.RWP`: who waits for list registers to be taken back.

use crate::host::Host;
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::vm::Vm;
use crate::vm::distributor::Distributor;
use crate::vm::residency::{RECALL, ResidencyBits};
use crate::vm::vcpu::Vcpu;

/// `GICR_CTLR.RWP` waits for this vCPU to take its list registers back.
pub(crate) const RWP_GICR: u8 = 1 << 0;

/// `GICD_CTLR.RWP` does.
pub(crate) const RWP_GICD: u8 = 1 << 1;

impl Vcpu {
    /// Whether a write of the distributor's or redistributor's registers, `by`, is incomplete because this
    /// vCPU is in the guest and has not taken its list registers back since.
    ///
    /// What decides is the residency word: RECALL was set after the write's change, and an entry consumes
    /// it before it takes the registers back, before the guest runs. `rwp` only says for whom that
    /// may be, so that nobody else waits. It is cleared before RECALL is consumed: one that is set later
    /// is for a later RECALL, or stays behind without effect until the next.
    pub(crate) fn rwp_pending(&self, by: u8) -> bool {
        // Acquire: pairs with `await_recall`.
        let place = self.residency.get();
        self.rwp.load(Acquire) & by != 0 && place.in_guest() && place.has(RECALL)
    }

    /// Notes that a write waits for this vCPU, if it does; after its recall was sent. True if none of
    /// the same register was noted before.
    fn rwp_expect(&self, by: u8) -> bool {
        let place = self.residency.get();
        // AcqRel: pairs with `recalled` and `rwp_pending`.
        place.in_guest() && place.has(RECALL) && self.rwp.fetch_or(by, AcqRel) & by == 0
    }

    /// Forgets who waited for this vCPU, which is out of the guest and about to consume the RECALL in
    /// `place`; returns who it was.
    #[inline]
    pub(crate) fn rwp_done(&self, place: ResidencyBits) -> u8 {
        // Acquire: pairs with `await_recall`; the common case writes nothing.
        if !place.has(RECALL) || self.rwp.load(Acquire) == 0 {
            return 0;
        }
        // AcqRel: as above.
        self.rwp.swap(0, AcqRel)
    }
}

impl Distributor {
    /// One vCPU more that `GICD_CTLR.RWP` may wait for.
    fn rwp_add(&self) {
        // AcqRel: pairs with `recalled` and the read of RWP.
        self.rwp_vcpus.fetch_add(1, AcqRel);
    }

    /// One vCPU fewer.
    pub(crate) fn rwp_remove(&self) {
        // AcqRel: pairs with `awaiting`.
        self.rwp_vcpus.fetch_sub(1, AcqRel);
    }
}

/// Notes that `vcpu`, to which a recall was sent, is rwp, if it is in the guest; otherwise it will
/// take its registers back before it enters.
pub(crate) fn expect<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, by: u8) {
    if vcpu.rwp_expect(by) && by == RWP_GICD {
        vm.distributor.rwp_add();
    }
}

/// The vCPU is out of the guest and about to take its list registers back, if the work in `place` asks
/// for it: whoever waited for that need not wait any more.
#[inline]
pub(crate) fn done<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, place: ResidencyBits) {
    if vcpu.rwp_done(place) & RWP_GICD != 0 {
        vm.distributor.rwp_remove();
    }
}
