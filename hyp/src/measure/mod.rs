//! Measurement of the work at EL2 by the CPU's own counters, with the feature `pmu`.
//!
//! The guest of `perf/el2` marks the beginning and the end of each event by a hypervisor call
//! ([`call`]). Every CPU reads its counters ([`Sums::sample`]) as an exit begins and ends, around
//! each sleep and at each mark, and adds the difference to the event that is being measured. The
//! counters stand still while a guest runs, so that the first reading of an exit adds also the last
//! instructions of the exit before it: of as many exits as an event has, each is counted whole. The
//! entry behind a sleep is counted without its last instructions, some thirty.
//!
//! Readings and marks are work themselves. [`Sums::calibrate`] measures the cost of a reading, and
//! the guest measures an event with nothing in it ([`MARKS`]); [`report`] subtracts both.

pub(crate) mod counters;
pub(crate) mod report;

#[path = "../../../perf/el2/calls.rs"]
mod calls;
#[path = "../../../perf/el2/event.rs"]
mod event;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use smccc::psci::error;
use spin::Once;

use crate::cpu::percpu::{self, PerCpu};
use crate::vcpu::Vcpu;
use crate::vm::Extent;
use counters::Reading;
use event::Event;

/// Number of the event with nothing in it: one mark that begins it, one that ends it.
const MARKS: usize = Event::END;

/// Number of places for events. Place 0 is for what belongs to none.
const PLACES: usize = MARKS + 1;

/// Readings of a calibration.
const CALIBRATION: u64 = 1000;

/// Number of the event that is being measured, or 0.
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// Measured rounds of each event.
static ROUNDS: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];

static ALL: Once<Vec<Sums>> = Once::new();

/// Sums of one event on one CPU.
#[derive(Default)]
struct Sum {
    cycles: AtomicU64,
    instructions: AtomicU64,
    samples: AtomicU64,
    /// Readings behind a sleep, which begin to count.
    wakes: AtomicU64,
}

/// Adds to a number that the calling CPU alone writes.
fn increment(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// Sums of one CPU. Only the CPU itself writes them: relaxed.
struct Sums {
    /// True if the CPU has counters of its own, and not only the system counter.
    has_counters: bool,
    last: Sum,
    events: [Sum; PLACES],
    /// Sums of [`CALIBRATION`] readings.
    calibration: Sum,
}

impl Sum {
    /// Adds a difference of one reading.
    fn add(&self, difference: Reading) {
        increment(&self.cycles, difference.cycles);
        increment(&self.instructions, difference.instructions);
        increment(&self.samples, 1);
    }

    fn get(&self) -> Reading {
        Reading {
            cycles: self.cycles.load(Ordering::Relaxed),
            instructions: self.instructions.load(Ordering::Relaxed),
        }
    }

    fn set(&self, reading: Reading) {
        self.cycles.store(reading.cycles, Ordering::Relaxed);
        self.instructions
            .store(reading.instructions, Ordering::Relaxed);
    }
}

impl Sums {
    fn new() -> Self {
        Self {
            has_counters: counters::exist(),
            last: Sum::default(),
            events: core::array::from_fn(|_| Sum::default()),
            calibration: Sum::default(),
        }
    }

    /// Returns the sums of the calling CPU, or `None` before [`start`].
    fn here() -> Option<&'static Self> {
        ALL.get()?.get(PerCpu::current().index)
    }

    /// Reads the counters, and adds what they have counted since the last reading to the event that
    /// is being measured.
    #[inline(always)]
    fn sample(&self) {
        let now = counters::read(self.has_counters);
        let difference = now.since(self.last.get());
        self.last.set(now);
        self.current().add(difference);
    }

    /// Reads the counters, and forgets what they have counted since the last reading.
    #[inline(always)]
    fn skip(&self) {
        self.last.set(counters::read(self.has_counters));
    }

    /// Returns the sums of the event that is being measured.
    fn current(&self) -> &Sum {
        // Relaxed: a mark comes before the interrupt that makes another CPU work, and after the
        // guest has seen that it has.
        &self.events[CURRENT.load(Ordering::Relaxed)]
    }

    /// Measures the cost of readings on the calling CPU.
    fn calibrate(&self) {
        let repeat = |readings: fn()| {
            let before = counters::read(self.has_counters);
            (0..CALIBRATION).for_each(|_| readings());
            counters::read(self.has_counters).since(before)
        };
        self.skip();
        // The loops are the same, and fall out.
        let once = repeat(end);
        let twice = repeat(|| {
            end();
            end();
        });
        self.calibration.set(twice.since(once));
    }
}

/// Starts the measurement on the calling CPU.
pub(crate) fn start() {
    counters::start();
    ALL.call_once(|| percpu::all().iter().map(|_| Sums::new()).collect());
    if let Some(sums) = Sums::here() {
        sums.calibrate();
    }
}

/// Notes that the calling CPU begins to handle an exit.
#[inline(never)]
pub(crate) fn begin() {
    if let Some(sums) = Sums::here() {
        if sums.has_counters {
            sums.sample();
        } else {
            // The system counter has counted the guest too.
            sums.skip();
        }
    }
}

/// Notes that the calling CPU is about to enter the guest, to sleep, or to go on at EL2.
#[inline(never)]
pub(crate) fn end() {
    if let Some(sums) = Sums::here() {
        sums.sample();
    }
}

/// Notes that the calling CPU has slept since [`end`]. Its counters may have gone on.
#[inline(never)]
pub(crate) fn wake() {
    if let Some(sums) = Sums::here() {
        sums.skip();
        increment(&sums.current().wakes, 1);
    }
}

/// Returns true if the number is that of a call of the measuring guest.
pub(crate) fn is_call(function: u32) -> bool {
    matches!(function, calls::MARK | calls::ABOUT)
}

/// Handles a call of the measuring guest, and returns its result.
pub(crate) fn call(vcpu: &Vcpu, function: u32, event: u64) -> u64 {
    if function == calls::ABOUT {
        return match vcpu.vm.extent {
            Extent::Whole => calls::WHOLE,
            Extent::Part => calls::PART,
        };
    }
    let event = event as usize;
    if event >= PLACES {
        return error::INVALID_PARAMETERS as i64 as u64;
    }

    end();
    CURRENT.store(event, Ordering::Relaxed);
    ROUNDS[event].fetch_add(1, Ordering::Relaxed);
    0
}
