//! From an exit to the next entry.
//!
//! First the vGIC takes back what the guest has done with its list registers, then the reason for the
//! exit is dealt with, then the list registers are prepared again. One pin serves all of it, which enters
//! the epoch if something has to be looked up.
#![expect(unsafe_code)]
// UNSAFETY: does not look whether the guest that it left has been made.

use vgic::Blocked;

use super::frame::Frame;
use super::sync;
use super::vectors::resume;
use crate::cpu::percpu::{Exit, PerCpu};
use crate::guest::shutdown::{self, How};
use crate::guest::{self, deferred, interrupts, power};

/// What follows an exit.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The guest goes on.
    Resume,
    /// The vCPU waits for an interrupt.
    Wait,
    /// The vCPU turns itself off.
    Off,
    /// The guest's machine goes down.
    ShutDown(How),
}

/// A synchronous exit; entered by the vectors, with the guest's registers where the stack ends.
pub(super) extern "C" fn synchronous(frame: &mut Frame) -> ! {
    leave_and_enter(
        |guest, cpu, pin| match sync::handle(guest, cpu, pin, frame) {
            Next::Wait => {
                wait(cpu, pin);
                After::Interrupts
            }
            Next::Resume => After::Trap,
            Next::Off => After::Gone(power::off),
            Next::ShutDown(How::Off) => After::Gone(|| shutdown::shut_down(How::Off)),
            Next::ShutDown(How::Reset) => After::Gone(|| shutdown::shut_down(How::Reset)),
        },
    );
    resume(frame)
}

/// A physical interrupt; entered by the vectors, with the guest's registers where the stack ends.
pub(super) extern "C" fn interrupt(frame: &mut Frame) -> ! {
    leave_and_enter(|guest, cpu, pin| {
        interrupts::take(guest, cpu, pin);
        After::Interrupts
    });
    resume(frame)
}

/// What an exit was about.
enum After {
    /// What the guest did.
    Trap,
    /// Interrupts, among which may have been a call: whoever shuts the machine down calls every CPU.
    Interrupts,
    /// The vCPU does not go on, but this does.
    Gone(fn() -> !),
}

#[inline(always)]
fn leave_and_enter(
    handle: impl FnOnce(&guest::Guest, &PerCpu, &mut vgic::epoch::CpuPin<'_>) -> After,
) {
    let cpu = PerCpu::current();
    // SAFETY: this CPU comes from it.
    let guest = unsafe { guest::here() };
    let vgic = guest.vgic();
    let local = cpu.local();
    cpu.el2_time.begin();
    let mut pin = local.pin();
    vgic.exit(local, &pin, cpu.vcpu)
        .expect("the vCPU has been in the guest here");
    let after = match handle(guest, cpu, &mut pin) {
        After::Interrupts if shutdown::is_stopping() => After::Gone(shutdown::stop),
        after => after,
    };
    if let After::Gone(leave) = after {
        drop(pin);
        leave();
    }
    if vgic.has_deferred() {
        deferred::advance(vgic, &pin);
    }
    vgic.enter(local, &pin, cpu.vcpu)
        .expect("the vCPU is on, and lives here");
    cpu.el2_time.end();
}

/// Sleeps until the vCPU has an interrupt to take, or the machine goes down.
fn wait(cpu: &PerCpu, pin: &mut vgic::epoch::CpuPin<'_>) {
    let guest = guest::get();
    let vgic = guest.vgic();
    cpu.count(Exit::Wait);
    loop {
        let blocked = vgic
            .block(cpu.local(), pin, cpu.vcpu)
            .expect("the vCPU lives here");
        if blocked == Blocked::No || vgic.has_deferred() || shutdown::is_stopping() {
            return;
        }
        cpu.el2_time.end();
        pin.unpinned(interrupts::wait);
        cpu.el2_time.begin();
        interrupts::take(guest, cpu, pin);
    }
}
