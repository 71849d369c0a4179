//! The machine, as its device tree describes it.

pub(crate) mod edit;
pub(crate) mod second_its;
pub(crate) mod tree;

use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::memory::ranges::Pages;
use tree::{is_compatible, regs};

/// What the hypervisor needs to know.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The affinities of the CPUs, in the tree's order.
    pub(crate) cpus: Vec<u64>,
    /// RAM.
    pub(crate) memory: Pages,
    /// Registers and windows of all devices, those of the interrupt controller included.
    pub(crate) devices: Pages,
    /// The interrupt controller.
    pub(crate) gic: Gic,
    /// The registers of the console.
    pub(crate) console: Range<usize>,
}

/// A GICv3.
#[derive(Debug)]
pub(crate) struct Gic {
    /// The distributor's registers.
    pub(crate) distributor: Range<usize>,
    /// The regions of redistributors.
    pub(crate) redistributors: Vec<Range<usize>>,
    /// The ITSes' registers.
    pub(crate) its: Vec<Range<usize>>,
    /// The maintenance interrupt, a PPI.
    pub(crate) maintenance: u32,
}

impl Machine {
    /// Reads the tree.
    ///
    /// # Panics
    /// If it does not describe what the hypervisor needs.
    pub(crate) fn read(tree: &Fdt<'_>) -> Self {
        let mut memory = Pages::default();
        tree::memory(tree).for_each(|range| memory.add(&range));
        Self {
            cpus: tree::cpus(tree).collect(),
            memory,
            devices: devices(tree),
            gic: Gic::read(tree),
            console: tree::console(tree).expect("the device tree names a PL011 as the console"),
        }
    }
}

impl Gic {
    fn read(tree: &Fdt<'_>) -> Self {
        let node = (tree.root().children())
            .find(|node| is_compatible(node, "arm,gic-v3"))
            .expect("the machine has a GICv3");
        let regions = match node.property("#redistributor-regions") {
            Some(property) => property.value_as::<u32>().expect("a number of regions") as usize,
            None => 1,
        };
        let mut frames = regs(&node);
        let distributor = frames.next().expect("the GIC has a distributor");
        let redistributors: Vec<_> = frames.take(regions).collect();
        let its = (node.children())
            .filter(|child| is_compatible(child, "arm,gic-v3-its"))
            .filter_map(|child| regs(&child).next())
            .collect();
        Self {
            distributor,
            redistributors,
            its,
            maintenance: maintenance(&node),
        }
    }

    /// The frames that the guest sees as its own controller's.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Range<usize>> {
        core::iter::once(&self.distributor)
            .chain(&self.redistributors)
            .chain(&self.its)
    }
}

/// The interrupt that the controller itself makes: a PPI, numbered from 16 on (the binding of GICv3).
///
/// # Panics
/// If the node does not name one.
fn maintenance(node: &FdtNode<'_>) -> u32 {
    const FIRST_PPI: u32 = 16;
    let interrupts = node
        .property("interrupts")
        .expect("the GIC has a maintenance interrupt");
    let cells = interrupts.value();
    // Kind (1: PPI), number, flags.
    let number = cells.get(4..8).and_then(|cell| cell.try_into().ok());
    FIRST_PPI + u32::from_be_bytes(number.expect("three cells"))
}

/// Everything at the root that has registers or is a window to another bus.
fn devices(tree: &Fdt<'_>) -> Pages {
    let mut pages = Pages::default();
    let is_device = |node: &FdtNode<'_>| {
        !matches!(
            node.name_without_address(),
            "memory" | "cpus" | "chosen" | "reserved-memory"
        )
    };
    for node in tree.root().children().filter(is_device) {
        regs(&node).for_each(|range| pages.add(&range));
        tree::windows(&node).for_each(|range| pages.add(&range));
        for child in node.children().filter(|_| tree::is_transparent(&node)) {
            regs(&child).for_each(|range| pages.add(&range));
        }
    }
    pages
}
