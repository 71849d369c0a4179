//! `GICD_CTLR.RWP` and `GICR_CTLR.RWP`: register writes that are complete once a vCPU has folded
//! its list registers.
//!
//! A write that disables an interrupt in a list register of a vCPU in the guest recalls the vCPU.
//! Until the vCPU has left the guest and folded, the guest may still take the interrupt, and RWP
//! reads 1 (IHI 0069, 12.9.4 and 12.11.2).
//!
//! The residency word decides: RECALL is set after the write's change. An entry consumes RECALL,
//! then folds the list registers, and then runs the guest. `Vcpu::rwp` only names the waiting
//! registers: RWP of another register stays 0. `Vcpu::rwp` is cleared before RECALL is consumed. A
//! bit set later is for a later RECALL, or stays without effect until the next RECALL.

use crate::host::Host;
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::residency::{RECALL, ResidencyBits};
use crate::vm::vcpu::Vcpu;

/// A write of the vCPU's redistributor waits: `GICR_CTLR.RWP`.
pub(crate) const RWP_GICR: u8 = 1 << 0;
/// A write of the distributor waits: `GICD_CTLR.RWP`.
pub(crate) const RWP_GICD: u8 = 1 << 1;

/// Returns true if a write of `register` waits for the vCPU: the vCPU is in the guest and has not
/// folded the list registers since the write.
pub(crate) fn is_waiting(vcpu: &Vcpu, register: u8) -> bool {
    let residency = vcpu.residency.get();
    // Acquire: pairs with the AcqRel in `expect`.
    vcpu.rwp.load(Acquire) & register != 0 && residency.in_guest() && residency.has(RECALL)
}

/// Returns true if a write of the distributor waits for any vCPU. Visits the vCPUs only if
/// `rwp_vcpus` is not 0: saves 27 of the 174 instructions of mmio/GICD_CTLR_read.
pub(crate) fn gicd_is_waiting<H: Host>(vm: &Vm<H>) -> bool {
    // Acquire: pairs with the AcqRel in `done`: a guest that reads RWP as 0 sees the effects of the
    // folds.
    vm.distributor.rwp_vcpus.load(Acquire) != 0
        && vm
            .present_vcpus()
            .iter()
            .any(|vcpu| is_waiting(vcpu, RWP_GICD))
}

/// Makes a write of `register` wait for `vcpu`, after RECALL was sent, if the vCPU is in the guest.
/// A vCPU outside the guest folds the list registers before the next entry.
pub(crate) fn expect<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, register: u8) {
    let residency = vcpu.residency.get();
    if !residency.in_guest() || !residency.has(RECALL) {
        return;
    }

    let count = &vm.distributor.rwp_vcpus;
    let counts = register == RWP_GICD;
    let late = mutant(Mutant::FlagBeforeCount);
    // The count comes before the flag, and `done` takes the flag before the count: the count is
    // never less than the number of flags.
    if counts && !late {
        // AcqRel: pairs with the load in `gicd_is_waiting`.
        count.fetch_add(1, AcqRel);
    }

    // AcqRel: publishes the count; pairs with the swap in `done` and the load in `is_waiting`.
    let set = vcpu.rwp.fetch_or(register, AcqRel) & register != 0;
    if counts && set && !late {
        // AcqRel: as in `done`. The flag that was there has a count of its own.
        count.fetch_sub(1, AcqRel);
    } else if counts && !set && late {
        // AcqRel: too late.
        count.fetch_add(1, AcqRel);
    }
}

/// Ends all waiting for `vcpu` if `residency` has RECALL. The vCPU is out of the guest and about to
/// fold the list registers. The check saves 2 of the 153 instructions of a hypercall.
#[inline]
pub(crate) fn done<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, residency: ResidencyBits) {
    // AcqRel: pairs with the AcqRel in `expect`.
    if residency.has(RECALL) && vcpu.rwp.swap(0, AcqRel) & RWP_GICD != 0 {
        // AcqRel: pairs with the increment in `expect` and the load in `gicd_is_waiting`.
        vm.distributor.rwp_vcpus.fetch_sub(1, AcqRel);
    }
}
