//! The outcome on both GICs: `conformance.json`, and a summary on the terminal.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Counts;
use super::tap::{Case, Outcome, Transcript};
use crate::boot::counters;
use crate::boot::run::Ended;
use crate::console;

/// A run of the guest.
#[derive(Debug, Serialize)]
pub(super) struct OnMachine {
    hypervisor: bool,
    ended: String,
    wall_seconds: f64,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// What is wrong with the run as a whole.
    faults: Vec<String>,
    #[serde(skip)]
    cases: Vec<Case>,
}

impl OnMachine {
    /// Reads a run's console.
    pub(super) fn read(hypervisor: bool, ended: Ended, wall: Duration, lines: &[&str]) -> Self {
        let transcript = Transcript::read(lines);
        let mut faults = Vec::new();
        if ended != Ended::PoweredOff {
            faults.push(ended.to_string());
        }
        faults.extend(transcript.bail_out);
        let (planned, found) = (transcript.planned, transcript.cases.len());
        if planned != found {
            faults.push(format!("{found} of {planned} cases ended"));
        }
        if hypervisor {
            faults.extend(books(lines));
        }
        let count = |is: fn(&Outcome) -> bool| {
            let cases = transcript.cases.iter();
            cases.filter(|case| is(&case.outcome)).count()
        };
        Self {
            hypervisor,
            ended: ended.to_string(),
            wall_seconds: wall.as_secs_f64(),
            passed: count(|outcome| *outcome == Outcome::Pass),
            failed: count(|outcome| matches!(outcome, Outcome::Fail(_))),
            skipped: count(|outcome| matches!(outcome, Outcome::Skip(_))),
            faults,
            cases: transcript.cases,
        }
    }

    /// Whether the guest came to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.faults.is_empty()
    }

    /// Prints the cases and their rules.
    pub(super) fn print_list(&self) {
        for case in &self.cases {
            console::say(&format!("{:44} {}", case.name, case.rule));
            if let Some(reason) = &case.deviation {
                console::say(&format!("{:44} (QEMU's own GIC: {reason})", ""));
            }
        }
        console::say(&format!("{} cases", self.cases.len()));
        self.faults.iter().for_each(console::detail);
    }
}

/// What the hypervisor's books say at the end, if it is not what they have to say.
fn books(lines: &[&str]) -> Vec<String> {
    let counters = match lines.iter().find_map(|line| counters::parse(line)) {
        Some(Ok(reported)) => reported.counters,
        Some(Err(error)) => return vec![error],
        None => return vec!["the hypervisor did not report".to_owned()],
    };
    let checks = [
        ("references at teardown", counters.refs_at_teardown, 0),
        ("list puts", counters.list_puts, counters.list_gets),
        ("lookup puts", counters.lookup_puts, counters.lookup_gets),
        ("locks taken by lookups", counters.lookup_locks_taken, 0),
    ];
    let wrong = checks
        .iter()
        .filter(|(_, found, expected)| found != expected);
    wrong
        .map(|(name, found, expected)| format!("{name}: {found}, not {expected}"))
        .collect()
}

/// A case on both GICs.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: String,
    rule: String,
    /// Under the hypervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    hyp: Option<Outcome>,
    /// On QEMU's own GIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    qemu: Option<Outcome>,
    /// Why QEMU's own GIC is known to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation: Option<String>,
}

impl Row {
    /// Whether it failed without an excuse.
    fn failed(&self) -> bool {
        let failed = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Fail(_)));
        failed(&self.hyp) || (failed(&self.qemu) && self.deviation.is_none())
    }
}

/// The outcome.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) passed: bool,
    vcpus: u16,
    /// QEMU's version.
    qemu: String,
    runs: Vec<OnMachine>,
    pub(super) cases: Vec<Row>,
}

impl Report {
    /// Puts both runs side by side; either may be missing.
    pub(super) fn new(
        vcpus: u16,
        qemu_version: String,
        hyp: Option<OnMachine>,
        qemu: Option<OnMachine>,
    ) -> Self {
        let mut cases: Vec<Row> = Vec::new();
        let runs: Vec<_> = hyp.into_iter().chain(qemu).collect();
        for run in &runs {
            for case in &run.cases {
                let known = cases.iter().position(|row| row.name == case.name);
                let place = known.unwrap_or_else(|| {
                    cases.push(Row {
                        name: case.name.clone(),
                        rule: case.rule.clone(),
                        hyp: None,
                        qemu: None,
                        deviation: case.deviation.clone(),
                    });
                    cases.len() - 1
                });
                let outcome = Some(case.outcome.clone());
                if run.hypervisor {
                    cases[place].hyp = outcome;
                } else {
                    cases[place].qemu = outcome;
                }
            }
        }
        Self {
            passed: runs.iter().all(OnMachine::is_complete) && !cases.iter().any(Row::failed),
            vcpus,
            qemu: qemu_version,
            runs,
            cases,
        }
    }

    /// How many cases are as they have to be.
    pub(super) fn counts(&self) -> Counts {
        let failed = self.cases.iter().filter(|row| row.failed()).count() as u64;
        Counts {
            passed: self.cases.len() as u64 - failed,
            failed: failed.max(u64::from(!self.passed)),
        }
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints it for people.
    pub(super) fn print(&self) {
        for run in &self.runs {
            let OnMachine {
                passed,
                failed,
                skipped,
                ..
            } = run;
            let place = if run.hypervisor {
                "under hyp"
            } else {
                "on QEMU's own GIC"
            };
            console::step(format!(
                "{passed} passed, {failed} failed, {skipped} skipped {place}, {} vCPUs, after {:.1} s",
                self.vcpus, run.wall_seconds
            ));
            for fault in &run.faults {
                console::detail(console::bad(fault));
            }
        }
        for row in &self.cases {
            for (place, outcome) in [("hyp", &row.hyp), ("QEMU's own GIC", &row.qemu)] {
                let name = &row.name;
                match (outcome, &row.deviation) {
                    (Some(Outcome::Fail(_)), Some(reason)) if place != "hyp" => {
                        console::detail(format!("{name} fails on {place}: {reason}"));
                    }
                    (Some(Outcome::Fail(reason)), _) => {
                        let failed = console::bad("FAILED");
                        console::detail(format!("{failed} {name} on {place}: {reason}"));
                    }
                    (Some(Outcome::Skip(reason)), _) => {
                        console::detail(format!("{name} is skipped on {place}: {reason}"));
                    }
                    _ => {}
                }
            }
        }
        console::step(match self.passed {
            true => console::good(&format!("{} cases conform", self.cases.len())),
            false => console::bad("not everything conforms"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Ended = Ended::PoweredOff;

    fn run(hypervisor: bool, lines: &[&str]) -> OnMachine {
        let mut lines = lines.to_vec();
        if hypervisor {
            lines.push(counters::tests::LINE);
        }
        OnMachine::read(hypervisor, OFF, Duration::ZERO, &lines)
    }

    fn passed(hyp: &[&str], qemu: &[&str]) -> bool {
        let (hyp, qemu) = (run(true, hyp), run(false, qemu));
        Report::new(4, String::new(), Some(hyp), Some(qemu)).passed
    }

    #[test]
    fn a_failure_needs_an_excuse_which_only_qemu_has() {
        let good = ["1..1", "ok 1 - a [R] {QEMU: why}"];
        let bad = ["1..1", "not ok 1 - a [R] {QEMU: why}"];
        assert!(passed(&good, &good));
        assert!(passed(&good, &bad));
        assert!(!passed(&bad, &good));
        let plain = ["1..1", "ok 1 - a [R]"];
        let worse = ["1..1", "not ok 1 - a [R]"];
        assert!(passed(&plain, &plain));
        assert!(!passed(&plain, &worse));
    }

    #[test]
    fn a_run_that_breaks_off_is_a_failure() {
        let whole = ["1..1", "ok 1 - a [R]"];
        assert!(!passed(&["1..2", "ok 1 - a [R]"], &whole));
        assert!(!passed(&whole, &["1..1", "ok 1 - a [R]", "Bail out! x"]));
        let reset = OnMachine::read(false, Ended::Reset, Duration::ZERO, &whole);
        assert!(!reset.is_complete());
        let silent = OnMachine::read(true, OFF, Duration::ZERO, &whole);
        assert!(!silent.is_complete(), "no report of the hypervisor's");
    }
}
