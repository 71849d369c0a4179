//! Leaving the guest after it handled one of so many pending LPIs, and entering again with the next.

mod common;

use common::{Bed, Spread};
use criterion::{BenchmarkId, Criterion};

fn exit(c: &mut Criterion) {
    let mut group = c.benchmark_group("vcpu_exit");
    for pending in [1, 4, 5, 64, 1024, 10_000] {
        let bed = Bed::new(1, 10, 1000, Spread::One);
        let cpu = bed.cpu(0);
        for n in 0..pending {
            bed.msi(&cpu.pin(), n / 1000, n % 1000);
        }
        bed.enter(&cpu, 0);
        group.bench_function(BenchmarkId::new("one_handled", pending), |b| {
            b.iter(|| {
                let intid = cpu.interface().read_iar1();
                cpu.interface().write_eoir1(intid);
                bed.exit(&cpu, 0);
                // The device raises it again, so that as many are pending as before.
                let n = u64::from(intid - 8192);
                bed.msi(&cpu.pin(), n / 1000, n % 1000);
                bed.enter(&cpu, 0);
            });
        });
        bed.exit(&cpu, 0);
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    exit(&mut criterion);
    criterion.final_summary();
}
