//! `GICD_CTLR.RWP` and `GICR_CTLR.RWP`: register writes that are complete once a vCPU has folded
//! its list registers.
//!
//! A write that disables an interrupt in a list register of a vCPU in the guest recalls that vCPU.
//! Until the vCPU has left the guest and folded, the guest may still take the interrupt, and RWP
//! reads 1 (IHI 0069, 12.9.4 and 12.10.3).
//!
//! The residency word decides: RECALL is set after the write's change, and an entry consumes RECALL
//! before it folds the list registers, before the guest runs. `Vcpu::rwp` only says which register
//! waits, so that no other register's RWP reads 1. It is cleared before RECALL is consumed: a bit
//! that is set later is for a later RECALL, or stays without effect until the next.

use crate::host::Host;
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::vm::Vm;
use crate::vm::residency::{RECALL, ResidencyBits};
use crate::vm::vcpu::Vcpu;

/// A write of this vCPU's redistributor waits: `GICR_CTLR.RWP`.
pub(crate) const RWP_GICR: u8 = 1 << 0;
/// A write of the distributor waits: `GICD_CTLR.RWP`.
pub(crate) const RWP_GICD: u8 = 1 << 1;

/// Returns whether a write of `register` waits for this vCPU, which is in the guest and has not
/// folded its list registers since.
pub(crate) fn pending(vcpu: &Vcpu, register: u8) -> bool {
    let residency = vcpu.residency.get();
    // Acquire: pairs with the AcqRel in `expect`.
    vcpu.rwp.load(Acquire) & register != 0 && residency.in_guest() && residency.has(RECALL)
}

/// Returns whether a write of the distributor waits for any vCPU. Visits the vCPUs only while one
/// of them may be waited for: saves 27 of the 174 instructions of mmio/GICD_CTLR_read.
pub(crate) fn gicd_pending<H: Host>(vm: &Vm<H>) -> bool {
    // Acquire: pairs with the AcqRel in `done`: a guest that reads RWP as 0 sees the effects of the
    // folds.
    vm.distributor.rwp_vcpus.load(Acquire) != 0
        && vm
            .present_vcpus()
            .iter()
            .any(|vcpu| pending(vcpu, RWP_GICD))
}

/// Makes a write of `register` wait for `vcpu`, after RECALL was sent, if the vCPU is in the guest.
/// A vCPU that is not in the guest folds its list registers before it enters.
pub(crate) fn expect<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, register: u8) {
    let residency = vcpu.residency.get();
    if residency.in_guest()
        && residency.has(RECALL)
        // AcqRel: pairs with the swap in `done` and the load in `pending`.
        && vcpu.rwp.fetch_or(register, AcqRel) & register == 0
        && register == RWP_GICD
    {
        // AcqRel: pairs with the decrement in `done` and the load in `gicd_pending`.
        vm.distributor.rwp_vcpus.fetch_add(1, AcqRel);
    }
}

/// Ends all waiting for `vcpu`, which is out of the guest and about to fold its list registers, if
/// `residency` has RECALL. The check saves 2 of the 153 instructions of a hypercall.
#[inline]
pub(crate) fn done<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, residency: ResidencyBits) {
    // AcqRel: pairs with the AcqRel in `expect`.
    if residency.has(RECALL) && vcpu.rwp.swap(0, AcqRel) & RWP_GICD != 0 {
        // AcqRel: pairs with the increment in `expect` and the load in `gicd_pending`.
        vm.distributor.rwp_vcpus.fetch_sub(1, AcqRel);
    }
}
