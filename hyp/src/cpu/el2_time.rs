//! Time at EL2 between an exit and the next entry, by the system counter. The time is the number of
//! instructions if the emulator makes an instruction a nanosecond.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};

/// Returns the time, in ticks of the system counter.
pub(crate) fn now() -> u64 {
    barrier::isb(barrier::SY);
    CNTPCT_EL0.get()
}

/// Longest of several times. Written by one CPU.
#[derive(Default)]
pub(crate) struct Longest(AtomicU64);

impl Longest {
    /// Records a time of `ticks`. Returns true if it is the longest so far.
    pub(crate) fn record(&self, ticks: u64) -> bool {
        // Relaxed: a statistic with one writer.
        let is_longer = ticks > self.0.load(Ordering::Relaxed);
        if is_longer {
            self.0.store(ticks, Ordering::Relaxed);
        }
        is_longer
    }

    /// Returns the longest time, in nanoseconds.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1_000_000_000 / CNTFRQ_EL0.get()
    }
}

/// Time at EL2 of one CPU's exits from the guest. Empty without the feature `el2-time`, because
/// reading the clock twice costs as much as a short exit.
#[derive(Default)]
pub(crate) struct El2Time {
    #[cfg(feature = "el2-time")]
    recorded: recorded::Recorded,
}

impl El2Time {
    /// Records the beginning of an exit's time at EL2.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        #[cfg(feature = "el2-time")]
        self.recorded.begin();
    }

    /// Records the end of an exit's time at EL2.
    #[inline(always)]
    pub(crate) fn end(&self) {
        #[cfg(feature = "el2-time")]
        self.recorded.end();
    }
}

#[cfg(feature = "el2-time")]
pub(crate) mod recorded {
    //! Recorded times, with the feature `el2-time`.

    use core::fmt::{self, Write};
    use core::sync::atomic::{AtomicU64, Ordering};

    use aarch64_cpu::registers::{ESR_EL2, Readable};

    use super::{Longest, now};
    use crate::cpu::percpu;
    use crate::exception::sync::fault_address;

    /// Longest time, and the exit that took it. Only its own CPU writes the fields: relaxed.
    #[derive(Default)]
    pub(super) struct Recorded {
        since: AtomicU64,
        longest: Longest,
        syndrome: AtomicU64,
        address: AtomicU64,
    }

    impl Recorded {
        pub(super) fn begin(&self) {
            self.since.store(now(), Ordering::Relaxed);
        }

        pub(super) fn end(&self) {
            if self
                .longest
                .record(now() - self.since.load(Ordering::Relaxed))
            {
                self.syndrome.store(ESR_EL2.get(), Ordering::Relaxed);
                self.address.store(fault_address(), Ordering::Relaxed);
            }
        }
    }

    /// Writes the longest time on any CPU, as a member of an object with a comma after it. Syndrome
    /// and address are those of the exit if it was a trap, otherwise those of an earlier trap.
    pub(crate) fn write_json(report: &mut impl Write) -> fmt::Result {
        let all = percpu::all().iter().map(|cpu| &cpu.el2_time.recorded);
        let Some(recorded) = all.max_by_key(|recorded| recorded.longest.nanoseconds()) else {
            return Ok(());
        };
        write!(
            report,
            "\"longest_el2_time\":{{\"ns\":{},\"syndrome\":{},\"address\":{}}},",
            recorded.longest.nanoseconds(),
            recorded.syndrome.load(Ordering::Relaxed),
            recorded.address.load(Ordering::Relaxed)
        )
    }
}
