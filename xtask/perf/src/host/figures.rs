//! Times, rates, counts and sizes of `perf-host figures`, held against the targets.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::peers::Peers;
use xtask::console::{self, bad, good};
use xtask::instructions;
use xtask::process::{self, Show};

/// Bytes of something.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) what: String,
    pub(crate) bytes: f64,
}

/// Rates of a load, in operations per second of the threads' CPU time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rates {
    pub(crate) threads: u32,
    pub(crate) accepted: f64,
    #[serde(default)]
    pub(crate) delivered: f64,
}

impl Rates {
    /// Works out one thread's nanoseconds for one operation.
    pub(crate) fn nanoseconds(&self) -> f64 {
        f64::from(self.threads) * 1e9 / self.accepted
    }
}

/// The program's figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) threads: usize,
    pub(crate) counts: BTreeMap<String, f64>,
    pub(crate) memory: Vec<Size>,
    /// Nanoseconds, the best of many.
    pub(crate) operations: BTreeMap<String, f64>,
    pub(crate) loads: BTreeMap<String, Rates>,
    /// Costs of loads that ran in turns, under the name `ONE to OTHER`.
    pub(crate) pairs: BTreeMap<String, Pair>,
}

/// The cost of one load relative to another's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// The median of many.
    pub(crate) ratio: f64,
    /// The interval that holds the median with a confidence of 95 %.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// The medians of both loads.
    pub(crate) nanoseconds: [f64; 2],
    /// The medians of the operations accepted for one delivered, 0 without a delivery.
    #[serde(default)]
    pub(crate) accepted_for_one: [f64; 2],
    /// The number of pairs.
    pub(crate) pairs: u32,
    /// True if the machine was too busy for threads that run at once.
    pub(crate) disturbed: bool,
}

/// A target and the figure that is held against it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) target: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

/// The section of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) figures: Figures,
    pub(crate) targets: Vec<Target>,
}

/// Measures for about `seconds` with up to `threads` threads of a kind.
pub(crate) fn measure(threads: usize, seconds: u64) -> Result<Figures> {
    let program = instructions::program()?;
    console::step(format!("Timing operations and loads, about {seconds} s"));
    let mut command = Command::new(program);
    command.args(["figures", &threads.to_string(), &seconds.to_string()]);
    let printed = process::run(&mut command, Show::OnFailure)?;
    serde_json::from_str(&printed).context("the figures")
}

/// Holds the figures against the targets.
pub(crate) fn judge(figures: Figures, peers: Option<&Peers>) -> Outcome {
    let mut targets = Targets {
        figures: &figures,
        rows: Vec::new(),
    };
    targets.all(peers);
    let targets = targets.rows;
    print(&targets);
    Outcome { figures, targets }
}

/// Prints the targets.
fn print(targets: &[Target]) {
    for target in targets {
        let verdict = if target.met {
            good("met")
        } else {
            bad("missed")
        };
        console::say(&format!(
            "{:<66} {:<14} {:<36} {verdict}",
            target.what, target.target, target.measured
        ));
    }
}

/// The targets, as far as they are judged.
struct Targets<'a> {
    figures: &'a Figures,
    rows: Vec<Target>,
}

impl Targets<'_> {
    /// Returns the nanoseconds of an operation.
    fn operation(&self, name: &str) -> Option<f64> {
        self.figures.operations.get(name).copied()
    }

    /// Returns the rates of a load.
    fn rates(&self, name: &str) -> Option<&Rates> {
        self.figures.loads.get(name)
    }

    /// Judges a figure that is to be at most `limit`; a missing figure is a target that is not met.
    fn at_most(&mut self, what: &str, measured: Option<f64>, limit: f64, unit: &str) {
        self.row(what, "<=", measured, limit, unit, |measured| {
            measured <= limit
        });
    }

    /// Judges a figure that is to be at least `limit`.
    fn at_least(&mut self, what: &str, measured: Option<f64>, limit: f64, unit: &str) {
        self.row(what, ">=", measured, limit, unit, |measured| {
            measured >= limit
        });
    }

    /// Adds the verdict on a figure.
    fn row(
        &mut self,
        what: &str,
        sign: &str,
        measured: Option<f64>,
        limit: f64,
        unit: &str,
        met: impl Fn(f64) -> bool,
    ) {
        self.rows.push(Target {
            what: what.to_owned(),
            target: format!("{sign} {limit}{unit}"),
            measured: measured.map_or("not measured".to_owned(), |measured| {
                format!("{:.2}{unit}", measured + 0.0)
            }),
            met: measured.is_some_and(met),
        });
    }

    /// Judges every target.
    fn all(&mut self, peers: Option<&Peers>) {
        for (what, count, limit) in [
            ("ICH accesses, nothing pending", "ich_nothing_pending", 0.0),
            (
                "ICH accesses, same registers on re-entry",
                "ich_same_registers",
                1.0,
            ),
            (
                "ICH accesses, one new interrupt, until it is folded",
                "ich_one_new",
                3.0,
            ),
            (
                "inject_msi of a queued LPI: locks taken",
                "locks_of_a_queued_msi",
                0.0,
            ),
        ] {
            let measured = self.figures.counts.get(count).copied();
            self.at_most(what, measured, limit, "");
        }
        let more = self.difference(
            "lpi_lookup/64k/borrowed/radix/1_threads",
            "lpi_lookup/64k/borrowed/two_loads/1_threads",
        );
        self.at_most(
            "lpi_lookup borrowed, 64k LPIs: more than two dependent loads",
            more,
            3.0,
            " ns",
        );
        self.scaling(
            "lpi_lookup borrowed: 2 threads against 1",
            "lpi_lookup/64k/borrowed/radix",
        );
        self.scaling(
            "inject_msi of a queued LPI: 2 threads against 1",
            "inject_msi/pending/to_distinct_vcpus",
        );
        if let Some(peers) = peers {
            let ratio = peers.ratio("inject_msi/pending/to_distinct_vcpus/2_threads");
            self.at_least(
                "inject_msi, 2 threads, distinct vCPUs: arm_vgic's ns to ours",
                ratio,
                5.0,
                " x",
            );
        }
        self.pair(
            "lpi_stress accepted, per thread: 1/1/1's ns to 16/16/16's",
            "lpi_stress/1/1/1/spread to lpi_stress/16/16/16/spread",
            1.0,
        );
        let ratio = self.ratio("vcpu_enter/10000", "vcpu_enter/5");
        self.at_most("vcpu_enter: 10000 pending to 5", ratio, 1.2, " x");
        self.pair(
            "inject_msi during a MOVI storm on other LPIs, to without",
            "inject_msi/pending/while_moving/1_threads \
             to inject_msi/pending/to_distinct_vcpus/1_threads",
            1.2,
        );
        let ratio = self.ratio("sgi_unicast/last_of_4095", "sgi_unicast/first_of_4095");
        self.at_most(
            "SGI to the last of 4,095 vCPUs, to the first",
            ratio,
            1.1,
            " x",
        );
        let ratio = self.ratio("sgi/broadcast/512", "sgi/unicast/each_of_512");
        self.at_most(
            "SGI broadcast to 512 vCPUs: cost of a target to unicast's",
            ratio,
            1.2,
            " x",
        );
        let mapped = self.figures.memory.first().map(|size| size.bytes);
        self.at_most("a mapped LPI, all in", mapped, 128.0, " bytes");
    }

    /// Divides the nanoseconds of two operations.
    fn ratio(&self, one: &str, other: &str) -> Option<f64> {
        Some(self.operation(one)? / self.operation(other)?)
    }

    /// Subtracts the nanoseconds of two loads.
    fn difference(&self, one: &str, other: &str) -> Option<f64> {
        Some(self.rates(one)?.nanoseconds() - self.rates(other)?.nanoseconds())
    }

    /// Judges the work of two threads relative to that of one, of loads that ran in turns.
    fn scaling(&mut self, what: &str, load: &str) {
        let name = format!("{load}/2_threads to {load}/1_threads");
        let scaled = self.figures.pairs.get(&name).map(|&pair| Pair {
            ratio: 2.0 / pair.ratio,
            low: 2.0 / pair.high,
            high: 2.0 / pair.low,
            ..pair
        });
        // Met if the interval that holds the median reaches the limit.
        self.spread(what, ">=", scaled, 1.9, |pair| pair.high >= 1.9);
    }

    /// Judges a relative cost of one load that is to be at most `limit`.
    fn pair(&mut self, what: &str, name: &str, limit: f64) {
        let pair = self.figures.pairs.get(name).copied();
        self.spread(what, "<=", pair, limit, |pair| pair.low <= limit);
    }

    /// Adds the verdict on a pair.
    fn spread(
        &mut self,
        what: &str,
        sign: &str,
        pair: Option<Pair>,
        limit: f64,
        met: impl Fn(Pair) -> bool,
    ) {
        self.rows.push(Target {
            what: what.to_owned(),
            target: format!("{sign} {limit} x"),
            measured: pair.map_or("not measured".to_owned(), |pair| pair.text()),
            met: pair.is_some_and(met),
        });
    }
}

impl Pair {
    /// Formats the ratio with its interval.
    fn text(&self) -> String {
        let Self {
            ratio, low, high, ..
        } = self;
        let busy = if self.disturbed { ", busy machine" } else { "" };
        format!("{ratio:.2} x ({low:.2} to {high:.2}{busy})")
    }
}

impl Outcome {
    /// Tells whether every target is met.
    pub(crate) fn met(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(low: f64, ratio: f64, high: f64) -> Vec<Target> {
        let pair = Pair {
            ratio,
            low,
            high,
            nanoseconds: [ratio, 1.0],
            accepted_for_one: [20.0, 0.0],
            pairs: 20,
            disturbed: false,
        };
        let stress = "lpi_stress/1/1/1/spread to lpi_stress/16/16/16/spread";
        let pairs = [stress, "a/2_threads to a/1_threads"];
        let figures = Figures {
            threads: 2,
            counts: BTreeMap::new(),
            memory: Vec::new(),
            operations: BTreeMap::new(),
            loads: BTreeMap::new(),
            pairs: pairs.map(|name| (name.to_owned(), pair)).into(),
        };
        let mut targets = Targets {
            figures: &figures,
            rows: Vec::new(),
        };
        targets.scaling("a", "a");
        targets.all(None);
        targets.rows
    }

    fn row(rows: &[Target], what: &str) -> Target {
        let named = rows.iter().find(|row| row.what.starts_with(what));
        named.expect("judged").clone()
    }

    #[test]
    fn a_ratio_is_missed_when_all_of_its_spread_is_beyond_the_limit() {
        let stress = |low, ratio, high| row(&judged(low, ratio, high), "lpi_stress");
        assert!(stress(0.9, 0.95, 1.0).met);
        assert!(stress(0.98, 1.03, 1.05).met);
        assert!(!stress(1.01, 1.03, 1.05).met);
        assert_eq!(stress(0.98, 1.03, 1.05).measured, "1.03 x (0.98 to 1.05)");
    }

    #[test]
    fn two_threads_are_to_do_twice_as_much() {
        assert!(judged(0.99, 1.0, 1.01)[0].met);
        assert!(!judged(1.08, 1.1, 1.2)[0].met);
        assert_eq!(judged(1.0, 1.0, 1.25)[0].measured, "2.00 x (1.60 to 2.00)");
    }

    #[test]
    fn a_figure_that_is_missing_is_not_met() {
        let row = row(&judged(1.0, 1.0, 1.0), "inject_msi during");
        assert_eq!((row.met, row.measured.as_str()), (false, "not measured"));
    }
}
