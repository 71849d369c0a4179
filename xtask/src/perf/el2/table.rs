//! The comparison, and what it has to show.

use std::cmp::Reverse;

use serde::Serialize;

use super::counts::{Counts, Sums};
use super::event::Event;
use super::machine::FLAGS;
use crate::console::{self, bad, good};

/// Functions of an event that a profile shows.
const PROFILED: usize = 24;

/// What an event is called in reports.
const fn name(event: Event) -> &'static str {
    match event {
        Event::Hypercall => "hypercall, nothing pending",
        Event::Read => "read of a GICD register",
        Event::Enable => "write of GICD_ISENABLER",
        Event::SgiSelf => "SGI to itself",
        Event::SgiRunning => "SGI to a running vCPU",
        Event::Spi => "SPI by ISPENDR on another vCPU",
        Event::Lpi => "LPI by ITS INT on another vCPU",
        Event::SgiWaiting => "SGI to a vCPU in WFI, just now",
        Event::SgiAsleep => "SGI to a vCPU in WFI, for long",
        Event::Timer => "virtual timer, 50 us",
        Event::Msi => "MSI injected by the host",
        Event::MsiRunning => "the same, to a running vCPU",
    }
}

/// Our instructions are to be at most one such part of KVM's.
const fn target(event: Event) -> u32 {
    match event {
        Event::Hypercall => 6,
        Event::Read
        | Event::Enable
        | Event::SgiSelf
        | Event::SgiRunning
        | Event::Spi
        | Event::Lpi => 5,
        Event::SgiWaiting | Event::SgiAsleep | Event::Timer | Event::MsiRunning => 4,
        Event::Msi => 8,
    }
}

/// As [`target`], of the virtual interrupt controllers' functions alone.
const fn vgic_target(event: Event) -> Option<u32> {
    match event {
        Event::SgiSelf | Event::Lpi => Some(3),
        _ => None,
    }
}

/// `ICH_*` accesses that an event may cost us.
const fn ich_limit(event: Event) -> Option<f64> {
    match event {
        Event::Hypercall | Event::Read => Some(0.0),
        Event::SgiSelf => Some(3.0),
        _ => None,
    }
}

/// What one round of an event costs under one hypervisor.
#[derive(Debug, Serialize)]
struct Cost {
    rounds: u64,
    exits: f64,
    instructions: f64,
    vgic_instructions: f64,
    system_registers: f64,
    ich_accesses: f64,
    barriers: f64,
}

impl Cost {
    fn of(sums: &Sums) -> Self {
        Self {
            rounds: sums.rounds,
            exits: sums.each(sums.exits),
            instructions: sums.each(sums.instructions),
            vgic_instructions: sums.each(sums.vgic),
            system_registers: sums.each(sums.system_registers),
            ich_accesses: sums.each(sums.ich),
            barriers: sums.each(sums.barriers),
        }
    }
}

/// One condition.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    met: bool,
}

/// One event.
#[derive(Debug, Serialize)]
struct Row {
    event: &'static str,
    hyp: Cost,
    kvm: Option<Cost>,
    /// KVM's instructions for one of ours.
    ratio: Option<f64>,
    targets: Vec<Target>,
}

/// The section of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    qemu: String,
    flags: &'static str,
    kvm: Option<String>,
    events: Vec<Row>,
}

impl Row {
    fn new(event: Event, ours: &Sums, theirs: Option<&Sums>) -> Self {
        let hyp = Cost::of(ours);
        let kvm = theirs.map(Cost::of);
        let mut targets = Vec::new();
        let mut part_of_kvm = |what: &str, part: u32, ours: f64, theirs: f64| {
            targets.push(Target {
                what: format!("{what} <= 1/{part} of KVM's"),
                met: ours * f64::from(part) <= theirs,
            });
        };
        if let Some(kvm) = &kvm {
            part_of_kvm(
                "instructions",
                target(event),
                hyp.instructions,
                kvm.instructions,
            );
            if let Some(part) = vgic_target(event) {
                let (ours, theirs) = (hyp.vgic_instructions, kvm.vgic_instructions);
                part_of_kvm("vGIC instructions", part, ours, theirs);
            }
        }
        if let Some(limit) = ich_limit(event) {
            targets.push(Target {
                what: format!("ICH accesses <= {limit}"),
                met: hyp.ich_accesses <= limit,
            });
        }
        Self {
            event: name(event),
            ratio: kvm.as_ref().map(|kvm| kvm.instructions / hyp.instructions),
            hyp,
            kvm,
            targets,
        }
    }

    fn print(&self) {
        let Cost {
            exits,
            instructions,
            vgic_instructions,
            system_registers,
            ich_accesses,
            barriers,
            ..
        } = self.hyp;
        let mut line = format!(
            "{:<31} {exits:>5.1} {instructions:>7.0} {vgic_instructions:>6.0} \
             {system_registers:>7.1} {ich_accesses:>5.1} {barriers:>8.1}",
            self.event
        );
        if let (Some(kvm), Some(ratio)) = (&self.kvm, self.ratio) {
            line += &format!(
                " {:>7.0} {:>6.0} {:>5.1} {ratio:>6.1}",
                kvm.instructions, kvm.vgic_instructions, kvm.exits
            );
        }
        let missed: Vec<&str> = (self.targets.iter())
            .filter(|target| !target.met)
            .map(|target| target.what.as_str())
            .collect();
        if self.targets.is_empty() {
        } else if missed.is_empty() {
            line += &format!("  {}", good("met"));
        } else {
            line += &format!("  {} {}", bad("missed"), missed.join(", "));
        }
        console::say(&line);
    }
}

impl Outcome {
    /// Compares.
    pub(crate) fn new(
        ours: &Counts,
        theirs: Option<&Counts>,
        qemu: String,
        kvm: Option<String>,
    ) -> Self {
        let row = |event| Row::new(event, ours.of(event), theirs.map(|counts| counts.of(event)));
        Self {
            qemu,
            flags: FLAGS,
            kvm,
            events: Event::ALL.map(row).into(),
        }
    }

    /// Whether every target is met.
    pub(crate) fn met(&self) -> bool {
        (self.events.iter()).all(|row| row.targets.iter().all(|target| target.met))
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let mut head = format!(
            "{:<31} {:>5} {:>7} {:>6} {:>7} {:>5} {:>8}",
            "at EL2, for one event", "exits", "us", "vGIC", "sysregs", "ICH", "barriers"
        );
        if self.kvm.is_some() {
            head += &format!(" {:>7} {:>6} {:>5} {:>6}", "KVM", "vGIC", "exits", "ratio");
        }
        console::say(&head);
        self.events.iter().for_each(Row::print);
    }
}

/// Prints which functions the instructions of each event are in.
pub(crate) fn print_profile(hypervisor: &str, counts: &Counts) {
    for event in Event::ALL {
        let sums = counts.of(event);
        console::step(format!("{hypervisor}: {}", name(event)));
        let mut functions: Vec<_> = sums.functions.iter().collect();
        functions.sort_by_key(|&(_, &count)| Reverse(count));
        for (function, &count) in functions.into_iter().take(PROFILED) {
            console::detail(format!("{:>8.1} {function}", sums.each(count)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(instructions: u64) -> Sums {
        Sums {
            rounds: 2,
            instructions,
            ..Sums::default()
        }
    }

    #[test]
    fn a_target_is_a_part_of_kvms_instructions() {
        let met = |ours, theirs| {
            let row = Row::new(Event::Read, &sums(ours), Some(&sums(theirs)));
            row.targets.iter().all(|target| target.met)
        };
        assert!(met(100, 500));
        assert!(!met(101, 500));
    }

    #[test]
    fn ich_accesses_are_limited_without_kvm_too() {
        let mut costly = sums(10);
        costly.ich = 1;
        let row = Row::new(Event::Hypercall, &costly, None);
        assert!(row.targets.iter().any(|target| !target.met));
    }
}
