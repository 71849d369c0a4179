//! The console of a run, read: the workload's steps and counts, the hypervisor's report.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_core::ser::SerializeMap as _;
use serde_core::{Serialize, Serializer};

use super::counters::{self, Reported};
use super::faults;
use super::interrupts::{self, Row};
use super::kinds::PerKind;
use super::lines::Line;
use super::lpis_on;

/// A step of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) ms: u64,
    /// Further `name=value` pairs of its line.
    pub(crate) details: BTreeMap<String, String>,
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("name", &self.name)?;
        object.serialize_entry("status", &self.status)?;
        object.serialize_entry("ms", &self.ms)?;
        for (name, value) in &self.details {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

impl Step {
    /// Returns a number among the details, 0 if it is not there.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.details
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It succeeded.
    Ok,
    /// It makes no sense on this machine.
    Skip,
    /// It failed.
    Fail,
}

impl Status {
    /// Returns the name as the workload prints it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The guest's last look at its own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Final {
    /// Interrupts taken since the kernel started; LPIs whose driver is gone are among them.
    pub(crate) taken: PerKind,
    /// The time at which the guest began to look, by the host's clock.
    pub(crate) at: Duration,
}

/// The entries of a console that go into the report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) steps: Vec<Step>,
    /// `/proc/interrupts` after the workload.
    pub(crate) interrupts: Vec<Row>,
    /// The time of the kernel's first line.
    pub(crate) kernel_at: Duration,
    /// The guest's counts at the very end.
    pub(crate) last_look: Option<Final>,
    /// The hypervisor's report, or the reason for which it cannot be read.
    pub(crate) reported: Option<Result<Reported, String>>,
    /// The time of the hypervisor's report.
    pub(crate) reported_at: Duration,
    /// CPUs whose LPIs the hypervisor has found enabled, and has disabled.
    pub(crate) lpis_turned_off: u64,
    /// Lines by which the guest's kernel says that something is wrong.
    pub(crate) faults: Vec<String>,
    /// Characters on the console after the guest's last look.
    pub(crate) console_after: u64,
}

impl Transcript {
    /// Reads a run's console.
    pub(crate) fn read(lines: &[Line]) -> Self {
        let mut transcript = Self::default();
        let mut sampling = Duration::ZERO;
        let mut table: Option<Vec<&str>> = None;
        for Line { at, text } in lines {
            if faults::is_fault(text) {
                transcript.faults.push(text.clone());
            }
            if let Some(report) = counters::parse(text) {
                transcript.reported_at = *at;
                transcript.reported = Some(report);
            } else if let Some(rest) = text.strip_prefix("@workload ") {
                let words = words(rest);
                match rest.split([' ', '=']).next() {
                    Some("step") => transcript.steps.extend(step(words)),
                    Some("table") if rest.starts_with("table=begin") => table = Some(Vec::new()),
                    Some("table") => {
                        let lines = table.take().unwrap_or_default();
                        transcript.interrupts = interrupts::parse(&lines).unwrap_or_default();
                    }
                    Some("sampling") => sampling = *at,
                    Some("final") => {
                        let taken = taken(&words);
                        transcript.last_look = taken.map(|taken| Final {
                            taken,
                            at: sampling,
                        });
                        transcript.console_after = 0;
                    }
                    _ => {}
                }
            } else if let Some(number) = lpis_on::turned_off(text) {
                transcript.lpis_turned_off = number;
            } else if text.contains("] Booting Linux ") {
                transcript.kernel_at = *at;
            } else if let Some(table) = &mut table {
                table.push(text);
            }
            transcript.console_after += text.len() as u64 + 2;
        }
        transcript
    }
}

/// Cuts `a=1 b=2` into its pairs.
fn words(text: &str) -> BTreeMap<String, String> {
    let pairs = text
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Reads a line that tells of a step of the workload.
pub(crate) fn step_of(line: &str) -> Option<Step> {
    step(words(line.strip_prefix("@workload ")?))
}

/// Reads a step of the workload.
fn step(mut words: BTreeMap<String, String>) -> Option<Step> {
    let name = words.remove("step")?;
    let status = match words.remove("status")?.as_str() {
        "ok" => Status::Ok,
        "skip" => Status::Skip,
        _ => Status::Fail,
    };
    let ms = words
        .remove("ms")
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(0);
    Some(Step {
        name,
        status,
        ms,
        details: words,
    })
}

/// Reads the guest's counts by kind.
fn taken(words: &BTreeMap<String, String>) -> Option<PerKind> {
    let count = |name| words.get(name)?.parse::<u64>().ok();
    Some(PerKind {
        sgi: count("sgi")?,
        ppi: count("ppi")?,
        spi: count("spi")?,
        lpi: count("lpi")? + count("lpi_freed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Transcript {
        let line = |(second, text): (usize, &&str)| Line {
            at: Duration::from_secs(second as u64),
            text: (*text).to_owned(),
        };
        Transcript::read(&texts.iter().enumerate().map(line).collect::<Vec<_>>())
    }

    #[test]
    fn a_whole_console_is_read() {
        let transcript = read(&[
            "[    0.1] Linux",
            "@workload table=begin when=before",
            "  CPU0",
            " 11:   1   GICv3  27 Level  arch_timer",
            "@workload table=end",
            "--- blk",
            "@workload step=blk status=ok ms=1340 mib=64 sum=98a8",
            "@workload step=smp status=skip ms=0 ",
            "@workload step=net status=fail ms=7",
            "@workload table=begin when=after",
            "  CPU0",
            " 11:   9   GICv3  27 Level  arch_timer",
            "@workload table=end",
            "@workload sampling",
            "@workload final sgi=1 ppi=2 spi=3 lpi=4 lpi_freed=5 other=0",
            "off",
            counters::tests::LINE,
        ]);
        let statuses: Vec<_> = transcript.steps.iter().map(|step| step.status).collect();
        assert_eq!(statuses, [Status::Ok, Status::Skip, Status::Fail]);
        assert_eq!(
            (transcript.steps[0].ms, transcript.steps[0].number("mib")),
            (1340, 64)
        );
        assert_eq!(transcript.interrupts[0].count, 9);
        let last_look = transcript.last_look.unwrap();
        assert_eq!(
            last_look.taken,
            PerKind {
                sgi: 1,
                ppi: 2,
                spi: 3,
                lpi: 9
            }
        );
        assert_eq!(last_look.at, Duration::from_secs(13));
        assert_eq!(transcript.reported_at, Duration::from_secs(16));
        assert_eq!(transcript.reported.unwrap().unwrap().counters.lookups, 50);
        assert!(transcript.console_after > 5);
    }

    #[test]
    fn a_console_that_breaks_off_yields_what_it_has() {
        let transcript = read(&["@workload step=blk status=ok ms=1", "@workload final sgi=1"]);
        assert_eq!(transcript.steps.len(), 1);
        assert!(transcript.last_look.is_none());
        assert!(transcript.reported.is_none());
    }
}
