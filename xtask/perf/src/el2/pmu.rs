//! hyp's own measurement by the CPU's counters, as it runs on a real machine, beside the plugin's
//! counts of a hyp that does not measure.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::build::{self, Programs};
use super::counts::{Counts, Sums};
use super::event::Event;
use super::machine::{Counted, Run};
use super::symbols::Hypervisor;
use super::table;
use xtask::provision::qemu::{self, Qemu};
use xtask::{console, project};

/// The beginning and the end of hyp's report on the console.
const REPORT: (&str, &str) = ("@pmu ", " @end");

/// The largest difference to the plugin's count, in instructions of a round: registers that a path
/// saves around a reading.
const INSTRUCTIONS: f64 = 8.0;

/// The largest difference for each sleep of a CPU: the last instructions of the entry behind the
/// sleep belong to no reading.
const WAKE: f64 = 32.0;

/// The largest difference besides, relative to the plugin's count.
const SHARE: f64 = 0.01;

/// hyp's report.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Report {
    hyp: String,
    midr: String,
    revidr: String,
    ich_vtr: String,
    gicd_iidr: String,
    gicd_typer: String,
    cntfrq: u64,
    cpus: u64,
    /// `whole` or `part`.
    vm: String,
    pmuver: u64,
    unit: String,
    samples: Samples,
    marks: Measured,
    events: Vec<EventReport>,
}

/// The cost of some readings of the counters.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Samples {
    number: u64,
    cycles: u64,
    instructions: u64,
}

/// The sums of an event.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Measured {
    rounds: u64,
    readings: u64,
    /// Readings behind a sleep.
    wakes: u64,
    instructions: u64,
    cycles: u64,
}

/// The measurement of an event.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct EventReport {
    event: String,
    #[serde(flatten)]
    sums: Measured,
    /// Nothing on a CPU without a counter of instructions.
    instructions_each: Option<f64>,
    cycles_each: f64,
}

/// The measurement of an event, beside the plugin's count.
#[derive(Clone, Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    measured: EventReport,
    /// Instructions of a round, as the plugin counts them, if its window is that of the marks.
    counted: Option<f64>,
    /// Instructions of a round, as hyp measures them.
    instructions: f64,
}

/// A run of the guest.
#[derive(Debug, Serialize)]
struct Measurement {
    vm: &'static str,
    report: Report,
    rows: Vec<Row>,
}

/// The outcome of all runs.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    runs: Vec<Measurement>,
}

impl Outcome {
    /// Tells whether the measurements agree with the plugin's counts.
    pub(crate) fn agrees(&self) -> bool {
        let mut rows = self.runs.iter().flat_map(|run| &run.rows);
        rows.all(Row::agrees)
    }
}

impl Report {
    /// Returns the instructions of a round in the plugin's count of the run that hyp has measured,
    /// without hyp's readings.
    fn without_readings(&self, measured: &Measured, counted: &Sums) -> f64 {
        let cost = self.samples.instructions as f64 / self.samples.number.max(1) as f64;
        let marks = &self.marks;
        let readings =
            measured.each(measured.readings + measured.wakes) - marks.each(marks.readings);
        instructions(counted) - readings * cost
    }
}

impl Measured {
    /// Divides a sum by the number of rounds.
    fn each(&self, sum: u64) -> f64 {
        sum as f64 / self.rounds.max(1) as f64
    }
}

/// Returns the instructions of a round.
fn instructions(counted: &Sums) -> f64 {
    counted.each(counted.vgic.instructions + counted.rest.instructions)
}

impl Row {
    /// Tells whether the measurement agrees with the plugin's count.
    fn agrees(&self) -> bool {
        self.counted.is_none_or(|counted| {
            let difference = (self.instructions - counted).abs();
            let sums = &self.measured.sums;
            difference <= INSTRUCTIONS + WAKE * sums.each(sums.wakes) + SHARE * counted
        })
    }
}

/// Machines that the guest's VM has.
#[derive(Clone, Copy, Debug)]
enum Extent {
    Whole,
    Part,
    /// One CPU for two vCPUs.
    OneCpu,
}

impl Extent {
    const ALL: [Self; 3] = [Self::Whole, Self::Part, Self::OneCpu];

    const fn name(self) -> &'static str {
        match self {
            Self::Whole => "the whole machine",
            Self::Part => "a part of the machine",
            Self::OneCpu => "a part with one CPU",
        }
    }

    /// Runs the guest.
    fn run(self, run: &Run<'_>, programs: &Programs) -> Result<Counted> {
        match self {
            Self::Whole => run.under_hyp(programs),
            Self::Part => run.under_hyp_with_a_part(programs),
            Self::OneCpu => run.under_hyp_on_one_cpu(programs),
        }
    }
}

/// Runs the guest under a hyp that measures by itself, and under one that does not. Leaves the
/// images of the first in `reports`.
pub(crate) fn measure(reports: &Path) -> Result<Outcome> {
    let scratch = project::scratch()?;
    let scratch = scratch.path();
    let qemu = qemu::provide()?;
    let programs = build::programs(scratch)?;
    // Without the calls the guest does not know that it has no devices.
    let [whole, one_cpu] = [Extent::Whole, Extent::OneCpu];
    let (whole, _) = count(whole, &qemu, &programs, scratch)?;
    let (one_cpu, _) = count(one_cpu, &qemu, &programs, scratch)?;

    let programs = build::measuring_programs(scratch)?;
    let runs = Extent::ALL.into_iter().map(|extent| {
        let counts = match extent {
            Extent::Whole => Some(&whole),
            Extent::Part => None,
            Extent::OneCpu => Some(&one_cpu),
        };
        let (own_counts, console) = count(extent, &qemu, &programs, scratch)?;
        Measurement::new(extent, &console, counts, &own_counts)
    });
    let runs = runs.collect::<Result<Vec<_>>>()?;
    runs.iter().for_each(Measurement::print);
    keep(&programs, reports)?;
    Ok(Outcome { runs })
}

/// Copies the images of the hypervisor and of the guest, for a real machine.
fn keep(programs: &Programs, reports: &Path) -> Result<()> {
    fs::create_dir_all(reports)?;
    for (image, name) in [
        (&programs.hyp, "pmu-hyp.img"),
        (&programs.guest, "pmu-guest.bin"),
    ] {
        let path = reports.join(name);
        fs::copy(image, &path).with_context(|| format!("cannot write {}", path.display()))?;
        console::detail(format!("image {}", path.display()));
    }
    Ok(())
}

/// Runs the guest. Returns the plugin's counts, and the lines of the console.
fn count(
    extent: Extent,
    qemu: &Qemu,
    programs: &Programs,
    scratch: &Path,
) -> Result<(Counts, Vec<String>)> {
    console::step(format!("Running the guest with {}", extent.name()));
    let hypervisor = Hypervisor::load(&programs.hyp_elf)?;
    let run = Run::new(qemu, &programs.plugin, scratch);
    fs::write(run.map(), hypervisor.code_map()?).context("cannot write the map of the code")?;
    let counted = extent.run(&run, programs)?;
    let counts = Counts::read_some(&counted.counts, &hypervisor);
    Ok((counts.context("the plugin's counts")?, counted.console))
}

impl Measurement {
    /// Reads hyp's report from the console of a run. `own_counts` are the plugin's of this run,
    /// `counts` those under a hyp that does not measure, if there was such a run.
    fn new(
        extent: Extent,
        console: &[String],
        counts: Option<&Counts>,
        own_counts: &Counts,
    ) -> Result<Self> {
        let report = report(console)?;
        let rows = report.events.iter().map(|measured| {
            let mut events = Event::ALL.into_iter();
            let event = events.find(|event| event.keyword() == measured.event);
            let event = event.with_context(|| format!("unknown event {}", measured.event))?;
            let own = own_counts.of(event);
            ensure!(
                own.rounds == measured.sums.rounds,
                "{event:?}: {} rounds are marked, and {} counted",
                measured.sums.rounds,
                own.rounds
            );
            let counted = match event {
                // The emulator runs one CPU at a time: without marks, the vCPU that was woken goes
                // to sleep again before the other one ends the event.
                Event::SgiWaiting | Event::SgiAsleep | Event::MsiWaiting => {
                    Some(report.without_readings(&measured.sums, own))
                }
                // The mark's exit, which the plugin does not count, ends the interrupt.
                Event::SgiSelf | Event::Timer if counts.is_none() => None,
                _ => Some(match counts {
                    Some(counts) => instructions(counts.of(event)),
                    None => report.without_readings(&measured.sums, own),
                }),
            };
            let instructions =
                (measured.instructions_each).context("no counter of instructions")?;
            Ok(Row {
                measured: measured.clone(),
                counted,
                instructions,
            })
        });
        let rows = rows.collect::<Result<_>>()?;
        let vm = extent.name();
        Ok(Self { vm, report, rows })
    }

    /// Prints the measurement.
    fn print(&self) {
        let Report {
            midr, unit, cpus, ..
        } = &self.report;
        console::step(format!(
            "{}: MIDR_EL1 {midr}, {cpus} CPUs, without readings and marks",
            self.vm
        ));
        console::detail(format!(
            "{:<30} {unit:>9} {:>9} {:>9}",
            "at EL2, for one event", "instr", "counted"
        ));
        for row in &self.rows {
            let mut named = Event::ALL.into_iter();
            let named = named.find(|event| event.keyword() == row.measured.event);
            console::detail(format!(
                "{:<30} {:>9.1} {:>9.1} {:>9} {}",
                named.map_or("", table::name),
                row.measured.cycles_each,
                row.instructions,
                (row.counted).map_or("-".to_owned(), |counted| format!("{counted:.1}")),
                if row.agrees() { "" } else { "differs" }
            ));
        }
    }
}

/// Finds hyp's report among the lines of the console.
fn report(console: &[String]) -> Result<Report> {
    let json = |line: &String| {
        let (_, json) = line.split_once(REPORT.0)?;
        Some(json.strip_suffix(REPORT.1)?.to_owned())
    };
    let json = console
        .iter()
        .find_map(json)
        .context("hyp reports nothing")?;
    serde_json::from_str(&json).with_context(|| format!("hyp's report: {json}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"@pmu {"hyp":"0.1.0","midr":"0x413fd0c1","revidr":"0x0",
        "ich_vtr":"0x90b80003","gicd_iidr":"0x43b","gicd_typer":"0x37a0008",
        "cntfrq":1000000000,"cpus":4,"vm":"whole","pmuver":4,"unit":"cycles",
        "samples":{"number":1000,"cycles":40000,"instructions":40000},
        "marks":{"rounds":100,"readings":400,"wakes":0,"instructions":9,"cycles":9},
        "events":[{"event":"read","rounds":10,"readings":50,"wakes":10,"instructions":1,
        "cycles":1,"instructions_each":290.0,"cycles_each":310.5}]} @end"#;

    #[test]
    fn the_report_is_found_and_read() {
        let lines = ["hyp: guest", EXAMPLE].map(str::to_owned);
        let report = report(&lines).unwrap();
        assert_eq!(report.events[0].sums.wakes, 10);
        assert!(super::report(&lines[..1]).is_err());
        let cut = EXAMPLE.trim_end_matches(REPORT.1).to_owned();
        assert!(super::report(&[cut]).is_err());
    }

    #[test]
    fn readings_are_taken_from_the_plugins_count_of_a_measured_run() {
        let report = report(&[EXAMPLE.to_owned()]).unwrap();
        let mut counted = Sums {
            rounds: 10,
            ..Sums::default()
        };
        counted.rest.instructions = 3700;
        // Two readings of 40 instructions more than the marks have.
        let without = report.without_readings(&report.events[0].sums, &counted);
        assert_eq!(without, 290.0);
    }

    #[test]
    fn a_measurement_agrees_if_it_is_near_the_count() {
        let report = report(&[EXAMPLE.to_owned()]).unwrap();
        let agrees = |counted| {
            let measured = report.events[0].clone();
            let instructions = 290.0;
            Row {
                measured,
                counted,
                instructions,
            }
            .agrees()
        };
        assert!([290.0, 248.0, 330.0].map(Some).into_iter().all(agrees));
        assert!(!agrees(Some(246.0)) && !agrees(Some(334.0)) && agrees(None));
    }
}
