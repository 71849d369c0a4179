//! Timing several threads at once.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Thread counts to measure: 1, 2, 4, ... up to the CPUs of this machine.
pub(crate) fn counts() -> Vec<usize> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let mut counts: Vec<_> = (0..)
        .map(|bit| 1 << bit)
        .take_while(|&n| n <= cpus)
        .collect();
    if !counts.contains(&cpus) {
        counts.push(cpus);
    }
    counts
}

/// Runs `work(thread, iterations)` on so many threads at once; the mean time that a thread took.
/// `work` prepares itself and returns what is to be timed.
pub(crate) fn time<W: FnOnce()>(threads: usize, prepare: impl Fn(usize) -> W + Sync) -> Duration {
    let start = Barrier::new(threads);
    let total: Duration = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let (start, prepare) = (&start, &prepare);
                scope.spawn(move || {
                    let work = prepare(thread);
                    start.wait();
                    let began = Instant::now();
                    work();
                    began.elapsed()
                })
            })
            .collect();
        running.into_iter().map(|run| run.join().unwrap()).sum()
    });
    total / threads as u32
}
