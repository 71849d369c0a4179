//! `GICD_CTLR.EnableGrp0` and `EnableGrp1`.

use crate::delivery::queue;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::Ordering::{AcqRel, Relaxed};
use crate::vm::residency::RECALL;
use crate::vm::rwp::RWP_GICD;
use crate::vm::{DEFERRED_GROUPS, Vm, rwp};

/// vCPUs told of a change of `GICD_CTLR` in one slice.
const SLICE: u32 = 64;

pub(crate) fn write_group_enables<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, groups: u32) {
    let distributor = &vm.distributor;
    // AcqRel: pairs with `open_groups`: a vCPU told after this sees the new enables.
    if distributor.groups.swap(groups, AcqRel) != groups {
        // AcqRel: pairs with `advance_groups`.
        distributor.telling.swap(0, AcqRel);
        advance_groups(vm, pin);
    }
}

/// Tells one slice of vCPUs of a change of the group enables.
pub(crate) fn advance_groups<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let distributor = &vm.distributor;
    let present = vm.vcpu_count() as u32;
    // Relaxed: only saves the read-modify-write.
    if distributor.telling.load(Relaxed) >= present {
        return;
    }
    // AcqRel: before the slice is claimed, so that whoever finds nobody left to tell finds us.
    distributor.tellers.fetch_add(1, AcqRel);
    // AcqRel: pairs with `write_group_enables`; each slice is told by one CPU.
    let first = distributor.telling.fetch_add(SLICE, AcqRel);
    for index in first..present.min(first.saturating_add(SLICE)) {
        if let Some(vcpu) = VcpuId::new(index as usize).and_then(|id| vm.vcpu(id)) {
            queue::notify(vm, pin, vcpu.id, RECALL);
            rwp::expect(vm, vcpu, RWP_GICD);
        }
    }
    // AcqRel: whoever does not find us finds the recalls.
    distributor.tellers.fetch_sub(1, AcqRel);
    if first.saturating_add(SLICE) < present {
        vm.defer(DEFERRED_GROUPS);
    }
}
