//! The machine, as its device tree describes it.

pub(crate) mod entropy;
pub(crate) mod pci;
pub(crate) mod tree;

use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use vgic::intid::IntId;

use crate::memory::ranges::Pages;
use entropy::Seed;
use pci::HostBridge;
use tree::{Console, is_compatible, regs};

/// Description of the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Affinities of the CPUs, in the tree's order.
    pub(crate) cpus: Vec<u64>,
    /// RAM.
    pub(crate) memory: Pages,
    /// Registers and windows of all devices, the interrupt controller included.
    pub(crate) devices: Pages,
    /// Flash memory, firmware first. It is among the devices, too.
    pub(crate) flash: Vec<Range<usize>>,
    /// The interrupt controller.
    pub(crate) gic: Gic,
    /// Registers of the SMMU.
    pub(crate) smmu: Option<Range<usize>>,
    /// Host bridge of PCI.
    pub(crate) pci: Option<HostBridge>,
    /// Console.
    pub(crate) console: Console,
    /// Random seed that the boot loader passes.
    pub(crate) seed: Option<Seed>,
}

/// Description of a GICv3.
#[derive(Debug)]
pub(crate) struct Gic {
    /// Registers of the distributor.
    pub(crate) distributor: Range<usize>,
    /// Regions of redistributors.
    pub(crate) redistributors: Vec<Range<usize>>,
    /// Registers of the ITSes.
    pub(crate) its: Vec<Range<usize>>,
    /// Maintenance interrupt, a PPI.
    pub(crate) maintenance: u32,
}

impl Machine {
    /// Reads the tree.
    ///
    /// # Panics
    /// If the tree lacks a part that the hypervisor needs.
    pub(crate) fn read(tree: &Fdt<'_>) -> Self {
        let mut memory = Pages::default();
        tree::memory(tree).for_each(|range| memory.add(&range));
        Self {
            cpus: tree::cpus(tree).collect(),
            memory,
            devices: devices(tree),
            flash: tree::flash(tree).collect(),
            gic: Gic::read(tree),
            smmu: tree::smmu(tree).and_then(|node| regs(&node).next()),
            pci: HostBridge::read(tree),
            console: tree::console(tree)
                .expect("the device tree names a PL011 or a 16550 as the console"),
            seed: entropy::read(tree),
        }
    }

    /// Returns true if no device and no RAM is in `frames`.
    pub(crate) fn is_free(&self, frames: &Range<usize>) -> bool {
        let mut free = Pages::default();
        free.add(frames);
        let taken = self.devices.iter().chain(self.memory.iter());
        taken.for_each(|range| free.remove(range));
        free.contains(frames)
    }
}

impl Gic {
    fn read(tree: &Fdt<'_>) -> Self {
        let node = tree::gic(tree).expect("the machine has a GICv3");
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

    /// Returns the frames that the guest sees as its own controller's.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Range<usize>> {
        core::iter::once(&self.distributor)
            .chain(&self.redistributors)
            .chain(&self.its)
    }
}

/// Returns the maintenance interrupt of the controller's node: a PPI, numbered from 16 on (the
/// binding of GICv3).
///
/// # Panics
/// If the node does not name one.
fn maintenance(node: &FdtNode<'_>) -> u32 {
    let interrupts = node
        .property("interrupts")
        .expect("the GIC has a maintenance interrupt");
    let cells = interrupts.value();
    // Kind (1: PPI), number, flags.
    let number = cells.get(4..8).and_then(|cell| cell.try_into().ok());
    IntId::FIRST_PPI + u32::from_be_bytes(number.expect("three cells"))
}

/// Returns the registers and bus windows of the root's children.
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
