//! Flush: choosing the interrupts that fill the list registers.
//!
//! Pending interrupts fill list registers by priority; active ones fill those that remain, the most
//! urgent first. A pending and active interrupt ranks as active: the guest cannot acknowledge it
//! before it has deactivated it.
//! * While pending interrupts wait outside, NPIE asks for a maintenance interrupt once no list
//!   register is pending.
//! * While active ones wait outside, LRENPIE asks for one when the guest deactivates one of them.
//!   The hardware counts such deactivations (EOIcount). The guest ends its active interrupts from
//!   the most urgent to the least, and the most urgent are in list registers, so the count is taken
//!   off the waiting ones in order of priority.
//! * While more interrupts than list registers are there, those of a group that the guest has
//!   disabled wait outside, and `VGrp<n>EIE` and `VGrp<n>DIE` ask for an interrupt when the guest
//!   enables or disables a group.
//!
//! Maintenance interrupts only reduce latency. Correctness does not depend on them: an exit with
//! any of these enables set reads MISR.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that the ap_list's reference keeps alive.

use core::ptr;

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, hcr, vmcr};
use crate::delivery::prune;
use crate::delivery::queue::AfterUnlock;
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::lr;
use crate::vm::Vm;
use crate::vm::ap_list::{ApList, Classes};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

/// Most interrupts that one pass takes out of the buckets, so that a pass is bounded while other
/// CPUs keep changing the interrupts.
const PASS_LIMIT: usize = lr::MAX * 2;

/// Fills a list register with the one interrupt that waits, if the interrupt's state is plain and a
/// list register is free. Does nothing if the vCPU has no interrupt at all. Returns false, changing
/// nothing, otherwise. Saves 214 of the 1273 instructions of an SGI to a vCPU in WFI.
#[inline]
pub(super) fn flush_one<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) -> bool {
    let Some(index) = shadow.free_lr() else {
        return false;
    };

    let open = vcpu.enabled_classes(vm.distributor.enabled_groups());

    let mut list = vcpu.ap_list.lock(cpu.local().locks());
    let Some((irq, linked)) = list.take_single(open) else {
        // The doorbell of a virtual PE has brought the vCPU here: nothing to choose from. Saves 173
        // of the 1108 instructions of a direct MSI to a vCPU in WFI.
        return shadow.is_idle() && list.waiting() == 0;
    };

    // SAFETY: still queued, so the list's reference keeps the interrupt alive; this CPU holds the
    // list's lock, under which alone the interrupt can be unlinked.
    let irq = unsafe { irq.as_ref() };
    let Some(image) = irq.fill_lr_plain(vcpu.id, linked) else {
        // A level, or the state changed after the interrupt was linked.
        list.link(irq, irq.state());
        return false;
    };

    drop(list);

    shadow.set_lr(index, image, irq, cpu.interface(), pin.counters());
    shadow.due.filled();
    shadow.others_wait = false;
    true
}

/// Fills free list registers with waiting interrupts. Folds all of them first if `refold` asks for
/// it, or if a more urgent interrupt may have come (`new`) and there is no room. Returns true if it
/// has folded them for lack of room: what waited longer may be in a list register now.
pub(super) fn flush<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    refold: bool,
    new: bool,
) -> bool {
    let _entered = pin.guard();
    shadow.due.filled();
    let count = usize::from(cpu.vtr().list_registers);
    let mut open = vcpu.enabled_classes(vm.distributor.enabled_groups());
    let mut group_enables = 0;
    let mut after = AfterUnlock::new();
    let crowded;

    {
        let mut list = vcpu.ap_list.lock(pin.locks());
        let room = cpu.vtr().all() & !shadow.in_use;
        crowded = new && room.count_ones() < list.waiting();
        if list.waiting() as usize + shadow.in_use.count_ones() as usize > count {
            (open, group_enables) = guest_groups(open, cpu.interface().read_vmcr());
        }
        if (refold || crowded) && shadow.in_use != 0 {
            fold::fold_all(vm, cpu, pin, vcpu, shadow, &mut list, &mut after);
        }

        let complete = fill(vm, pin, vcpu, &mut list, shadow, cpu, open, &mut after);
        shadow.clean(cpu.interface(), pin.counters());
        // A pass that stopped at its limit is continued at the next entry.
        shadow.due.add_refill(!complete);
        shadow.others_wait = list.waiting() != 0;

        let active_wait = list.first(Classes::ACTIVE).is_some();
        let pending_wait = list.first(open).is_some();
        let value = BASE_HCR
            | group_enables
            | if pending_wait { hcr::NPIE } else { 0 }
            | if active_wait { hcr::LRENPIE } else { 0 };
        shadow.set_hcr(value, cpu.interface());
    }

    after.run(vm, pin);
    crowded
}

/// Moves the most urgent waiting interrupts into free list registers. Prefers the list register
/// that holds an interrupt's image already. Returns false if it stopped at its limit.
#[expect(clippy::too_many_arguments, reason = "one step of flush, named")]
fn fill<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    list: &mut ApList,
    shadow: &mut IchShadow,
    cpu: &Cpu<I>,
    open: Classes,
    after: &mut AfterUnlock,
) -> bool {
    let all = cpu.vtr().all();
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
        // SAFETY: the list's reference keeps the interrupt alive; this CPU holds the list's lock,
        // under which alone the interrupt can be unlinked.
        let irq = unsafe { &*irq };
        list.unlink(irq);

        match irq.fill_lr(vcpu.id, groups) {
            Some(image) => {
                let index = bits(free)
                    .find(|index| ptr::eq(shadow.irqs[*index], irq))
                    .unwrap_or(free.trailing_zeros() as usize);
                shadow.set_lr(index, image, irq, cpu.interface(), pin.counters());
            }
            // The state changed after the interrupt was linked; the CPU that changed it will
            // requeue it.
            None => prune::prune(vm, pin, vcpu, list, irq, after),
        }
    }

    false
}

/// Returns `open` without the classes of groups that the guest has disabled, which would only
/// occupy list registers, and the bits of `ICH_HCR_EL2` that ask for an exit when the guest enables
/// or disables a group.
fn guest_groups(mut open: Classes, vmcr: u64) -> (Classes, u64) {
    let enabled = |group1| vmcr & vmcr::group_enable(group1) != 0;
    let mut maintenance = 0;
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
            maintenance |= enabling;
        } else if enabled(!group1) {
            // With the other group disabled nothing more is signalled, and no exit is needed. (QEMU
            // 10.0 takes Group 0 for disabled while Group 1 is, and would interrupt without end.)
            maintenance |= disabling;
        }
    }

    (open, maintenance)
}
