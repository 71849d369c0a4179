//! Times operations and loads in turns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::pairs;
use perf_host::operation::{Entry, Operation};
use perf_host::vm::{FIRST_LPI, Vm};
use perf_host::{catalog, memory, threads};
use vgic::internals::locks_taken;

/// Duration of one run of a load.
const SLICE: Duration = Duration::from_millis(40);

/// Measures everything with up to `threads` threads of a kind, for about `seconds` in all, and
/// prints JSON.
pub(crate) fn run(threads: usize, seconds: u64) {
    let time = Duration::from_secs(seconds.max(1));
    let memory: Vec<Value> = memory::sizes()
        .into_iter()
        .map(|(what, bytes)| json!({ "what": what, "bytes": bytes }))
        .collect();
    let operations = operations(time / 3);
    let loads = loads(threads, time / 3);
    let pairs = pairs::compare(time / 3);

    println!(
        "{}",
        json!({
            "threads": threads,
            "counts": counts(),
            "memory": memory,
            "operations": operations,
            "loads": loads,
            "pairs": pairs,
        })
    );
}

/// Returns the exact counts: register accesses of entry and exit, locks of an injection.
fn counts() -> Value {
    let vm = Vm::new(1);
    let cpu = vm.cpu(1);
    vm.map(&cpu, 1, 1, FIRST_LPI.into(), |_| 0);
    vm.enter(&cpu, 0);
    vm.exit(&cpu, 0);

    let accesses = |work: &dyn Fn()| {
        let before = cpu.interface().accesses();
        work();
        (cpu.interface().accesses() - before).total()
    };

    let bounce = || {
        vm.enter(&cpu, 0);
        vm.exit(&cpu, 0);
    };

    let nothing = accesses(&bounce);
    vm.inject(&cpu, 1, 0);
    vm.enter(&cpu, 0);

    let again = accesses(&|| {
        vm.exit(&cpu, 0);
        vm.enter(&cpu, 0);
    });

    vm.guest(&cpu, |_| {});
    vm.exit(&cpu, 0);
    vm.inject(&cpu, 1, 0);

    let locks = {
        let pin = cpu.pin();
        let before = locks_taken(&pin);
        vm.inject(&cpu, 1, 0);
        locks_taken(&pin) - before
    };

    let new = accesses(&|| {
        vm.enter(&cpu, 0);
        vm.guest(&cpu, |_| {});
        vm.exit(&cpu, 0);
    });

    json!({
        "ich_nothing_pending": nothing,
        "ich_same_registers": again,
        "ich_one_new": new,
        "locks_of_a_queued_msi": locks,
    })
}

/// Returns the lowest nanoseconds of each operation: a disturbance only adds time.
fn operations(time: Duration) -> BTreeMap<String, f64> {
    let mut best = BTreeMap::new();

    // One group at a time keeps few VMs in memory.
    let mut groups: Vec<(String, Vec<Entry>)> = Vec::new();
    for entry in catalog::all() {
        let group = entry.group().to_owned();
        match groups.iter_mut().find(|(other, _)| *other == group) {
            Some((_, entries)) => entries.push(entry),
            None => groups.push((group, vec![entry])),
        }
    }

    let share = time / groups.len() as u32;
    for (group, entries) in groups {
        eprintln!("{group}");
        let mut made: Vec<(Entry, Box<dyn Operation>)> = entries
            .into_iter()
            .map(|entry| {
                let operation = entry.make();
                (entry, operation)
            })
            .collect();

        let end = Instant::now() + share;
        let mut rounds = 0;
        while rounds < 5 || Instant::now() < end {
            for (entry, operation) in &mut made {
                operation.prepare();
                let start = Instant::now();
                operation.run();
                let each = start.elapsed().as_secs_f64() * 1e9 / entry.batch as f64;
                let best = best.entry(entry.name.clone()).or_insert(f64::INFINITY);
                *best = best.min(each);
            }
            rounds += 1;
        }
    }
    best
}

/// Returns each load's median rates.
fn loads(threads: usize, time: Duration) -> BTreeMap<String, Value> {
    let mut rates = BTreeMap::new();
    let groups = ["lpi_lookup", "inject_msi", "lpi_stress", "contended"];
    for group in groups {
        eprintln!("{group}, with threads");
        let loads = threads::loads(group, threads);
        let end = Instant::now() + time / groups.len() as u32;

        let runs: Vec<_> = loads.iter().map(|load| (load, load.make())).collect();
        let mut samples = vec![Vec::new(); runs.len()];
        let mut rounds = 0;
        while rounds < 5 || Instant::now() < end {
            for ((_, run), samples) in runs.iter().zip(&mut samples) {
                samples.push(run(SLICE));
            }
            rounds += 1;
        }

        for ((load, _), samples) in runs.iter().zip(samples) {
            let median = |of: fn(&threads::Sample) -> f64| {
                let mut values: Vec<f64> = samples.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            rates.insert(
                format!("{group}/{}", load.name),
                json!({
                    "threads": samples[0].accepted.threads,
                    "accepted": median(|sample| sample.accepted.rate),
                    "delivered": median(|sample| sample.delivered.rate),
                    "commands": median(|sample| sample.commands.rate),
                    "accepted_per_second":
                        median(|s| s.accepted.operations as f64 / s.wall.as_secs_f64()),
                    "delivered_per_second":
                        median(|s| s.delivered.operations as f64 / s.wall.as_secs_f64()),
                }),
            );
        }
    }
    rates
}
