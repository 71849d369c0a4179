//! Counts of what the threads have done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::fault;

/// Counts, for all threads.
#[derive(Clone, Debug)]
pub(crate) struct Counts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Ticks of each CPU.
    ticks: Vec<AtomicU64>,
    /// Balls that each CPU has got back.
    pings: Vec<AtomicU64>,
    /// Bytes of the entropy device.
    random: AtomicU64,
    /// Longest time from a tick's deadline to the tick since the last line, in microseconds.
    late: AtomicU64,
    is_over: AtomicBool,
}

impl Counts {
    /// Returns counts of zero for so many CPUs.
    pub(crate) fn new(cpus: usize) -> Self {
        let zeros = || (0..cpus).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner {
            ticks: zeros(),
            pings: zeros(),
            ..Inner::default()
        }))
    }

    // Relaxed, everywhere: counts that no other memory depends on.

    pub(crate) fn tick(&self, cpu: usize, late: u64) {
        self.0.ticks[cpu].fetch_add(1, Ordering::Relaxed);
        self.0.late.fetch_max(late, Ordering::Relaxed);
    }

    pub(crate) fn ping(&self, cpu: usize) {
        self.0.pings[cpu].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_random(&self, bytes: u64) {
        self.0.random.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Ends the program.
    pub(crate) fn end(&self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }
}

/// Returns the sum of counts.
fn sum(counts: &[AtomicU64]) -> u64 {
    counts
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum()
}

impl fmt::Display for Counts {
    /// Writes the counts, and the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ms={} ticks={} pings={} random={} late_us={}",
            nanoseconds(ClockId::Monotonic) / 1_000_000,
            sum(&self.0.ticks),
            sum(&self.0.pings),
            self.0.random.load(Ordering::Relaxed),
            self.0.late.swap(0, Ordering::Relaxed)
        )
    }
}

/// Counts at an earlier look.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    before: Vec<u64>,
}

impl Progress {
    /// Looks at each count, and prints a fault for one that has not grown.
    pub(crate) fn check(&mut self, counts: &Counts, has_random: bool) {
        let Inner {
            ticks,
            pings,
            random,
            ..
        } = &*counts.0;
        let pings = if ticks.len() > 1 { &pings[..] } else { &[] };
        let all = ticks.iter().chain(pings);
        let all = all.chain(has_random.then_some(random));
        let now: Vec<u64> = all.map(|count| count.load(Ordering::Relaxed)).collect();
        for (number, (now, before)) in now.iter().zip(&self.before).enumerate() {
            if now <= before {
                fault(format_args!("count {number} stands at {now}"));
            }
        }
        self.before = now;
    }
}

/// Returns the time of a clock.
pub(crate) fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Moves the calling thread to a CPU, where it stays.
pub(crate) fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        fault(format_args!("no thread on CPU {cpu}: {error}"));
    }
}
