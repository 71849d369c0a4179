//! Time at EL2 between an exit and the next entry, by the system counter. The time is the number of
//! instructions if the emulator makes an instruction a nanosecond.

/// Time at EL2 of one vCPU's exits from the guest. Empty without the feature `el2-time`, because
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
        #[cfg(feature = "pmu")]
        crate::measure::begin();
        #[cfg(feature = "el2-time")]
        self.recorded.begin();
    }

    /// Records the end of an exit's time at EL2.
    #[inline(always)]
    pub(crate) fn end(&self) {
        #[cfg(feature = "el2-time")]
        self.recorded.end();
        #[cfg(feature = "pmu")]
        crate::measure::end();
    }
}

#[cfg(feature = "el2-time")]
pub(crate) mod recorded {
    //! Recorded times, with the feature `el2-time`.

    use core::fmt::{self, Write};
    use core::sync::atomic::{AtomicU64, Ordering};

    use aarch64_cpu::registers::{ESR_EL2, Readable};

    use crate::cpu::clock::{frequency, now};
    use crate::exception::sync::fault_address;
    use crate::vcpu::Vcpu;

    /// Longest time, and the exit that took it. Only the CPU that runs the vCPU writes the fields:
    /// relaxed.
    #[derive(Default)]
    pub(super) struct Recorded {
        since: AtomicU64,
        longest: AtomicU64,
        syndrome: AtomicU64,
        address: AtomicU64,
    }

    impl Recorded {
        pub(super) fn begin(&self) {
            self.since.store(now(), Ordering::Relaxed);
        }

        pub(super) fn end(&self) {
            let time = now() - self.since.load(Ordering::Relaxed);
            if time > self.longest.load(Ordering::Relaxed) {
                self.longest.store(time, Ordering::Relaxed);
                self.syndrome.store(ESR_EL2.get(), Ordering::Relaxed);
                self.address.store(fault_address(), Ordering::Relaxed);
            }
        }

        /// Returns the longest time, in nanoseconds.
        fn nanoseconds(&self) -> u64 {
            self.longest.load(Ordering::Relaxed) * 1_000_000_000 / frequency()
        }
    }

    /// Writes the longest time of some vCPUs, as a member of an object with a comma after it.
    /// Syndrome and address are those of the exit if it was a trap, otherwise those of an earlier
    /// trap.
    pub(crate) fn write_json<'v>(
        report: &mut impl Write,
        vcpus: impl Iterator<Item = &'v Vcpu>,
    ) -> fmt::Result {
        let all = vcpus.map(|vcpu| &vcpu.el2_time.recorded);
        let Some(recorded) = all.max_by_key(|recorded| recorded.nanoseconds()) else {
            return Ok(());
        };
        write!(
            report,
            "\"longest_el2_time\":{{\"ns\":{},\"syndrome\":{},\"address\":{}}},",
            recorded.nanoseconds(),
            recorded.syndrome.load(Ordering::Relaxed),
            recorded.address.load(Ordering::Relaxed)
        )
    }
}
