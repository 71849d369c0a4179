//! Out of the guest.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that a list keeps alive.

use core::cell::RefMut;

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{count, lpi_lifetime, prune, queue};
use crate::entry::flush::GROUPS_CHANGED;
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::vm::Vm;
use crate::vm::ap_list::Classes;
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::Irq;
use crate::vm::residency::Whereabouts;
use crate::vm::vcpu::Vcpu;

/// Takes back what the guest has done since [`Vgic::enter`]. Called first thing after an exit.
///
/// With no list register in use this is one atomic operation and no register access; otherwise it
/// reads one or two registers.
///
/// # Errors
/// [`EntryError::NotEntered`] if the vCPU was not in the guest on this CPU.
#[inline]
pub(crate) fn exit<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    if let Some(this) = vm.vcpus.get(vcpu.index())
        && let Some((_, untouched)) =
            this.peek(cpu.local(), Whereabouts::InGuest, IchShadow::is_untouched)
    {
        this.residency.exit();
        if !untouched {
            // SAFETY: by the peek.
            unsafe { fold_exit(vm, cpu, pin, this) };
        }
        return Ok(());
    }
    Err(match vm.vcpu(vcpu) {
        Some(_) => EntryError::NotEntered(vcpu),
        None => EntryError::UnknownVcpu(vcpu),
    })
}

/// Finds out what the guest has done with the list registers.
///
/// # Safety
/// `cpu` has the vCPU's registers.
#[inline(never)]
unsafe fn fold_exit<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    this: &Vcpu,
) {
    // SAFETY: by the caller's promise.
    let Some(shadow) = (unsafe { this.borrow() }) else {
        return;
    };
    let done = cpu.interface().read_elrsr() & shadow.in_use;
    // With any other HCR there is more to look at than what is in the registers.
    if shadow.wants_eoi == 0 && shadow.hcr == BASE_HCR {
        fold_one(vm, cpu, pin, this, shadow, done);
    } else {
        fold_exit_slow(vm, cpu, pin, this, shadow, done);
    }
}

/// Most exits after an interrupt: the guest has finished with one, which may have come again.
#[inline]
fn fold_one<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    done: u16,
) {
    if done == 0 {
        // That is all there is to know.
        return;
    }
    let index = done.trailing_zeros() as usize;
    let irq = match vcpu.listed(&shadow, index) {
        Some(irq) if done & (done - 1) == 0 => irq,
        _ => return fold_exit_slow(vm, cpu, pin, vcpu, shadow, done),
    };
    let (intid, kind) = (irq.intid(), irq.kind());
    let irq: *const Irq = irq;
    // SAFETY: as in `listed`. From the end of `finish` on it is looked at only if the list still has it,
    // or if its last reference is gone, and then it is ours to defer_free.
    let irq = unsafe { &*irq };
    let list = vcpu.ap_list.lock(pin.ledger());
    let others_wait = list.waiting() != 0;
    let groups = || {
        if others_wait {
            0
        } else {
            vm.groups_open_to(vcpu, irq)
        }
    };
    let folded = irq.fold_unlink_plain(vcpu.id, groups);
    drop(list);
    let Some(folded) = folded else {
        return fold_exit_slow(vm, cpu, pin, vcpu, shadow, done);
    };
    if folded.delivered {
        pin.counters().deliveries[kind as usize].add(1);
    }
    if let Some(image) = folded.reloaded {
        shadow.restage(index, image);
        return;
    }
    shadow.vacate_finished(index);
    if others_wait {
        shadow.due.add_refill(true);
    }
    queue::trace_list_put(vm, pin, intid, vcpu.id);
    if folded.last {
        drop(shadow);
        lpi_lifetime::defer_free(vm, irq);
    }
}

/// As [`Vgic::fold_exit`], whatever there is to it; the registers of `done` are empty.
#[inline(never)]
fn fold_exit_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    this: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    mut done: u16,
) {
    let shadow = &mut *shadow;
    if shadow.in_use != 0 {
        if shadow.wants_eoi != 0 {
            done |= cpu.interface().read_eisr() & shadow.in_use;
        }
        if done != 0 {
            fold_finished(vm, pin, this, shadow, done);
        }
    }
    if shadow.hcr != BASE_HCR {
        // The guest has done something that was watched for: enabled or disabled a group, or made all
        // registers active while something pending waits. What it has finished with is room enough.
        let misr = cpu.interface().read_misr();
        let crowded_out = misr & misr::NP != 0 && done == 0;
        // QEMU (10.0) shows VGrp0D by the enable of Group 1. It is asked for only while both are enabled.
        let group0_is_disabled =
            shadow.hcr & hcr::VGRP0DIE != 0 && cpu.interface().read_vmcr() & vmcr::VENG0 == 0;
        shadow
            .due
            .add_reload(crowded_out || group0_is_disabled || misr & GROUPS_CHANGED != 0);
        if misr & misr::LRENP != 0 {
            fold_eoi_count(vm, cpu, pin, this, shadow);
        }
    }
}

/// Folds and prunes the interrupts in the registers of `done`, which the guest has finished with.
pub(crate) fn fold_finished<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    done: u16,
) {
    let _entered = pin.guard();
    let mut ended = 0;
    let mut after = AfterUnlock::new();
    let waiting;
    {
        let mut list = vcpu.ap_list.lock(pin.ledger());
        for index in bits(done) {
            let Some(irq) = vcpu.listed(shadow, index) else {
                continue;
            };
            let (folded, settled) = irq.fold_unlink(vcpu.id);
            count::fold(vm, pin, irq, folded);
            prune::apply(vm, pin, vcpu, &mut list, irq, settled, &mut after);
            ended |= u16::from(folded.resample) << index;
            shadow.vacate(index, shadow.images[index].without_state());
        }
        waiting = list.waiting() != 0;
    }
    shadow.due.add_refill(waiting || shadow.stale != 0);
    resample(vm, vcpu, shadow, ended);
    queue::run_after_unlock(vm, pin, &mut after);
}

/// Tells the embedder of level-sensitive interrupts that the guest has finished with. No lock is
/// held; SPIs and PPIs live as long as the VM.
pub(crate) fn resample<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, shadow: &IchShadow, done: u16) {
    for index in bits(done) {
        if let Some(intid) = IntId::new(shadow.images[index].vintid()) {
            vm.host.resample(vcpu.id, intid);
        }
    }
}

/// Ends active interrupts outside the list registers as often as the hardware has counted.
fn fold_eoi_count<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) {
    let value = cpu.interface().read_hcr();
    let count = (value & hcr::EOI_COUNT) >> hcr::EOI_COUNT_SHIFT;
    if count == 0 {
        return;
    }
    // The register differs from what we wrote, so this writes it, and the count with it.
    shadow.hcr = value;
    shadow.set_hcr(value & !hcr::EOI_COUNT, cpu.interface());
    // With EOImode 1 the guest deactivates by ICC_DIR_EL1, which traps. QEMU counts its priority
    // drops all the same.
    if cpu.interface().read_vmcr() & vmcr::VEOIM != 0 {
        return;
    }
    let _entered = pin.guard();
    for _ in 0..count {
        let mut after = AfterUnlock::new();
        let mut resample = None;
        {
            let mut list = vcpu.ap_list.lock(pin.ledger());
            let Some((irq, _)) = list.first(Classes::ACTIVE) else {
                break;
            };
            let irq: *const Irq = irq;
            // SAFETY: linked, so the list's reference keeps it alive; we hold the list's lock,
            // under which alone it can leave.
            let irq = unsafe { &*irq };
            list.unlink(irq);
            let (deactivate, changed) = irq.clear_active();
            let state = changed.old;
            // Pending again, it may be more urgent than what the registers hold.
            shadow.due.add_reload(changed.new.deliverable());
            count::change(vm, pin, irq, changed);
            if deactivate {
                after.deactivate(irq);
            }
            if state.level() && !state.hw() {
                resample = Some(irq.intid());
            }
            prune::prune(vm, pin, vcpu, &mut list, irq, &mut after);
        }
        queue::run_after_unlock(vm, pin, &mut after);
        if let Some(intid) = resample {
            vm.host.resample(vcpu.id, intid);
        }
    }
    shadow.due.add_refill(true);
}
