//! Criterion over the operations and loads of `perf_host`, the input of `cargo xtask perf` too.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a module shared by several benchmarks, each using a part"
)]

use std::thread;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use perf_host::catalog;
use perf_host::threads::{self, Done, Sample};

/// Duration of a load for one sample.
const SLICE: Duration = Duration::from_millis(50);

/// Returns the configuration of Criterion, sized for some three hundred benchmarks.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Times every operation with a name beginning with `prefix`, baselines included.
pub fn operations(c: &mut Criterion, prefix: &str) {
    for entry in catalog::all() {
        if !entry.name.starts_with(prefix) {
            continue;
        }

        // Made on first use: a filter may exclude the benchmark.
        let mut made = None;
        c.bench_function(&entry.name, |b| {
            let operation = made.get_or_insert_with(|| entry.make());
            b.iter_custom(|iterations| {
                let batches = iterations.div_ceil(entry.batch);
                let mut spent = Duration::ZERO;
                for _ in 0..batches {
                    operation.prepare();
                    let start = std::time::Instant::now();
                    operation.run();
                    spent += start.elapsed();
                }
                // Whole batches ran, possibly more than asked for.
                spent.mul_f64(iterations as f64 / (batches * entry.batch) as f64)
            });
        });
    }
}

/// Times every load of a group with 1, 2, 4, ... threads up to the number of this machine's CPUs.
/// The result is a thread's own CPU time for an operation.
pub fn loads(c: &mut Criterion, group: &str) {
    let cpus = thread::available_parallelism().map_or(2, |cpus| cpus.get().max(2));
    let mut criterion = c.benchmark_group(group);
    for load in threads::loads(group, cpus) {
        let mut run = None;
        let mut rate =
            |criterion: &mut BenchmarkGroup<'_, WallTime>, name: &str, of: fn(&Sample) -> Done| {
                criterion.bench_function(name, |b| {
                    let run = run.get_or_insert_with(|| load.make());
                    b.iter_custom(|iterations| {
                        // A sample without a delivery gives no rate.
                        let done = loop {
                            let done = of(&run(SLICE));
                            if done.operations > 0 {
                                break done;
                            }
                        };
                        let each = f64::from(done.threads) / done.rate;
                        Duration::from_secs_f64(iterations as f64 * each)
                    });
                });
            };

        criterion.throughput(Throughput::Elements(1));
        // The yardstick of lpi_stress delivers no interrupt.
        if group == "lpi_stress" && !load.name.starts_with("one_word") {
            let name = |what| format!("{}/{what}", load.name);
            rate(&mut criterion, &name("accepted"), |sample| sample.accepted);
            rate(&mut criterion, &name("delivered"), |sample| {
                sample.delivered
            });
        } else {
            rate(&mut criterion, &load.name, |sample| sample.accepted);
        }
    }
    criterion.finish();
}
