//! `GICD_CTLR.EnableGrp0` and `EnableGrp1`: a write recalls every vCPU, in slices.
//!
//! A vCPU may be added meanwhile. A slice is claimed first, and the vCPUs are counted then: either
//! the CPU with the slice finds the vCPU present, or the vCPU's entry finds the new enables.

use crate::delivery::queue;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::sync::Ordering::SeqCst;
use crate::sync::fence;
use crate::vm::deferred::DEFERRED_GROUPS;
use crate::vm::residency::RECALL;
use crate::vm::rwp::RWP_GICD;
use crate::vm::{Vm, rwp};

/// vCPUs to notify per slice.
const SLICE: u32 = 64;

/// Writes the enables of `GICD_CTLR`, as [`Distributor::control`] has them, and notifies the first
/// slice of vCPUs of a change.
///
/// [`Distributor::control`]: crate::vm::distributor::Distributor::control
pub(crate) fn write<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, enables: u32) {
    let (old, _write) = vm.distributor.control.write(enables);
    if old != enables {
        // SeqCst: pairs with the fence in `load`: if the entry of an added vCPU does not find the
        // enables, the CPUs with slices find the vCPU present.
        fence(SeqCst);
        vm.distributor.notifications.start();
        advance(vm, pin);
    }
}

/// Notifies a slice of vCPUs.
pub(crate) fn advance<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let (notifications, room) = (&vm.distributor.notifications, vm.vcpus.len() as u32);
    let Some(slice) = notifications.claim(room, SLICE, Some) else {
        return;
    };

    let (first, end) = (slice.first as usize, slice.end as usize);
    let present = vm.added_vcpus();
    for vcpu in present.iter().take(end).skip(first) {
        queue::notify(vm, pin, vcpu.id, RECALL);
        rwp::expect(vm, pin, vcpu, RWP_GICD);
    }

    if end < present.len() {
        vm.deferred.add(DEFERRED_GROUPS);
    }
}

/// Returns true if every vCPU has been notified, and no write waits for a vCPU. Notifies a further
/// slice of vCPUs first, if any is left.
#[inline]
pub(crate) fn poll<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> bool {
    let (notifications, present) = (&vm.distributor.notifications, vm.vcpu_count() as u32);
    let mut done = notifications.is_done(present);
    if !done {
        advance(vm, pin);
        done = notifications.is_done(present);
    }

    done && !rwp::gicd_is_waiting(vm)
}
