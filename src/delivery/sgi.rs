//! SGIs: to a vCPU, and to all other vCPUs.
//!
//! In a VM of more than [`SLICE`] vCPUs an SGI to all others goes in slices. A slice is sent at
//! once, the rest is deferred work. The architecture gives no time in which an SGI has to arrive
//! (IHI 0069, 4.5), and no register shows the progress.

use crate::delivery::inject;
use crate::direct;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::IntId;
use crate::steps::step;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::deferred::DEFERRED_BROADCASTS;
use crate::vm::vcpu::Vcpu;

/// vCPUs per slice of a broadcast.
// Two under loom: a broadcast of the models with three vCPUs has two slices.
const SLICE: usize = if cfg!(loom) { 2 } else { 512 };

/// Sends an SGI to `target` as [`send_listed`] does, or makes it pending in the virtual PE of
/// `target`.
#[inline]
pub(crate) fn send<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    target: &Vcpu,
    intid: IntId,
    group1: bool,
) {
    if vm.direct.is_none() || !send_virtual(vm, pin, target, intid, group1) {
        send_listed(vm, pin, target, intid, group1);
    }
}

/// Makes an SGI pending in the virtual PE of `target`, if the SGI is in the group of the register
/// written. Returns false if the SGI is to become pending in its state word.
#[inline(never)]
fn send_virtual<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    target: &Vcpu,
    intid: IntId,
    group1: bool,
) -> bool {
    let in_group = target
        .private(intid)
        .is_some_and(|irq| irq.state().group1() == group1);
    in_group && direct::sgi::send(vm, pin, target, intid)
}

/// Sends an SGI to `target` by its state word, if `target` has the SGI configured in the group of
/// the register written. Cases `sgi.group_0`, `sgi.group_1_call_of_a_group_0_sgi`,
/// `sgi.group_0_call_of_a_group_1_sgi`, `sgi.other_state_call_of_a_group_1_sgi`.
#[inline]
pub(crate) fn send_listed<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    target: &Vcpu,
    intid: IntId,
    group1: bool,
) {
    if let Some(irq) = target.private(intid)
        && irq.state().group1() == group1
        && !(mutant(Mutant::SgiSkipped) && irq.state().shows_pending())
    {
        let _ = inject::raised_for(vm, pin, irq, irq.raise(), Some(target));
    }
}

/// Sends an SGI to all vCPUs but the sender, or to the first slice of them. Cases
/// `sgi.all_but_self`, `sgi.all_but_self_alone`.
// Out of line: saves 26 of the 461 instructions of an SGI to itself.
#[cold]
pub(crate) fn broadcast<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    sender: &Vcpu,
    intid: IntId,
    group1: bool,
) {
    let present = vm.added_vcpus();
    if present.len() > SLICE {
        begin_broadcast(vm, pin, sender, intid, group1);
        return;
    }

    let others = present.iter().filter(|target| target.id != sender.id);
    send_to_each(vm, pin, others, intid, group1);
}

/// Begins a broadcast that goes in slices.
#[inline(never)]
fn begin_broadcast<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    sender: &Vcpu,
    intid: IntId,
    group1: bool,
) {
    let room = vm.vcpus.len() as u16;
    (vm.distributor.broadcasts).begin(intid, group1, sender.id, room);
    advance_broadcasts(vm, pin);
}

/// Sends a slice of a broadcast.
pub(crate) fn advance_broadcasts<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let (broadcasts, room) = (&vm.distributor.broadcasts, vm.vcpus.len() as u16);
    let Some((intid, group1, slice)) = broadcasts.claim(SLICE as u16, room) else {
        return;
    };

    // Before the slice is sent: another CPU may send the next one meanwhile.
    if broadcasts.has_more() {
        vm.deferred.add(DEFERRED_BROADCASTS);
    }

    let targets = slice.vcpus().filter_map(|id| {
        step();
        vm.vcpu(id)
    });
    send_to_each(vm, pin, targets, intid, group1);
}

/// Sends an SGI to each of `targets`.
#[inline(always)]
fn send_to_each<'a, H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    targets: impl Iterator<Item = &'a Vcpu>,
    intid: IntId,
    group1: bool,
) {
    // A loop of its own saves 2 of the 125 instructions for each target.
    if vm.direct.is_none() {
        targets.for_each(|target| send_listed(vm, pin, target, intid, group1));
    } else {
        targets.for_each(|target| send(vm, pin, target, intid, group1));
    }
}
