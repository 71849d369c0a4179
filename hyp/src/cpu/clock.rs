//! The system counter, the clock of all CPUs.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTPCT_EL0, Readable};

/// Returns the time, in ticks.
pub(crate) fn now() -> u64 {
    barrier::isb(barrier::SY);
    CNTPCT_EL0.get()
}
