//! `cargo xtask perf`: measures, and holds the figures against their targets.
//!
//! Each part is a module of its own and writes one section of `perf.json`:
//! * [`host`]: the library's cost on this machine, in time and memory;
//! * [`xtask::instructions`]: its cost in instructions, held against a committed table;
//! * [`peers`]: the cost of an MSI beside another published virtual GIC's;
//! * [`el2`]: the instructions of an exit at EL2, beside Linux KVM's;
//! * [`lines`]: the cache lines that CPUs fetch from each other at EL2, beside Linux KVM's.
//!
//! [`report`] keeps `perf.json`, [`results`] sums a run up in `perf/RESULTS.md`, [`page`] draws it
//! with [`curves`]; [`machine`] is the machine that it was measured on.

mod curves;
mod el2;
mod host;
mod lines;
mod machine;
mod page;
mod peers;
mod report;
mod results;

use std::path::Path;
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use clap::{ArgGroup, Parser};
use xtask::{instructions, project};

use host::{counters, figures};
use machine::Machine;
use peers::Peers;

/// Widest help, in columns, as of the other tasks.
const COLUMNS: usize = 80;

const AFTER_HELP: &str = "\
The figures go to the terminal, to target/reports/perf.json and perf.html, and
the summary to perf/RESULTS.md. The comparison with KVM also goes to
docs/performance.md, docs/direct.md, perf/el2.svg and perf/lines-*.svg. The
exit status is 0 only if every target that was measured is met, and no count of
--lines exceeds perf/lines.json.

Examples:
  cargo xtask perf                     everything
  cargo xtask perf --host --threads 64 times and rates on this machine, with
                                       scaling curves
  cargo xtask perf --instructions      instruction counts against
                                       perf/instructions.json
  cargo xtask perf --instructions --update
                                       a new table, after a change that is meant
  cargo xtask perf --peers             the same work by vgic and by arm_vgic
  cargo xtask perf --counters          by perf stat and perf c2c, or else by
                                       callgrind
  cargo xtask perf --el2               instructions at EL2 of each kind of exit,
                                       under hyp
  cargo xtask perf --el2 --kvm         those beside Linux KVM's, with the ratios
  cargo xtask perf --el2 --kvm --gic 4 those of MSIs through list registers and
                                       with direct injection, in pairs
  cargo xtask perf --el2 --pmu         those that hyp measures by itself
  cargo xtask perf --el2 --profile sgi-self
                                       the functions that an event's
                                       instructions are in, and
                                       target/reports/el2-sgi-self.txt: each of
                                       them
  cargo xtask perf --el2 --profile     those of every event
  cargo xtask perf --el2 --known       the counts of a program of known calls
  cargo xtask perf --lines             cache lines between CPUs at EL2 by hyp,
                                       against perf/lines.json
  cargo xtask perf --lines --kvm --cpus 2,4
                                       those beside Linux KVM's";

/// Measure, hold the figures against their targets, and write perf/RESULTS.md.
#[derive(Clone, Debug, Parser)]
#[command(name = "perf", bin_name = "cargo xtask perf")]
#[command(max_term_width = COLUMNS, after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("tabled").args(["instructions", "lines"]).multiple(true)))]
#[command(group(ArgGroup::new("emulated").args(["el2", "lines"]).multiple(true)))]
struct PerfOptions {
    /// Time the library's operations and loads on this machine
    #[arg(long)]
    pub(crate) host: bool,

    /// Count the instructions of its operations by callgrind
    #[arg(long)]
    pub(crate) instructions: bool,

    /// With --instructions or --lines: write the committed table anew
    #[arg(long, requires = "tabled")]
    pub(crate) update: bool,

    /// Compare with another published virtual GIC in the same run
    #[arg(long)]
    pub(crate) peers: bool,

    /// Count cycles, instructions and transfers of cache lines by the CPU's own counters
    #[arg(long)]
    pub(crate) counters: bool,

    /// Threads of a kind, at most [default: this machine's CPUs, at least 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) threads: Option<u16>,

    /// How long to time, for each of --host and --peers
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) seconds: u64,

    /// Count instructions at EL2 on an emulated machine
    #[arg(long)]
    pub(crate) el2: bool,

    /// Count cache lines that CPUs fetch from each other at EL2 on an emulated machine
    #[arg(long)]
    pub(crate) lines: bool,

    /// With --lines: numbers of CPUs
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = lines::CPUS)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) cpus: Vec<u16>,

    /// With --lines: give each emulated CPU a thread, so that CPUs interleave at any instruction;
    /// show the counts, which vary, and judge and write nothing
    #[arg(long, requires = "lines", conflicts_with = "update")]
    pub(crate) interleaved: bool,

    /// With --el2 or --lines: count under Linux KVM too, and compare
    #[arg(long, requires = "emulated")]
    pub(crate) kvm: bool,

    /// With --el2: instead, count a program of known calls, and hold the counts against its source
    #[arg(long, requires = "el2", conflicts_with_all = ["kvm", "profile"])]
    pub(crate) known: bool,

    /// With --el2: measure by hyp itself, with the CPU's counters, as on a real machine, and
    /// compare with the instructions that were counted
    #[arg(long, requires = "el2", conflicts_with_all = ["kvm", "profile", "known"])]
    pub(crate) pmu: bool,

    /// With --el2: the GIC of the machine, 3, or 4 for pairs of MSIs through list registers and
    /// with direct injection
    #[arg(long, requires = "el2", default_value_t = 3)]
    #[arg(conflicts_with_all = ["known", "pmu"])]
    #[arg(value_parser = clap::value_parser!(u8).range(3..=4))]
    pub(crate) gic: u8,

    /// With --el2: also list the functions that the instructions of an event are in, or of every
    /// event, and leave perf/RESULTS.md as it is
    #[arg(long, requires = "el2", value_name = "EVENT")]
    pub(crate) profile: Option<Option<el2::Event>>,
}

impl PerfOptions {
    /// Tells whether no part was named, which means every part.
    fn everything(&self) -> bool {
        let counted = self.instructions || self.el2 || self.lines;
        !(counted || self.host || self.peers || self.counters)
    }

    /// Returns what to count lines of.
    fn lines(&self) -> lines::LinesOptions {
        lines::LinesOptions {
            cpus: self.cpus.clone(),
            kvm: self.kvm || self.everything(),
            interleaved: self.interleaved,
            update: self.update && self.lines,
        }
    }

    /// Returns the largest number of threads of a kind.
    fn threads(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => thread::available_parallelism().map_or(2, |cpus| cpus.get().max(2)),
        }
    }
}

/// The outcomes of the parts that a run has measured.
struct Run {
    machine: Machine,
    host: Option<figures::Outcome>,
    peers: Option<Peers>,
    el2: Option<el2::table::Outcome>,
    direct: Option<el2::direct::Outcome>,
    lines: Option<lines::table::Outcome>,
    instructions: Option<instructions::Outcome>,
    counters: Option<counters::Outcome>,
}

fn main() -> ExitCode {
    let options = PerfOptions::parse();
    xtask::finish(|| perf(&options, &project::reports()))
}

/// Measures the parts that the options name, and tells whether all targets are met.
fn perf(options: &PerfOptions, reports: &Path) -> Result<bool> {
    if options.known {
        return el2::known::check();
    }
    let everything = options.everything();
    let threads = options.threads();
    let mut met = true;
    let mut run = Run {
        machine: Machine::here(),
        host: None,
        peers: None,
        el2: None,
        direct: None,
        lines: None,
        instructions: None,
        counters: None,
    };

    if options.instructions || everything {
        let outcome = instructions::check(options.update)?;
        report::write_section(reports, "instructions", &run.machine, &outcome)?;
        met &= outcome.regressed() == 0;
        run.instructions = Some(outcome);
    }
    if options.peers || everything {
        let peers = peers::measure(threads, options.seconds)?;
        report::write_section(reports, "peers", &run.machine, &peers)?;
        run.peers = Some(peers);
    }
    if options.host || everything {
        let figures = figures::measure(threads, options.seconds)?;
        let outcome = figures::judge(figures, run.peers.as_ref());
        report::write_section(reports, "host", &run.machine, &outcome)?;
        met &= outcome.met();
        run.host = Some(outcome);
    }
    if options.counters || everything {
        let counters = counters::drive(threads, run.instructions.as_ref(), reports)?;
        report::write_section(reports, "hardware_counters", &run.machine, &counters)?;
        run.counters = Some(counters);
    }
    if options.pmu {
        let outcome = el2::measure_by_pmu(reports)?;
        report::write_section(reports, "el2_by_pmu", &run.machine, &outcome)?;
        return Ok(met && outcome.agrees());
    }
    if options.gic == 4 || everything {
        let outcome = el2::direct::measure(options.kvm || everything, options.profile, reports)?;
        met &= outcome.met();
        if options.profile.is_some() {
            return Ok(met);
        }
        report::write_section(reports, "el2_direct", &run.machine, &outcome)?;
        run.direct = Some(outcome);
    }
    if options.el2 && options.gic == 3 || everything {
        let compare = options.kvm || everything;
        let outcome = el2::measure(compare, options.profile, reports)?;
        met &= outcome.met();
        if options.profile.is_some() {
            return Ok(met);
        }
        let name = if compare { "el2" } else { "el2_without_kvm" };
        report::write_section(reports, name, &run.machine, &outcome)?;
        run.el2 = Some(outcome);
    }
    if options.lines || everything {
        let lines = lines::measure(&options.lines(), reports)?;
        if options.interleaved {
            return Ok(met);
        }
        let name = if lines.kvm.is_some() {
            "lines"
        } else {
            "lines_without_kvm"
        };
        report::write_section(reports, name, &run.machine, &lines)?;
        met &= lines.regressed.is_empty();
        run.lines = Some(lines);
    }

    results::write(&run)?;
    page::write(reports)?;
    if let Some(outcome) = run.el2.as_ref().filter(|el2| el2.kvm.is_some()) {
        el2::summary::publish(outcome)?;
    }
    if let Some(outcome) = run.direct.as_ref().filter(|direct| direct.kvm.is_some()) {
        el2::direct::publish(outcome)?;
    }
    if let Some(outcome) = run.lines.as_ref().filter(|lines| lines.kvm.is_some()) {
        lines::summary::publish(outcome)?;
    }
    Ok(met)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_help_fits_the_columns() {
        let mut command = PerfOptions::command();
        let helps = [
            command.render_help().to_string(),
            command.render_long_help().to_string(),
            AFTER_HELP.to_owned(),
        ];
        for line in helps.iter().flat_map(|help| help.lines()) {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }
}
