//! The guest's output: TAP, a line for each case, and a failure's findings below it.

use serde_core::ser::SerializeMap as _;
use serde_core::{Serialize, Serializer};

use super::Place;
use crate::boot::part;
use crate::console;

/// Cases between two lines of progress.
const STRIDE: u32 = 50;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed.
    Pass,
    /// It makes no sense on that machine, for this reason.
    Skip(String),
    /// It failed, with these findings.
    Fail(String),
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (outcome, reason) = match self {
            Self::Pass => ("pass", None),
            Self::Skip(reason) => ("skip", Some(reason)),
            Self::Fail(reason) => ("fail", Some(reason)),
        };
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("outcome", outcome)?;
        if let Some(reason) = reason {
            object.serialize_entry("reason", reason)?;
        }
        object.end()
    }
}

/// The reasons for which other GICs are known to fail a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Deviations {
    /// That of QEMU's own GIC.
    pub(super) qemu: Option<String>,
    /// That of Linux KVM's.
    pub(super) kvm: Option<String>,
}

impl Deviations {
    /// Returns the reason for which the GIC of this place is known to fail.
    pub(super) fn at(&self, place: Place) -> Option<&str> {
        match place {
            Place::Hyp | Place::Counted | Place::Saved => None,
            Place::Qemu => self.qemu.as_deref(),
            Place::Kvm => self.kvm.as_deref(),
        }
    }
}

/// A case, as one run of the guest printed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    /// Its name, `group.rule`.
    pub(super) name: String,
    /// The register or section of IHI 0069.
    pub(super) rule: String,
    pub(super) deviations: Deviations,
    pub(super) outcome: Outcome,
}

/// The output of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Transcript {
    /// Cases that the run announced.
    pub(super) planned: usize,
    pub(super) cases: Vec<Case>,
    /// The reason for which the guest gave up, if it did.
    pub(super) bail_out: Option<String>,
}

impl Transcript {
    /// Reads a run's console.
    pub(super) fn read(lines: &[&str]) -> Self {
        let mut transcript = Self::default();
        for line in lines {
            if let Some(planned) = line.strip_prefix("1..") {
                transcript.planned = planned.parse().unwrap_or(0);
            } else if let Some(reason) = line.strip_prefix(BAIL_OUT) {
                transcript.bail_out = Some(reason.to_owned());
            } else if let Some(case) = case(line) {
                transcript.cases.push(case);
            } else if let Some(found) = line.strip_prefix("  # ")
                && let Some(Case {
                    outcome: Outcome::Fail(reason),
                    ..
                }) = transcript.cases.last_mut()
            {
                if !reason.is_empty() {
                    reason.push_str("; ");
                }
                reason.push_str(found);
            }
        }
        transcript
    }
}

/// The beginning of the line by which the guest gives up.
const BAIL_OUT: &str = "Bail out! ";

/// The beginning of the guest's last line.
const LAST: &str = "# passed ";

/// Counts the cases whose outcomes are among these lines.
pub(super) fn count(lines: &[String]) -> usize {
    lines.iter().filter(|line| case(line).is_some()).count()
}

/// Tells whether the guest came to its end.
pub(super) fn ended(lines: &[String]) -> bool {
    lines.iter().any(|line| line.starts_with(LAST))
}

/// Tells whether the guest gives up by this line.
pub(super) fn is_bail_out(line: &str) -> bool {
    line.starts_with(BAIL_OUT)
}

/// Reads a line `ok 3 - name [rule] {QEMU: deviation} {KVM: deviation} # SKIP reason`.
fn case(line: &str) -> Option<Case> {
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (_, rest) = rest.split_once(" - ")?;
    let (name, rest) = rest.split_once(" [")?;
    let (rule, rest) = rest.split_once(']')?;
    let deviation = |begin| {
        let (_, rest) = rest.split_once(begin)?;
        Some(rest.split_once('}')?.0.to_owned())
    };
    let skipped = rest.split_once("# SKIP ").map(|(_, reason)| reason.trim());
    Some(Case {
        name: name.to_owned(),
        rule: rule.to_owned(),
        deviations: Deviations {
            qemu: deviation("{QEMU: "),
            kvm: deviation("{KVM: "),
        },
        outcome: match skipped {
            Some(reason) => Outcome::Skip(reason.to_owned()),
            None if passed => Outcome::Pass,
            None => Outcome::Fail(String::new()),
        },
    })
}

/// The progress of a run on the terminal: each failure, and now and then the number of cases.
pub(super) struct Watcher {
    /// The beginning of a line.
    partial: Vec<u8>,
    count: u32,
    /// The machine, whose known failures are left out.
    place: Place,
    /// True if the lines that follow belong to a failure that is shown.
    shown: bool,
    /// True if nothing is shown.
    silent: bool,
}

impl Watcher {
    /// Begins to watch a run.
    pub(super) fn new(place: Place, silent: bool) -> Self {
        Self {
            partial: Vec::new(),
            count: 0,
            place,
            shown: false,
            silent,
        }
    }

    /// Takes more of the console's bytes.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                self.line(part::as_written(&line));
            } else {
                self.partial.push(byte);
            }
        }
    }

    /// Shows a line of the console, if it is worth it.
    fn line(&mut self, line: &str) {
        if self.silent {
            return;
        }
        if let Some(case) = case(line) {
            self.count += 1;
            let excused = case.deviations.at(self.place).is_some();
            self.shown = matches!(case.outcome, Outcome::Fail(_)) && !excused;
            if self.shown {
                console::detail(console::bad(line));
            }
            if self.count.is_multiple_of(STRIDE) {
                console::detail(format!("{} cases, the last one {}", self.count, case.name));
            }
        } else if line.starts_with("Bail out!") || (self.shown && line.starts_with("  # ")) {
            console::detail(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read() {
        let transcript = Transcript::read(&[
            "hyp: 2 CPUs",
            "TAP version 14",
            "1..4",
            "ok 1 - a.b [GICD_X] # time=3us",
            "not ok 2 - c [5.3] {QEMU: it forgets} {KVM: it waits} # time=9us",
            "  # the pending state: 0x0, not 0x1",
            "  # src/cases/c.rs:9",
            "ok 3 - d [ICC_Y] # SKIP needs more CPUs",
            "Bail out! panicked",
        ]);
        assert_eq!(transcript.planned, 4);
        assert_eq!(transcript.bail_out.as_deref(), Some("panicked"));
        let outcomes: Vec<_> = transcript.cases.iter().map(|case| &case.outcome).collect();
        let found = "the pending state: 0x0, not 0x1; src/cases/c.rs:9";
        assert_eq!(
            outcomes,
            [
                &Outcome::Pass,
                &Outcome::Fail(found.to_owned()),
                &Outcome::Skip("needs more CPUs".to_owned())
            ]
        );
        let deviations = &transcript.cases[1].deviations;
        assert_eq!(deviations.at(Place::Qemu), Some("it forgets"));
        assert_eq!(deviations.at(Place::Kvm), Some("it waits"));
        assert_eq!(deviations.at(Place::Hyp), None);
        assert_eq!(transcript.cases[2].rule, "ICC_Y");
    }
}
