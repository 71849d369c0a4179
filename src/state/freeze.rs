//! Stopping a VM for good, and the interrupts that come too late for its state:
//! [`Vgic::freeze`](crate::Vgic::freeze).
//!
//! The freeze takes each pending latch with the state of its interrupt, in one atomic operation. A
//! raise falls before that, and is in the state, or after, and sets the latch again: the latches of
//! a frozen VM are the raises that came too late. No raise is lost, and none counts twice. A line
//! has come too late if its level is another than in the state.

use alloc::vec::Vec;

use crate::advance;
use crate::delivery::{inject, queue};
use crate::epoch::CpuPin;
use crate::error::{InjectError, TeardownError};
use crate::host::Host;
use crate::intid::{IntId, Kind, VcpuId};
use crate::its;
use crate::state::save::{interrupt, read};
use crate::state::{InterruptState, LateInterrupt, VmState, flags};
use crate::sync::{Mutant, mutant};
use crate::teardown::{claim, end_freeze, release};
use crate::vm::Vm;
use crate::vm::irq::{Irq, PENDING, State};
use crate::vm::its::FROZEN;

/// The sources of a level.
const SOURCES: u8 = flags::LINE | flags::MESSAGE;

/// Freezes a VM: [`Vgic::freeze`](crate::Vgic::freeze).
pub(crate) fn freeze<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> Result<VmState, TeardownError> {
    vm.admit(pin)?;
    claim(vm, pin)?;
    *vm.growth.lock(pin.locks()) = true;
    // Before `read` completes the commands that have been begun: no other is begun afterwards.
    freeze_commands(vm, !mutant(Mutant::FrozenExecutes));
    its::direct::stop(vm, pin);
    Ok(read(vm, pin, |irq| take(vm, pin, irq)))
}

/// Holds the commands of every ITS back, or lets them go on.
fn freeze_commands<H: Host>(vm: &Vm<H>, on: bool) {
    vm.its.iter().for_each(|its| its.set_control(FROZEN, on));
}

/// Takes the pending latch of an interrupt, and returns the state from before. A latch that stands
/// for a physical interrupt of this VM stays.
fn take<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) -> State {
    let early = mutant(Mutant::FreezeLooksFirst).then(|| irq.state());
    let changed = irq.update(|state| {
        if state.hw() {
            state
        } else {
            state.with(0, PENDING)
        }
    });
    queue::complete(vm, pin, irq, changed);
    early.unwrap_or(changed.old)
}

/// Ends the freeze of a VM: [`Vgic::thaw`](crate::Vgic::thaw).
pub(crate) fn thaw<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    state: &VmState,
) -> Result<(), TeardownError> {
    vm.admit(pin)?;
    if !end_freeze(vm, pin) {
        return Err(TeardownError::NotFrozen);
    }

    each(vm, pin, state, |irq, _, saved| {
        raise_again(vm, pin, irq, saved)
    });
    freeze_commands(vm, false);
    its::direct::resume(vm, pin);
    advance::defer_commands(vm);
    release(&vm.vcpus);
    Ok(())
}

/// Puts back the latch that the freeze has taken.
fn raise_again<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, saved: InterruptState) {
    if saved.has(flags::LATCH) && !irq.state().hw() {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    }
}

/// Takes the interrupts that came too late: [`Vgic::take_late`](crate::Vgic::take_late).
pub(crate) fn take_late<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    state: &VmState,
) -> Result<Vec<LateInterrupt>, TeardownError> {
    vm.admit(pin)?;
    if !*vm.growth.lock(pin.locks()) {
        return Err(TeardownError::NotFrozen);
    }

    let mut late = Vec::new();
    each(vm, pin, state, |irq, vcpu, saved| {
        let found = interrupt(take(vm, pin, irq)).flags;
        let of = |flags| LateInterrupt {
            intid: irq.intid().raw(),
            vcpu: vcpu.map(|vcpu| vcpu.0),
            flags: found & flags,
        };
        if found & flags::LATCH != 0 && !irq.state().hw() {
            late.push(of(flags::LATCH));
        }
        if (found ^ saved.flags) & SOURCES != 0 {
            late.push(of(SOURCES));
        }
    });

    Ok(late)
}

/// Calls `visit` with each interrupt of a VM that is in a state, with the vCPU of an SGI or PPI,
/// and with the saved state of the interrupt.
fn each<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    state: &VmState,
    mut visit: impl FnMut(&Irq, Option<VcpuId>, InterruptState),
) {
    let spis = vm.distributor.spis().iter().zip(&state.spis);
    let extended = (vm.distributor.extended_spis().iter()).zip(&state.extended.spis);
    for (irq, saved) in spis.chain(extended) {
        visit(irq, None, saved.interrupt);
    }

    for (vcpu, saved) in vm.added_vcpus().iter().zip(&state.vcpus) {
        for (irq, saved) in vcpu.privates().iter().zip(saved.private) {
            visit(irq, Some(vcpu.id), saved);
        }
        let ppis = (state.extended).ppis_of(vcpu.id.index(), vm.config.extended_ppis);
        for (irq, saved) in vcpu.extended_ppis().iter().zip(ppis) {
            visit(irq, Some(vcpu.id), *saved);
        }
    }

    for lpi in &state.lpis {
        if let Some(irq) = IntId::lpi(lpi.intid).and_then(|intid| vm.lpi(pin, intid)) {
            visit(irq, None, lpi.interrupt);
        }
    }
}

/// Injects an interrupt that came too late for the VM's state:
/// [`Vgic::inject_late`](crate::Vgic::inject_late).
pub(crate) fn inject_late<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    late: LateInterrupt,
) -> Result<(), InjectError> {
    vm.admit(pin)?;

    let intid = IntId::new(late.intid).ok_or(InjectError::UnknownInterrupt)?;
    let irq = match (intid.kind(), late.vcpu) {
        (Kind::Spi, None) => vm.spi(intid)?,
        (Kind::Lpi, None) => match vm.lpi(pin, intid) {
            Some(irq) => irq,
            // Unmapped by the guest since.
            None => return Ok(()),
        },
        (Kind::Sgi | Kind::Ppi, Some(vcpu)) => {
            let vcpu = vm.vcpu(VcpuId(vcpu)).ok_or(InjectError::UnknownVcpu)?;
            vcpu.private(intid).ok_or(InjectError::UnknownInterrupt)?
        }
        _ => return Err(InjectError::UnknownInterrupt),
    };

    if late.flags & flags::LATCH != 0 {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    } else if matches!(intid.kind(), Kind::Spi | Kind::Ppi) {
        set_sources(vm, pin, irq, late.flags);
    }
    Ok(())
}

/// Sets the line and the message, and leaves the latch alone: the latch may be of a raise after the
/// end of the message. Neither source is an edge: a late rise of an edge-triggered interrupt's line
/// has set the latch too.
fn set_sources<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, flags: u8) {
    let has = |flag| flags & flag != 0;
    queue::complete(vm, pin, irq, irq.set_line(has(flags::LINE)));
    // Messages are for SPIs alone.
    if irq.kind() == Kind::Spi {
        queue::complete(vm, pin, irq, irq.set_message(has(flags::MESSAGE)));
    }
}
