//! The report of the measurement: a table for readers, and a line of JSON from `@pmu ` to ` @end`.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{ICH_VTR_EL2, MIDR_EL1, Readable};

use super::counters::{self, Reading};
use super::{ALL, CALIBRATION, Event, MARKS, ROUNDS};
use crate::cpu::clock;
use crate::cpu::registers::REVIDR_EL1;
use crate::{gic, println, vm};

/// Sums of one event over all CPUs.
#[derive(Clone, Copy, Default)]
struct Total {
    rounds: u64,
    samples: u64,
    wakes: u64,
    sum: Reading,
}

/// Cost of measuring.
struct Overhead {
    /// The event with nothing in it.
    marks: Total,
    /// Sums of [`CALIBRATION`] readings.
    samples: Reading,
}

impl Total {
    /// Adds the sums of an event up.
    fn of(event: usize) -> Self {
        let mut total = Self {
            rounds: ROUNDS[event].load(Ordering::Relaxed),
            ..Self::default()
        };
        for cpu in ALL.get().into_iter().flatten() {
            let sum = &cpu.events[event];
            let reading = sum.get();
            total.sum.cycles += reading.cycles;
            total.sum.instructions += reading.instructions;
            total.samples += sum.samples.load(Ordering::Relaxed);
            total.wakes += sum.wakes.load(Ordering::Relaxed);
        }
        total
    }

    /// Returns the instructions of a round, if they are counted.
    fn instructions_each(&self, overhead: &Overhead) -> Tenths {
        Tenths(counters::exist().then(|| self.each(overhead, |sum| sum.instructions)))
    }

    /// Returns the cycles or ticks of a round.
    fn cycles_each(&self, overhead: &Overhead) -> Tenths {
        Tenths(Some(self.each(overhead, |sum| sum.cycles)))
    }

    /// Returns ten times the cost of a round without the overhead. `of` chooses the counter.
    fn each(&self, overhead: &Overhead, of: impl Fn(Reading) -> u64) -> i64 {
        let marks = &overhead.marks;
        let rounds = self.rounds.max(1).cast_signed();
        let share = |sum: u64| sum.cast_signed() * rounds / marks.rounds.max(1).cast_signed();
        let readings = self.samples.cast_signed() - share(marks.samples);
        let reading = of(overhead.samples).cast_signed();
        let sum = of(self.sum).cast_signed() - share(of(marks.sum));
        (10 * sum - 10 * readings * reading / CALIBRATION.cast_signed()) / rounds
    }
}

/// A number of tenths, or none.
struct Tenths(Option<i64>);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tenths) = self.0 else {
            return f.pad("null");
        };
        let sign = if tenths < 0 { "-" } else { "" };
        let tenths = tenths.unsigned_abs();
        // Padded as text: a number with its sign in front.
        f.pad(&format!("{sign}{}.{}", tenths / 10, tenths % 10))
    }
}

/// Prints the report, if the guest has measured anything.
pub(crate) fn print() {
    let marks = Total::of(MARKS);
    if marks.rounds == 0 {
        return;
    }
    let calibration = ALL.get().and_then(|all| all.first());
    let overhead = Overhead {
        marks,
        samples: calibration.map_or(Reading::default(), |cpu| cpu.calibration.get()),
    };
    print_table(&overhead);
    let mut json = String::new();
    let written = write_json(&mut json, &overhead);
    debug_assert!(written.is_ok(), "a string takes what is written");
    println!("@pmu {json} @end");
}

/// Returns the name of the counter that stands for time.
fn unit() -> &'static str {
    if counters::exist() { "cycles" } else { "ticks" }
}

/// Returns the events that were measured.
fn measured() -> impl Iterator<Item = (Event, Total)> {
    let all = Event::ALL.into_iter();
    all.map(|event| (event, Total::of(event as usize)))
        .filter(|(_, total)| total.rounds != 0)
}

fn print_table(overhead: &Overhead) {
    println!(
        "pmu: at EL2, for one event {:>8} {:>9} {:>9}",
        "rounds",
        "instr",
        unit()
    );
    for (event, total) in measured() {
        println!(
            "pmu: {:<22} {:>8} {:>9} {:>9}",
            event.keyword(),
            total.rounds,
            total.instructions_each(overhead),
            total.cycles_each(overhead),
        );
    }
}

/// Writes the report as an object: the machine, the overhead, and each event with its sums and with
/// the cost of a round.
fn write_json(json: &mut String, overhead: &Overhead) -> fmt::Result {
    let [typer, iidr] = gic::get().distributor.identity();
    write!(
        json,
        "{{\"hyp\":\"{}\",\"midr\":\"{:#x}\",\"revidr\":\"{:#x}\",\"ich_vtr\":\"{:#x}\",\
         \"gicd_iidr\":\"{iidr:#x}\",\"gicd_typer\":\"{typer:#x}\",\"cntfrq\":{},\"cpus\":{},\
         \"vm\":\"{}\",\"pmuver\":{},\"unit\":\"{}\"",
        env!("CARGO_PKG_VERSION"),
        MIDR_EL1.get(),
        REVIDR_EL1.get(),
        ICH_VTR_EL2.get(),
        clock::frequency(),
        ALL.get().map_or(0, |all| all.len()),
        if vm::of_machine().is_some() {
            "whole"
        } else {
            "part"
        },
        counters::version(),
        unit(),
    )?;

    let Overhead { marks, samples } = overhead;
    write!(
        json,
        ",\"samples\":{{\"number\":{CALIBRATION},\"cycles\":{},\"instructions\":{}}},\"marks\":{{",
        samples.cycles, samples.instructions
    )?;
    write_sums(json, marks)?;
    write!(json, "}},\"events\":[")?;
    for (place, (event, total)) in measured().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(json, "{comma}{{\"event\":\"{}\",", event.keyword())?;
        write_sums(json, &total)?;
        write!(
            json,
            ",\"instructions_each\":{},\"cycles_each\":{}}}",
            total.instructions_each(overhead),
            total.cycles_each(overhead),
        )?;
    }
    write!(json, "]}}")
}

/// Writes sums, as members of an object.
fn write_sums(json: &mut String, total: &Total) -> fmt::Result {
    write!(
        json,
        "\"rounds\":{},\"readings\":{},\"wakes\":{},\"instructions\":{},\"cycles\":{}",
        total.rounds, total.samples, total.wakes, total.sum.instructions, total.sum.cycles
    )
}
