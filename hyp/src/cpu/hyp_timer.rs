//! The hypervisor's own timer on each CPU: `CNTHP`.

use core::cell::Cell;

use aarch64_cpu::asm::{self, barrier};
use aarch64_cpu::registers::{CNTHP_CTL_EL2, Writeable};

use super::registers::CNTHP_CVAL_EL2;

/// PPI of the timer, by Arm's Base System Architecture.
pub(crate) const PPI: u32 = 26;

/// Deadline of a timer that is off.
const NEVER: u64 = u64::MAX;

/// The calling CPU's timer.
pub(crate) struct HypTimer {
    /// Time at which the timer fires, in ticks of the system counter.
    deadline: Cell<u64>,
}

impl Default for HypTimer {
    /// Returns a timer that is off.
    fn default() -> Self {
        Self {
            deadline: Cell::new(NEVER),
        }
    }
}

impl HypTimer {
    /// Makes the timer fire at `at` only, in ticks of the system counter, or turns it off.
    pub(crate) fn set(&self, at: Option<u64>) {
        let at = at.unwrap_or(NEVER);
        if self.deadline.replace(at) == at {
            return;
        }
        if at == NEVER {
            stop();
        } else {
            start(at);
        }
    }

    /// Makes the timer fire at `at`, or when it would have fired if that is earlier.
    pub(crate) fn set_earlier(&self, at: u64) {
        if at < self.deadline.get() {
            self.set(Some(at));
        }
    }
}

/// Has the calling CPU, whose timer is off, sleep until `at`, or until an interrupt is pending.
pub(crate) fn sleep_until(at: u64) {
    start(at);
    asm::wfi();
    stop();
}

/// Sets the calling CPU's timer to `at`.
fn start(at: u64) {
    CNTHP_CVAL_EL2.set(at);
    CNTHP_CTL_EL2.write(CNTHP_CTL_EL2::ENABLE::SET);
    // A WFI may come next, and does not synchronise.
    barrier::isb(barrier::SY);
}

/// Stops the calling CPU's timer.
pub(crate) fn stop() {
    CNTHP_CTL_EL2.set(0);
    // The interrupt may be deactivated next: its line is to be low by then.
    barrier::isb(barrier::SY);
}
