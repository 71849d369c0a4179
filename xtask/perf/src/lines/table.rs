//! The figures: lines, atomic instructions and barriers of one event, by load and number of CPUs.

use serde::{Deserialize, Serialize};

use super::counts::{Counts, Sums};
use super::load::Load;
use super::machine::{FLAGS, Threads};
use xtask::console::{self, bad};

/// Most lines of an SGI to a running vCPU.
const MOST_LINES_OF_AN_SGI: f64 = 6.0;

/// Fewest CPUs whose lines those of more CPUs are held against. With two CPUs an event has no
/// other place to move to, and all others are one.
const FEW: u16 = 4;

/// Returns the lines that an event may take if it takes `lines` with fewer CPUs.
fn most(lines: f64) -> f64 {
    lines * 1.02 + 0.1
}

/// Part of KVM's lines, one in so many, that an event may take.
const PART_OF_KVM: f64 = 3.0;

/// The cost of one event of a load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Name of the load.
    pub(crate) load: String,
    pub(crate) cpus: u16,
    pub(crate) events: u64,
    /// Lines fetched or taken from another CPU.
    pub(crate) lines: f64,
    /// Those of `lines` that the CPU has read already: no data moves.
    pub(crate) upgrades: f64,
    pub(crate) atomics: f64,
    pub(crate) barriers: f64,
    pub(crate) accesses: f64,
    /// Lines that two CPUs write, in the whole load.
    pub(crate) written_by_two: usize,
    /// Lines that three CPUs or more write, in the whole load.
    pub(crate) written_by_many: usize,
}

impl Row {
    /// Returns the rows of a run, one for each load.
    pub(crate) fn all(cpus: u16, counts: &Counts) -> Vec<Self> {
        counts
            .loads()
            .map(|(load, sums)| Self::of(load, cpus, sums))
            .collect()
    }

    /// Returns the row of a load.
    fn of(load: Load, cpus: u16, sums: &Sums) -> Self {
        Self {
            load: load.keyword().to_owned(),
            cpus,
            events: sums.events,
            lines: sums.each(sums.transfers()),
            upgrades: sums.each(sums.upgrades()),
            atomics: sums.each(sums.atomics),
            barriers: sums.each(sums.barriers),
            accesses: sums.each(sums.accesses),
            written_by_two: sums.written_by_two(),
            written_by_many: sums.written_by_many(),
        }
    }

    /// Returns the row's name in the committed table.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.load, self.cpus)
    }
}

/// The outcome of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) qemu: String,
    pub(crate) flags: String,
    /// Version of the kernel that was compared with.
    pub(crate) kvm: Option<String>,
    pub(crate) hyp: Vec<Row>,
    /// Rows of KVM.
    pub(crate) theirs: Vec<Row>,
    /// Loads that exceed the committed table.
    pub(crate) regressed: Vec<String>,
}

impl Outcome {
    /// Returns an outcome without rows.
    pub(crate) fn new(qemu: String, threads: Threads) -> Self {
        Self {
            qemu,
            flags: format!("{FLAGS} {}", threads.flags()),
            kvm: None,
            hyp: Vec::new(),
            theirs: Vec::new(),
            regressed: Vec::new(),
        }
    }

    /// Returns KVM's row of a load.
    pub(super) fn kvms(&self, row: &Row) -> Option<&Row> {
        let mut theirs = self.theirs.iter();
        theirs.find(|other| other.load == row.load && other.cpus == row.cpus)
    }

    /// Lists the goals that a row misses.
    pub(super) fn missed(&self, row: &Row) -> Vec<String> {
        let mut missed = Vec::new();
        if row.load == Load::Ring.keyword() && row.lines > MOST_LINES_OF_AN_SGI {
            missed.push(format!("at most {MOST_LINES_OF_AN_SGI} lines"));
        }
        if row.load == Load::Distinct.keyword() && row.written_by_two != 0 {
            missed.push("no line written by two CPUs".to_owned());
        }
        if row.load == Load::Spi.keyword() && row.written_by_many != 0 {
            missed.push("no line written by three CPUs".to_owned());
        }
        if has_one_target(&row.load) {
            let mut same = self.hyp.iter().filter(|other| other.load == row.load);
            let fewer = FEW..row.cpus;
            if same.any(|other| fewer.contains(&other.cpus) && row.lines > most(other.lines)) {
                missed.push("no more than with fewer CPUs".to_owned());
            }
        }
        if let Some(kvm) = self.kvms(row)
            && row.lines * PART_OF_KVM > kvm.lines
        {
            missed.push("a third of KVM's".to_owned());
        }
        missed
    }

    /// Prints the figures.
    pub(crate) fn print(&self) {
        console::say(&format!(
            "{:<14} {:>5} {:>7} {:>7} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8}",
            "load",
            "CPUs",
            "events",
            "lines",
            "upgrades",
            "atomics",
            "barriers",
            "by two",
            "by more",
            "KVM"
        ));
        for row in &self.hyp {
            let kvm = self.kvms(row).map(|kvm| format!("{:.2}", kvm.lines));
            let missed = self.missed(row).join(", ");
            console::say(&format!(
                "{:<14} {:>5} {:>7} {:>7.2} {:>8.2} {:>8.2} {:>8.2} {:>7} {:>7} {:>8}  {}",
                row.load,
                row.cpus,
                row.events,
                row.lines,
                row.upgrades,
                row.atomics,
                row.barriers,
                row.written_by_two,
                row.written_by_many,
                kvm.unwrap_or_default(),
                if missed.is_empty() {
                    String::new()
                } else {
                    bad(&format!("goal: {missed}"))
                }
            ));
        }
    }
}

/// Tells whether an event of a load has one vCPU as its target.
fn has_one_target(load: &str) -> bool {
    load != Load::Broadcast.keyword()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a row of a load.
    pub(in super::super) fn row(load: Load, cpus: u16, lines: f64) -> Row {
        Row {
            load: load.keyword().to_owned(),
            cpus,
            lines,
            ..Row::default()
        }
    }

    /// Makes an outcome of rows.
    pub(in super::super) fn outcome(hyp: Vec<Row>, theirs: Vec<Row>) -> Outcome {
        Outcome {
            hyp,
            theirs,
            ..Outcome::new("10".to_owned(), Threads::One)
        }
    }

    #[test]
    fn goals_are_told_that_a_row_misses() {
        let mut shared = row(Load::Distinct, 4, 1.0);
        shared.written_by_two = 1;
        let rows = vec![
            row(Load::Ring, 4, 6.0),
            row(Load::Ring, 16, 7.0),
            row(Load::Broadcast, 4, 6.0),
            row(Load::Broadcast, 16, 24.0),
            shared,
        ];
        let outcome = outcome(rows, vec![row(Load::Ring, 4, 17.0)]);
        let missed: Vec<_> = (outcome.hyp.iter())
            .map(|row| outcome.missed(row).len())
            .collect();
        assert_eq!(missed, [1, 2, 0, 0, 1]);
    }
}
