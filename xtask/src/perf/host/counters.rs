//! The CPU's own counters, by `perf`: cycles, instructions and cache misses of a whole run, and which cache
//! lines travel between CPUs. Where there are none, callgrind's counts have to do.

use std::process::Command;

use anyhow::Result;

use crate::console;
use crate::process::{self, Show};

/// What is counted for every operation.
const EVENTS: &str = "cycles,instructions,cache-misses";

/// Runs the figures under `perf stat` and `perf c2c`, or says why not; whether there are counters.
pub(crate) fn drive(threads: usize, seconds: u64) -> Result<bool> {
    console::step("The CPU's counters");
    if let Err(why) = available() {
        console::detail(format!("{why}: callgrind's instruction counts stand in"));
        return Ok(false);
    }
    let program = super::program()?;
    let figures = [
        "figures".to_owned(),
        threads.to_string(),
        seconds.to_string(),
    ];
    let mut stat = Command::new("perf");
    stat.args(["stat", "--event", EVENTS, "--"])
        .arg(&program)
        .args(&figures);
    let counted = process::finish(&mut stat, Show::OnFailure)?;
    counted.stderr.lines().for_each(console::detail);
    let scratch = crate::project::scratch()?;
    let data = scratch.path().join("c2c.data");
    let mut record = Command::new("perf");
    record
        .args(["c2c", "record", "--output"])
        .arg(&data)
        .arg("--");
    let recorded = process::finish(record.arg(&program).args(&figures), Show::OnFailure)?;
    if !recorded.success {
        console::detail("this CPU does not tell which cache lines travel (perf c2c)");
        return Ok(true);
    }
    let mut report = Command::new("perf");
    report
        .args(["c2c", "report", "--stdio", "--input"])
        .arg(&data);
    let lines = process::run(&mut report, Show::OnFailure)?;
    lines.lines().take(80).for_each(console::detail);
    Ok(true)
}

/// Whether `perf` can count cycles here.
fn available() -> Result<(), &'static str> {
    let mut probe = Command::new("perf");
    probe.args([
        "stat",
        "--field-separator",
        ",",
        "--event",
        EVENTS,
        "--",
        "true",
    ]);
    let Ok(counted) = process::finish(&mut probe, Show::OnFailure) else {
        return Err("there is no `perf` (Debian: linux-perf)");
    };
    if !counted.success {
        return Err("`perf stat` may not count here (kernel.perf_event_paranoid)");
    }
    if counted.stderr.contains("<not supported>") || counted.stderr.contains("<not counted>") {
        return Err("this machine has no hardware counters");
    }
    Ok(())
}
