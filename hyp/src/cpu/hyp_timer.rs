//! The hypervisor's own timer on each CPU: `CNTHP`.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTHP_CTL_EL2, Writeable};

use super::registers::CNTHP_CVAL_EL2;

/// PPI of the timer, by Arm's Base System Architecture.
pub(crate) const PPI: u32 = 26;

/// Sets the calling CPU's timer to `at`, in ticks of the system counter.
pub(crate) fn set(at: u64) {
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
