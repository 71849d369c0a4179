//! WFI: whether a vCPU has an interrupt to wake up for.
//!
//! The answer is the virtual interrupt line's: the highest-priority pending interrupt of an enabled
//! group is more urgent than the priority mask and preempts the running priority (IHI 0069, 4.8).
//! The answer is computed from the `ICH_*` registers, never from copies.
//!
//! While `GICR_WAKER.ProcessorSleep` is 1, the answer is the wake request's: all interrupts that
//! arrive at the redistributor assert it (IHI 0069, 11.1 and 12.11). These are pending, enabled,
//! and of a group that the distributor forwards. The CPU interface has no say: software disables
//! its groups before it sets ProcessorSleep.
#![expect(unsafe_code)]
// UNSAFETY: borrows the shadow of a vCPU that this CPU has been found to have.

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::cpu_interface::{priority, vmcr};
use crate::direct;
use crate::direct::residency::Departure;
use crate::entry::{enter, fold};
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::residency::{RERAISED, ResidencyBits, WORK};
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Answer to a vCPU that wants to sleep.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// The vCPU sleeps: [`Host::wake`] will be called when it has work.
    Yes,
    /// The vCPU has an interrupt to take, or work to do: enter it.
    No,
}

/// Marks a vCPU as blocked unless an interrupt is signalled to it:
/// [`Vgic::block`](crate::Vgic::block).
pub(crate) fn block<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<Blocked, EntryError> {
    // Nothing waits that may be signalled, and nothing is due. Saves 68 of the 1196 instructions of
    // an SGI to a vCPU in WFI, an atomic operation and a lock among them.
    if vm.direct.is_none()
        && let Some(vcpu) = vm.out_of_guest(cpu.local(), id)
        // SAFETY: the CPU has the vCPU, by its own record.
        && unsafe { vcpu.peek(IchShadow::is_idle) } == Some(true)
        && vcpu.residency.block_idle(cpu.local().seat())
    {
        cpu.local().loaded().set_blocked(vcpu.key);
        return Ok(Blocked::Yes);
    }

    block_slow(vm, cpu, pin, id)
}

/// Looks for an interrupt, and marks the vCPU as blocked unless there is one.
fn block_slow<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<Blocked, EntryError> {
    let vcpu = vm.vcpu(id).ok_or(EntryError::UnknownVcpu(id))?;
    let residency = vcpu.residency.get();
    if vm.in_guest(cpu.local(), id).is_some() {
        return Err(EntryError::AlreadyEntered(id));
    }

    let (signalled, in_use) =
        look(vm, cpu, pin, vcpu, residency).ok_or(EntryError::NotEntered(id))?;
    if signalled {
        direct::residency::enter(vm, pin, vcpu);
        return Ok(Blocked::No);
    }

    if in_use != 0 {
        // Other vCPUs may read the states of the interrupts in list registers while it sleeps.
        fold::refresh_states(cpu, pin, vcpu);
    }
    if vm.direct.is_some() {
        return Ok(block_direct(vm, cpu, pin, vcpu));
    }
    if !vcpu.residency.block() {
        return Ok(Blocked::No);
    }

    cpu.local().loaded().set_blocked(vcpu.key);
    Ok(Blocked::Yes)
}

/// Makes the virtual PE of a vCPU without a signalled interrupt leave the CPU, and marks the vCPU
/// as blocked unless a virtual LPI may be signalled: module docs of [`crate::direct`].
fn block_direct<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) -> Blocked {
    let pending = direct::residency::leave(vm, pin, vcpu, Departure::Block);

    if pending && takes_virtual(vm, cpu, pin, vcpu) || !vcpu.residency.block() {
        direct::residency::enter(vm, pin, vcpu);
        return Blocked::No;
    }

    // The entry makes the virtual PE resident.
    cpu.local().loaded().set_blocked(vcpu.key);
    Blocked::Yes
}

/// Returns true if a pending virtual interrupt of unknown priority and group may be signalled to
/// the vCPU, or asks for its wake-up. One that the priority mask or the running priority holds back
/// wakes the vCPU in vain. Only SGIs may be of Group 0.
fn takes_virtual<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) -> bool {
    let vmcr = cpu.interface().read_vmcr();
    let takes = |group1| priority::signals(vmcr, priority::IDLE, 0, group1);
    vcpu.redistributor.is_asleep()
        || takes(true)
        || takes(false) && direct::sgi::may_be_pending(vm, pin, vcpu)
}

/// Returns whether the vCPU's virtual IRQ or FIQ, or its wake request, is asserted:
/// [`Vgic::has_pending`](crate::Vgic::has_pending).
pub(crate) fn has_pending<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<bool, EntryError> {
    let vcpu = vm.vcpu(id).ok_or(EntryError::UnknownVcpu(id))?;
    let residency = vcpu.residency.get();
    if residency.is_blocked() {
        // The look ends the blocking: a vCPU with nothing to signal is blocked anew.
        return Ok(block(vm, cpu, pin, id)? == Blocked::No);
    }
    if vm.in_guest(cpu.local(), id).is_some() {
        return Err(EntryError::AlreadyEntered(id));
    }

    let (signalled, _) = look(vm, cpu, pin, vcpu, residency).ok_or(EntryError::NotEntered(id))?;
    let pending = !signalled
        && direct::residency::leave(vm, pin, vcpu, Departure::Look)
        && takes_virtual(vm, cpu, pin, vcpu);
    direct::residency::enter(vm, pin, vcpu);
    Ok(signalled || pending)
}

/// Does the work that is due for a vCPU with this `residency`. Returns whether an interrupt is
/// signalled, or asks for wake-up, and the list registers in use. Returns `None` if `cpu` does not
/// have the vCPU.
// Inlined: saves 60 of the 1181 instructions of an SGI to a vCPU in WFI.
#[inline(always)]
fn look<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    residency: ResidencyBits,
) -> Option<(bool, u16)> {
    if !residency.is_on_cpu(cpu.local().seat()) {
        return None;
    }

    // SAFETY: the word has named this CPU as the owner, and only the owner changes the ownership.
    let mut shadow = unsafe { vcpu.borrow_shadow() }?;
    if residency.is_blocked() {
        fold::sample_after_sleep(vm, cpu, pin, vcpu, &mut shadow);
    }
    let nothing_due = shadow.nothing_due();
    drop(shadow);

    rwp::done(vm, vcpu, residency);
    let work = vcpu.residency.take_work();
    // Not blocked any more.
    cpu.local().loaded().set_out(vcpu.key);

    let heeded = if mutant(Mutant::ReraisedSleptThrough) {
        WORK & !RERAISED
    } else {
        WORK
    };
    if work.has(heeded) || !nothing_due {
        // SAFETY: the word has named this CPU as the owner, and only the owner changes the
        // ownership.
        unsafe { enter::update_lrs(vm, cpu, pin, vcpu, work) };
    }

    // SAFETY: the word has named this CPU as the owner, and only the owner changes the ownership.
    let mut shadow = unsafe { vcpu.borrow_shadow() }?;
    let signalled = is_signalled(vm, cpu, pin, vcpu, &mut shadow);
    Some((signalled, shadow.in_use))
}

/// Returns whether an interrupt in a list register or on the list is signalled now, or asks for
/// wake-up.
#[inline(always)]
fn is_signalled<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
) -> bool {
    // No interrupt at all. Saves 27 of the 1086 instructions of an SGI to a vCPU in WFI.
    if shadow.in_use == 0 && vcpu.ap_list.lock(cpu.local().locks()).waiting() == 0 {
        return false;
    }

    let interface = cpu.interface();
    let vmcr = interface.read_vmcr();
    let running = priority::running(interface);
    let asleep = vcpu.redistributor.is_asleep();

    // The most urgent level, and whether an interrupt of the level is signalled. A less urgent one
    // is not, even if the binary point of its group would let it preempt.
    let mut most_urgent = (u8::MAX, false);
    let mut find = |level: u8, group1| {
        if asleep || vmcr & vmcr::group_enable(group1) != 0 && level <= most_urgent.0 {
            let signalled = asleep || priority::signals(vmcr, running, level, group1);
            let beside = level == most_urgent.0 && most_urgent.1;
            most_urgent = (level, signalled || beside);
        }
        most_urgent.1
    };

    let mut in_lr = false;
    for index in bits(shadow.in_use) {
        let lr = shadow.read_lr(index, interface, pin.counters());
        if lr.is_pending() && !lr.is_active() {
            in_lr = find(lr.priority(), lr.is_group1());
        }
    }

    // List registers hold the most urgent interrupts, but perhaps of a group that the guest has
    // disabled.
    in_lr || {
        let open = vcpu.enabled_classes(vm.distributor.enabled_groups());
        let list = vcpu.ap_list.lock(cpu.local().locks());
        let mut waits = false;
        for group1 in [false, true] {
            if let Some((_, level)) = list.first(open.of_group(group1)) {
                waits = find(level, group1);
            }
        }
        // The CPU that has enabled its group, or LPIs, may have stopped before it notified the
        // vCPU.
        shadow.due.add_refill(waits);
        waits
    }
}
