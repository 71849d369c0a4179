//! Entering the guest with so many LPIs pending.

mod common;

use common::{Bed, Spread};
use criterion::{BenchmarkId, Criterion};

fn enter(c: &mut Criterion) {
    let mut group = c.benchmark_group("vcpu_enter");
    for pending in [0, 1, 4, 5, 64, 1024, 10_000] {
        let bed = Bed::new(1, 10, 1000, Spread::One);
        let cpu = bed.cpu(0);
        for n in 0..pending {
            bed.msi(&cpu.pin(), n / 1000, n % 1000);
        }
        // The registers are filled and taken back: on a CPU that ran something else before.
        group.bench_function(BenchmarkId::new("after_a_switch", pending), |b| {
            b.iter(|| {
                bed.enter(&cpu, 0);
                bed.exit(&cpu, 0);
                bed.put(&cpu, 0);
            });
        });
        // The registers hold what they should: what most exits are like.
        bed.enter(&cpu, 0);
        group.bench_function(BenchmarkId::new("again", pending), |b| {
            b.iter(|| {
                bed.exit(&cpu, 0);
                bed.enter(&cpu, 0);
            });
        });
        bed.exit(&cpu, 0);
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    enter(&mut criterion);
    criterion.final_summary();
}
