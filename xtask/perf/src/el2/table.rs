//! The comparison, and its targets.

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::{Deserialize, Serialize};

use super::counts::{Counts, Sums, Tally};
use super::event::Event;
use super::machine::FLAGS;
use xtask::console::{self, bad, good};

/// Returns an event's name in reports.
pub(crate) const fn name(event: Event) -> &'static str {
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
        Event::MsiRunning => "MSI, to a running vCPU",
        Event::MsiWaiting => "MSI, to a vCPU in WFI, for long",
        Event::Switch => "switch between two vCPUs",
    }
}

impl ValueEnum for Event {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.keyword()).help(name(*self)))
    }
}

/// Returns the part of KVM's instructions, one in so many, that hyp may execute for an event.
const fn target(event: Event) -> u32 {
    match event {
        Event::Hypercall => 6,
        Event::Read
        | Event::Enable
        | Event::SgiSelf
        | Event::SgiRunning
        | Event::Spi
        | Event::Lpi => 5,
        Event::SgiWaiting
        | Event::SgiAsleep
        | Event::Timer
        | Event::MsiRunning
        | Event::MsiWaiting
        | Event::Switch => 4,
        Event::Msi => 8,
    }
}

/// Returns such a part for the virtual interrupt controllers' functions alone.
const fn vgic_target(event: Event) -> Option<u32> {
    match event {
        Event::SgiSelf | Event::Lpi => Some(3),
        _ => None,
    }
}

/// Returns such a part for all that is executed below the entries of the virtual interrupt
/// controllers.
const fn inclusive_target(event: Event) -> Option<u32> {
    match event {
        Event::SgiSelf | Event::SgiRunning | Event::SgiWaiting | Event::SgiAsleep => Some(4),
        Event::Lpi => Some(3),
        _ => None,
    }
}

/// Returns the number of `ICH_*` accesses that an event may cost hyp.
const fn ich_limit(event: Event) -> Option<f64> {
    match event {
        Event::Hypercall | Event::Read => Some(0.0),
        Event::SgiSelf => Some(3.0),
        _ => None,
    }
}

/// The cost of one round of an event in some part of the code.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) instructions: f64,
    /// Accesses to system registers, `ICH_*` included.
    pub(crate) system_registers: f64,
    pub(crate) ich_accesses: f64,
    pub(crate) barriers: f64,
}

impl Part {
    /// Divides counts by the number of rounds.
    fn of(sums: &Sums, tally: Tally) -> Self {
        Self {
            instructions: sums.each(tally.instructions),
            system_registers: sums.each(tally.system_registers),
            ich_accesses: sums.each(tally.ich),
            barriers: sums.each(tally.barriers),
        }
    }
}

/// The cost of one round of an event under one hypervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) rounds: u64,
    pub(crate) exits: f64,
    /// The whole cost.
    #[serde(flatten)]
    pub(crate) all: Part,
    /// The virtual interrupt controller: of hyp, the library.
    pub(crate) vgic: Part,
    /// The rest of the hypervisor.
    pub(crate) rest: Part,
    /// All that is executed below the entries of the virtual interrupt controller, its own part
    /// included.
    pub(crate) inclusive: Part,
}

impl Cost {
    /// Works the cost of one round out.
    pub(super) fn of(sums: &Sums) -> Self {
        let (vgic, rest) = (Part::of(sums, sums.vgic), Part::of(sums, sums.rest));
        Self {
            rounds: sums.rounds,
            exits: sums.each(sums.exits),
            all: Part {
                instructions: vgic.instructions + rest.instructions,
                system_registers: vgic.system_registers + rest.system_registers,
                ich_accesses: vgic.ich_accesses + rest.ich_accesses,
                barriers: vgic.barriers + rest.barriers,
            },
            vgic,
            rest,
            inclusive: Part::of(sums, sums.inclusive),
        }
    }
}

/// A condition on the cost of an event.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) met: bool,
}

/// An event with its cost under both hypervisors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) event: String,
    pub(crate) hyp: Cost,
    pub(crate) kvm: Option<Cost>,
    /// KVM's instructions for one of hyp's.
    pub(crate) ratio: Option<f64>,
    /// The ratio of the virtual interrupt controllers alone.
    pub(crate) vgic_ratio: Option<f64>,
    /// The ratio of all that is executed below the entries of the virtual interrupt controllers.
    pub(crate) inclusive_ratio: Option<f64>,
    /// The part of KVM's instructions, one in so many, that hyp may execute.
    pub(crate) part: u32,
    pub(crate) targets: Vec<Target>,
}

/// The section of the report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) qemu: String,
    pub(crate) flags: String,
    /// The kernel's version, if it was compared with.
    pub(crate) kvm: Option<String>,
    pub(crate) events: Vec<Row>,
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
                hyp.all.instructions,
                kvm.all.instructions,
            );
            if let Some(part) = vgic_target(event) {
                let (ours, theirs) = (hyp.vgic.instructions, kvm.vgic.instructions);
                part_of_kvm("vGIC instructions", part, ours, theirs);
            }
            if let Some(part) = inclusive_target(event) {
                let (ours, theirs) = (hyp.inclusive.instructions, kvm.inclusive.instructions);
                part_of_kvm("inclusive vGIC instructions", part, ours, theirs);
            }
        }
        if let Some(limit) = ich_limit(event) {
            targets.push(Target {
                what: format!("ICH accesses <= {limit}"),
                met: hyp.all.ich_accesses <= limit,
            });
        }
        let ratio = |of: fn(&Cost) -> f64| kvm.as_ref().map(|kvm| of(kvm) / of(&hyp));
        Self {
            event: name(event).to_owned(),
            ratio: ratio(|cost| cost.all.instructions),
            vgic_ratio: ratio(|cost| cost.vgic.instructions),
            inclusive_ratio: ratio(|cost| cost.inclusive.instructions),
            part: target(event),
            hyp,
            kvm,
            targets,
        }
    }

    /// Lists the targets that are not met.
    pub(crate) fn missed(&self) -> impl Iterator<Item = &str> {
        let missed = self.targets.iter().filter(|target| !target.met);
        missed.map(|target| target.what.as_str())
    }

    /// Prints the row.
    fn print(&self) {
        let Cost {
            exits,
            all,
            vgic,
            inclusive,
            ..
        } = self.hyp;
        let mut line = format!(
            "{:<31} {exits:>5.1} {:>7.0} {:>6.0} {:>6.0} {:>7.1} {:>5.1} {:>8.1}",
            self.event,
            all.instructions,
            vgic.instructions,
            inclusive.instructions,
            all.system_registers,
            all.ich_accesses,
            all.barriers
        );
        if let Some(kvm) = &self.kvm {
            line += &format!(
                " {:>7.0} {:>6.0} {:>6.0} {:>5.1} {:>7.1} {:>5.1} {:>6.1} {:>5.1} {:>5.1}",
                kvm.all.instructions,
                kvm.vgic.instructions,
                kvm.inclusive.instructions,
                kvm.exits,
                kvm.all.system_registers,
                kvm.all.ich_accesses,
                self.ratio.unwrap_or(0.0),
                self.vgic_ratio.unwrap_or(0.0),
                self.inclusive_ratio.unwrap_or(0.0),
            );
        }
        let missed: Vec<&str> = self.missed().collect();
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
    /// Compares the counts under hyp with those under KVM, if there are any.
    pub(crate) fn new(
        ours: &Counts,
        theirs: Option<&Counts>,
        qemu: String,
        kvm: Option<String>,
    ) -> Self {
        let row = |event| Row::new(event, ours.of(event), theirs.map(|counts| counts.of(event)));
        Self {
            qemu,
            flags: FLAGS.to_owned(),
            kvm,
            events: Event::ALL.map(row).into(),
        }
    }

    /// Tells whether every target is met.
    pub(crate) fn met(&self) -> bool {
        (self.events.iter()).all(|row| row.targets.iter().all(|target| target.met))
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let mut head = format!(
            "{:<31} {:>5} {:>7} {:>6} {:>6} {:>7} {:>5} {:>8}",
            "at EL2, for one event", "exits", "us", "vGIC", "incl.", "sysregs", "ICH", "barriers"
        );
        if self.kvm.is_some() {
            head += &format!(
                " {:>7} {:>6} {:>6} {:>5} {:>7} {:>5} {:>6} {:>5} {:>5}",
                "KVM", "vGIC", "incl.", "exits", "sysregs", "ICH", "ratio", "vGIC", "incl."
            );
        }
        console::say(&head);
        self.events.iter().for_each(Row::print);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes an outcome of SGIs whose vGIC instructions miss their targets.
    pub(in super::super) fn outcome() -> Outcome {
        let sums = |vgic, rest, inclusive| Sums {
            rounds: 1,
            exits: 1,
            vgic: tally(vgic),
            rest: tally(rest),
            inclusive: tally(inclusive),
            ..Sums::default()
        };
        let theirs = sums(800, 1700, 1100);
        let row = Row::new(Event::SgiSelf, &sums(400, 100, 440), Some(&theirs));
        Outcome {
            qemu: "10".to_owned(),
            flags: FLAGS.to_owned(),
            kvm: Some("6.12".to_owned()),
            events: vec![row],
        }
    }

    fn tally(instructions: u64) -> Tally {
        Tally {
            instructions,
            ..Tally::default()
        }
    }

    fn sums(instructions: u64) -> Sums {
        Sums {
            rounds: 2,
            rest: tally(instructions),
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
    fn what_runs_below_the_controllers_has_a_target_of_its_own() {
        let met = |event, ours, theirs| {
            let sums = |inclusive| Sums {
                rounds: 1,
                inclusive: tally(inclusive),
                ..Sums::default()
            };
            let row = Row::new(event, &sums(ours), Some(&sums(theirs)));
            row.missed().count() == 0
        };
        assert!(met(Event::SgiSelf, 100, 400) && !met(Event::SgiSelf, 100, 399));
        assert!(met(Event::Lpi, 100, 300) && !met(Event::Lpi, 100, 299));
        assert!(met(Event::Read, 100, 100));
    }

    #[test]
    fn ich_accesses_are_limited_without_kvm_too() {
        let mut costly = sums(10);
        costly.vgic.ich = 1;
        let row = Row::new(Event::Hypercall, &costly, None);
        assert!(row.targets.iter().any(|target| !target.met));
    }
}
