//! Into the guest.
#![expect(unsafe_code)]
// UNSAFETY: borrows the shadow of a vCPU that this CPU has been found to have.

use core::cell::RefMut;

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::delivery::{lpi_tables, physical};
use crate::direct;
use crate::entry::{flush, fold, load_put};
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};
use crate::vm::ich_shadow::IchShadow;
use crate::vm::residency::{NEW, RECALL, RECALL_LATER, RELEASE, RERAISED, ResidencyBits};
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Updates the list registers and marks the vCPU as in the guest:
/// [`Vgic::enter`](crate::Vgic::enter).
#[inline]
pub(crate) fn enter<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<(), EntryError> {
    if let Some(vcpu) = vm.out_of_guest(cpu.local(), id)
        // SAFETY: the CPU has the vCPU, by its own record.
        && let Some(nothing_due) = unsafe { vcpu.peek(IchShadow::nothing_due) }
    {
        // Before the look: from here on the record does not say that the vCPU is out of the guest,
        // so that work that this CPU gives it during the update kicks.
        cpu.local().loaded().set_in_guest(vm.key(id));
        if !nothing_due || !is_without_news(cpu, vcpu.residency.look()) {
            // SAFETY: the CPU has the vCPU, by its own record.
            unsafe { enter_with_work(vm, cpu, pin, vcpu) };
        }
        return Ok(());
    }

    match vm.blocked(cpu.local(), id) {
        Some(vcpu) => {
            // SAFETY: the CPU has the vCPU, by its own record.
            unsafe { enter_blocked(vm, cpu, pin, vcpu) };
            Ok(())
        }
        None => enter_slow(vm, cpu, pin, id),
    }
}

/// Returns true if `residency` has no news for an entry on `cpu`.
#[inline]
fn is_without_news<I: CpuInterface>(cpu: &Cpu<I>, residency: ResidencyBits) -> bool {
    residency.is_without_news(cpu.local().seat()) || mutant(Mutant::EntersUnlooked)
}

/// Enters a vCPU that has news, or for which work is due.
///
/// # Safety
/// `cpu` has the vCPU.
// Out of line: an exit and an entry without work need fewer registers.
#[inline(never)]
unsafe fn enter_with_work<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) {
    // After a refill the sender's RERAISED is most likely in the word. The swap alone fetches the
    // line once, for writing; a look would fetch it for reading first.
    let news = if cpu.local().loaded().is_refilled() {
        None
    } else {
        Some(vcpu.residency.look())
    };
    let work = match news {
        Some(residency) if is_without_news(cpu, residency) => residency,
        _ => consume_work(vm, cpu, vcpu),
    };

    // SAFETY: the caller promises that `cpu` has the vCPU.
    unsafe { update_lrs(vm, cpu, pin, vcpu, work) };
}

/// Marks the vCPU as running on `cpu`, ends the waiting of registers with RWP for it if it was
/// recalled, and returns its work.
#[inline]
fn consume_work<H: Host, I: CpuInterface>(vm: &Vm<H>, cpu: &Cpu<I>, vcpu: &Vcpu) -> ResidencyBits {
    let work = vcpu.residency.enter(cpu.local().seat());
    rwp::done(vm, vcpu, work);
    work
}

/// Enters a vCPU that is blocked. Saves 40 of the 985 instructions of an SGI to a vCPU in WFI.
///
/// # Safety
/// `cpu` has the vCPU.
#[inline(never)]
unsafe fn enter_blocked<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) {
    if vm.direct.is_some() {
        // SAFETY: the caller promises that `cpu` has the vCPU.
        unsafe { enter_blocked_direct(vm, cpu, pin, vcpu) };
    } else {
        // SAFETY: the caller promises that `cpu` has the vCPU.
        unsafe { end_blocked(vm, cpu, pin, vcpu) };
    }
}

/// Enters a vCPU that is blocked, whose virtual PE, if it has one, has left the CPU.
///
/// # Safety
/// `cpu` has the vCPU.
// Out of line: saves 6 of the 728 instructions of an MSI by software to a vCPU in WFI.
#[inline(never)]
unsafe fn enter_blocked_direct<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) {
    direct::residency::enter(vm, pin, vcpu);
    // SAFETY: the caller promises that `cpu` has the vCPU.
    unsafe { end_blocked(vm, cpu, pin, vcpu) };
}

/// Marks a blocked vCPU as in the guest, and updates its list registers.
///
/// # Safety
/// `cpu` has the vCPU.
#[inline(always)]
unsafe fn end_blocked<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) {
    debug_assert!(vcpu.residency.get().is_blocked());
    // SAFETY: the caller promises that `cpu` has the vCPU.
    if let Some(mut shadow) = unsafe { vcpu.borrow_shadow() } {
        fold::sample_after_sleep(vm, cpu, pin, vcpu, &mut shadow);
    }

    let work = consume_work(vm, cpu, vcpu);
    cpu.local().loaded().set_in_guest(vcpu.key);

    if mutant(Mutant::EntersAsBlocked) {
        return;
    }
    // SAFETY: the caller promises that `cpu` has the vCPU.
    unsafe { update_lrs(vm, cpu, pin, vcpu, work) };
}

/// Enters a vCPU that `cpu` does not have yet, or returns why it cannot.
// Out of line: saves 24 of the 175 instructions of a hypercall.
#[cold]
fn enter_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<(), EntryError> {
    vm.admit(pin)?;
    let vcpu = vm.vcpu(id).ok_or(EntryError::UnknownVcpu(id))?;
    let residency = vcpu.residency.get();
    if residency.is_torn_down() && !is_back(vm, pin, vcpu) {
        return Err(EntryError::TornDown);
    }

    if !residency.is_on() {
        return Err(EntryError::PoweredOff(id));
    }

    if vm.in_guest(cpu.local(), id).is_some() {
        return Err(EntryError::AlreadyEntered(id));
    }

    if vcpu.shadow(cpu.local()).is_none() {
        // A longer INTID would be cut off in a list register, and be another interrupt there.
        if vm.config.lpi_end() > 1 << cpu.vtr().id_bits {
            return Err(EntryError::IntidBits {
                vm: vm.config.intid_bits() as u8,
                cpu: cpu.vtr().id_bits,
            });
        }

        if vm.config.has_extended_range() && !cpu.vtr().extended_range {
            return Err(EntryError::ExtendedRange);
        }

        while let Err(error) = load_put::load(vm, cpu, vcpu) {
            if !matches!(error, EntryError::TornDown) || !is_back(vm, pin, vcpu) {
                return Err(error);
            }
        }
    }

    if vcpu.residency.get().is_blocked() {
        // Put while blocked.
        // SAFETY: `shadow` has found that this CPU has the vCPU, or `load` has loaded it.
        unsafe { enter_blocked(vm, cpu, pin, vcpu) };
        return Ok(());
    }

    direct::residency::enter(vm, pin, vcpu);
    let work = consume_work(vm, cpu, vcpu);
    cpu.local().loaded().set_in_guest(vcpu.key);
    // SAFETY: `shadow` has found that this CPU has the vCPU, or `load` has loaded it.
    unsafe { update_lrs(vm, cpu, pin, vcpu, work) };
    Ok(())
}

/// Returns true if a teardown that had claimed the vCPU has failed, and put the vCPU back.
fn is_back<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) -> bool {
    let _no_claim = vm.growth.lock(pin.locks());
    !vcpu.residency.get().is_torn_down()
}

/// Updates the list registers on the way into the guest, for `work` that the vCPU was given and for
/// the work that is due.
///
/// # Safety
/// `cpu` has the vCPU.
#[inline]
pub(super) unsafe fn update_lrs<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    work: ResidencyBits,
) {
    // SAFETY: the caller promises that `cpu` has the vCPU.
    let Some(mut shadow) = (unsafe { vcpu.borrow_shadow() }) else {
        return;
    };

    if work.has(NEW | RECALL | RECALL_LATER | RELEASE)
        || shadow.due.fill()
        || work.has(RERAISED) && vcpu.has_reraised(&shadow)
    {
        update_lrs_by_one(vm, cpu, pin, vcpu, shadow, work);
    } else {
        // Saves 17 of the 452 instructions of an SGI to itself.
        shadow.write_staged(cpu.interface(), pin.counters());
        // The exit reads the status of the list registers, perhaps without an ERET in between.
        cpu.interface().synchronize();
    }
}

/// Fills a list register with the one interrupt that waits, beside the staged ones. Falls back to
/// [`update_lrs_slow`] for RECALL and RELEASE, for a refold of list registers in use, and if
/// [`flush::flush_one`] declines.
// Out of line: saves 12 of the 447 instructions of an SGI to itself.
#[inline(never)]
fn update_lrs_by_one<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    work: ResidencyBits,
) {
    let refold = work.has(RECALL | RECALL_LATER)
        || shadow.due.refold()
        || work.has(RERAISED) && vcpu.has_reraised(&shadow);
    let waited = refold || shadow.due.fill();

    if work.has(RECALL | RELEASE)
        || refold && shadow.in_use != 0
        || !flush::flush_one(vm, cpu, pin, vcpu, &mut shadow)
    {
        update_lrs_slow(vm, cpu, pin, vcpu, shadow, work, refold);
        return;
    }

    // An arrival that finds room needs no sample.
    if waited && shadow.forwarded != 0 {
        fold::sample_before_entry(vm, cpu, pin, vcpu, &mut shadow);
    }

    shadow.write_staged(cpu.interface(), pin.counters());
    // For the reads of the exit, as in `update_lrs`.
    cpu.interface().synchronize();
}

/// Flushes, with all list registers chosen anew if `refold`, and does what else RECALL and RELEASE
/// ask for.
// Out of line: saves 40 of the 812 instructions of an SGI to a vCPU in WFI.
#[inline(never)]
fn update_lrs_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    mut shadow: RefMut<'_, IchShadow>,
    work: ResidencyBits,
    refold: bool,
) {
    let shadow = &mut *shadow;

    if work.has(RELEASE) {
        // Before the fill, which moves a physical PPI into a list register.
        physical::release_unused(vm, pin, vcpu);
    }
    // Before the fill too. A table that becomes due meanwhile comes with a RECALL of its own: the
    // fill may have found LPIs enabled.
    let store = if work.has(RECALL) {
        vcpu.redistributor.store.due()
    } else {
        None
    };

    if work.has(RECALL) {
        // The guest may have enabled or disabled Group 1 or LPIs.
        direct::residency::enter(vm, pin, vcpu);
    }

    let mut waited = refold || shadow.due.fill();
    waited |= flush::flush(vm, cpu, pin, vcpu, shadow, refold, work.has(NEW));
    // An arrival that finds room needs no sample.
    if shadow.forwarded != 0 && waited {
        fold::sample_before_entry(vm, cpu, pin, vcpu, shadow);
    }

    shadow.write_staged(cpu.interface(), pin.counters());
    if !shadow.is_untouched() {
        // For the reads of the exit, as in `update_lrs`. Of an untouched shadow it reads nothing.
        cpu.interface().synchronize();
    }

    if let Some(due) = store {
        lpi_tables::start_store(vm, vcpu, due);
    }
}
