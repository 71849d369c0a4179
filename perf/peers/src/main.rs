//! MSIs through `vgic` and through the crate `arm_vgic`, with equal devices, events and vCPUs, in
//! turns, in one run.
//!
//! `perf-peers THREADS SECONDS` prints JSON for `cargo xtask perf --peers`.

mod lock;
mod peer;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use perf_host::threads::{self, Load, Sample};
use serde_json::{Value, json};

/// Duration of one run of a load.
const SLICE: Duration = Duration::from_millis(40);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(most)), Some(Ok(seconds)), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: perf-peers THREADS SECONDS\nRun by `cargo xtask perf --peers`.");
        return ExitCode::FAILURE;
    };

    let most = most.max(2) as usize;
    let mut loads: Vec<(String, Load)> = Vec::new();
    for group in ["inject_msi", "lpi_stress"] {
        for load in threads::loads(group, most) {
            if peer::has(group, &load.name) {
                let name = format!("{group}/{}", load.name);
                loads.push((format!("{name}/arm_vgic"), peer::load(&load)));
                loads.push((format!("{name}/vgic"), load));
            }
        }
    }

    let runs: Vec<_> = loads
        .iter()
        .map(|(name, load)| (name, load.make()))
        .collect();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); runs.len()];

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while rounds < 5 || Instant::now() < end {
        for ((_, run), samples) in runs.iter().zip(&mut samples) {
            samples.push(run(SLICE));
        }
        rounds += 1;
    }

    let rates: BTreeMap<&String, Value> = runs
        .iter()
        .zip(samples)
        .map(|((name, _), samples)| {
            let median = |of: fn(&Sample) -> f64| {
                let mut values: Vec<f64> = samples.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let value = json!({
                "threads": samples[0].accepted.threads,
                "accepted": median(|sample| sample.accepted.rate),
                "delivered": median(|sample| sample.delivered.rate),
            });
            (*name, value)
        })
        .collect();

    println!("{}", json!({ "arm_vgic": peer::VERSION, "loads": rates }));
    ExitCode::SUCCESS
}
