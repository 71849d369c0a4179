//! The verdict on all lives together.

use super::SnapshotOptions;
use super::life::{Counts, Life};
use super::refused::Refusal;
use crate::boot::checks::Check;
use crate::boot::counters::Counters;
use crate::boot::kinds::{KINDS, PerKind};
use crate::boot::report;
use crate::console;

/// The longest time between two lines of the witness that a save lies between, in milliseconds of
/// the guest: the emulator may be slow, and a clock that jumps by a machine's life jumps further.
const LONGEST_GAP_MS: u64 = 5_000;

/// The longest time from a tick's deadline to the tick, in microseconds. An unmodified kernel takes
/// more for a lockup.
const LATEST_US: u64 = 20_000_000;

/// Snapshots that must be refused.
const REFUSALS: u64 = 9;

/// The outcome of all lives.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    rounds: u64,
    seed: u32,
    vcpus: u16,
    memory: u32,
    /// The witness's last counts.
    last: Counts,
    /// Deliveries of all lives together.
    deliveries: PerKind,
    checks: Vec<Check>,
    refusals: Vec<Refusal>,
    lives: Vec<Life>,
}

object!(Verdict {
    passed,
    rounds,
    seed,
    vcpus,
    memory,
    last,
    deliveries,
    checks,
    refusals,
    lives,
});

impl Verdict {
    /// Judges the lives.
    pub(super) fn new(options: &SnapshotOptions, seed: u32, lives: Vec<Life>) -> Self {
        let rounds = lives
            .iter()
            .filter(|life| life.restored_us.is_some())
            .count() as u64;
        let all: Vec<Counts> = lives.iter().flat_map(|life| life.counts.clone()).collect();
        let last = all.last().copied().unwrap_or_default();
        let mut deliveries = PerKind::default();
        for counters in lives.iter().filter_map(|life| life.hypervisor.as_ref()) {
            for kind in KINDS {
                *deliveries.of_mut(kind) += counters.deliveries.of(kind);
            }
        }

        let mut checks = vec![
            Check::equal(
                "rounds",
                rounds,
                options.rounds.into(),
                "a restore did not come",
            ),
            Check::equal(
                "faults",
                lives.iter().map(|life| life.faults.len()).sum::<usize>() as u64,
                0,
                "the guest has noticed more than time",
            ),
            Check::equal(
                "words answered",
                answered(&lives),
                options.rounds as u64 + 1,
                "input was lost, or came twice",
            ),
        ];
        checks.push(Check::at_least(
            "bytes of the entropy device",
            last.random,
            u64::from(options.rounds),
            "there were no MSIs",
        ));
        if options.vcpus > 1 {
            checks.push(Check::equal(
                "lives in which a count has not grown",
                lives.iter().filter(|life| life.stood_still()).count() as u64,
                0,
                "a timer, an IPI or an MSI was lost",
            ));
        }
        checks.extend(of_lines(&all));
        checks.extend(of_clock(&lives, last));
        checks.extend(of_accounts(&lives));
        checks.extend(KINDS.map(|kind| {
            Check::at_least(
                format!("{kind} deliveries, at least what the guest took"),
                deliveries.of(kind),
                last.taken.of(kind),
                "an interrupt was delivered twice",
            )
        }));
        Self {
            passed: checks.iter().all(|check| check.passed),
            rounds,
            seed,
            vcpus: options.vcpus,
            memory: options.memory,
            last,
            deliveries,
            checks,
            refusals: Vec::new(),
            lives,
        }
    }

    /// Tells whether all checks hold.
    pub(super) fn is_passed(&self) -> bool {
        self.passed
    }

    /// Adds a check.
    pub(super) fn add(&mut self, check: Check) {
        self.passed &= check.passed;
        self.checks.push(check);
    }

    /// Adds the snapshots that had to be refused.
    pub(super) fn add_refusals(&mut self, refusals: Vec<Refusal>) {
        self.add(Check::equal(
            "snapshots refused for their reasons",
            refusals.iter().filter(|refusal| refusal.is_right()).count() as u64,
            REFUSALS,
            "a snapshot that is wrong was taken, or refused for another reason",
        ));
        self.refusals = refusals;
    }

    /// Prints the counts, faults and checks.
    pub(super) fn print(&self) {
        let header = KINDS.map(|kind| format!("{kind:>11}")).concat();
        console::detail(format!("{:14}{header}", ""));
        for (what, counts) in [("took", self.last.taken), ("deliveries", self.deliveries)] {
            let cells = KINDS.map(|kind| format!("{:>11}", counts.of(kind)));
            console::detail(format!("{what:14}{}", cells.concat()));
        }
        let Counts {
            ms,
            ticks,
            pings,
            random,
            ..
        } = self.last;
        console::detail(format!(
            "{ms} ms of the guest, {ticks} ticks, {pings} balls, {random} random bytes"
        ));
        let print = |what: &str, values: Vec<u64>| {
            if let (Some(least), Some(most)) = (values.iter().min(), values.iter().max()) {
                let mean = values.iter().sum::<u64>() / values.len() as u64;
                console::detail(format!("{what}: {least} to {most}, {mean} on average"));
            }
        };
        let of = |what: fn(&Life) -> Option<u64>| self.lives.iter().filter_map(what).collect();
        print("microseconds of a stop", of(|life| life.saved_us));
        print("microseconds of a restore", of(|life| life.restored_us));
        print("bytes of a snapshot", of(|life| life.bytes));
        print("nanoseconds of the vGIC's save", of(|life| life.save_ns));
        print(
            "nanoseconds of the vGIC's restore",
            of(|life| life.restore_ns),
        );
        for life in &self.lives {
            for fault in &life.faults {
                console::detail(console::bad(&format!("life {}: {fault}", life.round)));
            }
        }
        for refusal in self.refusals.iter().filter(|refusal| !refusal.is_right()) {
            console::detail(console::bad(&format!("{refusal:?}")));
        }
        report::print_checks(&self.checks);
    }
}

/// Counts the lives whose word was answered once, in that life or in the next.
fn answered(lives: &[Life]) -> u64 {
    let pongs = || lives.iter().flat_map(|life| &life.pongs);
    let is_answered =
        |life: &&Life| pongs().filter(|it| **it == u64::from(life.round)).count() == 1;
    lives.iter().filter(is_answered).count() as u64
}

/// Checks that no line is missing, and no count has shrunk from one line to the next.
fn of_lines(all: &[Counts]) -> Vec<Check> {
    let pairs = || all.iter().zip(all.iter().skip(1));
    let shrunk = |a: &Counts, b: &Counts| {
        let counts = |it: &Counts| [it.ms, it.ticks, it.pings, it.random];
        let mut of_witness = counts(a).into_iter().zip(counts(b));
        let mut of_kernel = KINDS
            .iter()
            .map(|kind| (a.taken.of(kind), b.taken.of(kind)));
        of_witness.any(|(a, b)| b < a) || of_kernel.any(|(a, b)| b < a)
    };
    vec![
        Check::equal(
            "lines that do not follow the one before",
            pairs().filter(|(a, b)| a.n + 1 != b.n).count() as u64,
            0,
            "output was lost, or came twice",
        ),
        Check::equal(
            "lines with a count that has shrunk",
            pairs().filter(|(a, b)| shrunk(a, b)).count() as u64,
            0,
            "the guest was set back",
        ),
        Check::within(
            "longest time from a tick's deadline to the tick in us",
            all.iter().map(|counts| counts.late_us).max().unwrap_or(0),
            1,
            LATEST_US,
            "a timer was lost for long",
        ),
    ]
}

/// Checks that the guest's clock has gone on, and has stood still while no machine ran.
fn of_clock(lives: &[Life], last: Counts) -> Vec<Check> {
    let wall: u64 = lives.iter().map(|life| life.wall_ms).sum();
    let ends = lives.iter().zip(lives.iter().skip(1));
    let gaps = ends.filter_map(|(before, after)| {
        let (before, after) = (before.counts.last()?, after.counts.first()?);
        Some(after.ms.saturating_sub(before.ms))
    });
    vec![
        Check::within(
            "longest time that a save lies in, in ms of the guest",
            gaps.max().unwrap_or(0),
            1,
            LONGEST_GAP_MS,
            "the guest's clock has jumped",
        ),
        Check::within(
            "ms of the guest, at most those of all machines",
            last.ms,
            1,
            wall,
            "the guest's clock has jumped",
        ),
    ]
}

/// Checks the accounts of each life's hypervisor.
fn of_accounts(lives: &[Life]) -> Vec<Check> {
    let all = || lives.iter().filter_map(|life| life.hypervisor.as_ref());
    let balances = |counters: &&Counters| {
        let of_kind = |kind: &&str| {
            let ends = [
                &counters.deliveries,
                &counters.coalesced,
                &counters.withdrawn,
                &counters.pending,
            ];
            let ended: u64 = ends.iter().map(|counts| counts.of(kind)).sum();
            counters.injections.of(kind) == ended
        };
        KINDS.iter().all(of_kind)
            && counters.refs_at_teardown == 0
            && counters.list_gets == counters.list_puts
            && counters.mapping_gets == counters.mapping_puts
            && counters.migration_gets == counters.migration_puts
            && counters.lookup_locks_taken == 0
    };
    vec![Check::equal(
        "lives whose account of interrupts and references balances",
        all().filter(balances).count() as u64,
        lives.len() as u64,
        "an interrupt or a reference was lost",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u64, ms: u64) -> Counts {
        Counts {
            n,
            ms,
            late_us: 1,
            ..Counts::default()
        }
    }

    #[test]
    fn lines_follow_each_other_and_counts_grow() {
        let passed = |all: &[Counts]| of_lines(all).iter().all(|check| check.passed);
        assert!(passed(&[line(1, 5), line(2, 5), line(3, 9)]));
        assert!(!passed(&[line(1, 5), line(3, 9)]), "a line is missing");
        assert!(!passed(&[line(1, 5), line(1, 5)]), "a line came twice");
        assert!(!passed(&[line(1, 5), line(2, 4)]), "the clock was set back");
    }
}
