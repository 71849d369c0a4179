//! The plugin's counts, read.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::load::Load;
use super::machine::Counted;

/// Kind of a transfer, as the plugin names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// A read of a line that another CPU has written.
    ReadModified,
    /// A read of a line that another CPU alone has.
    ReadExclusive,
    /// A write of a line that another CPU alone has.
    Taken,
    /// A write of a line that other CPUs have read, and this one has not.
    Invalidated,
    /// A write of a line that this CPU and others have read: no data moves.
    Upgraded,
}

impl Kind {
    /// Reads the plugin's name of a kind.
    fn read(name: &str) -> Option<Self> {
        match name {
            "read-modified" => Some(Self::ReadModified),
            "read-exclusive" => Some(Self::ReadExclusive),
            "taken" => Some(Self::Taken),
            "invalidated" => Some(Self::Invalidated),
            "upgraded" => Some(Self::Upgraded),
            _ => None,
        }
    }

    /// Returns the kind's name in lists.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ReadModified => "reads it after another's write",
            Self::ReadExclusive => "reads it after another's read",
            Self::Taken => "takes it from another",
            Self::Invalidated => "takes it from readers",
            Self::Upgraded => "writes it, and others have read it",
        }
    }

    /// Tells whether the CPU writes.
    const fn is_write(self) -> bool {
        matches!(self, Self::Taken | Self::Invalidated | Self::Upgraded)
    }
}

/// Transfers of one line by one instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfers {
    /// Address of the instruction.
    pub(crate) site: u64,
    pub(crate) kind: Kind,
    pub(crate) count: u64,
}

/// A line that CPUs fetch from each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Virtual address of an access to it.
    pub(crate) address: u64,
    pub(crate) transfers: Vec<Transfers>,
    /// CPUs that fetch it in order to write it, one bit each.
    writers: u128,
}

impl Line {
    /// Tells whether three CPUs or more write the line: it is not that of an interrupt or of a vCPU
    /// that one CPU sends to.
    pub(crate) fn is_written_by_many(&self) -> bool {
        self.writers.count_ones() > 2
    }

    /// Tells whether two CPUs write the line.
    pub(crate) fn is_written_by_two(&self) -> bool {
        self.writers.count_ones() > 1
    }
}

/// Sums of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    /// Events, as the guest counts them.
    pub(crate) events: u64,
    pub(crate) accesses: u64,
    pub(crate) atomics: u64,
    pub(crate) barriers: u64,
    /// The lines by number.
    pub(crate) lines: BTreeMap<u64, Line>,
}

impl Sums {
    /// Divides a sum by the number of events.
    pub(crate) fn each(&self, sum: u64) -> f64 {
        sum as f64 / self.events.max(1) as f64
    }

    /// Sums up the transfers of all lines.
    pub(crate) fn transfers(&self) -> u64 {
        self.transfers_of(|_| true)
    }

    /// Sums up the transfers of all lines that move no data.
    pub(crate) fn upgrades(&self) -> u64 {
        self.transfers_of(|kind| kind == Kind::Upgraded)
    }

    /// Sums up the transfers of some kinds.
    fn transfers_of(&self, wanted: impl Fn(Kind) -> bool) -> u64 {
        let all = self.lines.values().flat_map(|line| &line.transfers);
        let wanted = all.filter(|transfers| wanted(transfers.kind));
        wanted.map(|transfers| transfers.count).sum()
    }

    /// Counts the lines that two CPUs write.
    pub(crate) fn written_by_two(&self) -> usize {
        let lines = self.lines.values();
        lines.filter(|line| line.is_written_by_two()).count()
    }

    /// Counts the lines that three CPUs or more write.
    pub(crate) fn written_by_many(&self) -> usize {
        let lines = self.lines.values();
        lines.filter(|line| line.is_written_by_many()).count()
    }
}

/// Sums of all loads.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<Load, Sums>);

impl Counts {
    /// Reads the outcome of a run.
    pub(crate) fn read(counted: &Counted) -> Result<Self> {
        let mut counts = Self::default();
        for line in &counted.console {
            if let Some((load, events)) = events(line) {
                counts.0.entry(load).or_default().events = events;
            }
        }
        for line in counted.counts.lines() {
            counts.add(line).with_context(|| format!("in `{line}`"))?;
        }

        let done: BTreeSet<Load> = counts.loads().map(|(load, _)| load).collect();
        ensure!(!done.is_empty(), "the guest did no load");
        Ok(counts)
    }

    /// Returns the loads that the guest has done, each with its sums.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (Load, &Sums)> {
        let all = self.0.iter().map(|(&load, sums)| (load, sums));
        all.filter(|(_, sums)| sums.events != 0)
    }

    /// Adds a line of the plugin's output.
    fn add(&mut self, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let kind = words.next().context("an empty line")?;
        let words: Vec<&str> = words.collect();
        match (kind, &words[..]) {
            ("load", &[number, reads, writes, atomics, barriers, _cold]) => {
                let sums = self.0.entry(numbered(number)?).or_default();
                sums.accesses = reads.parse::<u64>()? + writes.parse::<u64>()?;
                sums.atomics = atomics.parse()?;
                sums.barriers = barriers.parse()?;
            }
            ("transfer", &[number, line, address, site, kind, count, cpus]) => {
                let sums = self.0.entry(numbered(number)?).or_default();
                let line = sums.lines.entry(hexadecimal(line)?).or_default();
                let kind = Kind::read(kind).context("no such kind")?;
                line.address = hexadecimal(address)?;
                line.transfers.push(Transfers {
                    site: hexadecimal(site)?,
                    kind,
                    count: count.parse()?,
                });
                if kind.is_write() {
                    line.writers |= u128::from_str_radix(cpus, 16)?;
                }
            }
            _ => anyhow::bail!("an unknown line"),
        }
        Ok(())
    }
}

/// Reads a line of the guest's console that tells the number of a load's events.
fn events(line: &str) -> Option<(Load, u64)> {
    let (name, events) = line.strip_prefix("guest: ")?.split_once(' ')?;
    let load = Load::ALL.into_iter().find(|load| load.keyword() == name)?;
    Some((load, events.parse().ok()?))
}

/// Returns the load with a number.
fn numbered(number: &str) -> Result<Load> {
    let number: u16 = number.parse()?;
    let load = Load::ALL.into_iter().find(|&load| load as u16 == number);
    load.context("no such load")
}

fn hexadecimal(digits: &str) -> Result<u64> {
    Ok(u64::from_str_radix(digits, 16)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Reads counts of a ring with ten events.
    pub(in super::super) fn ring(counts: &str) -> Result<Counts> {
        let console = ["guest: sgi-ring 10", "guest: done"];
        Counts::read(&Counted {
            counts: counts.to_owned(),
            console: console.map(str::to_owned).to_vec(),
        })
    }

    #[test]
    fn transfers_are_added_up_by_line() {
        let counts = ring(
            "load 2 30 20 5 4 0\n\
             transfer 2 40 1000 ff00 read-modified 10 3\n\
             transfer 2 40 1008 ff08 upgraded 10 3\n\
             transfer 2 41 1040 ff10 taken 5 1\n",
        )
        .unwrap();
        let (load, sums) = counts.loads().next().unwrap();
        assert_eq!(load, Load::Ring);
        assert_eq!((sums.events, sums.accesses, sums.atomics), (10, 50, 5));
        assert_eq!((sums.transfers(), sums.upgrades()), (25, 10));
        assert_eq!((sums.written_by_two(), sums.written_by_many()), (1, 0));
        assert_eq!(sums.each(sums.transfers()), 2.5);
    }

    #[test]
    fn lines_that_the_plugin_does_not_write_are_refused() {
        assert!(ring("other\n").is_err());
        assert!(ring("load 99 0 0 0 0 0\n").is_err());
        assert!(ring("transfer 2 40 1000 ff00 stolen 10 3\n").is_err());
        let idle = Counted {
            counts: String::new(),
            console: Vec::new(),
        };
        assert!(Counts::read(&idle).is_err());
    }
}
