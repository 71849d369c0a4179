//! The machine with its GICv3, as its device tree describes it.

use core::ops::Deref;

use conformance::board::{self, Board, frame, is_compatible};
use conformance::case;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

use crate::cpus::MAX_CPUS;
use crate::gic::its::gits;
use crate::gic::{FREE_SPI, bank, gicd, gicr, interface, reset};
use crate::harness::Outcome;
use crate::mmio::{read_32, read_64};

/// Description of the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    board: Board,
    /// Base of each CPU's redistributor.
    redistributors: [usize; MAX_CPUS],
    /// `GICR_TYPER.Processor_Number` of each CPU.
    numbers: [u16; MAX_CPUS],
    /// Base of `GICD`.
    pub(crate) gicd: usize,
    /// Base of the first ITS, if there is one.
    pub(crate) gits: Option<usize>,
    /// Base of the second ITS, if there is one.
    pub(crate) second_gits: Option<usize>,
    /// Values of registers before the first write.
    pub(crate) at_reset: AtReset,
}

/// Values of registers before the first write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtReset {
    pub(crate) gicd_ctlr: u32,
    pub(crate) isenabler: u32,
    pub(crate) icfgr: u32,
    pub(crate) gicr_ctlr: u32,
    pub(crate) waker: u32,
    pub(crate) gits_ctlr: u32,
    pub(crate) gits_cbaser: u64,
    pub(crate) igrpen_0: u64,
    pub(crate) igrpen_1: u64,
    pub(crate) pmr: u64,
    /// Values that the architecture leaves UNKNOWN.
    pub(crate) unknown: Unknown,
}

/// Values before the first write that the architecture leaves UNKNOWN, or to the implementation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unknown {
    pub(crate) igroupr: u32,
    pub(crate) ipriorityr: u32,
    pub(crate) irouter: u64,
    pub(crate) gicr_igroupr0: u32,
    pub(crate) gicr_ipriorityr: [u32; 2],
    pub(crate) gicr_icfgr1: u32,
    pub(crate) propbaser: u64,
    pub(crate) pendbaser: u64,
    pub(crate) gits_cwriter: u64,
    pub(crate) gits_creadr: u64,
    pub(crate) gits_basers: [u64; 8],
    pub(crate) interface: interface::Control,
}

impl Unknown {
    /// Reads the registers of an SPI that no device drives, of CPU 0's redistributor and interface,
    /// and of the first ITS.
    fn read(machine: &Machine) -> Self {
        let spi = FREE_SPI as usize;
        let its = |offset| machine.gits.map_or(0, |gits| read_64(gits + offset));
        Self {
            igroupr: read_32(machine.gicd(bank::IGROUPR + spi / 32 * 4)),
            ipriorityr: read_32(machine.gicd(bank::IPRIORITYR + spi)),
            irouter: read_64(machine.gicd(gicd::IROUTER + 8 * spi)),
            gicr_igroupr0: read_32(machine.sgi_base(0, bank::IGROUPR)),
            gicr_ipriorityr: [0, 16].map(|at| read_32(machine.sgi_base(0, bank::IPRIORITYR + at))),
            gicr_icfgr1: read_32(machine.sgi_base(0, bank::ICFGR + 4)),
            propbaser: read_64(machine.gicr(0, gicr::PROPBASER)),
            pendbaser: read_64(machine.gicr(0, gicr::PENDBASER)),
            gits_cwriter: its(gits::CWRITER),
            gits_creadr: its(gits::CREADR),
            gits_basers: core::array::from_fn(|n| its(gits::BASER + 8 * n)),
            interface: interface::Control::read(),
        }
    }
}

impl AtReset {
    fn read(machine: &Machine) -> Self {
        interface::set_sre(7);
        Self {
            gicd_ctlr: read_32(machine.gicd(gicd::CTLR)),
            isenabler: read_32(machine.gicd(bank::ISENABLER + 4)),
            icfgr: read_32(machine.gicd(bank::ICFGR + 8)),
            gicr_ctlr: read_32(machine.gicr(0, gicr::CTLR)),
            waker: read_32(machine.gicr(0, gicr::WAKER)),
            gits_ctlr: machine.gits.map_or(0, read_32),
            gits_cbaser: machine.gits.map_or(0, |gits| read_64(gits + 0x80)),
            igrpen_0: interface::igrpen_0(),
            igrpen_1: interface::igrpen_1(),
            pmr: interface::pmr(),
            unknown: Unknown::read(machine),
        }
    }
}

impl Deref for Machine {
    type Target = Board;

    fn deref(&self) -> &Board {
        &self.board
    }
}

impl case::Machine for Machine {
    fn reset(&self) -> Outcome {
        reset::reset(self)
    }
}

impl Machine {
    /// Reads the device tree at an address, and the registers that have not been written yet.
    pub(crate) fn read(tree: usize) -> Self {
        let tree = board::tree(tree);
        let board = Board::read(&tree);
        let gic = board::compatible(&tree.root(), "arm,gic-v3").expect("the machine has a GICv3");
        let mut itses = gic
            .children()
            .filter(|node| is_compatible(node, "arm,gic-v3-its"))
            .map(|its| frame(&its, 0));

        let mut machine = Self {
            board,
            redistributors: [0; MAX_CPUS],
            numbers: [0; MAX_CPUS],
            gicd: frame(&gic, 0),
            gits: itses.next(),
            second_gits: itses.next(),
            at_reset: AtReset::default(),
        };

        let mut frames = redistributors(&gic);
        for cpu in 0..machine.cpus {
            let base = frames.next().expect("each CPU has a redistributor");
            machine.redistributors[cpu] = base;
            machine.numbers[cpu] = (read_64(base + gicr::TYPER) >> 8) as u16;
        }

        machine.at_reset = AtReset::read(&machine);
        machine
    }

    /// Returns the base of a CPU's redistributor.
    pub(crate) fn redistributor(&self, cpu: usize) -> usize {
        self.redistributors[cpu]
    }

    /// Returns a CPU's `GICR_TYPER.Processor_Number`.
    pub(crate) fn number(&self, cpu: usize) -> u16 {
        self.numbers[cpu]
    }
}

/// Returns the bases of all redistributors, of one region of contiguous frames after the other.
fn redistributors(gic: &FdtNode<'_>) -> impl Iterator<Item = usize> {
    let regions = gic.property("#redistributor-regions");
    let regions = regions.and_then(|regions| regions.value_as::<u32>().ok());
    let frames = gic.reg().ok().flatten().into_iter().flatten();
    // The first frame is the distributor's.
    let regions = frames.skip(1).take(regions.unwrap_or(1) as usize);
    regions.flat_map(|region| {
        let start: u64 = region.address().expect("a region has an address");
        let size: u64 = region.size().expect("a region has a size");
        (start as usize..(start + size) as usize).step_by(gicr::STRIDE)
    })
}
