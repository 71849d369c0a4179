//! Fold: taking interrupts back from list registers.
//!
//! An exit reads ELRSR, and EISR if a level-sensitive interrupt is in a list register, and folds
//! the interrupts whose list registers are empty; those need not be read. An interrupt whose next
//! edge has come is restaged. List registers in use stay as they are, and a re-entry on the same
//! CPU finds them in place. [`fold_all`] empties them only if something about them has changed
//! (RECALL, RECALL_LATER, or RERAISED while the guest has not ended the first edge), if a more
//! urgent interrupt needs room, or if the vCPU leaves the CPU.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that the ap_list's reference keeps alive.

use core::cell::RefMut;

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{count, lpi_lifetime, physical, prune, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::IntId;
use crate::vm::Vm;
use crate::vm::ap_list::{ApList, Classes};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::{Irq, Pruned};
use crate::vm::residency::RECALL;
use crate::vm::vcpu::Vcpu;

/// Maintenance conditions of a guest that has enabled or disabled a group. A flush enables them.
const GROUPS_CHANGED: u64 = misr::VGRP0E | misr::VGRP0D | misr::VGRP1E | misr::VGRP1D;

/// Finds and folds the interrupts that the guest has ended.
///
/// # Safety
/// `cpu` has the vCPU.
// Out of line: saves 13 of the 58 instructions of vcpu_exit/0.
#[inline(never)]
pub(super) unsafe fn fold_exit<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) {
    // SAFETY: the caller promises that `cpu` has the vCPU.
    let Some(shadow) = (unsafe { vcpu.borrow_shadow() }) else {
        return;
    };

    // As 32 bits: 16 bits of a register would have to be told from the rest at each comparison.
    cpu.local().loaded().set_refilled(false);
    let ended = u32::from(cpu.interface().read_elrsr()) & u32::from(shadow.in_use);
    let looks = u32::from(shadow.forwarded) & !ended | u32::from(shadow.wants_eoi);
    // With any other HCR a maintenance condition may hold as well.
    if looks == 0 && shadow.hcr == BASE_HCR {
        fold_one(vm, cpu, pin, vcpu, shadow, ended);
    } else {
        fold_exit_slow(vm, cpu, pin, vcpu, shadow, ended as u16);
    }
}

/// Shows the states of all interrupts in list registers, of a vCPU that was recalled and has been
/// folded: another vCPU may wait for the states, and this vCPU may stay out of the guest.
#[cold]
#[inline(never)]
pub(super) fn show_states<I: CpuInterface>(cpu: &Cpu<I>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    refresh_states(cpu, pin, vcpu);
    vcpu.residency.show_states();
}

/// Samples the forwarded levels of a vCPU that was blocked, if list registers hold any: while the
/// vCPU slept, their lines may have fallen.
#[inline]
pub(super) fn sample_after_sleep<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) {
    if shadow.forwarded & shadow.in_use != 0 {
        sample_levels(vm, cpu, pin, vcpu, shadow, 0);
    }
}

/// Samples the forwarded levels that are pending in list registers, except those in `ended`. Levels
/// with low lines are withdrawn; the next entry folds their list registers.
#[cold]
#[inline(never)]
fn sample_levels<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    ended: u16,
) {
    let _ = withdraw_levels(vm, cpu, pin, vcpu, shadow, ended);
}

/// Samples the forwarded levels that are pending in list registers, on the way into the guest.
/// Empties the list registers of levels with low lines.
#[cold]
#[inline(never)]
pub(super) fn sample_before_entry<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) {
    let withdrawn = withdraw_levels(vm, cpu, pin, vcpu, shadow, 0);
    if withdrawn == 0 {
        return;
    }

    // No epoch: an interrupt with a line is no LPI, and lives as long as the VM.
    let mut after = AfterUnlock::new();
    let waiting;

    {
        let mut list = vcpu.ap_list.lock(pin.locks());
        for index in bits(withdrawn) {
            let lr = shadow.read_lr(index, cpu.interface(), pin.counters());
            shadow.vacate(index, lr);
            if let Some(irq) = vcpu.irq_in_lr(shadow, index) {
                let (folded, pruned) = irq.fold_unlink(vcpu.id, lr);
                count::on_fold(pin, irq, folded);
                if folded.deactivate {
                    after.add_deactivation(irq.ended(cpu.id()));
                }
                prune::apply(vm, pin, vcpu, &mut list, irq, pruned, &mut after);
            }
        }

        shadow.clean(cpu.interface(), pin.counters());
        waiting = list.waiting() != 0;
    }

    after.run(vm, pin);
    if waiting {
        // There is room for others: another entry fills it.
        shadow.due.add_refill(true);
        queue::notify(vm, pin, vcpu.id, RECALL);
    }
}

/// Withdraws the forwarded levels with low lines that are pending in list registers, except those
/// in `ended`. Returns their list registers.
fn withdraw_levels<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    ended: u16,
) -> u16 {
    let mut withdrawn = 0;
    shadow.forwarded &= shadow.in_use;
    for index in bits(shadow.forwarded & !ended) {
        if !shadow.images[index].is_hw() {
            shadow.forwarded &= !(1 << index);
        } else if let Some(irq) = vcpu.irq_in_lr(shadow, index)
            && irq.state().awaits_line()
            && (shadow.read_lr(index, cpu.interface(), pin.counters())).is_pending()
            && physical::sample(vm, pin, irq)
        {
            withdrawn |= 1 << index;
        }
    }
    withdrawn
}

/// Folds the one interrupt that the guest has ended. If the next edge has come, fills the same list
/// register again, without a lock. If nothing has come, unlinks the interrupt. Falls back to
/// [`fold_exit_slow`]. Saves 189 of the 624 instructions of an SGI to itself.
#[inline]
fn fold_one<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    ended: u32,
) {
    if ended == 0 {
        return;
    }

    let index = ended.trailing_zeros() as usize;
    let irq = match vcpu.irq_in_lr(&shadow, index) {
        Some(irq) if ended & (ended - 1) == 0 => irq,
        _ => return fold_exit_slow(vm, cpu, pin, vcpu, shadow, ended as u16),
    };

    let (intid, kind) = (irq.intid(), irq.kind());
    let state = irq.state();
    if state.latch()
        && let Some(refilled) =
            irq.fold_and_fill_lr(vcpu.id, vm.groups_enabled_for(vcpu, irq), state)
    {
        // A more urgent interrupt may have come to the list. Its work is found by the entry.
        shadow.restage(index, refilled.image);
        cpu.local().loaded().set_refilled(true);
        if refilled.delivered {
            pin.counters().deliveries[kind].add(1);
        }
        return;
    }

    let irq: *const Irq = irq;
    // SAFETY: the list's reference keeps the interrupt alive until `fold_unlink_plain` has put it.
    // From then on `irq` is used only if the list still has the interrupt, or if the reference was
    // the last one and this CPU frees it.
    let irq = unsafe { &*irq };

    let list = vcpu.ap_list.lock(cpu.local().locks());
    let folded = irq.fold_unlink_plain();
    let others_wait = list.waiting() != 0;
    drop(list);

    let Some(folded) = folded else {
        return fold_exit_slow(vm, cpu, pin, vcpu, shadow, ended as u16);
    };

    if folded.delivered {
        pin.counters().deliveries[kind].add(1);
    }

    shadow.vacate_plain(index);
    if others_wait {
        shadow.due.add_refill(true);
    }

    prune::trace_list_put(vm, pin, intid, vcpu.id);
    if folded.last {
        drop(shadow);
        lpi_lifetime::defer_free(vm, irq);
    }
}

/// Folds the interrupts of the list registers in `ended`, which are empty, and of those that EISR
/// names, and handles the maintenance conditions that hold.
fn fold_exit_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    mut ended: u16,
) {
    let shadow = &mut *shadow;
    if shadow.forwarded & !ended != 0 {
        // A forwarded level that the guest has not taken waits for its line.
        sample_levels(vm, cpu, pin, vcpu, shadow, ended);
    }

    if shadow.in_use != 0 {
        if shadow.wants_eoi != 0 {
            ended |= cpu.interface().read_eisr() & shadow.in_use;
        }
        if ended != 0 {
            fold_ended(vm, pin, vcpu, shadow, ended);
        }
    }

    if shadow.hcr != BASE_HCR {
        // The guest may have enabled or disabled a group, or made all list registers active while
        // pending interrupts wait. A list register that the guest has ended is room enough.
        let misr = cpu.interface().read_misr();
        let crowded_out = misr & misr::NP != 0 && ended == 0;
        // QEMU (10.0) shows VGrp0D by the enable of Group 1. VGrp0DIE is set only while both are
        // enabled.
        let group0_is_disabled =
            shadow.hcr & hcr::VGRP0DIE != 0 && cpu.interface().read_vmcr() & vmcr::VENG0 == 0;
        shadow
            .due
            .add_refold(crowded_out || group0_is_disabled || misr & GROUPS_CHANGED != 0);
        if misr & misr::LRENP != 0 {
            end_by_eoi_count(vm, cpu, pin, vcpu, shadow);
        }
        if misr & (misr::NP | GROUPS_CHANGED) != 0 {
            quiet(cpu, shadow);
        }
    }

    if shadow.stale != 0 {
        clean(cpu, pin, shadow);
    }
}

/// Ends the maintenance conditions, so that a handler may acknowledge physical interrupts until
/// there are none. The next entry enables them anew.
#[cold]
#[inline(never)]
fn quiet<I: CpuInterface>(cpu: &Cpu<I>, shadow: &mut IchShadow) {
    shadow.due.add_refill(true);
    shadow.set_hcr(BASE_HCR, cpu.interface());
}

/// Overwrites list registers that still assert EISR, to the same end.
#[cold]
#[inline(never)]
fn clean<I: CpuInterface>(cpu: &Cpu<I>, pin: &CpuPin<'_>, shadow: &mut IchShadow) {
    shadow.clean(cpu.interface(), pin.counters());
}

/// Folds and prunes the interrupts of the list registers in `ended`.
fn fold_ended<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    ended: u16,
) {
    let _entered = pin.guard();
    let mut to_resample = 0;
    let mut after = AfterUnlock::new();
    let waiting;

    {
        let mut list = vcpu.ap_list.lock(pin.locks());
        for index in bits(ended) {
            let Some(irq) = vcpu.irq_in_lr(shadow, index) else {
                continue;
            };
            let (folded, pruned) = irq.fold_unlink_ended(vcpu.id);
            count::on_fold(pin, irq, folded);
            prune::apply(vm, pin, vcpu, &mut list, irq, pruned, &mut after);
            to_resample |= u16::from(folded.resample) << index;
            shadow.vacate(index, shadow.images[index].without_state());
        }
        waiting = list.waiting() != 0;
    }

    shadow.due.add_refill(waiting || shadow.stale != 0);
    resample(vm, vcpu, shadow, to_resample);
    after.run(vm, pin);
}

/// Informs the embedder of level-sensitive interrupts that the guest has deactivated, by their list
/// registers. No lock is held; SPIs and PPIs live as long as the VM.
fn resample<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, shadow: &IchShadow, registers: u16) {
    for index in bits(registers) {
        if let Some(intid) = IntId::new(shadow.images[index].vintid()) {
            vm.host.resample(vcpu.id, intid);
        }
    }
}

/// Ends as many active interrupts outside the list registers as `EOIcount` says (IHI 0069, 12.4.6),
/// the most urgent first.
fn end_by_eoi_count<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) {
    let value = shadow.in_register(cpu.interface().read_hcr());
    let eoi_count = (value & hcr::EOI_COUNT) >> hcr::EOI_COUNT_SHIFT;
    if eoi_count == 0 {
        return;
    }

    // The register differs from the shadow, so `set_hcr` writes it, and clears the count. The next
    // entry enables maintenance conditions anew.
    shadow.hcr = value;
    shadow.set_hcr(BASE_HCR, cpu.interface());
    shadow.due.add_refill(true);
    // With EOImode 1 the guest deactivates by ICC_DIR_EL1, which traps. QEMU counts its priority
    // drops.
    if cpu.interface().read_vmcr() & vmcr::VEOIM != 0 {
        return;
    }

    // No epoch: an active interrupt is no LPI, and lives as long as the VM.
    for _ in 0..eoi_count {
        let mut after = AfterUnlock::new();
        let mut to_resample = None;
        {
            let mut list = vcpu.ap_list.lock(pin.locks());
            let Some((irq, _)) = list.first(Classes::ACTIVE) else {
                break;
            };
            let irq: *const Irq = irq;
            // SAFETY: the list's reference keeps the interrupt alive; this CPU holds the list's
            // lock, under which alone the interrupt can be unlinked.
            let irq = unsafe { &*irq };
            list.unlink(irq);

            let changed = irq.clear_active();
            // An interrupt that is pending again may be more urgent than those in the list
            // registers.
            shadow.due.add_refold(changed.new.deliverable());
            count::on_change(pin, irq, changed);
            if changed.takes_physical() || irq.release_unused() {
                after.add_deactivation(irq.ended(cpu.id()));
            }
            if changed.old.level() && !changed.old.hw() {
                to_resample = Some(irq.intid());
            }
            prune::prune(vm, pin, vcpu, &mut list, irq, &mut after);
        }

        after.run(vm, pin);
        if let Some(intid) = to_resample {
            vm.host.resample(vcpu.id, intid);
        }
    }
}

/// Folds every interrupt from its list register, which is read, and relinks or prunes it. The exit
/// before has folded what the guest had ended, so no interrupt has to be resampled here. The caller
/// holds the list's lock, and is in the epoch: an unlinked LPI may be freed otherwise.
pub(super) fn fold_all<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    list: &mut ApList,
    after: &mut AfterUnlock,
) {
    let mut kept = 0_u16;
    for index in bits(shadow.in_use) {
        let lr = shadow.read_lr(index, cpu.interface(), pin.counters());
        shadow.vacate(index, lr);
        let Some(irq) = vcpu.irq_in_lr(shadow, index) else {
            continue;
        };
        let (folded, pruned) = irq.fold_unlink(vcpu.id, lr);
        count::on_fold(pin, irq, folded);
        if folded.deactivate {
            after.add_deactivation(irq.ended(cpu.id()));
        }
        match pruned {
            Pruned::Kept(_) => kept |= 1 << index,
            pruned => prune::apply(vm, pin, vcpu, list, irq, pruned, after),
        }
    }

    // Before the interrupts that came while these were in list registers, the first list register's
    // first.
    while let Some(index) = kept.checked_ilog2() {
        kept &= !(1 << index);
        if let Some(irq) = vcpu.irq_in_lr(shadow, index as usize) {
            list.relink(irq, irq.state());
        }
    }
}

/// Updates the states of the interrupts in this CPU's list registers, for a register read that
/// shows them. Reads each list register in use.
pub(crate) fn refresh_states<I: CpuInterface>(cpu: &Cpu<I>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    let Some(shadow) = vcpu.shadow(cpu.local()) else {
        return;
    };

    for index in bits(shadow.in_use) {
        if let Some(irq) = vcpu.irq_in_lr(&shadow, index) {
            let lr = shadow.read_lr(index, cpu.interface(), pin.counters());
            let folded = irq.refresh_lr_bits(lr);
            count::on_fold(pin, irq, folded);
        }
    }
}
