//! Flush: choosing what the list registers hold.
//!
//! Pending interrupts go in by priority; what registers remain take active ones, the most urgent first.
//! A pending and active interrupt ranks as active: it cannot be acknowledged before it is deactivated.
//! * While pending interrupts wait outside, NPIE asks for a maintenance interrupt once no list register
//!   is pending.
//! * While active ones wait outside, LRENPIE asks for one when the guest deactivates one of them.
//!   The hardware counts such deactivations (EOIcount); the guest ends its active interrupts from the
//!   most urgent to the least, and those in registers are the most urgent, so the count is taken off
//!   the waiting ones in order of priority.
//! * When there are more interrupts than registers, those of a group that the guest has disabled stay
//!   outside, and `VGrp<n>EIE` and `VGrp<n>DIE` ask for an interrupt when it enables or disables a group.
//!
//! Maintenance interrupts make this fast, never correct: every exit asks MISR for itself what of this has
//! come about.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that a list keeps alive.
use core::ptr;

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{prune, queue};
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::lr;
use crate::vm::Vm;
use crate::vm::ap_list::{ApList, Classes};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

/// Most interrupts that one pass takes out of the buckets, so that a pass is bounded even when other
/// CPUs keep changing what it looks at.
const PASS_LIMIT: usize = lr::MAX * 2;

/// The guest has enabled or disabled a group, as [`guest_groups`] has asked to be told.
pub(crate) const GROUPS_CHANGED: u64 = misr::VGRP0E | misr::VGRP0D | misr::VGRP1E | misr::VGRP1D;

/// Most entries with news: one interrupt waits, and there is a register for it. False if there is
/// more to do than to load that one.
#[inline]
pub(crate) fn flush_one<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) -> bool {
    let Some(index) = shadow.free_lr() else {
        return false;
    };
    let open = vcpu.open_classes(vm.distributor.open_groups());
    let mut list = vcpu.ap_list.lock(pin.ledger());
    let Some(irq) = list.take_only(open) else {
        return false;
    };
    // SAFETY: still queued, so the list's reference keeps it alive; we hold the list's lock, under
    // which alone it can leave.
    let irq = unsafe { irq.as_ref() };
    let Some(image) = irq.fill_lr_plain(vcpu.id) else {
        // A level, or it changed after it was linked.
        list.link(irq, irq.state());
        return false;
    };
    drop(list);
    shadow.set_lr(index, image, irq, cpu.interface(), pin.counters());
    shadow.due.filled();
    true
}

/// Fills free registers with what waits; takes all of them back first when `reload` asks for it
/// or when something more urgent may have come (`new`) and there is no room.
pub(crate) fn flush<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    reload: bool,
    new: bool,
) {
    let _entered = pin.guard();
    shadow.due.filled();
    let count = usize::from(cpu.vtr().list_registers);
    let all = cpu.vtr().all();
    let mut open = vcpu.open_classes(vm.distributor.open_groups());
    let mut watch = 0;
    let mut after = AfterUnlock::new();
    {
        let mut list = vcpu.ap_list.lock(pin.ledger());
        let room = all & !shadow.in_use;
        let crowded = new && room.count_ones() < list.waiting();
        if list.waiting() as usize + shadow.in_use.count_ones() as usize > count {
            (open, watch) = guest_groups(open, cpu.interface().read_vmcr());
        }
        if (reload || crowded) && shadow.in_use != 0 {
            fold::fold_all(vm, cpu, pin, vcpu, shadow, &mut list, &mut after);
        }
        let settled = fill(vm, pin, vcpu, &mut list, shadow, cpu, open, all, &mut after);
        shadow.clean(cpu.interface(), pin.counters());
        let spilled = list.first(Classes::ACTIVE).is_some();
        let starving = list.first(open).is_some();
        // A pass that hit its limit goes on at the next entry.
        shadow.due.add_refill(!settled);
        let value = BASE_HCR
            | watch
            | if starving { hcr::NPIE } else { 0 }
            | if spilled { hcr::LRENPIE } else { 0 };
        shadow.set_hcr(value, cpu.interface());
    }
    queue::run_after_unlock(vm, pin, &mut after);
}

/// Moves the most urgent waiting interrupts into free registers. Prefers the register that holds an
/// interrupt's image already. False if it stopped at its limit.
#[expect(clippy::too_many_arguments, reason = "one step of flush, named")]
pub(crate) fn fill<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    list: &mut ApList,
    shadow: &mut IchShadow,
    cpu: &Cpu<I>,
    open: Classes,
    all: u16,
    after: &mut AfterUnlock,
) -> bool {
    let groups = [false, true].map(|group1| open.of_group(group1) != Classes::NONE);
    for _ in 0..PASS_LIMIT {
        let free = all & !shadow.in_use;
        if free == 0 || after.is_full() {
            return !after.is_full();
        }
        let Some((irq, _)) = list.first(open).or_else(|| list.first(Classes::ACTIVE)) else {
            return true;
        };
        let irq: *const Irq = irq;
        // SAFETY: linked, so the list's reference keeps it alive; we hold the list's lock, under
        // which alone it can leave.
        let irq = unsafe { &*irq };
        list.unlink(irq);
        match irq.fill_lr(vcpu.id, groups) {
            Some(image) => {
                let index = bits(free)
                    .find(|index| ptr::eq(shadow.irqs[*index], irq))
                    .unwrap_or(free.trailing_zeros() as usize);
                shadow.set_lr(index, image, irq, cpu.interface(), pin.counters());
            }
            // It changed after it was linked; whoever changed it is on the way to settle it.
            None => prune::prune(vm, pin, vcpu, list, irq, after),
        }
    }
    false
}

/// Without the classes of groups that the guest has disabled, which would only take up registers; and
/// the bits of `ICH_HCR_EL2` that make it exit when it enables or disables a group.
fn guest_groups(mut open: Classes, vmcr: u64) -> (Classes, u64) {
    let enabled = |group1| vmcr & vmcr::group_enable(group1) != 0;
    let mut watch = 0;
    for (group1, enabling, disabling) in [
        (false, hcr::VGRP0EIE, hcr::VGRP0DIE),
        (true, hcr::VGRP1EIE, hcr::VGRP1DIE),
    ] {
        let classes = open.of_group(group1);
        if classes == Classes::NONE {
            continue;
        }
        if !enabled(group1) {
            open = open.without(classes);
            watch |= enabling;
        } else if enabled(!group1) {
            // Else nothing is signalled any more, and nobody needs to know. (QEMU 10.0 takes Group 0 for
            // disabled while Group 1 is, and would interrupt without end.)
            watch |= disabling;
        }
    }
    (open, watch)
}
