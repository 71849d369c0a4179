//! `perf stat`: the events that it can count here, and its counts.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use xtask::process::{self, Show};

/// The events that are counted of every operation, in user mode only: the kernel's switching of the
/// counters is none of the operation.
const ALWAYS: [&str; 2] = ["cycles:u", "instructions:u"];

/// Events that tell of cache lines which come from another CPU's cache, the most telling first: of
/// Intel's and AMD's CPUs, of Neoverse with its mesh, of Arm's in general; at last what every CPU
/// has.
const TRANSFERS: [&str; 6] = [
    "mem_load_l3_hit_retired.xsnp_fwd:u",
    "mem_load_l3_hit_retired.xsnp_hitm:u",
    "ls_dmnd_fills_from_sys.local_ccx:u",
    "remote_access:u",
    "l2d_cache_refill:u",
    "cache-misses:u",
];

/// Lists the events that this machine can count: those of [`ALWAYS`], then the one for transfers.
pub(super) fn events() -> Result<Vec<&'static str>, String> {
    for event in ALWAYS {
        probe(event)?;
    }
    let transfers = TRANSFERS.into_iter().find(|event| probe(event).is_ok());
    Ok(ALWAYS.into_iter().chain(transfers).collect())
}

/// Checks that `perf` can count an event here; the error says why not.
fn probe(event: &str) -> Result<(), String> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "--event", event, "--", "true"]);
    let Ok(counted) = process::finish(&mut perf, Show::OnFailure) else {
        return Err("there is no `perf` (Debian: linux-perf)".to_owned());
    };
    if !counted.success {
        return Err(refusal(&counted.stderr));
    }
    match read(&counted.stderr).as_deref() {
        Ok([count]) if count.value.is_some() => Ok(()),
        _ => Err(format!("this machine has no hardware counter for {event}")),
    }
}

/// Returns why `perf stat` counts nothing, by what it prints.
fn refusal(printed: &str) -> String {
    let mut lines = printed.lines().map(str::trim);
    let why = lines.find(|line| !line.is_empty() && *line != "Error:");
    format!(
        "`perf stat` may not count here ({}; `sysctl kernel.perf_event_paranoid=2` permits it)",
        why.unwrap_or("it failed").trim_end_matches('.')
    )
}

/// A counted event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Count {
    pub(super) event: String,
    /// The count; none if the event is not supported or was never scheduled.
    pub(super) value: Option<f64>,
}

/// Reads the output of `perf stat -x,`: the value, its unit, the event, and more that is not
/// needed.
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

/// The counts of an operation or load.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// The counts in the order of the events, none for an event that could not be counted.
    values: Vec<Option<f64>>,
    /// The number of operations.
    times: f64,
    /// The number of times that the counters were switched on for them.
    switches: f64,
}

impl Counted {
    /// Works out the counts of one operation. The cost of switching the counters, which `nothing`
    /// tells, is taken off.
    pub(super) fn each(&self, nothing: &Self) -> Vec<Option<f64>> {
        let values = self.values.iter().zip(&nothing.values);
        values
            .map(|(value, switch)| {
                let switching = switch.unwrap_or(0.0) / nothing.switches * self.switches;
                value.map(|value| (value - switching).max(0.0) / self.times)
            })
            .collect()
    }
}

/// Runs `program counted ARGUMENTS CONTROL ACKNOWLEDGE` with counters that it switches.
pub(super) fn count(
    events: &[&str],
    program: &Path,
    arguments: &[&str],
    scratch: &Path,
) -> Result<Counted> {
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
    let (times, switches) = printed.trim().split_once(' ').context("two numbers")?;
    let counts = read(&fs::read_to_string(&out)?)?;
    ensure!(
        counts.len() == events.len(),
        "perf counted {} events of {}",
        counts.len(),
        events.len()
    );
    Ok(Counted {
        values: counts.into_iter().map(|count| count.value).collect(),
        times: times.parse().context("how often it was done")?,
        switches: switches.parse().context("how often it was switched on")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_who_permits_it() {
        let printed = "Error:\nAccess to performance monitoring is limited.\nConsider\n";
        let why = refusal(printed);
        assert!(why.contains("here (Access to performance monitoring is limited; `sysctl"));
        assert!(refusal("").contains("(it failed; "));
    }

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
    fn an_event_that_the_machine_cannot_count_has_no_value() {
        let text = "<not supported>,,cycles:u,0,100.00,,\n<not counted>,,instructions:u,0,0.00,,\n";
        let counts = read(text).unwrap();
        assert!(counts.iter().all(|count| count.value.is_none()));
        assert_eq!(counts.len(), 2);
    }

    #[test]
    fn switching_the_counters_is_taken_off() {
        let counted = |value, times, switches| Counted {
            values: vec![value, None],
            times,
            switches,
        };
        let nothing = counted(Some(3000.0), 100.0, 100.0);
        let each = counted(Some(43_000.0), 400.0, 100.0).each(&nothing);
        assert_eq!(each, [Some(100.0), None]);
    }

    #[test]
    fn lines_that_perf_does_not_write_are_refused() {
        assert!(read("Error: no permission\n").is_err());
        assert!(read("many,,cycles:u,0,100.00,,\n").is_err());
    }
}
