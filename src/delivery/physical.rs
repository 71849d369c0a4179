//! Physical interrupts: connection, release, and samples of their lines.
//!
//! [`vm::irq::physical`](crate::vm::irq) has the rule of their ownership.

use crate::delivery::inject::{self, Injected};
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{count, prune, queue};
use crate::epoch::CpuPin;
use crate::error::InjectError;
use crate::host::Host;
use crate::intid::{CpuId, IntId, Kind, VcpuId};
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::ap_list::ApList;
use crate::vm::irq::{Changed, Irq};
use crate::vm::residency::{RECALL, RELEASE};
use crate::vm::vcpu::Vcpu;

/// Connects `irq`, an SPI or a PPI of `owner`, to the physical interrupt `pintid`.
pub(crate) fn connect<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    owner: Option<&Vcpu>,
    pintid: IntId,
) -> Result<(), InjectError> {
    let (raw, private) = match (pintid.kind(), owner) {
        (Kind::Spi, _) => (pintid.raw() as u16, false),
        // A physical PPI goes to the vCPU on the PPI's CPU. A virtual SPI is on no particular CPU.
        (Kind::Ppi, Some(_)) => (pintid.raw() as u16, true),
        _ => return Err(InjectError::UnknownInterrupt),
    };

    let _one_at_a_time = vm.growth.lock(pin.locks());
    if vm.is_torn_down() {
        return Err(InjectError::TornDown);
    }

    if owner.is_some_and(|owner| !owner.is_present()) {
        return Err(InjectError::UnknownVcpu);
    }

    let is_taken = |other: &Irq| {
        !core::ptr::eq(other, irq) && other.state().uses_pintid() && other.pintid() == raw
    };
    let taken = match owner.filter(|_| private) {
        Some(vcpu) => vcpu.all_privates().any(is_taken),
        None => vm.wired().any(is_taken),
    };
    if taken {
        return Err(InjectError::AlreadyConnected);
    }

    // Before the connection: a CPU that forwards the PPI notes it in time to release it at a put.
    let note = || {
        if let Some(vcpu) = owner.filter(|_| private) {
            vcpu.add_physical_ppi(irq.intid());
        }
    };
    if !mutant(Mutant::ConnectedBeforeNoted) {
        note();
    }
    if !irq.connect(raw) {
        return Err(InjectError::AlreadyConnected);
    }
    if mutant(Mutant::ConnectedBeforeNoted) {
        note();
    }
    Ok(())
}

/// Makes a PPI of a vCPU pending on behalf of an active physical interrupt:
/// [`Vgic::forward_ppi`](crate::Vgic::forward_ppi).
#[inline]
pub(crate) fn forward_ppi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    intid: IntId,
) -> Result<Injected, InjectError> {
    // A CPU that has the vCPU has entered it, so that its pins are of the VM's domain and the vCPU
    // has been added: saves 9 of the 454 instructions of a timer's interrupt.
    if intid.kind() == Kind::Ppi
        && let Some(owner) = vm.vcpus.get(vcpu.index())
        && let Some(irq) = owner.private(intid)
        && owner.residency.get().is_on_cpu(pin.local().seat())
        && let Some(raised) = irq.forward()
    {
        return Ok(inject::raised_for(vm, pin, irq, raised, Some(owner)));
    }

    forward_ppi_slow(vm, pin, vcpu, intid)
}

/// Forwards a PPI on a CPU that does not have the vCPU, or returns why not.
#[cold]
#[inline(never)]
fn forward_ppi_slow<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    intid: IntId,
) -> Result<Injected, InjectError> {
    vm.admit(pin)?;
    let (owner, irq) = vm.ppi(vcpu, intid)?;
    // The CPU that has the vCPU does not put it meanwhile: it is here. Without a connection the
    // number is 0, and the transition refuses.
    if irq.is_of_ppi() && owner.residency.get().seat() != Some(pin.local().seat()) {
        return Err(match irq.state().connected() {
            true => InjectError::NotLoaded,
            false => InjectError::NotConnected,
        });
    }
    let raised = irq.forward().ok_or(InjectError::NotConnected)?;
    Ok(inject::raised_for(vm, pin, irq, raised, Some(owner)))
}

/// Ends the connection of `irq`, and gives the physical interrupt back. A physical interrupt behind
/// a list register is given back by the CPU with the list register, and a physical PPI by its CPU,
/// at the next entry, block or put there.
pub(crate) fn disconnect<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
) -> Result<(), InjectError> {
    let _one_at_a_time = vm.growth.lock(pin.locks());
    end_connection(vm, pin, irq)
        .then_some(())
        .ok_or(InjectError::NotConnected)
}

/// Ends the connection of `irq`, and gives the physical interrupt back as [`disconnect`] does.
/// Returns false if there is none. Under the lock `Vm::growth`.
pub(crate) fn end_connection<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> bool {
    if !irq.state().connected() {
        return false;
    }

    let changed = irq.disconnect(false);
    settle(vm, pin, irq, changed);
    queue::complete(vm, pin, irq, changed);
    true
}

/// Ends all connections at the end of the VM, and gives back every physical interrupt that the VM
/// owns. No vCPU runs, or will. A forward that comes later is refused.
pub(crate) fn disconnect_all<H: Host>(vm: &Vm<H>) {
    let private = |vcpu: &Vcpu| vcpu.residency.get().cpu();
    let deactivate = |irq: &Irq, cpu: Option<CpuId>| {
        if irq.disconnect(true).takes_physical() {
            // A PPI is still owned only if the VM was dropped with the PPI's vCPU on a CPU.
            let cpu = cpu.unwrap_or(CpuId(CpuId::FIRST_RESERVED));
            vm.host.deactivate(irq.ended(cpu));
        }
    };

    for irq in vm.distributor.all_spis() {
        deactivate(irq, None);
    }
    for vcpu in &vm.vcpus {
        for irq in vcpu.all_privates() {
            deactivate(irq, private(vcpu));
        }
    }
}

/// Deactivates the physical interrupt that a change of `irq` has taken from the state word. A
/// physical PPI with no pending or active state left is released by the CPU that has the vCPU.
// Out of line: most changes are of interrupts that are not forwarded.
#[cold]
#[inline(never)]
pub(crate) fn settle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
    if changed.takes_physical() {
        vm.host.deactivate(irq.ended(pin.local().id()));
    } else if changed.new.hw() {
        settle_ppi(vm, pin, irq);
    }
}

/// Releases a physical PPI with no pending or active state left, or has the CPU of the vCPU do so.
fn settle_ppi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let Some(vcpu) = irq.owner().and_then(|owner| vm.vcpu(owner)) else {
        return;
    };

    // If this CPU has the vCPU, nobody else takes the vCPU away meanwhile.
    if vcpu.residency.get().seat() == Some(pin.local().seat()) {
        release_unused(vm, pin, vcpu);
    } else if irq.state().connected() {
        queue::notify(vm, pin, vcpu.id, RELEASE);
    } else {
        // An edge, still pending, may be on its way into a list register with the physical PPI.
        queue::notify(vm, pin, vcpu.id, RELEASE | RECALL);
    }
}

/// Releases the physical PPIs that are owned with no pending or active state left, or without a
/// connection. On the CPU that has the vCPU.
#[cold]
#[inline(never)]
pub(crate) fn release_unused<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    for irq in vcpu.physical_ppis() {
        if irq.release_unused() {
            vm.host.deactivate(irq.ended(pin.local().id()));
        }
    }
}

/// Releases all physical PPIs before the vCPU leaves the CPU. No interrupt is in a list register;
/// the caller holds the list's lock.
#[cold]
#[inline(never)]
pub(crate) fn release_all<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    list: &mut ApList,
    after: &mut AfterUnlock,
) {
    for irq in vcpu.physical_ppis() {
        let Some(changed) = irq.release() else {
            continue;
        };

        after.add_deactivation(irq.ended(pin.local().id()));
        count::on_change(pin, irq, changed);
        if changed.new.queued_on() == Some(vcpu.id) {
            list.unlink(irq);
            prune::prune(vm, pin, vcpu, list, irq, after);
        }
    }
}

/// Returns the level of the physical line of a connected interrupt, as the host says; `None` for
/// the PPI of a vCPU on no CPU.
pub(crate) fn line<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> Option<bool> {
    let Some(owner) = irq.owner().filter(|_| irq.is_of_ppi()) else {
        return Some(vm.host.is_pending(irq.physical(pin.local().id())));
    };

    let residency = &vm.vcpu(owner)?.residency;
    let cpu = residency.get().cpu()?;
    let high = vm.host.is_pending(irq.physical(cpu));
    // Otherwise the line may have been another vCPU's.
    (residency.get().cpu() == Some(cpu)).then_some(high)
}

/// Samples the line of a forwarded level that the guest has not taken yet, and withdraws the level
/// if the line is low. Returns true if the level was withdrawn. No lock is held.
#[cold]
#[inline(never)]
pub(crate) fn sample<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> bool {
    irq.state().awaits_line() && line(vm, pin, irq) == Some(false) && withdraw(vm, pin, irq)
}

/// Withdraws a forwarded level that the guest has not taken yet, and whose line has been found low.
/// Returns false if there is none. A line that has risen since makes the physical interrupt pending
/// once more, after the deactivation.
#[inline(never)]
pub(crate) fn withdraw<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> bool {
    let Some(changed) = irq.withdraw_level() else {
        return false;
    };
    settle(vm, pin, irq, changed);
    queue::complete(vm, pin, irq, changed);
    true
}
