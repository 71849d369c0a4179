//! `perf stat`: whether it can count here, and what it counted.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Show};

/// What is counted of every operation, user mode only: the switching of the counters is not ours.
const ALWAYS: [&str; 2] = ["cycles:u", "instructions:u"];

/// Events that tell of cache lines which come from another CPU's cache, the most telling first: of Intel's
/// and AMD's CPUs, of Neoverse with its mesh, of Arm's in general; at last what every CPU has.
const TRANSFERS: [&str; 6] = [
    "mem_load_l3_hit_retired.xsnp_fwd:u",
    "mem_load_l3_hit_retired.xsnp_hitm:u",
    "ls_dmnd_fills_from_sys.local_ccx:u",
    "remote_access:u",
    "l2d_cache_refill:u",
    "cache-misses:u",
];

/// The events that this machine can count: those of [`ALWAYS`], then the one for transfers.
pub(super) fn events() -> Result<Vec<&'static str>, String> {
    for event in ALWAYS {
        probe(event)?;
    }
    let transfers = TRANSFERS.into_iter().find(|event| probe(event).is_ok());
    Ok(ALWAYS.into_iter().chain(transfers).collect())
}

/// Whether `perf` can count an event here.
fn probe(event: &str) -> Result<(), String> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "--event", event, "--", "true"]);
    let Ok(counted) = process::finish(&mut perf, Show::OnFailure) else {
        return Err("there is no `perf` (Debian: linux-perf)".to_owned());
    };
    if !counted.success {
        let why = counted.stderr.lines().next().unwrap_or("it failed");
        return Err(format!("`perf stat` may not count here ({})", why.trim()));
    }
    match read(&counted.stderr).as_deref() {
        Ok([count]) if count.value.is_some() => Ok(()),
        _ => Err(format!("this machine has no hardware counter for {event}")),
    }
}

/// A counted event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Count {
    pub(super) event: String,
    /// None where it was not supported or never scheduled.
    pub(super) value: Option<f64>,
}

/// Reads what `perf stat -x,` wrote: the value, its unit, the event, and more that is not needed.
pub(super) fn read(text: &str) -> Result<Vec<Count>> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split(',');
            let value = fields.next().unwrap_or_default();
            let event = fields.nth(1).context("no event")?;
            let value = match value {
                "<not supported>" | "<not counted>" => None,
                number => Some(
                    number
                        .parse()
                        .with_context(|| format!("no count: {line}"))?,
                ),
            };
            let event = event.to_owned();
            Ok(Count { event, value })
        })
        .collect()
}

/// Runs `program counted ARGUMENTS CONTROL ACKNOWLEDGE` with counters that it switches; what they counted, in
/// the order of `events`, for each time that the program says it did its work.
pub(super) fn count(
    events: &[&str],
    program: &Path,
    arguments: &[&str],
    scratch: &Path,
) -> Result<Vec<Option<f64>>> {
    let [control, acknowledged, out] =
        ["control", "acknowledged", "stat"].map(|name| scratch.join(name));
    for pipe in [&control, &acknowledged] {
        if !pipe.exists() {
            process::run(Command::new("mkfifo").arg(pipe), Show::OnFailure)?;
        }
    }
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "--delay", "-1", "--control"])
        .arg(format!(
            "fifo:{},{}",
            control.display(),
            acknowledged.display()
        ))
        .arg("--output")
        .arg(&out)
        .args(["--event", &events.join(",")])
        .arg("--")
        .arg(program)
        .arg("counted")
        .args(arguments)
        .args([&control, &acknowledged]);
    let printed = process::run(&mut perf, Show::OnFailure)?;
    let times: f64 = printed.trim().parse().context("how often it was done")?;
    let counts = read(&fs::read_to_string(&out)?)?;
    ensure!(
        counts.len() == events.len(),
        "perf counted {} events of {}",
        counts.len(),
        events.len()
    );
    let each = |count: Count| count.value.map(|value| value / times);
    Ok(counts.into_iter().map(each).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_perf_writes_them() {
        let text = "# started on Thu Nov 26 10:00:00 2026\n\n\
                    1824590,,cycles:u,1203344,100.00,,\n\
                    2411378,,instructions:u,1203344,100.00,1.32,insn per cycle\n\
                    5120,,cache-misses:u,601672,50.00,,\n";
        let counts = read(text).unwrap();
        let values: Vec<_> = counts.iter().map(|count| count.value).collect();
        assert_eq!(values, [Some(1_824_590.0), Some(2_411_378.0), Some(5120.0)]);
        assert_eq!(counts[1].event, "instructions:u");
    }

    #[test]
    fn what_a_machine_cannot_count_has_no_value() {
        let text = "<not supported>,,cycles:u,0,100.00,,\n<not counted>,,instructions:u,0,0.00,,\n";
        let counts = read(text).unwrap();
        assert!(counts.iter().all(|count| count.value.is_none()));
        assert_eq!(counts.len(), 2);
    }

    #[test]
    fn what_perf_does_not_write_is_refused() {
        assert!(read("Error: no permission\n").is_err());
        assert!(read("many,,cycles:u,0,100.00,,\n").is_err());
    }
}
