//! Out of the guest.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that a list keeps alive.

use core::cell::RefMut;

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::delivery::queue::Leaving;
use crate::delivery::{count, lpi_lifetime, prune, queue};
use crate::entry::flush::GROUPS_CHANGED;
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::vm::Vm;
use crate::vm::ap_list::Classes;
use crate::vm::ich_shadow::{Registers, bits};
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
            this.glance(cpu.local(), Whereabouts::InGuest, Registers::is_untouched)
    {
        this.residency.exit();
        if !untouched {
            // SAFETY: by the glance.
            unsafe { take_stock(vm, cpu, pin, this) };
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
unsafe fn take_stock<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    this: &Vcpu,
) {
    // SAFETY: by the caller's promise.
    let Some(registers) = (unsafe { this.borrow() }) else {
        return;
    };
    let done = cpu.interface().read_elrsr() & registers.in_use;
    // With any other HCR there is more to look at than what is in the registers.
    if registers.wants_eoi == 0 && registers.hcr == BASE_HCR {
        retire_only(vm, cpu, pin, this, registers, done);
    } else {
        take_stock_of(vm, cpu, pin, this, registers, done);
    }
}

/// Most exits after an interrupt: the guest has finished with one, which may have come again.
#[inline]
fn retire_only<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut registers: RefMut<'_, Registers>,
    done: u16,
) {
    if done == 0 {
        // That is all there is to know.
        return;
    }
    let index = done.trailing_zeros() as usize;
    let irq = match vcpu.listed(&registers, index) {
        Some(irq) if done & (done - 1) == 0 => irq,
        _ => return take_stock_of(vm, cpu, pin, vcpu, registers, done),
    };
    let (intid, kind) = (irq.intid(), irq.kind());
    let irq: *const Irq = irq;
    // SAFETY: as in `listed`. From the end of `finish` on it is looked at only if the list still has it,
    // or if its last reference is gone, and then it is ours to bury.
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
    let finished = irq.finish(vcpu.id, groups);
    drop(list);
    let Some(finished) = finished else {
        return take_stock_of(vm, cpu, pin, vcpu, registers, done);
    };
    if finished.delivered {
        pin.counters().deliveries[kind as usize].add(1);
    }
    if let Some(image) = finished.again {
        registers.post_again(index, image);
        return;
    }
    registers.vacate_finished(index);
    if others_wait {
        registers.due.add_refill(true);
    }
    queue::trace_list_put(vm, pin, intid, vcpu.id);
    if finished.last {
        drop(registers);
        lpi_lifetime::bury(vm, irq);
    }
}

/// As [`Vgic::take_stock`], whatever there is to it; the registers of `done` are empty.
#[inline(never)]
fn take_stock_of<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    this: &Vcpu,
    mut registers: RefMut<'_, Registers>,
    mut done: u16,
) {
    let registers = &mut *registers;
    if registers.in_use != 0 {
        if registers.wants_eoi != 0 {
            done |= cpu.interface().read_eisr() & registers.in_use;
        }
        if done != 0 {
            retire(vm, pin, this, registers, done);
        }
    }
    if registers.hcr != BASE_HCR {
        // The guest has done something that was watched for: enabled or disabled a group, or made all
        // registers active while something pending waits. What it has finished with is room enough.
        let misr = cpu.interface().read_misr();
        let crowded_out = misr & misr::NP != 0 && done == 0;
        // QEMU (10.0) shows VGrp0D by the enable of Group 1. It is asked for only while both are enabled.
        let group0_is_disabled =
            registers.hcr & hcr::VGRP0DIE != 0 && cpu.interface().read_vmcr() & vmcr::VENG0 == 0;
        registers
            .due
            .add_reload(crowded_out || group0_is_disabled || misr & GROUPS_CHANGED != 0);
        if misr & misr::LRENP != 0 {
            take_eoi_count(vm, cpu, pin, this, registers);
        }
    }
}

/// Folds and prunes the interrupts in the registers of `done`, which the guest has finished with.
pub(crate) fn retire<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    registers: &mut Registers,
    done: u16,
) {
    let _entered = pin.guard();
    let mut ended = 0;
    let mut leaving = Leaving::new();
    let waiting;
    {
        let mut list = vcpu.ap_list.lock(pin.ledger());
        for index in bits(done) {
            let Some(irq) = vcpu.listed(registers, index) else {
                continue;
            };
            let (folded, settled) = irq.retire(vcpu.id);
            count::account(vm, pin, irq, folded);
            prune::settled(vm, pin, vcpu, &mut list, irq, settled, &mut leaving);
            ended |= u16::from(folded.resample) << index;
            registers.vacate(index, registers.images[index].without_state());
        }
        waiting = list.waiting() != 0;
    }
    registers.due.add_refill(waiting || registers.stale != 0);
    resample(vm, vcpu, registers, ended);
    queue::dispatch(vm, pin, &mut leaving);
}

/// Tells the embedder of level-sensitive interrupts that the guest has finished with. No lock is
/// held; SPIs and PPIs live as long as the VM.
pub(crate) fn resample<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, registers: &Registers, done: u16) {
    for index in bits(done) {
        if let Some(intid) = IntId::new(registers.images[index].vintid()) {
            vm.host.resample(vcpu.id, intid);
        }
    }
}

/// Ends active interrupts outside the list registers as often as the hardware has counted.
fn take_eoi_count<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    registers: &mut Registers,
) {
    let value = cpu.interface().read_hcr();
    let count = (value & hcr::EOI_COUNT) >> hcr::EOI_COUNT_SHIFT;
    if count == 0 {
        return;
    }
    // The register differs from what we wrote, so this writes it, and the count with it.
    registers.hcr = value;
    registers.set_hcr(value & !hcr::EOI_COUNT, cpu.interface());
    // With EOImode 1 the guest deactivates by ICC_DIR_EL1, which traps. QEMU counts its priority
    // drops all the same.
    if cpu.interface().read_vmcr() & vmcr::VEOIM != 0 {
        return;
    }
    let _entered = pin.guard();
    for _ in 0..count {
        let mut leaving = Leaving::new();
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
            registers.due.add_reload(changed.new.deliverable());
            count::book(vm, pin, irq, changed);
            if deactivate {
                leaving.deactivate(irq);
            }
            if state.level() && !state.hw() {
                resample = Some(irq.intid());
            }
            prune::prune(vm, pin, vcpu, &mut list, irq, &mut leaving);
        }
        queue::dispatch(vm, pin, &mut leaving);
        if let Some(intid) = resample {
            vm.host.resample(vcpu.id, intid);
        }
    }
    registers.due.add_refill(true);
}
