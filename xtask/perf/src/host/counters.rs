//! The CPU's own counters, by `perf`: cycles, instructions and transfers of cache lines of each
//! operation and load, and which lines travel between CPUs. On a machine without such
//! counters, callgrind's instruction counts stand in.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::perf_stat;
use xtask::console;
use xtask::instructions;
use xtask::process::{self, Show};
use xtask::project;

/// The load whose cache lines `perf c2c` follows.
const FOLLOWED: &str = "lpi_stress/16/16/16/spread";

/// The counts of one operation or load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cycles: Option<f64>,
    pub(crate) instructions: Option<f64>,
    /// Transfers of cache lines from other CPUs.
    pub(crate) transfers: Option<f64>,
}

/// The section of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The reason for which callgrind stood in, if it did.
    pub(crate) without: Option<String>,
    /// The event that stands for transfers of cache lines.
    pub(crate) transfers: Option<String>,
    pub(crate) rows: Vec<Row>,
}

/// Counts every operation and load with up to `threads` threads of a kind; `counted` are
/// callgrind's counts, if they were made already.
pub(crate) fn drive(
    threads: usize,
    counted: Option<&instructions::Outcome>,
    reports: &Path,
) -> Result<Outcome> {
    console::step("The CPU's counters");
    let outcome = match perf_stat::events() {
        Ok(events) => {
            let program = instructions::program()?;
            let outcome = by_perf(&program, &events, threads)?;
            follow_lines(&program, threads, reports)?;
            outcome
        }
        Err(why) => {
            console::detail(format!("{why}: callgrind's instruction counts stand in"));
            match counted {
                Some(counted) => by_callgrind(why, counted),
                None => by_callgrind(why, &instructions::check(false)?),
            }
        }
    };
    print(&outcome);
    Ok(outcome)
}

/// Counts by `perf stat`.
fn by_perf(program: &Path, events: &[&str], threads: usize) -> Result<Outcome> {
    let scratch = project::scratch()?;
    let threads = threads.to_string();
    let mut list = Command::new(program);
    let names = process::run(list.args(["list", &threads]), Show::OnFailure)?;
    let counted = |name: &str| {
        perf_stat::count(events, program, &[name, &threads], scratch.path())
            .with_context(|| format!("cannot count {name}"))
    };
    let nothing = counted("nothing")?;
    let rows = names.lines().map(|name| {
        let counts = counted(name)?.each(&nothing);
        let count = |index: usize| counts.get(index).copied().flatten();
        Ok(Row {
            name: name.to_owned(),
            cycles: count(0),
            instructions: count(1),
            transfers: count(2),
        })
    });
    Ok(Outcome {
        without: None,
        transfers: events.get(2).map(|&event| event.to_owned()),
        rows: rows.collect::<Result<_>>()?,
    })
}

/// Takes callgrind's counts.
fn by_callgrind(why: String, counted: &instructions::Outcome) -> Outcome {
    let rows = counted.rows.iter().map(|row| Row {
        name: row.operation.clone(),
        cycles: None,
        instructions: Some(row.instructions),
        transfers: None,
    });
    Outcome {
        without: Some(why),
        transfers: None,
        rows: rows.collect(),
    }
}

/// Has `perf c2c` say which cache lines travel between CPUs, on machines that can tell.
fn follow_lines(program: &Path, threads: usize, reports: &Path) -> Result<()> {
    let scratch = project::scratch()?;
    let data = scratch.path().join("c2c.data");
    let mut record = Command::new("perf");
    record
        .args(["c2c", "record", "--output"])
        .arg(&data)
        .arg("--")
        .arg(program)
        .args(["counted", FOLLOWED, &threads.to_string()]);
    if !process::finish(&mut record, Show::OnFailure)?.success {
        console::detail("this CPU does not tell which cache lines travel (perf c2c)");
        return Ok(());
    }

    let mut report = Command::new("perf");
    report
        .args(["c2c", "report", "--stdio", "--input"])
        .arg(&data);
    let text = process::run(&mut report, Show::OnFailure)?;
    fs::create_dir_all(reports)?;
    let path = reports.join("perf-c2c.txt");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("cache lines of {FOLLOWED}: {}", path.display()));
    Ok(())
}

/// Formats a cell of a table; a missing count as nothing.
fn cell(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.1}"))
}

/// Prints the counts of `perf stat`.
fn print(outcome: &Outcome) {
    if outcome.without.is_some() {
        // callgrind's table has been shown.
        return;
    }
    console::say(&format!(
        "{:<52} {:>10} {:>12} {:>10}",
        "of one operation", "cycles", "instructions", "transfers"
    ));
    for row in &outcome.rows {
        console::say(&format!(
            "{:<52} {:>10} {:>12} {:>10}",
            row.name,
            cell(row.cycles),
            cell(row.instructions),
            cell(row.transfers)
        ));
    }
}

/// Formats the section of `perf/RESULTS.md`.
pub(crate) fn summary(outcome: &Outcome) -> String {
    if let Some(why) = &outcome.without {
        return format!(
            "Not counted: {why}. callgrind's instruction counts stand in \
             (`cargo xtask perf --instructions`)."
        );
    }
    let mut text = format!(
        "Of one operation, in user mode, by `perf stat`; transfers of cache lines are told \
         by\n`{}`.\n\n\
         | operation or load | cycles | instructions | transfers |\n|---|---:|---:|---:|\n",
        outcome.transfers.as_deref().unwrap_or("nothing")
    );
    for row in &outcome.rows {
        let (cycles, instructions) = (cell(row.cycles), cell(row.instructions));
        let transfers = cell(row.transfers);
        let _ = writeln!(
            text,
            "| {} | {cycles} | {instructions} | {transfers} |",
            row.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_stood_in_and_why() {
        let without = Outcome {
            without: Some("there is no `perf`".to_owned()),
            transfers: None,
            rows: Vec::new(),
        };
        assert!(summary(&without).contains("Not counted: there is no `perf`. callgrind"));
        let row = Row {
            name: "inject_msi/new".to_owned(),
            cycles: Some(120.04),
            instructions: Some(300.0),
            transfers: None,
        };
        let with = Outcome {
            without: None,
            transfers: Some("l2d_cache_refill:u".to_owned()),
            rows: vec![row],
        };
        assert!(summary(&with).contains("| inject_msi/new | 120.0 | 300.0 |  |"));
    }
}
