//! Coverage of the model test: the number of times each situation has occurred. A situation no
//! longer reached fails the test.
//!
//! Operations are noted by name, situations by [`note`]. After a sufficiently long run, [`report`]
//! fails for a listed situation without an occurrence, and for an occurrence without a place in the
//! list.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::operation::Operation;

/// Operations after which every situation must have occurred, close to the number of
/// `cargo xtask test`. The rarest situation occurs some twenty times in this many operations.
const ENOUGH: u64 = 900_000;

thread_local! {
    // Keyed by address for a fast lookup. Equal strings from two places are added up at the end.
    static COUNTS: RefCell<HashMap<*const u8, (&'static str, u64)>> = RefCell::default();
}

/// Notes an occurrence of a situation.
pub fn note(what: &'static str) {
    COUNTS.with_borrow_mut(|counts| counts.entry(what.as_ptr()).or_insert((what, 0)).1 += 1);
}

/// Notes an occurrence of a situation if `happened`.
pub fn note_if(happened: bool, what: &'static str) {
    if happened {
        note(what);
    }
}

/// Prints this thread's situations, the rarest first.
///
/// # Panics
/// If the run was long and a listed situation never occurred.
pub fn report() {
    let mut counts = BTreeMap::<_, u64>::new();
    for (what, count) in COUNTS.take().into_values() {
        *counts.entry(what).or_default() += count;
    }

    let operations: u64 = OPERATIONS.iter().filter_map(|name| counts.get(name)).sum();
    println!("{operations} operations");

    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| **count);
    for (what, count) in sorted {
        println!("{count:>9}  {what}");
    }

    let expected = || OPERATIONS.iter().chain(COMMANDS).chain(SITUATIONS);
    let unknown: Vec<_> = counts
        .keys()
        .filter(|what| !expected().any(|known| known == *what))
        .collect();
    assert!(unknown.is_empty(), "not on the list: {unknown:?}");

    let missing: Vec<_> = expected()
        .filter(|what| !counts.contains_key(*what))
        .collect();
    assert!(
        missing.is_empty() || operations < ENOUGH,
        "never happened: {missing:?}"
    );
}

impl Operation {
    /// Returns the operation's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read(..) => "Read",
            Self::Write(..) => "Write",
            Self::Sgi(..) => "Sgi",
            Self::Acknowledge(..) => "Acknowledge",
            Self::End(_) => "End",
            Self::Deactivate(..) => "Deactivate",
            Self::Enable(..) => "Enable",
            Self::Mask(..) => "Mask",
            Self::BinaryPoint(..) => "BinaryPoint",
            Self::Control(..) => "Control",
            Self::Line(..) => "Line",
            Self::Edge(..) => "Edge",
            Self::Msi(..) => "Msi",
            Self::SoftMsi(..) => "SoftMsi",
            Self::Direct(..) => "Direct",
            Self::DirectDevice(..) => "DirectDevice",
            Self::Freeze(_) => "Freeze",
            Self::Command(..) => "Command",
            Self::EnableIts(..) => "EnableIts",
            Self::EnableLpis(..) => "EnableLpis",
            Self::Configure(..) => "Configure",
            Self::Wait(_) => "Wait",
            Self::Move(..) => "Move",
            Self::Away(_) => "Away",
            Self::PowerOff(_) => "PowerOff",
            Self::PowerOn(_) => "PowerOn",
            Self::Replug(_) => "Replug",
            Self::Restore(_) => "Restore",
            Self::Compare(_) => "Compare",
        }
    }
}

const OPERATIONS: &[&str] = &[
    "Read",
    "Write",
    "Sgi",
    "Acknowledge",
    "End",
    "Deactivate",
    "Enable",
    "Mask",
    "BinaryPoint",
    "Control",
    "Line",
    "Edge",
    "Msi",
    "SoftMsi",
    "Direct",
    "DirectDevice",
    "Freeze",
    "Command",
    "EnableIts",
    "EnableLpis",
    "Configure",
    "Wait",
    "Move",
    "Away",
    "PowerOff",
    "PowerOn",
    "Replug",
    "Restore",
    "Compare",
];

/// Successful ITS commands, and the reasons of failures.
const COMMANDS: &[&str] = &[
    "MOVI",
    "INT",
    "CLEAR",
    "SYNC",
    "MAPD",
    "MAPC",
    "MAPTI",
    "MAPI",
    "INV",
    "INVALL",
    "MOVALL",
    "DISCARD",
    "fails: Unknown",
    "fails: DeviceOutOfRange",
    "fails: IttSizeOutOfRange",
    "fails: ProcessorOutOfRange",
    "fails: CollectionOutOfRange",
    "fails: UnmappedDevice",
    "fails: EventOutOfRange",
    "fails: IntidOutOfRange",
    "fails: UnmappedInterrupt",
    "fails: UnmappedCollection",
];

const SITUATIONS: &[&str] = &[
    // List registers and PEs.
    "more pending than list registers",
    "more active than list registers",
    "more pending LPIs than list registers",
    "more pending and active than list registers",
    "a PE leaves its CPU with interrupts in list registers",
    "a PE goes off with interrupts in list registers",
    "a PE comes on with interrupts pending",
    "a PE moves while it handles an interrupt",
    "a PE comes to another CPU",
    "a PE sleeps",
    "a PE does not sleep",
    "a PE does not sleep, for its sleeping redistributor",
    "a PE is woken",
    "a PE sleeps with interrupts in list registers",
    "a VM is saved and restored",
    "a VM is restored with an LPI pending",
    "a VM is restored with a wired interrupt pending",
    "a VM is restored with an interrupt active",
    "a VM is restored with commands that wait",
    "a VM goes through KVM's format",
    "a VM goes through KVM's format whole",
    "a VM goes through KVM's format with an LPI pending",
    "a PE is removed",
    "a PE is removed with an SPI pending for it",
    "a PE is removed with an LPI pending for it",
    "a PE is removed with an SGI or PPI pending or active",
    // Acknowledgement and end.
    "an SGI is acknowledged",
    "a PPI is acknowledged",
    "an SPI is acknowledged",
    "an extended PPI is acknowledged",
    "an extended SPI is acknowledged",
    "an LPI is acknowledged",
    "Group 0 is acknowledged",
    "nothing is acknowledged",
    "nothing is acknowledged while the mask holds something back",
    "one preempts another",
    "three or more are handled at once",
    "an end in a list register",
    "an end outside the list registers",
    "an end of an LPI outside the list registers",
    "an end of what is inactive",
    "an end of what is routed elsewhere by now",
    "an end with the line still high",
    "an end with another edge pending",
    "a priority drop with EOImode 1",
    "a deactivation with EOImode 1",
    "a deactivation by another PE",
    "a deactivation outside the list registers",
    // Changes of an interrupt.
    "pending and active",
    "it becomes pending while active",
    "pending, its priority changes",
    "pending, its group changes",
    "pending, it is disabled",
    "pending, it is enabled",
    "pending, it is routed elsewhere",
    "pending, it is routed nowhere",
    "pending, its line falls",
    "pending, it is cleared",
    "active, it is disabled",
    "active, it is routed elsewhere",
    "active, its line falls",
    "active, its state is cleared",
    "inactive, its state is set",
    "idle, its trigger changes",
    "idle, its trigger changes to a level that is high",
    "the line of an edge rises",
    "active, the line of its edge rises",
    "GICD_CTLR changes while something is pending",
    "ICC_IGRPEN changes while something is pending",
    "ICC_BPR changes the group priority",
    "SETSPI of an edge",
    "SETSPI of a level",
    "CLRSPI of an edge",
    "CLRSPI of a level",
    "CLRSPI of a level whose line is high",
    "a level is resampled",
    "a common register traps",
    // SGIs.
    "an SGI to one PE",
    "an SGI to several PEs",
    "an SGI to all others",
    "an SGI to nobody",
    "an SGI of the other group",
    // Forwarded interrupts.
    "a PPI is forwarded",
    "an SPI is forwarded",
    "an edge is forwarded",
    "it is forwarded again, its line still being high",
    "a forwarded one is ended in a list register",
    "a forwarded one is ended outside the list registers",
    "a forwarded one is deactivated by a trap",
    "forwarded and pending, it is cleared",
    "forwarded and active, its state is cleared",
    "forwarded and pending, it is disabled",
    "forwarded and active, it is disabled",
    "forwarded and pending, it is routed elsewhere",
    "forwarded and active, it is routed elsewhere",
    "forwarded and pending, its line falls",
    "forwarded and pending, it is withdrawn",
    "forwarded and active, the PE leaves its CPU",
    "forwarded and pending, the PE leaves its CPU",
    "a PPI is forwarded while active, its PE having come from another CPU",
    "a PE comes onto a CPU with the line of its PPI high",
    "a forwarded one is made pending or active by the guest",
    // LPIs.
    "an MSI is taken",
    "an MSI coalesces",
    "an MSI is refused",
    "an MSI is refused by an ITS that is disabled",
    "LPI pending, its priority changes",
    "LPI pending, it is disabled",
    "LPI pending, it is enabled",
    "LPI pending, it moves",
    "LPI pending, it is unmapped",
    "LPI pending, it is cleared",
    "LPI pending, one of its mappings ends",
    "LPI pending, another event is mapped to it",
    "a collection moves to another PE",
    "a collection is unmapped",
    "an LPI is mapped by two ITSes",
    "an LPI is mapped by two events of an ITS",
    "an LPI of two ITSes moves",
    "an LPI of two ITSes is acknowledged",
    "LPI off: one is pending",
    "LPI off: one is in a list register",
    "LPI on: what was stored is given up",
    "LPI on: what was stored is kept",
    "LPI on: the pending table says so",
    "LPI on: the pending table is all zero",
    "LPI on: a configuration has changed",
    "a command waits for the ITS to be enabled",
    // Direct injection.
    "a PE becomes direct",
    "a PE ceases to be direct",
    "a device becomes direct",
    "a device ceases to be direct",
    "an MSI is direct",
    "an MSI is held, and injected",
    "an MSI goes along with its event",
    "a virtual LPI is acknowledged",
    "a virtual LPI preempts another",
    "an LPI becomes pending in both places",
    "an LPI is taken for each of its pending states",
    "a pending state goes to the hardware",
    "a pending state comes from the hardware",
    "a doorbell rings",
    "a PE with a virtual LPI behind its mask does not sleep",
    "a VM is frozen and thawed",
    "a VM is restored with a virtual LPI pending",
];
