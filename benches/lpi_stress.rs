//! Devices against vCPUs: LPIs accepted, and delivered, while guests acknowledge and end them. Named
//! `vcpus/devices/events` of each device.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Bed, Spread};
use criterion::{Criterion, Throughput};

const SHAPES: [(usize, u64, u64); 5] = [
    (1, 1, 1),
    (16, 16, 16),
    (16, 16, 17),
    (32, 32, 1),
    (256, 256, 16),
];

/// What is counted.
#[derive(Clone, Copy)]
enum Count {
    /// MSIs that the library took; one that merges with a pending one counts.
    Accepted,
    /// LPIs that a guest acknowledged.
    Delivered,
}

fn stress(c: &mut Criterion) {
    for (vcpus, devices, events) in SHAPES {
        let mut group = c.benchmark_group(format!("lpi_stress/{vcpus}/{devices}/{events}"));
        group.throughput(Throughput::Elements(1));
        for (spread, where_to) in [(Spread::One, "one_vcpu"), (Spread::All, "spread")] {
            if vcpus == 1 && spread == Spread::All {
                continue;
            }
            let bed = Bed::new(vcpus, devices, events, spread);
            for (count, what) in [
                (Count::Accepted, "accepted"),
                (Count::Delivered, "delivered"),
            ] {
                group.bench_function(format!("{where_to}/{what}"), |b| {
                    b.iter_custom(|iterations| storm(&bed, spread, count, iterations, false));
                });
            }
            if devices > 1 {
                group.bench_function(format!("{where_to}/accepted/while_others_move"), |b| {
                    b.iter_custom(|iterations| {
                        storm(&bed, spread, Count::Accepted, iterations, true)
                    });
                });
            }
        }
        group.finish();
    }
}

/// Half of the CPUs are devices, half run vCPUs; the time until so many were counted.
fn storm(bed: &Bed, spread: Spread, count: Count, goal: u64, moving: bool) -> Duration {
    let cpus = thread::available_parallelism()
        .map_or(2, usize::from)
        .max(2);
    let (injectors, runners) = (cpus / 2, cpus - cpus / 2);
    let stop = AtomicBool::new(false);
    let delivered = AtomicU64::new(0);
    // The last device's LPIs are those that move.
    let devices = if moving { bed.devices - 1 } else { bed.devices };
    thread::scope(|scope| {
        for runner in 0..runners {
            let (stop, delivered) = (&stop, &delivered);
            scope.spawn(move || {
                let targets = match spread {
                    Spread::One => 1,
                    Spread::All => bed.vcpus,
                };
                let mine: Vec<_> = (runner..targets).step_by(runners).collect();
                run(bed, &mine, runner as u16, stop, delivered);
            });
        }
        if moving {
            let stop = &stop;
            scope.spawn(move || {
                let cpu = bed.cpu(98);
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    let icid = turn / bed.events % bed.vcpus as u64;
                    bed.movi(&cpu.pin(), bed.devices - 1, turn % bed.events, icid);
                    turn += 1;
                }
            });
        }
        let began = Instant::now();
        let accepting: Vec<_> = (0..injectors)
            .map(|injector| {
                let (stop, share) = (&stop, goal.div_ceil(injectors as u64));
                scope.spawn(move || {
                    let cpu = bed.cpu(100 + injector as u16);
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let pin = cpu.pin();
                        for device in (injector as u64..devices).step_by(injectors) {
                            for event in 0..bed.events {
                                bed.msi(&pin, device, event);
                                sent += 1;
                            }
                        }
                        drop(pin);
                        if matches!(count, Count::Accepted) && sent >= share {
                            return (sent, began.elapsed());
                        }
                    }
                    (sent, began.elapsed())
                })
            })
            .collect();
        if matches!(count, Count::Delivered) {
            while delivered.load(Ordering::Relaxed) < goal {
                thread::sleep(Duration::from_micros(50));
            }
            let spent = began.elapsed();
            let counted = delivered.load(Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
            return spent.mul_f64(goal as f64 / counted as f64);
        }
        // More than asked for may have been sent: whole rounds are.
        let results: Vec<_> = accepting.into_iter().map(|a| a.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        let sent: u64 = results.iter().map(|(sent, _)| sent).sum();
        let longest = results.iter().map(|&(_, spent)| spent).max().unwrap();
        longest.mul_f64(goal as f64 / sent as f64)
    })
}

/// A physical CPU that runs its vCPUs in turn.
fn run(bed: &Bed, mine: &[usize], number: u16, stop: &AtomicBool, delivered: &AtomicU64) {
    let cpu = bed.cpu(number);
    loop {
        for &n in mine {
            let taken = bed.visit(&cpu, n);
            delivered.fetch_add(taken, Ordering::Relaxed);
            if mine.len() > 1 {
                bed.put(&cpu, n);
            }
        }
        if mine.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    if let [n] = *mine {
        bed.put(&cpu, n);
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    stress(&mut criterion);
    criterion.final_summary();
}
