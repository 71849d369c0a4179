//! Snapshots that must be refused, each for its reason.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::life::{NAME, Purpose};
use super::machine::Machine;
use super::{LIMIT, SnapshotOptions};
use crate::boot::run;
use crate::console;

/// A snapshot that must be refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The fault of the snapshot.
    fault: &'static str,
    /// The reason that is expected.
    expected: String,
    /// The reason in the hypervisor's line, if the snapshot was refused.
    pub(super) found: Option<String>,
}

object!(Refusal {
    fault,
    expected,
    found,
});

impl Refusal {
    /// Tells whether the snapshot was refused for its reason.
    pub(super) fn is_right(&self) -> bool {
        let found = self.found.as_deref();
        found.is_some_and(|found| found.contains(&self.expected))
    }
}

/// The version of the file, at its place.
const VERSION: usize = 6;

/// Gives the hypervisor the last snapshot with one fault after the other.
pub(super) fn all(machine: &Machine<'_>, scratch: &Path, reports: &Path) -> Result<Vec<Refusal>> {
    // The hypervisor leaves the file as it is when it has restored it.
    let good = fs::read(machine.file).unwrap_or_default();
    if good.len() < VERSION + 2 {
        return Ok(Vec::new());
    }
    console::step("Snapshots that must be refused");
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << 4;
        bytes
    };
    let as_is = machine.options.clone();
    let other_cpu = match as_is.cpu.as_str() {
        "neoverse-n1" => "cortex-a76",
        _ => "neoverse-n1",
    };
    let cases = [
        (
            "a bit in the middle",
            changed(good.len() / 2),
            as_is.clone(),
            "it is damaged",
        ),
        (
            "a bit near the end",
            changed(good.len() - 30),
            as_is.clone(),
            "it is damaged",
        ),
        (
            "cut short",
            good[..good.len() - 1].to_vec(),
            as_is.clone(),
            "it is damaged",
        ),
        ("empty", Vec::new(), as_is.clone(), "it is damaged"),
        (
            "another version",
            changed(VERSION),
            as_is.clone(),
            "it is of version 17, and version 1",
        ),
        (
            "another file",
            changed(0),
            as_is.clone(),
            "it is no snapshot",
        ),
        (
            "another CPU",
            good.clone(),
            SnapshotOptions {
                cpu: other_cpu.to_owned(),
                ..as_is.clone()
            },
            "it has CPUs with MIDR_EL1",
        ),
        (
            "another number of vCPUs",
            good.clone(),
            SnapshotOptions {
                vcpus: as_is.vcpus + 1,
                ..as_is.clone()
            },
            "it has vCPUs",
        ),
        (
            "less RAM",
            good.clone(),
            SnapshotOptions {
                memory: as_is.memory - 2,
                ..as_is
            },
            "it has RAM of bytes",
        ),
    ];

    let file = scratch.join("refused");
    let log = reports.join("snapshot-refused.log");
    let mut refusals = Vec::new();
    for (fault, bytes, options, expected) in cases {
        fs::write(&file, bytes)?;
        let machine = Machine {
            options: &options,
            file: &file,
            ..*machine
        };
        let mut command = machine.command(1, Purpose::Stop)?;
        // It ends by itself: no VM is left.
        let run = run::operated(&mut command, &log, LIMIT, false, Box::new(|_| None))?;
        let mark = format!("hyp: {NAME}: its snapshot is refused: ");
        let reason = |line: &str| line.strip_prefix(&mark).map(str::to_owned);
        let found = run.lines.iter().find_map(|line| reason(&line.text));
        refusals.push(Refusal {
            fault,
            expected: expected.to_owned(),
            found,
        });
    }
    Ok(refusals)
}
