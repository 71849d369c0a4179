//! The system counter, the clock of all CPUs.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};

/// Returns the time, in ticks.
pub(crate) fn now() -> u64 {
    barrier::isb(barrier::SY);
    CNTPCT_EL0.get()
}

/// Returns the number of ticks in a second (`CNTFRQ_EL0`).
pub(crate) fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Returns the ticks of a time in microseconds, of which there may be 2^32.
pub(crate) fn ticks(microseconds: u64) -> u64 {
    frequency() * microseconds / 1_000_000
}

/// Returns the microseconds of a time in ticks, at most some hours.
pub(crate) fn microseconds(ticks: u64) -> u64 {
    ticks * 1_000_000 / frequency()
}

/// Returns the nanoseconds of a time in ticks, at most some seconds.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    ticks * 1_000_000_000 / frequency()
}
