//! Direct injection beside list registers, on one machine with a GICv4, and beside Linux KVM
//! without virtual PEs, with them, and with direct injection.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::event::Event;
use super::machine::{DIRECT_FLAGS, Delivery, Run};
use super::symbols::{Hypervisor, Kernel};
use super::table::{self, Cost};
use super::{build, profile};
use xtask::console::{self, bad, good};
use xtask::docs;
use xtask::kvm::Host;
use xtask::project;
use xtask::provision::qemu;

/// The part of the instructions by list registers that an MSI to a vCPU in WFI may cost if it is
/// direct.
const SLEEPER: f64 = 1.2;

/// An event with its cost by list registers and with direct injection.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    event: String,
    list_registers: Cost,
    direct: Cost,
    /// KVM's without virtual PEs, with them, and with direct injection.
    kvm: Option<[Cost; 3]>,
    /// True if the limit on the cost is met, if there is one.
    met: Option<bool>,
}

/// The section of the report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    qemu: String,
    flags: String,
    /// The kernel's version, if it was compared with.
    pub(crate) kvm: Option<String>,
    events: Vec<Row>,
}

impl Row {
    fn new(event: Event, ours: &[Counts; 2], theirs: Option<&[Counts; 3]>) -> Self {
        let cost = |counts: &Counts| Cost::of(counts.of(event));
        let [list_registers, direct] = ours.each_ref().map(cost);
        let instructions = |cost: &Cost| cost.all.instructions;
        let limit = match event {
            Event::MsiRunning => Some(0.0),
            Event::MsiWaiting => Some(SLEEPER * instructions(&list_registers)),
            _ => None,
        };
        Self {
            event: table::name(event).to_owned(),
            met: limit.map(|limit| instructions(&direct) <= limit),
            list_registers,
            direct,
            kvm: theirs.map(|theirs| theirs.each_ref().map(cost)),
        }
    }

    /// Returns the instructions in the table's columns.
    fn columns(&self) -> impl Iterator<Item = f64> {
        let ours = [&self.list_registers, &self.direct].into_iter();
        let all = ours.chain(self.kvm.iter().flatten());
        all.map(|cost| cost.all.instructions)
    }
}

impl Outcome {
    fn new(ours: &[Counts; 2], theirs: Option<&[Counts; 3]>, qemu: String) -> Self {
        Self {
            qemu,
            flags: DIRECT_FLAGS.to_owned(),
            kvm: None,
            events: Event::ALL.map(|event| Row::new(event, ours, theirs)).into(),
        }
    }

    /// Tells whether every limit is met.
    pub(crate) fn met(&self) -> bool {
        self.events.iter().all(|row| row.met != Some(false))
    }

    /// Prints the table.
    fn print(&self) {
        let mut head = format!(
            "{:<31} {:>8} {:>8}",
            "at EL2, for one event", "list reg", "direct"
        );
        if self.kvm.is_some() {
            head += &format!(" {:>8} {:>8} {:>8}", "KVM", "vPEs", "direct");
        }
        console::say(&head);
        for row in &self.events {
            let mut line = format!("{:<31}", row.event);
            for instructions in row.columns() {
                let _ = write!(line, " {instructions:>8.0}");
            }
            line += &match row.met {
                None => String::new(),
                Some(true) => format!("  {}", good("met")),
                Some(false) => format!("  {}", bad("missed")),
            };
            console::say(&line);
        }
    }
}

/// Counts under hyp by list registers and with direct injection, and under KVM if `compare` asks
/// for it, and prints the table.
///
/// With `profiled`, also shows the instructions of one event, or of each, by function.
pub(crate) fn measure(
    compare: bool,
    profiled: Option<Option<Event>>,
    reports: &Path,
) -> Result<Outcome> {
    let scratch = project::scratch()?;
    let scratch = scratch.path();
    let qemu = qemu::provide()?;
    let programs = build::programs(scratch)?;
    let run = Run::new(&qemu, &programs.plugin, scratch);

    let hypervisor = Hypervisor::load(&programs.hyp_elf)?;
    fs::write(run.map(), hypervisor.code_map()?).context("cannot write the map of the code")?;
    let count = |delivery: Delivery| {
        console::step(format!(
            "Counting instructions at EL2 under hyp: {delivery}"
        ));
        let counted = run.under_hyp_by(&programs, delivery)?;
        Counts::read(&counted, &hypervisor).context("the plugin's counts")
    };
    let ours = [count(Delivery::ListRegisters)?, count(Delivery::Direct)?];

    let host = match compare {
        true => Some(Host::with_device(&programs.guest, scratch)?),
        false => None,
    };
    let theirs = host.as_ref().map(|host| {
        let count = |delivery: Delivery| {
            let version = &host.kernel.version;
            console::step(format!(
                "Counting instructions at EL2 under KVM of {version}: {delivery}"
            ));
            let counted = run.under_kvm_by(host, delivery)?;
            let map =
                fs::read_to_string(run.map()).context("the client left no map of the code")?;
            Counts::read(&counted, &Kernel::read(&map)).context("the plugin's counts")
        };
        anyhow::Ok([
            count(Delivery::ListRegisters)?,
            count(Delivery::VirtualPe)?,
            count(Delivery::Direct)?,
        ])
    });
    let theirs = theirs.transpose()?;
    let outcome = Outcome {
        kvm: host.map(|host| host.kernel.version),
        ..Outcome::new(&ours, theirs.as_ref(), qemu.version)
    };
    outcome.print();

    for &event in profile::chosen(&profiled) {
        profile::print("hyp, list registers", event, ours[0].of(event));
        profile::print("hyp, direct", event, ours[1].of(event));
        if let Some([list_registers, virtual_pes, direct]) = &theirs {
            profile::print("KVM, list registers", event, list_registers.of(event));
            profile::print("KVM, virtual PEs", event, virtual_pes.of(event));
            profile::print("KVM, direct", event, direct.of(event));
        }
        profile::write_listing(event, ours[1].of(event), &hypervisor, reports)?;
    }
    Ok(outcome)
}

/// Formats the section of `perf/RESULTS.md`.
pub(crate) fn results(outcome: &Outcome) -> String {
    format!(
        "Instructions of one event, on all CPUs together, on QEMU {} with\n`{}`,\nbeside KVM of \
         Linux {}. Under hyp, a device of the machine sends the MSIs on both paths. Under KVM, \
         user space sends them\n(`KVM_SIGNAL_MSI`), first without virtual PEs, then with them \
         (`kvm-arm.vgic_v4_enable=1`). In the last column\na device sends them that VFIO passes \
         through.\n\n{}",
        outcome.qemu,
        outcome.flags,
        outcome.kvm.as_deref().unwrap_or("(not measured)"),
        table(outcome)
    )
}

/// Formats the table.
fn table(outcome: &Outcome) -> String {
    let mut text = "| event | hyp, list registers | hyp, direct | KVM | KVM, virtual PEs \
                    | KVM, direct |\n|---|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for row in &outcome.events {
        let _ = write!(text, "| {} |", row.event);
        for instructions in row.columns() {
            let _ = write!(text, " {instructions:.0} |");
        }
        text += "\n";
    }
    text
}

/// Writes the table into `docs/direct.md`.
pub(crate) fn publish(outcome: &Outcome) -> Result<()> {
    docs::write(
        "docs/direct.md",
        &[("cargo xtask perf --el2 --kvm --gic 4", table(outcome))],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes counts in which each round of every event has this number of instructions.
    fn counts(instructions: u64) -> Counts {
        Counts::of_all(instructions)
    }

    #[test]
    fn a_direct_msi_to_a_sleeper_may_cost_a_fifth_more() {
        let row = |direct| Row::new(Event::MsiWaiting, &[counts(100), counts(direct)], None);
        assert_eq!(
            [120, 121].map(|direct| row(direct).met),
            [Some(true), Some(false)]
        );
        let other = Row::new(Event::SgiAsleep, &[counts(100), counts(900)], None);
        assert_eq!(other.met, None);
    }

    #[test]
    fn a_direct_msi_to_a_running_vcpu_costs_nothing() {
        let row = |direct| Row::new(Event::MsiRunning, &[counts(100), counts(direct)], None);
        assert_eq!(
            [0, 1].map(|direct| row(direct).met),
            [Some(true), Some(false)]
        );
    }

    #[test]
    fn the_table_has_both_paths_of_both_sides() {
        let (ours, theirs) = ([counts(1), counts(2)], [3, 4, 5].map(counts));
        let outcome = Outcome::new(&ours, Some(&theirs), "10".to_owned());
        let text = results(&outcome);
        assert!(
            text.contains("| MSI, to a vCPU in WFI, for long | 1 | 2 | 3 | 4 | 5 |"),
            "{text}"
        );
        assert!(!outcome.met());
    }
}
