//! The GIC: its frames, and the registers of one interrupt.

pub(crate) mod interface;
pub(crate) mod irq;
pub(crate) mod its;
pub(crate) mod reset;
pub(crate) mod tables;

pub(crate) use conformance::bank;

use crate::cpu::spin_until;
use crate::machine::Machine;
use crate::mmio::{read_32, write_32};

/// Offsets in `GICD` (12.9).
pub(crate) mod gicd {
    pub(crate) const CTLR: usize = 0x0;
    pub(crate) const TYPER: usize = 0x4;
    pub(crate) const IIDR: usize = 0x8;
    pub(crate) const SETSPI_NSR: usize = 0x40;
    pub(crate) const CLRSPI_NSR: usize = 0x48;
    pub(crate) const ITARGETSR: usize = 0x800;
    pub(crate) const IGRPMODR: usize = 0xd00;
    pub(crate) const SGIR: usize = 0xf00;
    pub(crate) const CPENDSGIR: usize = 0xf10;
    pub(crate) const SPENDSGIR: usize = 0xf20;
    pub(crate) const IROUTER: usize = 0x6000;
}

/// Offsets in `GICR` `RD_base` (12.11).
pub(crate) mod gicr {
    pub(crate) const CTLR: usize = 0x0;
    pub(crate) const IIDR: usize = 0x4;
    pub(crate) const TYPER: usize = 0x8;
    pub(crate) const WAKER: usize = 0x14;
    pub(crate) const PROPBASER: usize = 0x70;
    pub(crate) const PENDBASER: usize = 0x78;
    /// Offset of `SGI_base` (12.11), with the registers of SGIs and PPIs.
    pub(crate) const SGI_BASE: usize = 0x1_0000;
    /// Bytes from one redistributor to the next.
    pub(crate) const STRIDE: usize = 0x2_0000;
}

/// Offsets in `GICD` of the registers of extended SPIs (12.9). Those with a bit for each interrupt
/// have the order of [`bank`], and 0x200 bytes each.
pub(crate) mod extended {
    pub(crate) const IGROUPR: usize = 0x1000;
    pub(crate) const BITS_END: usize = 0x1e00;
    pub(crate) const IPRIORITYR: usize = 0x2000;
    pub(crate) const ICFGR: usize = 0x3000;
    pub(crate) const IROUTER: usize = 0x8000;
}

/// INTIDs of the first extended PPI and the first extended SPI (2.2).
pub(crate) const FIRST_EXTENDED_PPI: u32 = 1056;
pub(crate) const FIRST_EXTENDED_SPI: u32 = 4096;

/// `RWP` of `GICD_CTLR`.
const GICD_RWP: u32 = 1 << 31;
/// `RWP` of `GICR_CTLR`.
const GICR_RWP: u32 = 1 << 3;
/// `GICD_CTLR.ARE`.
pub(crate) const ARE: u32 = 1 << 4;
/// `GICD_CTLR.EnableGrp0`.
pub(crate) const GROUP_0: u32 = 1 << 0;
/// `GICD_CTLR.EnableGrp1`.
pub(crate) const GROUP_1: u32 = 1 << 1;

/// Microseconds that a write may take to have effect.
const RWP_TIMEOUT: u64 = 3_000_000;

/// The first SPI that no device of the machine drives.
pub(crate) const FREE_SPI: u32 = 80;
/// First INTID behind the SPIs that no device drives.
pub(crate) const FREE_SPI_END: u32 = 288;

impl Machine {
    /// Returns the address of a register of the distributor.
    pub(crate) fn gicd(&self, offset: usize) -> usize {
        self.gicd + offset
    }

    /// Returns the address of a register of a CPU's redistributor.
    pub(crate) fn gicr(&self, cpu: usize, offset: usize) -> usize {
        self.redistributor(cpu) + offset
    }

    /// Returns the address of a register of a CPU's SGIs and PPIs.
    pub(crate) fn sgi_base(&self, cpu: usize, offset: usize) -> usize {
        self.gicr(cpu, gicr::SGI_BASE + offset)
    }

    /// Waits until the distributor's writes have taken effect. Returns false on a timeout.
    pub(crate) fn wait_rwp(&self) -> bool {
        spin_until(RWP_TIMEOUT, || {
            read_32(self.gicd(gicd::CTLR)) & GICD_RWP == 0
        })
    }

    /// Waits until a redistributor's writes have taken effect. Returns false on a timeout.
    pub(crate) fn wait_rwp_private(&self, cpu: usize) -> bool {
        spin_until(RWP_TIMEOUT, || {
            read_32(self.gicr(cpu, gicr::CTLR)) & GICR_RWP == 0
        })
    }

    /// Writes `GICD_CTLR`, and waits until the write has taken effect.
    pub(crate) fn enable_groups(&self, groups: u32) {
        write_32(self.gicd(gicd::CTLR), ARE | groups);
        self.wait_rwp();
    }

    /// Returns the number of extended SPIs: `GICD_TYPER.ESPI` and `ESPI_range`.
    pub(crate) fn extended_spis(&self) -> u32 {
        let typer = read_32(self.gicd(gicd::TYPER));
        match typer >> 8 & 1 {
            0 => 0,
            _ => 32 * ((typer >> 27) + 1),
        }
    }

    /// Returns the number of extended PPIs of each CPU: `GICR_TYPER.PPInum`.
    pub(crate) fn extended_ppis(&self) -> u32 {
        32 * (read_32(self.gicr(0, gicr::TYPER)) >> 27)
    }

    /// Returns the number of the distributor's INTIDs, SGIs and PPIs included.
    pub(crate) fn lines(&self) -> u32 {
        let typer = read_32(self.gicd(gicd::TYPER));
        (32 * ((typer & 0x1f) + 1)).min(1020)
    }
}
