//! Time from an interrupt to the entry into the guest that delivers it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::clock::now;

/// Longest delay of one vCPU's interrupts: from the first one that a wake-up or a kick was for, or
/// from the deadline of a vCPU that was blocked, to the entry that follows. Nobody is told of an
/// interrupt for a vCPU that was preempted: its delay is the whole time from the preemption on, or
/// less. An interrupt that the vCPU's own CPU takes is delivered by the entry that follows, and is
/// not measured.
///
/// Not measured without the feature `counters`.
#[derive(Default)]
pub(crate) struct Delay {
    /// Time of the first interrupt since the last entry, in ticks, or 0.
    since: AtomicU64,
    /// Deadline of a vCPU that is blocked, in ticks, or 0. Written by the CPU that has the vCPU.
    deadline: AtomicU64,
    /// In ticks. Written by the CPU that runs the vCPU.
    longest: AtomicU64,
}

impl Delay {
    /// Records that an interrupt may be pending from now on. Called by any CPU.
    #[inline]
    pub(crate) fn begin(&self) {
        // Relaxed, here and below: statistics. Of two CPUs, either's time will do.
        if cfg!(feature = "counters") && self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(now(), Ordering::Relaxed);
        }
    }

    /// Records that the vCPU is about to be entered, with every interrupt so far.
    #[inline]
    pub(crate) fn end(&self) {
        if cfg!(feature = "counters") && self.since.load(Ordering::Relaxed) != 0 {
            let since = self.since.swap(0, Ordering::Relaxed);
            // Another CPU may have read the clock a little later.
            let delay = now().saturating_sub(since);
            if delay > self.longest.load(Ordering::Relaxed) {
                self.longest.store(delay, Ordering::Relaxed);
            }
        }
    }

    /// Records that the vCPU blocks, with a timer that fires at `deadline` if there is one.
    pub(crate) fn block(&self, deadline: Option<u64>) {
        if cfg!(feature = "counters") {
            self.deadline
                .store(deadline.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Records that the vCPU, which was blocked if it has a deadline, has been loaded.
    pub(crate) fn load(&self) {
        if cfg!(feature = "counters") && self.deadline.load(Ordering::Relaxed) != 0 {
            let deadline = self.deadline.swap(0, Ordering::Relaxed);
            let since = self.since.load(Ordering::Relaxed);
            if deadline <= now() && (since == 0 || deadline < since) {
                self.since.store(deadline, Ordering::Relaxed);
            }
        }
    }

    /// Forgets the interrupts so far, of a vCPU that was off.
    pub(crate) fn cancel(&self) {
        self.since.store(0, Ordering::Relaxed);
        self.deadline.store(0, Ordering::Relaxed);
    }

    /// Returns the longest delay so far, in ticks.
    pub(crate) fn longest(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }
}
