//! The outcome on both GICs: `conformance.json`, and a summary on the terminal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::stay::{BOUND, Stay};
use super::tap::{Case, Outcome, Transcript};
use super::{Counts, Place};
use crate::boot::counters::{self, Counters, Reported};
use crate::boot::run::Ended;
use crate::console;

/// A run of the guest.
#[derive(Debug, Serialize)]
pub(super) struct OnMachine {
    place: Place,
    vcpus: u16,
    ended: String,
    wall_seconds: f64,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// What is wrong with the run as a whole.
    faults: Vec<String>,
    /// Where instructions are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_stay: Option<Stay>,
    #[serde(skip)]
    cases: Vec<Case>,
}

impl OnMachine {
    /// Reads a run's console.
    pub(super) fn read(
        place: Place,
        vcpus: u16,
        ended: Ended,
        wall: Duration,
        lines: &[&str],
    ) -> Self {
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
        let mut longest_stay = None;
        if place.has_hypervisor() {
            match reported(lines) {
                Ok(reported) => {
                    faults.extend(books(&reported.counters));
                    longest_stay = Stay::read(&reported.everything);
                }
                Err(error) => faults.push(error),
            }
        }
        if place == Place::Counted {
            faults.extend(match &longest_stay {
                Some(stay) => stay.fault(),
                None => Some("the hypervisor noted no stay".to_owned()),
            });
        }
        let count = |is: fn(&Outcome) -> bool| {
            let cases = transcript.cases.iter();
            cases.filter(|case| is(&case.outcome)).count()
        };
        Self {
            place,
            vcpus,
            ended: ended.to_string(),
            wall_seconds: wall.as_secs_f64(),
            passed: count(|outcome| *outcome == Outcome::Pass),
            failed: count(|outcome| matches!(outcome, Outcome::Fail(_))),
            skipped: count(|outcome| matches!(outcome, Outcome::Skip(_))),
            faults,
            longest_stay,
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

/// The hypervisor's report.
fn reported(lines: &[&str]) -> Result<Reported, String> {
    let reported = lines.iter().find_map(|line| counters::parse(line));
    reported.unwrap_or_else(|| Err("the hypervisor did not report".to_owned()))
}

/// What the hypervisor's books say at the end, if it is not what they have to say.
fn books(counters: &Counters) -> Vec<String> {
    let checks = [
        ("references at teardown", counters.refs_at_teardown, 0),
        ("list puts", counters.list_puts, counters.list_gets),
        ("mapping puts", counters.mapping_puts, counters.mapping_gets),
        (
            "migration puts",
            counters.migration_puts,
            counters.migration_gets,
        ),
        ("locks taken by lookups", counters.lookup_locks_taken, 0),
    ];
    let wrong = checks
        .iter()
        .filter(|(_, found, expected)| found != expected);
    wrong
        .map(|(name, found, expected)| format!("{name}: {found}, not {expected}"))
        .collect()
}

/// A case, wherever it ran.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: String,
    rule: String,
    #[serde(flatten)]
    outcomes: BTreeMap<Place, Outcome>,
    /// Why QEMU's own GIC is known to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation: Option<String>,
}

impl Row {
    /// Whether it failed without an excuse.
    fn failed(&self) -> bool {
        self.outcomes.iter().any(|(place, outcome)| {
            let excused = !place.has_hypervisor() && self.deviation.is_some();
            matches!(outcome, Outcome::Fail(_)) && !excused
        })
    }
}

/// The outcome.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) passed: bool,
    /// QEMU's version.
    qemu: String,
    runs: Vec<OnMachine>,
    pub(super) cases: Vec<Row>,
}

impl Report {
    /// Puts the runs side by side.
    pub(super) fn new(qemu_version: String, runs: Vec<OnMachine>) -> Self {
        let mut cases: Vec<Row> = Vec::new();
        for run in &runs {
            for case in &run.cases {
                let known = cases.iter().position(|row| row.name == case.name);
                let place = known.unwrap_or_else(|| {
                    cases.push(Row {
                        name: case.name.clone(),
                        rule: case.rule.clone(),
                        outcomes: BTreeMap::new(),
                        deviation: case.deviation.clone(),
                    });
                    cases.len() - 1
                });
                let outcomes = &mut cases[place].outcomes;
                outcomes.insert(run.place, case.outcome.clone());
            }
        }
        Self {
            passed: runs.iter().all(OnMachine::is_complete) && !cases.iter().any(Row::failed),
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
                place,
                vcpus,
                passed,
                failed,
                skipped,
                ..
            } = run;
            console::step(format!(
                "{passed} passed, {failed} failed, {skipped} skipped {place}, {vcpus} vCPUs, after {:.1} s",
                run.wall_seconds
            ));
            if let Some(stay) = &run.longest_stay {
                console::detail(format!(
                    "{} instructions at EL2 at most between an exit and the next entry, {}; {BOUND} are allowed",
                    stay.instructions, stay.about
                ));
            }
            for fault in &run.faults {
                console::detail(console::bad(fault));
            }
        }
        let mut skipped = BTreeMap::<(Place, &str), Vec<&str>>::new();
        for row in &self.cases {
            for (place, outcome) in &row.outcomes {
                let name = &row.name;
                match (outcome, &row.deviation) {
                    (Outcome::Fail(_), Some(reason)) if !place.has_hypervisor() => {
                        console::detail(format!("{name} fails {place}: {reason}"));
                    }
                    (Outcome::Fail(reason), _) => {
                        let failed = console::bad("FAILED");
                        console::detail(format!("{failed} {name} {place}: {reason}"));
                    }
                    (Outcome::Skip(reason), _) => {
                        let names = skipped.entry((*place, reason)).or_default();
                        names.push(name);
                    }
                    (Outcome::Pass, _) => {}
                }
            }
        }
        for ((place, reason), names) in skipped {
            let (first, others) = (names[0], names.len() - 1);
            let which = match others {
                0 => format!("{first} is"),
                _ => format!("{first} and {others} more are"),
            };
            console::detail(format!("{which} skipped {place}: {reason}"));
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

    fn run(place: Place, lines: &[&str]) -> OnMachine {
        let mut lines = lines.to_vec();
        if place.has_hypervisor() {
            lines.push(counters::tests::LINE);
        }
        OnMachine::read(place, 4, OFF, Duration::ZERO, &lines)
    }

    fn passed(hyp: &[&str], qemu: &[&str]) -> bool {
        let runs = vec![run(Place::Hyp, hyp), run(Place::Qemu, qemu)];
        Report::new(String::new(), runs).passed
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
        let reset = OnMachine::read(Place::Qemu, 4, Ended::Reset, Duration::ZERO, &whole);
        assert!(!reset.is_complete());
        let silent = OnMachine::read(Place::Hyp, 4, OFF, Duration::ZERO, &whole);
        assert!(!silent.is_complete(), "no report of the hypervisor's");
        let counted = run(Place::Counted, &whole);
        assert!(!counted.is_complete(), "no stay in the report");
    }
}
