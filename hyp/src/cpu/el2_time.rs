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
    pub(crate) fn note(&self, ticks: u64) -> bool {
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
    noted: noted::Noted,
}

impl El2Time {
    /// It begins.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        #[cfg(feature = "el2-time")]
        self.noted.begin();
    }

    /// It ends.
    #[inline(always)]
    pub(crate) fn end(&self) {
        #[cfg(feature = "el2-time")]
        self.noted.end();
    }
}

#[cfg(feature = "el2-time")]
pub(crate) mod noted {
    //! What is noted of them.

    use core::fmt::{self, Write};
    use core::sync::atomic::{AtomicU64, Ordering};

    use aarch64_cpu::registers::{ESR_EL2, Readable};

    use super::{Longest, now};
    use crate::cpu::percpu;
    use crate::exception::sync::fault_address;

    /// The longest stay, and what it was about. All is written by one CPU: relaxed.
    #[derive(Default)]
    pub(super) struct Noted {
        since: AtomicU64,
        longest: Longest,
        syndrome: AtomicU64,
        address: AtomicU64,
    }

    impl Noted {
        pub(super) fn begin(&self) {
            self.since.store(now(), Ordering::Relaxed);
        }

        pub(super) fn end(&self) {
            if self
                .longest
                .note(now() - self.since.load(Ordering::Relaxed))
            {
                self.syndrome.store(ESR_EL2.get(), Ordering::Relaxed);
                self.address.store(fault_address(), Ordering::Relaxed);
            }
        }
    }

    /// Writes the longest stay on any CPU, as a member of an object with a comma after it. The syndrome and the
    /// address are those of the exit if it was a trap, else of an earlier one.
    pub(crate) fn write(report: &mut impl Write) -> fmt::Result {
        let all = percpu::all().iter().map(|cpu| &cpu.el2_time.noted);
        let Some(noted) = all.max_by_key(|noted| noted.longest.nanoseconds()) else {
            return Ok(());
        };
        write!(
            report,
            "\"longest_el2_time\":{{\"ns\":{},\"syndrome\":{},\"address\":{}}},",
            noted.longest.nanoseconds(),
            noted.syndrome.load(Ordering::Relaxed),
            noted.address.load(Ordering::Relaxed)
        )
    }
}
