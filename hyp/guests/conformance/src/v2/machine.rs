//! The machine with its GICv2, as its device tree describes it.

use core::ops::{Deref, Range};

use conformance::bank;
use conformance::board::{self, Board, frame};
use conformance::case;

use crate::gicc;
use crate::gicd::{self, FREE_SPI, ITARGETSR, SPENDSGIR};
use crate::harness::{NotPassed, Outcome};
use crate::mmio::read_32;
use crate::reset;

/// Description of the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    board: Board,
    /// Base of `GICD`.
    pub(crate) gicd: usize,
    /// Base of the GICv2m frame, if there is one.
    v2m: Option<usize>,
    /// Values of registers before the first write.
    pub(crate) at_reset: AtReset,
}

/// Values of registers before the first write. A value of many registers has the bits that are set
/// in one of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtReset {
    pub(crate) gicd_ctlr: u32,
    pub(crate) igroupr: u32,
    pub(crate) isenabler: u32,
    pub(crate) ispendr: u32,
    pub(crate) isactiver: u32,
    pub(crate) ipriorityr: u32,
    pub(crate) itargetsr: u32,
    pub(crate) icfgr: u32,
    pub(crate) spendsgir: u32,
    pub(crate) gicc_ctlr: u32,
    pub(crate) pmr: u32,
    pub(crate) bpr: u32,
    pub(crate) abpr: u32,
    pub(crate) iar: u32,
    pub(crate) hppir: u32,
    pub(crate) rpr: u32,
    pub(crate) active_priorities: u32,
}

impl AtReset {
    /// Reads the registers of SPIs that no device drives, of SGIs, and of CPU 0's interface.
    fn read(machine: &Machine) -> Self {
        let spis = FREE_SPI as usize..machine.free_end() as usize;
        // `per` interrupts have a word.
        let any = |register: usize, per: usize| {
            let words = spis.start.div_ceil(per)..spis.end / per;
            words.fold(0, |bits, word| bits | machine.read(register + 4 * word))
        };
        let fold = |bits, value| bits | value;
        Self {
            gicd_ctlr: machine.read(gicd::CTLR),
            igroupr: any(bank::IGROUPR, 32),
            isenabler: any(bank::ISENABLER, 32),
            ispendr: any(bank::ISPENDR, 32),
            isactiver: any(bank::ISACTIVER, 32),
            ipriorityr: any(bank::IPRIORITYR, 4),
            itargetsr: any(ITARGETSR, 4),
            icfgr: machine.read(bank::ICFGR),
            spendsgir: (0..16)
                .step_by(4)
                .map(|sgi| machine.read(SPENDSGIR + sgi))
                .fold(0, fold),
            gicc_ctlr: gicc::read(gicc::CTLR),
            pmr: gicc::read(gicc::PMR),
            bpr: gicc::read(gicc::BPR),
            abpr: gicc::read(gicc::ABPR),
            iar: gicc::acknowledge(),
            hppir: gicc::highest_pending(),
            rpr: gicc::running_priority(),
            active_priorities: gicc::active_priorities().into_iter().fold(0, fold),
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
    pub(crate) fn read_tree(address: usize) -> Self {
        let tree = board::tree(address);
        let board = Board::read(&tree);
        let root = tree.root();
        let gic = ["arm,cortex-a15-gic", "arm,gic-400"]
            .into_iter()
            .find_map(|kind| board::compatible(&root, kind))
            .expect("the machine has a GICv2");

        gicc::use_base(frame(&gic, 1));
        let mut machine = Self {
            board,
            gicd: frame(&gic, 0),
            v2m: board::compatible(&gic, "arm,gic-v2m-frame").map(|node| frame(&node, 0)),
            at_reset: AtReset::default(),
        };
        machine.at_reset = AtReset::read(&machine);
        machine
    }

    /// Returns the INTIDs of the GICv2m frame's SPIs, which may lie anywhere.
    pub(crate) fn messages(&self) -> Range<u32> {
        self.v2m()
            .map_or(0..0, |v2m| v2m.first()..v2m.first() + v2m.count())
    }

    /// Returns the GICv2m frame, or skips the case if the machine has none.
    pub(crate) fn v2m(&self) -> Result<V2m, NotPassed> {
        let base = self.v2m;
        base.map(|base| V2m { base })
            .ok_or(NotPassed::Skipped("the machine has no GICv2m frame"))
    }
}

/// GICv2m frame (Arm DEN 0029).
#[derive(Clone, Copy, Debug)]
pub(crate) struct V2m {
    pub(crate) base: usize,
}

impl V2m {
    pub(crate) const TYPER: usize = 0x8;
    pub(crate) const SETSPI_NS: usize = 0x40;
    pub(crate) const IIDR: usize = 0xfcc;

    /// Reads a register.
    pub(crate) fn read(self, offset: usize) -> u32 {
        read_32(self.base + offset)
    }

    /// Returns the INTID of the first SPI (`MSI_TYPER`).
    pub(crate) fn first(self) -> u32 {
        self.read(Self::TYPER) >> 16 & 0x3ff
    }

    /// Returns the number of SPIs (`MSI_TYPER`).
    pub(crate) fn count(self) -> u32 {
        self.read(Self::TYPER) & 0x3ff
    }
}
