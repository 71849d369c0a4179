//! One long run with real threads, or several in sequence.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{Plan, World};

/// Life of one VM. A short life soaks teardown too.
const LIFE: Duration = Duration::from_secs(2);

/// Soaks as given by `seconds=LENGTH seed=FIRST threads=COUNT`, or runs the one VM given by
/// `operations=COUNT seed=ONE`, with nine threads. Each argument has a default.
pub(crate) fn main(arguments: &crate::Arguments) -> ExitCode {
    let seed = arguments.number("seed").unwrap_or(1);
    if let Some(operations) = arguments.number("operations") {
        let deliveries = live(seed, operations as u32);
        println!("seed {seed}: {deliveries} interrupts delivered");
        return ExitCode::SUCCESS;
    }

    let deliveries = soak(
        Duration::from_secs(arguments.number("seconds").unwrap_or(10)),
        seed,
        arguments.number("threads").unwrap_or(12).clamp(8, 64) as usize,
    );
    assert!(deliveries > 50, "hardly anything happened");
    ExitCode::SUCCESS
}

/// CPUs and actors of a VM of some operations.
const THREADS: usize = 9;

/// Runs one VM until each actor has done so many operations. Returns the number of interrupts
/// delivered.
fn live(seed: u64, operations: u32) -> u64 {
    let world = World::new(Plan {
        seed,
        threads: THREADS,
        operations: Some(operations),
    });
    world.run();
    let deliveries = world.deliveries();
    world.finish();
    deliveries
}

/// Runs one VM after the other. Returns the number of interrupts delivered.
fn soak(length: Duration, first: u64, threads: usize) -> u64 {
    let began = Instant::now();
    let end = began + length;
    let mut deliveries = 0;
    let mut seed = first;

    while Instant::now() < end {
        let world = World::new(Plan {
            seed,
            threads,
            operations: None,
        });

        thread::scope(|scope| {
            scope.spawn(|| {
                let _stopping = Stopping(&world);
                thread::sleep(LIFE.min(end.saturating_duration_since(Instant::now())));
            });
            world.run();
        });

        deliveries += world.deliveries();
        world.finish();
        println!(
            "{:.0} of {:.0} s: {} VMs, {deliveries} interrupts delivered",
            began.elapsed().as_secs_f64(),
            length.as_secs_f64(),
            seed - first + 1,
        );
        seed += 1;
    }
    deliveries
}

/// A guard: dropping it stops the run.
struct Stopping<'a>(&'a World);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the shortest lives: Miri can check one.
    #[test]
    fn short_lives() {
        let (seeds, operations) = if cfg!(miri) { (1, 2) } else { (20, 50) };
        for seed in 1..=seeds {
            live(seed, operations);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes real time")]
    fn nothing_is_lost_or_doubled_under_load() {
        // A low bound, for a busy machine.
        assert!(soak(Duration::from_secs(4), 1, 12) > 50);
    }
}
