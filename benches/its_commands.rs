//! ITS commands, from the guest's write of `GITS_CWRITER` to their completion.

mod common;

use std::time::{Duration, Instant};

use common::{Bed, QUEUE_SLOTS, Spread};
use criterion::{Criterion, Throughput};

const VALID: u64 = 1 << 63;

fn commands(c: &mut Criterion) {
    let bed = Bed::new(2, 2, 16, Spread::All);
    let cpu = bed.cpu(0);
    let mut group = c.benchmark_group("its_commands");
    let single: [(&str, [u64; 4]); 8] = [
        ("MAPC", [0x09, 0, VALID | 1 << 16 | 1, 0]),
        ("MOVI", [0x01, 0, 0, 0]),
        ("INT", [0x03, 0, 0, 0]),
        ("CLEAR", [0x04, 0, 0, 0]),
        ("INV", [0x0c, 0, 0, 0]),
        ("INVALL", [0x0d, 0, 0, 0]),
        ("MOVALL", [0x0e, 0, 0, 1 << 16]),
        ("SYNC", [0x05, 0, 0, 0]),
    ];
    for (name, command) in single {
        group.bench_function(name, |b| b.iter(|| bed.command(&cpu.pin(), command)));
    }
    group.bench_function("DISCARD_and_MAPTI", |b| {
        b.iter(|| {
            bed.discard(&cpu.pin(), 0, 1);
            bed.map(&cpu.pin(), 0, 1, 0);
        });
    });
    group.bench_function("MAPD_and_unmap", |b| {
        b.iter(|| {
            bed.command(&cpu.pin(), [0x08 | 9 << 32, 4, VALID | 0x4000_0000, 0]);
            bed.command(&cpu.pin(), [0x08 | 9 << 32, 0, 0, 0]);
        });
    });
    group.throughput(Throughput::Elements(QUEUE_SLOTS - 1));
    group.bench_function("full_queue_of_INV", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let mut end = 0;
                for n in 1..QUEUE_SLOTS {
                    end = bed.queue([0x0c, n % 16, 0, 0]);
                }
                let began = Instant::now();
                bed.go(&cpu.pin(), end);
                spent += began.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    commands(&mut criterion);
    criterion.final_summary();
}
