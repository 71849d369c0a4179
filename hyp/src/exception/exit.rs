//! From an exit to the next entry.
//!
//! The vGIC first folds what the guest has done with its list registers. Then the reason for the
//! exit is handled. Then the vGIC prepares the list registers for entry. All three share a pin,
//! which enters the epoch only if something has to be looked up.
#![expect(unsafe_code)]
// UNSAFETY: assumes, without a check, that the guest has been created.

use vgic::Blocked;

use super::frame::Frame;
use super::sync;
use super::vectors::resume;
use crate::cpu::percpu::{ExitReason, PerCpu, PinnedCpu};
use crate::vcpu::{deferred, interrupts, power};
use crate::vm::guest;
use crate::vm::shutdown::{self, SystemEvent};

/// Action after a trap.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TrapOutcome {
    /// The guest continues.
    Resume,
    /// The vCPU waits for an interrupt.
    Block,
    /// The vCPU loses its state, and waits for an interrupt. It resumes at `entry`, or after the
    /// call with its state, as PSCI allows.
    Suspend {
        /// Entry point.
        entry: u64,
        /// Value of `x0`.
        context: u64,
    },
    /// The vCPU powers itself off.
    PowerOff,
    /// The guest's machine goes down.
    System(SystemEvent),
}

/// Handles a synchronous exit. Entered by the vectors, with the guest's registers at the top of the
/// stack.
pub(super) extern "C" fn synchronous(frame: &mut Frame) -> ! {
    handle_exit(
        |guest, cpu, pin| match sync::handle_trap(guest, cpu, pin, frame) {
            TrapOutcome::Block => {
                block(cpu, pin);
                HandledExit::Interrupts
            }
            TrapOutcome::Resume => HandledExit::Trap,
            TrapOutcome::Suspend { entry, context } => {
                cpu.power.set_start(entry, context);
                HandledExit::NeverResumes(power::cpu_suspend)
            }
            TrapOutcome::PowerOff => HandledExit::NeverResumes(power::cpu_off),
            TrapOutcome::System(SystemEvent::Off) => {
                HandledExit::NeverResumes(|| shutdown::shut_down(SystemEvent::Off))
            }
            TrapOutcome::System(SystemEvent::Reset) => {
                HandledExit::NeverResumes(|| shutdown::shut_down(SystemEvent::Reset))
            }
        },
    );
    resume(frame)
}

/// Handles a physical interrupt. Entered by the vectors, with the guest's registers at the top of
/// the stack.
pub(super) extern "C" fn interrupt(frame: &mut Frame) -> ! {
    handle_exit(|guest, cpu, pin| {
        interrupts::handle_physical(guest, cpu, pin);
        HandledExit::Interrupts
    });
    resume(frame)
}

/// Result of handling an exit's reason.
enum HandledExit {
    /// A trap was handled.
    Trap,
    /// Interrupts were taken, perhaps a kick: a CPU that shuts the machine down kicks every other
    /// CPU.
    Interrupts,
    /// The vCPU does not run any more. The function continues instead.
    NeverResumes(fn() -> !),
}

/// Takes the calling CPU's vCPU from an exit to the next entry. `handle_reason` handles the reason.
#[inline(always)]
fn handle_exit(
    handle_reason: impl FnOnce(&guest::Guest, &PerCpu, &mut PinnedCpu<'_>) -> HandledExit,
) {
    let cpu = PerCpu::current();
    // SAFETY: this CPU has just left the guest.
    let guest = unsafe { guest::get_unchecked() };
    let vgic = guest.vgic();
    let local = cpu.vgic_cpu();
    cpu.el2_time.begin();

    let mut pin = local.pin();
    vgic.exit(&pin, cpu.vcpu)
        .expect("the vCPU has been in the guest here");

    let handled = match handle_reason(guest, cpu, &mut pin) {
        HandledExit::Interrupts if shutdown::is_stopping() => {
            HandledExit::NeverResumes(shutdown::stop_cpu)
        }
        handled => handled,
    };
    if let HandledExit::NeverResumes(never_resume) = handled {
        drop(pin);
        never_resume();
    }

    if vgic.has_deferred() {
        deferred::advance(vgic, &pin);
    }
    vgic.enter(&pin, cpu.vcpu)
        .expect("the vCPU is on, and lives here");
    cpu.el2_time.end();
}

/// Sleeps until the vCPU has an interrupt to take, or the machine goes down.
fn block(cpu: &PerCpu, pin: &mut PinnedCpu<'_>) {
    let guest = guest::get();
    let vgic = guest.vgic();
    cpu.count(ExitReason::Wfi);
    loop {
        let blocked = vgic.block(pin, cpu.vcpu).expect("the vCPU lives here");
        if blocked == Blocked::No || vgic.has_deferred() || shutdown::is_stopping() {
            return;
        }
        cpu.el2_time.end();
        pin.unpinned(interrupts::wait_for_interrupt);
        cpu.el2_time.begin();
        interrupts::handle_physical(guest, cpu, pin);
    }
}
