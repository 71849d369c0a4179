//! How long the hypervisor is at work between an exit and the next entry, in time of the system counter: where
//! the emulator makes an instruction a nanosecond, in instructions.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};

/// The time, in ticks of the system counter.
pub(crate) fn now() -> u64 {
    barrier::isb(barrier::SY);
    CNTPCT_EL0.get()
}

/// The longest of many stays; written by one CPU.
#[derive(Default)]
pub(crate) struct Longest(AtomicU64);

impl Longest {
    /// Notes one of so many ticks; whether it is the longest so far.
    pub(crate) fn record(&self, ticks: u64) -> bool {
        // Relaxed: a statistic with one writer.
        let is_longer = ticks > self.0.load(Ordering::Relaxed);
        if is_longer {
            self.0.store(ticks, Ordering::Relaxed);
        }
        is_longer
    }

    /// It, in nanoseconds.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1_000_000_000 / CNTFRQ_EL0.get()
    }
}

/// The stays of the one guest's vCPU, for its CPU: nothing unless hyp is built with the feature `el2-time`, for
/// reading the clock twice costs as much as a short exit's work.
#[derive(Default)]
pub(crate) struct El2Time {
    #[cfg(feature = "el2-time")]
    recorded: recorded::Recorded,
}

impl El2Time {
    /// It begins.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        #[cfg(feature = "el2-time")]
        self.recorded.begin();
    }

    /// It ends.
    #[inline(always)]
    pub(crate) fn end(&self) {
        #[cfg(feature = "el2-time")]
        self.recorded.end();
    }
}

#[cfg(feature = "el2-time")]
pub(crate) mod recorded {
    //! What is recorded of them.

    use core::fmt::{self, Write};
    use core::sync::atomic::{AtomicU64, Ordering};

    use aarch64_cpu::registers::{ESR_EL2, Readable};

    use super::{Longest, now};
    use crate::cpu::percpu;
    use crate::exception::sync::fault_address;

    /// The longest stay, and what it was about. All is written by one CPU: relaxed.
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

    /// Writes the longest stay on any CPU, as a member of an object with a comma after it. The syndrome and the
    /// address are those of the exit if it was a trap, else of an earlier one.
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
