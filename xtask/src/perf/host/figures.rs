//! Times, rates, counts and sizes of `perf-host figures`, held against the targets.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::console::{self, bad, good};
use crate::perf::peers::Peers;
use crate::process::{self, Show};

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
    /// Nanoseconds of one thread for one operation.
    pub(crate) fn nanoseconds(&self) -> f64 {
        f64::from(self.threads) * 1e9 / self.accepted
    }
}

/// What the program printed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) threads: usize,
    pub(crate) counts: BTreeMap<String, f64>,
    pub(crate) memory: Vec<Size>,
    /// Nanoseconds, the best of many.
    pub(crate) operations: BTreeMap<String, f64>,
    pub(crate) loads: BTreeMap<String, Rates>,
}

/// A target and what was measured.
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
    let program = super::program()?;
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

fn print(targets: &[Target]) {
    for target in targets {
        let verdict = if target.met {
            good("met")
        } else {
            bad("missed")
        };
        console::say(&format!(
            "{:<66} {:<14} {:<24} {verdict}",
            target.what, target.target, target.measured
        ));
    }
}

struct Targets<'a> {
    figures: &'a Figures,
    rows: Vec<Target>,
}

impl Targets<'_> {
    fn operation(&self, name: &str) -> Option<f64> {
        self.figures.operations.get(name).copied()
    }

    fn rates(&self, name: &str) -> Option<&Rates> {
        self.figures.loads.get(name)
    }

    /// `measured` is to be at most `limit`; what was not measured is not met.
    fn at_most(&mut self, what: &str, measured: Option<f64>, limit: f64, unit: &str) {
        self.row(what, "<=", measured, limit, unit, |measured| {
            measured <= limit
        });
    }

    fn at_least(&mut self, what: &str, measured: Option<f64>, limit: f64, unit: &str) {
        self.row(what, ">=", measured, limit, unit, |measured| {
            measured >= limit
        });
    }

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
        let scaling = self.scaling("lpi_lookup/64k/borrowed/radix");
        self.at_least(
            "lpi_lookup borrowed: 2 threads against 1",
            scaling,
            1.9,
            " x",
        );
        let scaling = self.scaling("inject_msi/pending/to_distinct_vcpus");
        self.at_least(
            "inject_msi of a queued LPI: 2 threads against 1",
            scaling,
            1.9,
            " x",
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
        let small = per_time(self.rates("lpi_stress/1/1/1/spread"));
        let large = per_time(self.rates("lpi_stress/16/16/16/spread"));
        let ratio = small.zip(large).map(|(small, large)| small / large);
        self.at_most(
            "lpi_stress accepted, per thread: 1/1/1's ns to 16/16/16's",
            ratio,
            1.0,
            " x",
        );
        let ratio = self.ratio("vcpu_enter/10000", "vcpu_enter/5");
        self.at_most("vcpu_enter: 10000 pending to 5", ratio, 1.2, " x");
        let storm = per_time(self.rates("inject_msi/pending/while_moving/1_threads"));
        let calm = per_time(self.rates("inject_msi/pending/to_distinct_vcpus/1_threads"));
        let ratio = storm.zip(calm).map(|(storm, calm)| storm / calm);
        self.at_most(
            "inject_msi during a MOVI storm on other LPIs, to without",
            ratio,
            1.2,
            " x",
        );
        let ratio = self.ratio("sgi_unicast/last_of_512", "sgi_unicast/first_of_512");
        self.at_most(
            "SGI to the last of 512 vCPUs, to the first",
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

    fn ratio(&self, one: &str, other: &str) -> Option<f64> {
        Some(self.operation(one)? / self.operation(other)?)
    }

    fn difference(&self, one: &str, other: &str) -> Option<f64> {
        Some(self.rates(one)?.nanoseconds() - self.rates(other)?.nanoseconds())
    }

    fn scaling(&self, load: &str) -> Option<f64> {
        let one = self.rates(&format!("{load}/1_threads"))?;
        let two = self.rates(&format!("{load}/2_threads"))?;
        Some(two.accepted / one.accepted)
    }
}

fn per_time(rates: Option<&Rates>) -> Option<f64> {
    rates.map(Rates::nanoseconds)
}

impl Outcome {
    /// Whether every target is met.
    pub(crate) fn met(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }
}
