//! The outcome on all GICs: `conformance.json`, and a summary on the terminal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_core::ser::SerializeMap as _;
use serde_core::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::el2_time::{BOUND, El2Time};
use super::tap::{Case, Deviations, Outcome, Transcript};
use super::{Counts, Place, Suite, table};
use crate::boot::counters::{self, Counters, Reported};
use crate::boot::run::Ended;
use crate::{console, docs};

/// A run of the guest.
#[derive(Debug)]
pub(super) struct OnMachine {
    place: Place,
    vcpus: u16,
    ended: String,
    wall_seconds: f64,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Faults of the run as a whole.
    faults: Vec<String>,
    /// The longest stay at EL2, where instructions are counted.
    longest_el2_time: Option<El2Time>,
    /// The number of times that the interrupt controller was saved and restored.
    saves: Option<u64>,
    cases: Vec<Case>,
}

object!(OnMachine {
    place,
    vcpus,
    ended,
    wall_seconds,
    passed,
    failed,
    skipped,
    faults,
    longest_el2_time,
    saves,
});

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
        let says_all = ended.says_all();
        faults.extend(transcript.bail_out);
        let (planned, found) = (transcript.planned, transcript.cases.len());
        if planned == 0 && !says_all {
            faults.push("the guest began no case".to_owned());
        } else if planned != found && !says_all {
            faults.push(format!("{found} of {planned} cases ended"));
        }

        let (mut longest_el2_time, mut saves) = (None, None);
        if place.has_hypervisor() && !says_all {
            match reported(lines) {
                Ok(reported) => {
                    faults.extend(account(&reported.counters));
                    longest_el2_time = El2Time::read(&reported.everything);
                    saves = self::saves(&reported.everything);
                }
                Err(error) => faults.push(error),
            }
        }
        if place == Place::Counted && !says_all {
            faults.extend(match &longest_el2_time {
                Some(stay) => stay.fault(),
                None => Some("the hypervisor noted no stay".to_owned()),
            });
        }

        if place == Place::Saved && !says_all && saves.unwrap_or(0) == 0 {
            faults.push("the interrupt controller was never saved".to_owned());
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
            longest_el2_time,
            saves,
            cases: transcript.cases,
        }
    }

    /// Tells whether the guest came to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.faults.is_empty()
    }

    /// Tells whether a case was run, or listed.
    pub(super) fn has_cases(&self) -> bool {
        !self.cases.is_empty()
    }

    /// Prints the cases and their rules.
    pub(super) fn print_list(&self) {
        for case in &self.cases {
            console::say(&format!("{:44} {}", case.name, case.rule));
            for place in [Place::Qemu, Place::Kvm] {
                if let Some(reason) = case.deviations.at(place) {
                    console::say(&format!("{:44} (fails {place}: {reason})", ""));
                }
            }
        }
        console::say(&format!("{} cases", self.cases.len()));
        self.faults.iter().for_each(console::detail);
    }
}

/// Finds the hypervisor's report.
fn reported(lines: &[&str]) -> Result<Reported, String> {
    let reported = lines.iter().find_map(|line| counters::parse(line));
    reported.unwrap_or_else(|| Err("the hypervisor did not report".to_owned()))
}

/// Finds the number of saves of the only VM in the hypervisor's report.
fn saves(report: &Map<String, Value>) -> Option<u64> {
    report.get("vms")?.get(0)?.get("saves")?.as_u64()
}

/// Describes each of the hypervisor's final counts that does not balance.
fn account(counters: &Counters) -> Vec<String> {
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

/// A case, with its outcome on each machine that it ran on.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) rule: String,
    pub(super) outcomes: BTreeMap<Place, Outcome>,
    pub(super) deviations: Deviations,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("name", &self.name)?;
        object.serialize_entry("rule", &self.rule)?;
        for (place, outcome) in &self.outcomes {
            object.serialize_entry(place.name(), outcome)?;
        }
        object.serialize_entry("unlike_qemu", &self.deviations.qemu)?;
        object.serialize_entry("unlike_kvm", &self.deviations.kvm)?;
        object.end()
    }
}

impl Row {
    /// Returns the name of the case's group: the part before the first point.
    pub(super) fn group(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Tells whether it failed without an excuse.
    fn failed(&self) -> bool {
        self.outcomes.iter().any(|(place, outcome)| {
            let excused = self.deviations.at(*place).is_some();
            matches!(outcome, Outcome::Fail(_)) && !excused
        })
    }
}

/// The outcome of all runs.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) passed: bool,
    /// QEMU's version.
    pub(super) qemu: String,
    /// The version of the Linux whose KVM ran the cases, if one did.
    pub(super) linux: Option<String>,
    runs: Vec<OnMachine>,
    pub(super) cases: Vec<Row>,
}

object!(Report {
    passed,
    qemu,
    linux,
    runs,
    cases,
});

impl Report {
    /// Puts the runs side by side.
    pub(super) fn new(qemu: String, linux: Option<String>, runs: Vec<OnMachine>) -> Self {
        let mut cases: Vec<Row> = Vec::new();
        for run in &runs {
            for case in &run.cases {
                let known = cases.iter().position(|row| row.name == case.name);
                let place = known.unwrap_or_else(|| {
                    cases.push(Row {
                        name: case.name.clone(),
                        rule: case.rule.clone(),
                        outcomes: BTreeMap::new(),
                        deviations: case.deviations.clone(),
                    });
                    cases.len() - 1
                });
                let outcomes = &mut cases[place].outcomes;
                outcomes.insert(run.place, case.outcome.clone());
            }
        }
        Self {
            passed: runs.iter().all(OnMachine::is_complete) && !cases.iter().any(Row::failed),
            qemu,
            linux,
            runs,
            cases,
        }
    }

    /// Counts the cases that conform and those that do not.
    pub(super) fn counts(&self) -> Counts {
        let failed = self.cases.iter().filter(|row| row.failed()).count() as u64;
        Counts {
            passed: self.cases.len() as u64 - failed,
            failed: failed.max(u64::from(!self.passed)),
        }
    }

    /// Writes the report as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints a summary of each run, then the cases that failed or were skipped.
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
                "{passed} passed, {failed} failed, {skipped} skipped {place}, {vcpus} vCPUs, after \
                 {:.1} s",
                run.wall_seconds
            ));
            if let Some(stay) = &run.longest_el2_time {
                console::detail(format!(
                    "{} instructions at EL2 at most between an exit and the next entry, {}; \
                     {BOUND} are allowed",
                    stay.instructions, stay.about
                ));
            }
            if let Some(saves) = run.saves.filter(|saves| *saves > 0) {
                console::detail(format!(
                    "the interrupt controller was saved and restored {saves} times"
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
                match (outcome, row.deviations.at(*place)) {
                    (Outcome::Fail(_), Some(reason)) => {
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

    /// Tells whether the cases ran on this machine.
    pub(super) fn has_run(&self, place: Place) -> bool {
        self.runs.iter().any(|run| run.place == place)
    }

    /// Writes the suite's tables of `docs/conformance.md`.
    pub(super) fn publish(&self, suite: Suite) -> Result<()> {
        const PAGE: &str = "docs/conformance.md";
        let (groups, deviations) = suite.tables();
        let last = docs::read(PAGE, groups)?;
        docs::write(
            PAGE,
            &[
                (groups, table::groups(self, suite.columns(), &last)),
                (deviations, table::deviations(self)),
            ],
        )
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
        Report::new(String::new(), None, runs).passed
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
    fn a_run_without_a_save_is_a_failure() {
        let run = |saves: &str| {
            let report = counters::tests::LINE.strip_suffix('}').unwrap();
            let report = format!("{report},\"vms\":[{{\"saves\":{saves}}}]}}");
            let lines = ["1..1", "ok 1 - a [R]", &report];
            OnMachine::read(Place::Saved, 4, OFF, Duration::ZERO, &lines)
        };
        assert!(run("3").is_complete());
        assert_eq!(run("3").saves, Some(3));
        assert!(!run("0").is_complete());
        assert!(!run("null").is_complete());
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

    #[test]
    fn a_case_is_written_with_its_outcome_by_place() {
        let runs = vec![run(
            Place::Hyp,
            &["1..1", "not ok 1 - a.b [R]", "  # it is 0"],
        )];
        let report = Report::new(String::new(), None, runs);
        let json = serde_json::to_string(&report.cases).unwrap();
        let outcome = r#"{"outcome":"fail","reason":"it is 0"}"#;
        let expected = format!(
            r#"[{{"name":"a.b","rule":"R","hyp":{outcome},"unlike_qemu":null,"unlike_kvm":null}}]"#
        );
        assert_eq!(json, expected);
    }
}
