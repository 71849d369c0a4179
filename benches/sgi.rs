//! SGIs: to one vCPU, near and far, and to all others.

mod common;

use std::time::{Duration, Instant};

use common::{Bed, Spread, vcpu};
use criterion::{BenchmarkId, Criterion, Throughput};
use vgic::sysreg::SysReg;

const SGI: u64 = 3 << 24;

/// Every SGI finds its target without it: the targets take theirs between the rounds, untimed.
fn send(c: &mut Criterion, name: String, vcpus: usize, targets: &[usize], value: u64) {
    let bed = Bed::new(vcpus, 0, 0, Spread::One);
    let cpu = bed.cpu(0);
    let mut group = c.benchmark_group("sgi");
    group.throughput(Throughput::Elements(targets.len() as u64));
    group.bench_function(BenchmarkId::from_parameter(name), |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let pin = cpu.pin();
                let began = Instant::now();
                bed.vm
                    .sysreg_write(&cpu, &pin, vcpu(0), SysReg::Sgi1r, value);
                spent += began.elapsed();
                drop(pin);
                for &target in targets {
                    bed.drain(&cpu, target);
                    bed.put(&cpu, target);
                }
            }
            spent
        });
    });
    group.finish();
}

fn sgi(c: &mut Criterion) {
    let one = |n: u64| SGI | 1 << (n % 16) | (n / 16) << 16;
    send(c, "first_of_512".into(), 512, &[1], one(1));
    send(c, "last_of_512".into(), 512, &[511], one(511));
    for vcpus in [8, 64, 512] {
        let targets: Vec<_> = (1..vcpus).collect();
        send(
            c,
            format!("broadcast_to_{vcpus}"),
            vcpus,
            &targets,
            SGI | 1 << 40,
        );
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    sgi(&mut criterion);
    criterion.final_summary();
}
