//! A life: the run of one machine, from the start or a restore of the VM to its save or its end.

use std::thread;
use std::time::Duration;

use super::random::Random;
use crate::boot::counters::{self, Counters};
use crate::boot::faults::is_fault;
use crate::boot::kinds::{KINDS, PerKind};
use crate::boot::lines::{self, Line};
use crate::boot::run::{Ended, Run};

/// The VM's name.
pub(super) const NAME: &str = "guest";

/// The mark of the witness's lines.
const WITNESS: &str = "@witness ";

/// Lines of the witness after which the VM is saved, at most, beside the first three, in which
/// every count has to grow. It prints some 20 in a second.
const LINES: u64 = 12;

/// Microseconds after such a line, at most.
const AFTER: u64 = 60_000;

/// The end that a life is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The VM is saved.
    Save,
    /// The witness ends, and the VM with it.
    Stop,
}

/// The operator at the console.
#[derive(Debug)]
pub(super) struct Operator {
    round: u32,
    purpose: Purpose,
    /// Lines of the witness to come.
    lines: u64,
    /// Time to wait after the last of them.
    delay: Duration,
    has_pinged: bool,
}

impl Operator {
    /// Prepares the operator of a life, who saves the VM at a random moment.
    pub(super) fn new(round: u32, purpose: Purpose, random: &mut Random) -> Self {
        Self {
            round,
            purpose,
            lines: 3 + random.below(LINES),
            delay: Duration::from_micros(random.below(AFTER)),
            has_pinged: false,
        }
    }

    /// Returns the operator as the run has one.
    pub(super) fn typist(mut self) -> lines::Operator {
        Box::new(move |line| self.read(line))
    }

    /// Reads a line, and returns what is typed upon it. The answer to a ping is awaited before
    /// another life begins, and not before the save: it may be on its way then.
    fn read(&mut self, line: &Line) -> Option<String> {
        let text = witness(&line.text)?;
        if number(text, "n").is_none() || self.lines == 0 {
            return None;
        }
        if !self.has_pinged {
            self.has_pinged = true;
            return Some(format!("{NAME}: ping {}\n", self.round));
        }
        self.lines -= 1;
        if self.lines > 0 {
            return None;
        }
        thread::sleep(self.delay);
        Some(match self.purpose {
            Purpose::Save => format!("!save {NAME}\n"),
            Purpose::Stop => format!("{NAME}: stop\n"),
        })
    }
}

/// Returns the number of a line of counts, if the line is one.
pub(super) fn witness_number(line: &str) -> Option<u64> {
    number(witness(line)?, "n")
}

/// Returns the witness's part of a line, if the line is the witness's. The guest's terminal may
/// have echoed a word before the line, or between the line and its end.
fn witness(line: &str) -> Option<&str> {
    let line = line.strip_prefix(NAME)?.strip_prefix(": ")?;
    let (before, text) = line.split_once(WITNESS)?;
    if !before.is_empty() && !is_echo(before) {
        return None;
    }
    let echo = text.find("ping ").filter(|at| is_echo(&text[*at..]));
    Some(&text[..echo.unwrap_or(text.len())])
}

/// Returns true for a word that an operator types in a life that goes on.
fn is_echo(text: &str) -> bool {
    text.strip_prefix("ping ")
        .is_some_and(|round| round.parse::<u32>().is_ok())
}

/// Returns the number of this name among words `name=number`.
fn number(text: &str, name: &str) -> Option<u64> {
    let words = text.split(' ');
    let values = words.filter_map(|word| word.split_once('='));
    let (_, value) = values.into_iter().find(|(found, _)| *found == name)?;
    value.parse().ok()
}

/// A line of counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// The line's number.
    pub(super) n: u64,
    /// The guest's time.
    pub(super) ms: u64,
    pub(super) ticks: u64,
    pub(super) pings: u64,
    /// Bytes of the entropy device.
    pub(super) random: u64,
    /// Longest time from a tick's deadline to the tick.
    pub(super) late_us: u64,
    /// Interrupts taken.
    pub(super) taken: PerKind,
}

object!(Counts {
    n,
    ms,
    ticks,
    pings,
    random,
    late_us,
    taken
});

impl Counts {
    /// Reads a line of the witness.
    fn read(text: &str) -> Option<Self> {
        let number = |name| number(text, name);
        let mut taken = PerKind::default();
        for kind in KINDS {
            *taken.of_mut(kind) = number(kind)?;
        }
        Some(Self {
            n: number("n")?,
            ms: number("ms")?,
            ticks: number("ticks")?,
            pings: number("pings")?,
            random: number("random")?,
            late_us: number("late_us")?,
            taken,
        })
    }
}

/// A life that has ended.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) round: u32,
    pub(super) cpus: u16,
    pub(super) ended: String,
    pub(super) wall_ms: u64,
    /// Microseconds that the restore took, from the opening of the file on.
    pub(super) restored_us: Option<u64>,
    /// Microseconds that the save took, and bytes of the file.
    pub(super) saved_us: Option<u64>,
    pub(super) bytes: Option<u64>,
    /// Numbers of the words that were answered.
    pub(super) pongs: Vec<u64>,
    pub(super) faults: Vec<String>,
    /// The witness's counts, line by line.
    pub(super) counts: Vec<Counts>,
    /// The hypervisor's counts.
    pub(super) hypervisor: Option<Counters>,
    /// True if the witness has said its last line.
    pub(super) is_over: bool,
    /// Times of the lines that tell of the restore and of the save, by the machine's start.
    pub(super) restored_at: Option<Duration>,
    pub(super) saved_at: Option<Duration>,
    /// Nanoseconds of the vGIC in the save and in the restore.
    pub(super) save_ns: Option<u64>,
    pub(super) restore_ns: Option<u64>,
}

object!(Life {
    round,
    cpus,
    ended,
    wall_ms,
    restored_us,
    saved_us,
    bytes,
    save_ns,
    restore_ns,
    faults,
});

impl Life {
    /// Reads the run of a machine.
    pub(super) fn read(round: u32, cpus: u16, purpose: Purpose, run: &Run) -> Self {
        let expected = match purpose {
            Purpose::Save => Ended::Killed,
            Purpose::Stop => Ended::PoweredOff,
        };
        let mut life = Self {
            round,
            cpus,
            ended: run.ended.to_string(),
            wall_ms: run.wall.as_millis() as u64,
            restored_us: None,
            saved_us: None,
            bytes: None,
            pongs: Vec::new(),
            faults: Vec::new(),
            counts: Vec::new(),
            hypervisor: None,
            is_over: false,
            restored_at: None,
            saved_at: None,
            save_ns: None,
            restore_ns: None,
        };
        for line in &run.lines {
            life.see(line.at, &line.text);
        }

        if run.ended != expected {
            life.faults.push(run.ended.to_string());
        }
        if life.restored_us.is_none() && round > 0 {
            life.faults.push("the VM was not restored".to_owned());
        }
        if purpose == Purpose::Save && life.saved_us.is_none() {
            life.faults.push("the VM was not saved".to_owned());
        }
        if purpose == Purpose::Stop && !life.is_over {
            life.faults.push("the witness has not ended".to_owned());
        }
        life
    }

    /// Sees a line of the console.
    fn see(&mut self, at: Duration, line: &str) {
        if let Some(text) = witness(line) {
            if let Some(counts) = Counts::read(text) {
                self.counts.push(counts);
            } else if let Some(fault) = text.strip_prefix("fault=") {
                self.faults.push(fault.to_owned());
            } else if let Some(pong) = number(text, "pong") {
                self.pongs.push(pong);
            } else if number(text, "end").is_some() {
                self.is_over = true;
            }
        } else if let Some(said) = line.strip_prefix("hyp: guest is ") {
            let words: Vec<&str> = said.split([' ', ',', ':']).collect();
            let before = |unit: &str| {
                let place = words.iter().position(|word| *word == unit)?;
                words.get(place.checked_sub(1)?)?.parse().ok()
            };
            match words.first() {
                Some(&"saved") => {
                    (self.saved_us, self.bytes) = (before("us"), before("bytes"));
                    (self.save_ns, self.saved_at) = (before("ns"), Some(at));
                }
                Some(&"restored") => {
                    (self.restored_us, self.restore_ns) = (before("us"), before("ns"));
                    self.restored_at = Some(at);
                }
                _ => {}
            }
        } else if is_fault(line) {
            self.faults.push(line.to_owned());
        } else if let Some(Ok(reported)) = counters::parse(line) {
            self.hypervisor = Some(reported.counters);
        }
    }

    /// Tells whether one of the witness's counts has not grown in this life.
    pub(super) fn stood_still(&self) -> bool {
        let counts = |it: &Counts| [it.ticks, it.pings, it.random];
        match (self.counts.first(), self.counts.last()) {
            (Some(first), Some(last)) => {
                let mut pairs = counts(first).into_iter().zip(counts(last));
                pairs.any(|(first, last)| last <= first)
            }
            _ => true,
        }
    }

    /// Tells whether the next life can begin.
    pub(super) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "guest: @witness n=7 ms=900 ticks=5 pings=6 random=64 late_us=12 ppi=1 \
                        sgi=2 spi=3 lpi=4";

    #[test]
    fn a_line_of_the_witness_is_read() {
        let counts = Counts::read(witness(LINE).unwrap()).unwrap();
        assert_eq!((counts.n, counts.ms, counts.late_us), (7, 900, 12));
        assert_eq!(counts.taken.lpi, 4);
        assert_eq!(witness("guest: [    0.0] x"), None);
    }

    #[test]
    fn an_echo_may_share_the_line() {
        let words = LINE.strip_prefix("guest: @witness ");
        assert_eq!(witness(&LINE.replace("@", "ping 212@")), words);
        assert_eq!(witness(&format!("{LINE}ping 3")), words);
        assert_eq!(witness(&LINE.replace("@", "ping @")), None);
        assert_eq!(witness(&LINE.replace("@", "x@")), None);
    }

    #[test]
    fn the_operator_pings_and_saves_after_so_many_lines() {
        let mut operator = Operator {
            round: 3,
            purpose: Purpose::Save,
            lines: 2,
            delay: Duration::ZERO,
            has_pinged: false,
        };
        let mut read = |text: &str| {
            operator.read(&Line {
                at: Duration::ZERO,
                text: text.to_owned(),
            })
        };
        assert_eq!(read("guest: @witness cpus=4 random=1"), None);
        assert_eq!(read(LINE).as_deref(), Some("guest: ping 3\n"));
        assert_eq!(read(LINE), None);
        assert_eq!(read(LINE).as_deref(), Some("!save guest\n"));
        assert_eq!(read(LINE), None, "once");
    }

    #[test]
    fn a_save_and_a_restore_are_told() {
        let run = |lines: &[&str], ended| Run {
            ended,
            wall: Duration::from_secs(1),
            lines: lines
                .iter()
                .map(|text| Line {
                    at: Duration::ZERO,
                    text: (*text).to_owned(),
                })
                .collect(),
        };
        let lines = [
            "hyp: guest is restored, after 12 us, 7000 ns of the vGIC",
            "hyp: guest is saved: 4096 bytes, stopped for 34 us, 8000 ns of the vGIC",
            LINE,
        ];
        let life = Life::read(1, 2, Purpose::Save, &run(&lines, Ended::Killed));
        assert!(life.is_good(), "{life:?}");
        assert_eq!((life.restored_us, life.saved_us), (Some(12), Some(34)));
        assert_eq!((life.bytes, life.counts.len()), (Some(4096), 1));

        let lost = Life::read(1, 2, Purpose::Save, &run(&lines[1..], Ended::Killed));
        assert!(!lost.is_good());
        let fault = ["guest: @witness fault=x", lines[0], lines[1]];
        assert!(!Life::read(1, 2, Purpose::Save, &run(&fault, Ended::Killed)).is_good());
    }
}
