//! The report of a boot: `boot.json`, and a summary on the terminal.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_core::ser::SerializeMap as _;
use serde_core::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::checks::Check;
use super::interrupts::Row;
use super::kinds::{KINDS, PerKind};
use super::run::Ended;
use super::transcript::{Step, Transcript};
use crate::console;

/// The report of one boot.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) passed: bool,
    pub(crate) kernel: String,
    pub(crate) vcpus: u16,
    /// Emulated CPUs.
    pub(crate) cpus: u16,
    /// The vCPUs in words.
    pub(crate) on: String,
    pub(crate) cpu: String,
    /// QEMU's version.
    pub(crate) qemu: String,
    /// True if the guest ran under the hypervisor.
    pub(crate) hypervisor: bool,
    pub(crate) wall_seconds: f64,
    pub(crate) ended: Ended,
    /// The guest's own counts, by kind, at its last look.
    pub(crate) guest_interrupts: Option<PerKind>,
    /// The hypervisor's report as it made it: injections, deliveries, exits and so on.
    pub(crate) counters: Map<String, Value>,
    pub(crate) steps: Vec<Step>,
    pub(crate) checks: Vec<Check>,
    /// The guest's `/proc/interrupts` after the workload.
    pub(crate) interrupts: Vec<Row>,
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("passed", &self.passed)?;
        object.serialize_entry("kernel", &self.kernel)?;
        object.serialize_entry("vcpus", &self.vcpus)?;
        object.serialize_entry("cpus", &self.cpus)?;
        object.serialize_entry("cpu", &self.cpu)?;
        object.serialize_entry("qemu", &self.qemu)?;
        object.serialize_entry("hypervisor", &self.hypervisor)?;
        object.serialize_entry("wall_seconds", &self.wall_seconds)?;
        object.serialize_entry("ended", &self.ended.to_string())?;
        object.serialize_entry("guest_interrupts", &self.guest_interrupts)?;
        for (name, count) in &self.counters {
            object.serialize_entry(name, count)?;
        }
        object.serialize_entry("steps", &self.steps)?;
        object.serialize_entry("checks", &self.checks)?;
        object.serialize_entry("interrupts", &self.interrupts)?;
        object.end()
    }
}

/// The machine and its run, for the report.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) vcpus: u16,
    /// Emulated CPUs.
    pub(crate) cpus: u16,
    /// The vCPUs in words.
    pub(crate) on: String,
    pub(crate) cpu: String,
    pub(crate) qemu: String,
    pub(crate) hypervisor: bool,
    pub(crate) wall_seconds: f64,
    pub(crate) ended: Ended,
}

impl Report {
    /// Puts the report together.
    pub(crate) fn new(machine: Machine, transcript: Transcript, checks: Vec<Check>) -> Self {
        Self {
            passed: checks.iter().all(|check| check.passed),
            kernel: machine.kernel,
            vcpus: machine.vcpus,
            cpus: machine.cpus,
            on: machine.on,
            cpu: machine.cpu,
            qemu: machine.qemu,
            hypervisor: machine.hypervisor,
            wall_seconds: machine.wall_seconds,
            ended: machine.ended,
            guest_interrupts: transcript.last_look.map(|last_look| last_look.taken),
            counters: transcript
                .reported
                .and_then(Result::ok)
                .unwrap_or_default()
                .everything,
            steps: transcript.steps,
            checks,
            interrupts: transcript.interrupts,
        }
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints the run, the counts by kind and the checks.
    pub(crate) fn print(&self) {
        let under = if self.hypervisor {
            "under hyp"
        } else {
            "without hyp"
        };
        console::step(format!(
            "{} on {} {under}: {} after {:.1} s",
            self.kernel, self.on, self.ended, self.wall_seconds
        ));
        if !self.steps.is_empty() {
            let took = |step: &Step| format!("{} {:.1} s", step.name, step.ms as f64 / 1000.0);
            let steps: Vec<_> = self.steps.iter().map(took).collect();
            console::detail(format!("workload: {}", steps.join(", ")));
        }
        self.table().iter().for_each(console::detail);
        self.direct().iter().for_each(console::detail);
        self.direct_vcpus().iter().for_each(console::detail);
        if !self.ended.says_all() {
            print_checks(&self.checks);
        }
    }

    /// Prints the end of a run that says all by itself, as the last line.
    pub(crate) fn print_outcome(&self) {
        if self.ended.says_all() {
            console::step(console::bad(&self.ended.to_string()));
        }
    }

    /// Formats the counts of direct injection, if virtual PEs have been on CPUs.
    fn direct(&self) -> Option<String> {
        let count = |name| self.counters.get(name).and_then(Value::as_u64);
        let residencies = count("vpe_residencies").filter(|count| *count > 0)?;
        let [begins, ends, doorbells, changes] = [
            "direct_begins",
            "direct_ends",
            "doorbells",
            "direct_changes",
        ]
        .map(|name| count(name).unwrap_or(0));
        Some(format!(
            "direct injection: {residencies} residencies of virtual PEs, {doorbells} doorbells; \
             {begins} events became direct, {ends} went back to list registers, {changes} changes \
             of path by hyp.direct=switch"
        ))
    }

    /// Formats the number of vCPUs that were direct at the end, on a machine with a GICv4.
    fn direct_vcpus(&self) -> Option<String> {
        let vcpus = self.counters.get("direct_vcpus").and_then(Value::as_u64)?;
        Some(format!("vCPUs with direct injection at the end: {vcpus}"))
    }

    /// Formats the counts by kind: the guest's, then the hypervisor's.
    fn table(&self) -> Vec<String> {
        let guest = self
            .guest_interrupts
            .map(|counts| ("guest took".to_owned(), counts));
        let ours = [
            "deliveries",
            "injections",
            "coalesced",
            "withdrawn",
            "pending",
        ];
        let ours = ours.iter().filter_map(|&name| {
            let counts = PerKind::read(self.counters.get(name)?)?;
            Some((name.to_owned(), counts))
        });
        let rows: Vec<_> = guest.into_iter().chain(ours).collect();
        if rows.is_empty() {
            return Vec::new();
        }

        let mut table = vec![format!(
            "{:12}{}",
            "",
            KINDS.map(|kind| format!("{kind:>11}")).concat()
        )];
        table.extend(rows.iter().map(|(name, counts)| {
            let cells = KINDS.map(|kind| format!("{:>11}", counts.of(kind)));
            format!("{name:12}{}", cells.concat())
        }));
        table
    }
}

/// Prints each check, and the number of those that failed.
pub(crate) fn print_checks(checks: &[Check]) {
    for check in checks {
        console::detail(line(check));
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    let all = checks.len();
    console::step(match failed {
        0 => console::good(&format!("all {all} checks hold")),
        _ => console::bad(&format!("{failed} of {all} checks failed")),
    });
}

/// Formats a check in one line.
fn line(check: &Check) -> String {
    let mark = if check.passed {
        console::good("ok  ")
    } else {
        console::bad("FAIL")
    };
    let expected = match (check.at_least, check.at_most) {
        (low, high) if low == high => format!("{low}"),
        (low, u64::MAX) => format!("{low} or more"),
        (low, high) => format!("{low} to {high}"),
    };
    let mut line = format!("{mark} {}: {} ({expected})", check.name, check.found);
    if !check.passed {
        line.push_str(" - ");
        line.push_str(&check.meaning);
    }
    line
}
