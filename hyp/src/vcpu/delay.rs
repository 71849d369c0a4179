//! Time from an interrupt to the entry into the guest that delivers it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::clock::now;

/// Longest delay of one vCPU's interrupts: from the first one that the vCPU was told of, by a
/// wake-up or a kick, to the entry that follows. An interrupt of the CPU that runs the vCPU is
/// delivered by the exit's own entry, and is not measured.
///
/// Not measured without the feature `counters`.
#[derive(Default)]
pub(crate) struct Delay {
    /// Time of the first interrupt since the last entry, in ticks, or 0.
    since: AtomicU64,
    /// In ticks. Written by the CPU that runs the vCPU.
    longest: AtomicU64,
}

impl Delay {
    /// Records that the vCPU is told of an interrupt. Called by any CPU, after the interrupt is
    /// pending.
    #[inline]
    pub(crate) fn begin(&self) {
        // Relaxed, here and below: statistics. Of two CPUs, either's time will do.
        if cfg!(feature = "counters") && self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(now(), Ordering::Relaxed);
        }
    }

    /// Records that the vCPU is about to be entered, with every interrupt that it was told of so
    /// far.
    #[inline]
    pub(crate) fn end(&self) {
        if cfg!(feature = "counters") && self.since.load(Ordering::Relaxed) != 0 {
            let delay = now() - self.since.swap(0, Ordering::Relaxed);
            if delay > self.longest.load(Ordering::Relaxed) {
                self.longest.store(delay, Ordering::Relaxed);
            }
        }
    }

    /// Forgets the interrupts so far, of a vCPU that was off.
    pub(crate) fn cancel(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Returns the longest delay so far, in ticks.
    pub(crate) fn longest(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }
}
