//! Into the guest and out of it, onto a CPU and off it.
//!
//! Most entries and exits touch no register: the vCPU is on this CPU, and nothing has come or gone. What
//! else there is to do, [`super::flush`] does on the way in and [`super::fold`] on the way out.
//!
//! # Posting
//! An interrupt that a CPU raises for the vCPU that it has out of the guest, while a register is free and
//! nothing waits, is put into that register in the step that queues it ([`Vgic::insert`]). Only its image
//! is noted then; the register is written on the way into the guest.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that a list keeps alive.
use core::cell::RefMut;

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::entry::{flush, load};
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::vm::ich_shadow::IchShadow;
use crate::vm::residency::{NEW, RECALL, RECALL_LATER, RERAISED, ResidencyBits, WORK, Whereabouts};
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Prepares `cpu`'s list registers for `vcpu` and marks it as in the guest. The caller drops its
/// pins and enters the guest with interrupts masked until the exception return.
///
/// With nothing new this is one atomic operation and no register access.
///
/// # Errors
/// [`EntryError`] when the vCPU cannot run here; nothing has changed then.
#[inline]
pub(crate) fn enter<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    if let Some(this) = vm.vcpus.get(vcpu.index())
        && let Some((place, settled)) =
            this.peek(cpu.local(), Whereabouts::Out, IchShadow::nothing_due)
    {
        rwp::done(vm, this, place);
        let work = this.residency.enter(cpu.id());
        if work.has(WORK) || !settled {
            // SAFETY: by the peek.
            unsafe { update_lrs(vm, cpu, pin, this, work) };
        }
        return Ok(());
    }
    enter_slow(vm, cpu, pin, vcpu)
}

/// Enters a vCPU that `cpu` does not have yet, or says why it cannot.
#[cold]
fn enter_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    let this = vm.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
    let place = this.residency.get();
    if !place.is_on() {
        return Err(EntryError::PoweredOff(vcpu));
    }
    if place.in_guest() {
        return Err(EntryError::AlreadyEntered(vcpu));
    }
    if this.shadow(cpu.local()).is_none() {
        load::load(vm, cpu, this)?;
    }
    rwp::done(vm, this, place);
    let work = this.residency.enter(cpu.id());
    // SAFETY: `registers` or `take` has found that this CPU has them.
    unsafe { update_lrs(vm, cpu, pin, this, work) };
    Ok(())
}

/// Brings the list registers up to date on the way into the guest; `work` is what came up.
///
/// # Safety
/// `cpu` has the vCPU's registers.
#[inline(never)]
pub(crate) unsafe fn update_lrs<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    work: ResidencyBits,
) {
    // SAFETY: by the caller's promise.
    let Some(mut shadow) = (unsafe { vcpu.borrow() }) else {
        return;
    };
    if work.has(NEW | RECALL | RECALL_LATER)
        || shadow.due.fill()
        || work.has(RERAISED) && vcpu.waits_behind_itself(&shadow)
    {
        update_lrs_slow(vm, cpu, pin, vcpu, shadow, work);
    } else {
        shadow.write_staged(cpu.interface(), pin.counters());
    }
}

/// As [`Vgic::prepare`], when there is more to do than to write what has been staged.
#[inline(never)]
fn update_lrs_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    work: ResidencyBits,
) {
    let shadow = &mut *shadow;
    let again = work.has(RERAISED) && vcpu.waits_behind_itself(shadow);
    let reload = work.has(RECALL | RECALL_LATER) || shadow.due.reload() || again;
    let recall = reload && shadow.in_use != 0;
    if recall || !flush::flush_one(vm, cpu, pin, vcpu, shadow) {
        flush::flush(vm, cpu, pin, vcpu, shadow, reload, work.has(NEW));
    }
    shadow.write_staged(cpu.interface(), pin.counters());
}
