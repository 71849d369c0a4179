//! Ticks: a thread of each CPU sleeps from one deadline to the next.

use std::thread;
use std::time::Duration;

use rustix::time::ClockId;

use crate::counts::{Counts, nanoseconds, stay_on};
use crate::fault;

/// Nanoseconds from one deadline to the next.
const PERIOD: u64 = 2_000_000;

/// Nanoseconds by which the two clocks may move apart from one tick to the next: the time between
/// their reads, of a thread that may be preempted in between.
const DRIFT: u64 = 5_000_000_000;

/// Starts the thread of a CPU.
pub(crate) fn start(counts: &Counts, cpu: usize) {
    let counts = counts.clone();
    thread::spawn(move || {
        stay_on(cpu);
        let mut deadline = nanoseconds(ClockId::Monotonic) + PERIOD;
        let mut before = (0, distance());
        loop {
            let now = nanoseconds(ClockId::Monotonic);
            if now < deadline {
                thread::sleep(Duration::from_nanos(deadline - now));
            }

            let now = nanoseconds(ClockId::Monotonic);
            if now < before.0.max(deadline) {
                fault(format_args!(
                    "CPU {cpu} was woken at {now}, before {deadline}"
                ));
            }
            let distance = distance();
            if distance.abs_diff(before.1) > DRIFT {
                fault(format_args!("the clocks have moved apart by {distance} ns"));
            }
            before = (now, distance);

            let late = now.saturating_sub(deadline);
            counts.tick(cpu, late / 1000);
            // Deadlines that have passed are left out: no storm makes up for them.
            deadline += PERIOD * (1 + late / PERIOD);
        }
    });
}

/// Returns the distance of the real-time clock from the monotonic one.
fn distance() -> u64 {
    nanoseconds(ClockId::Realtime).wrapping_sub(nanoseconds(ClockId::Monotonic))
}
