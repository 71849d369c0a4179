//! From an exit to the next entry.
//!
//! The vGIC first folds what the guest has done with its list registers. Then the reason for the
//! exit is handled. Then the vGIC prepares the list registers for entry. All three share a pin,
//! which enters the epoch only if something has to be looked up.
//!
//! A vCPU of a guest with a GICv2 leaves through vectors of its own, and its handlers are instances
//! of their own, by the parameter `GICV2`: other guests' exits pay nothing for it.
#![expect(unsafe_code)]
// UNSAFETY: assumes, without a check, that the CPU runs a vCPU.

use core::mem;

use vgic::Blocked;

use super::frame::Frame;
use super::sync;
use super::vectors::resume;
use crate::cpu::this_cpu::{Loaded, PinnedCpu, ThisCpu};
use crate::cpu::virtual_lines;
use crate::schedule;
use crate::vcpu::switch::{self, Leave};
use crate::vcpu::{ExitReason, deferred, interrupts};
use crate::vm::choice::Note;
use crate::vm::lifetime::End;

/// Action after a trap.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TrapOutcome {
    /// The guest continues.
    Resume,
    /// The vCPU waits for an interrupt.
    Wait(Wait),
    /// The CPU gives the vCPU up.
    Leave(Leave),
}

/// Reason for which a vCPU waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// WFI, or a suspend that keeps the vCPU's state. May end without an interrupt.
    Standby,
    /// A suspend that loses the vCPU's state. The vCPU resumes at an entry point that it has noted
    /// ([`Power::set_start`](crate::vcpu::power::Power::set_start)).
    PowerDown,
}

/// Handles a synchronous exit. Entered by the vectors, with the guest's registers at the top of the
/// stack.
pub(super) extern "C" fn synchronous<const GICV2: bool>(frame: &mut Frame) -> ! {
    handle_exit::<GICV2>(frame, |cpu, loaded, pin, frame| {
        match sync::handle_trap::<GICV2>(loaded, pin, frame) {
            TrapOutcome::Resume => Handled::Trap,
            TrapOutcome::Wait(wait) => {
                if wait == Wait::Standby {
                    loaded.vcpu.count(ExitReason::Wfi);
                }
                block(cpu, loaded, pin, wait)
            }
            TrapOutcome::Leave(leave) => Handled::Leave(leave),
        }
    });
    resume(frame)
}

/// Handles a physical interrupt. Entered by the vectors, with the guest's registers at the top of
/// the stack.
pub(super) extern "C" fn interrupt<const GICV2: bool>(frame: &mut Frame) -> ! {
    handle_exit::<GICV2>(frame, |cpu, loaded, pin, _| {
        interrupts::handle_physical(cpu, Some(loaded), pin);
        Handled::Interrupts
    });
    resume(frame)
}

/// Handles a system error that was taken to EL2 while the guest ran: the VM is killed.
pub(super) extern "C" fn system_error<const GICV2: bool>(frame: &mut Frame) -> ! {
    handle_exit::<GICV2>(frame, |_, loaded, _, frame| {
        sync::report_system_error(loaded, frame);
        Handled::Leave(Leave::End(End::Killed))
    });
    resume(frame)
}

/// Result of handling an exit's reason.
enum Handled {
    /// A trap was handled.
    Trap,
    /// Interrupts were taken, perhaps a kick that is about the scheduler.
    Interrupts,
    /// The CPU gives the vCPU up.
    Leave(Leave),
}

/// Takes the vCPU of the calling CPU from an exit to the next entry. `handle_reason` handles the
/// reason.
#[inline(always)]
fn handle_exit<const GICV2: bool>(
    frame: &mut Frame,
    handle_reason: impl FnOnce(&ThisCpu, Loaded, &mut PinnedCpu<'_>, &mut Frame) -> Handled,
) {
    // SAFETY: this CPU has just left the guest.
    let (cpu, loaded) = unsafe { ThisCpu::with_loaded() };
    let Loaded { vcpu, vgic } = loaded;
    vcpu.el2_time.begin();

    let mut pin = cpu.vgic_cpu.pin();
    (vgic.exit(&pin, vcpu.id)).expect("the vCPU has been in the guest here");

    let leave = match handle_reason(cpu, loaded, &mut pin, frame) {
        Handled::Trap => None,
        Handled::Interrupts if schedule::wants_attention(cpu) => schedule::attend(cpu, loaded),
        Handled::Interrupts => None,
        Handled::Leave(leave) => Some(leave),
    };
    if let Some(leave) = leave {
        drop(pin);
        if GICV2 {
            virtual_lines::clear();
        }
        switch::leave(cpu, loaded, frame, leave);
    }

    if vgic.has_deferred() {
        deferred::advance(cpu, vgic, &pin);
    }
    vcpu.delay.end();
    (vgic.enter(&pin, vcpu.id)).expect("the vCPU is on, and lives here");
    if GICV2 {
        virtual_lines::set(vgic.virtual_lines(&pin, vcpu.id));
    }
    // In place of a drop: `CpuPin::leave` says why.
    pin.leave();
    mem::forget(pin);
    vcpu.el2_time.end();
}

/// Notes that the vCPU sleeps, for its choice between direct injection and list registers.
// Out of line, with a pin of its own: saves 4 of the 133 instructions of a hypercall.
#[cold]
#[inline(never)]
fn note_sleep(cpu: &ThisCpu, loaded: Loaded) {
    let pin = cpu.vgic_cpu.pin();
    loaded.vcpu.note(loaded.vgic, &pin, Note::Rest);
}

/// Sleeps until the vCPU has an interrupt to take, or another vCPU can run. In standby, any wake-up
/// ends the sleep.
// Inlined: saves 27 of the 880 instructions of an SGI to a vCPU in WFI.
#[inline(always)]
fn block(cpu: &ThisCpu, loaded: Loaded, pin: &mut PinnedCpu<'_>, wait: Wait) -> Handled {
    let Loaded { vcpu, vgic } = loaded;
    if vcpu.vm.is_choosing {
        note_sleep(cpu, loaded);
    }
    loop {
        vcpu.entity.begin_wait();
        let blocked = vgic.block(pin, vcpu.id).expect("the vCPU lives here");
        if blocked == Blocked::No || vgic.has_deferred() {
            break;
        }
        if !schedule::begin_sleep(cpu, loaded) {
            return Handled::Leave(Leave::Blocked);
        }
        vcpu.el2_time.end();
        pin.unpinned(interrupts::wait_for_interrupt);
        vcpu.el2_time.begin();
        schedule::end_sleep(cpu, loaded);
        interrupts::handle_physical(cpu, Some(loaded), pin);
        // The entry fills the list registers. Another look would do so too, and cost 155 of the
        // 1035 instructions of an SGI to a vCPU in WFI.
        if wait == Wait::Standby && vcpu.entity.is_woken() {
            break;
        }
    }

    match wait {
        Wait::Standby => Handled::Interrupts,
        Wait::PowerDown => Handled::Leave(Leave::Resumed),
    }
}
