//! An MSI, from the device's write to what the vCPU will see of it.

mod common;
#[path = "common/threads.rs"]
mod threads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Bed, Spread};
use criterion::{BenchmarkId, Criterion};

const EVENTS: u64 = 64;

/// Not pending and on no list: an insertion each.
fn new(c: &mut Criterion) {
    let bed = Bed::new(1, 1, EVENTS, Spread::One);
    let cpu = bed.cpu(0);
    c.bench_function("inject_msi/new", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let round = left.min(EVENTS);
                let pin = cpu.pin();
                let began = Instant::now();
                for event in 0..round {
                    bed.msi(&pin, 0, event);
                }
                spent += began.elapsed();
                drop(pin);
                bed.drain(&cpu, 0);
                left -= round;
            }
            spent
        });
    });
}

/// Pending already: on the vCPU's list, or in one of its list registers.
fn queued(c: &mut Criterion) {
    let bed = Bed::new(1, 1, EVENTS, Spread::One);
    let cpu = bed.cpu(0);
    let mut group = c.benchmark_group("inject_msi");
    bed.msi(&cpu.pin(), 0, 0);
    group.bench_function("already_queued", |b| {
        let pin = cpu.pin();
        b.iter(|| bed.msi(&pin, 0, 0));
    });
    group.bench_function("already_queued/pinned_each_time", |b| {
        b.iter(|| bed.msi(&cpu.pin(), 0, 0));
    });
    bed.enter(&cpu, 0);
    group.bench_function("in_a_list_register", |b| {
        let other = bed.cpu(1);
        let pin = other.pin();
        b.iter(|| bed.msi(&pin, 0, 0));
    });
    group.finish();
}

/// Several threads at once, to one vCPU or each to its own; and while another thread remaps other LPIs.
fn threads(c: &mut Criterion) {
    for (spread, name) in [(Spread::One, "one_vcpu"), (Spread::All, "own_vcpus")] {
        for remap in [false, true] {
            let name = if remap {
                format!("inject_msi/{name}/while_others_are_remapped")
            } else {
                format!("inject_msi/{name}")
            };
            let mut group = c.benchmark_group(name);
            for threads in threads::counts() {
                let bed = Bed::new(threads, threads as u64 + 1, EVENTS, spread);
                group.bench_function(
                    BenchmarkId::from_parameter(format!("{threads}_threads")),
                    |b| {
                        b.iter_custom(|iterations| timed(&bed, threads, iterations, remap));
                    },
                );
            }
            group.finish();
        }
    }
}

fn timed(bed: &Bed, threads: usize, iterations: u64, remap: bool) -> Duration {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        if remap {
            scope.spawn(|| {
                let cpu = bed.cpu(99);
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    let event = turn % EVENTS;
                    bed.discard(&cpu.pin(), threads as u64, event);
                    bed.map(&cpu.pin(), threads as u64, event, 0);
                    turn += 1;
                }
            });
        }
        let spent = threads::time(threads, |thread| {
            move || {
                let cpu = bed.cpu(thread as u16);
                // As in a hypervisor: one pin for an exit's work.
                for exit in 0..iterations.div_ceil(EVENTS) {
                    let pin = cpu.pin();
                    for event in 0..EVENTS.min(iterations - exit * EVENTS) {
                        bed.msi(&pin, thread as u64, event);
                    }
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        spent
    })
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    new(&mut criterion);
    queued(&mut criterion);
    threads(&mut criterion);
    criterion.final_summary();
}
