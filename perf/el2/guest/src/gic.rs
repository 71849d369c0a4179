//! The distributor and the redistributors.

use crate::mmio::{read_8, read_32, read_64, write_8, write_32, write_64};

const GICD: usize = 0x0800_0000;
const GICD_CTLR: usize = GICD;
/// `GICD_TYPER`.
pub(crate) const GICD_TYPER: usize = GICD + 0x4;
const GICD_IGROUPR: usize = GICD + 0x80;
const GICD_ISENABLER: usize = GICD + 0x100;
const GICD_ICENABLER: usize = GICD + 0x180;
const GICD_ISPENDR: usize = GICD + 0x200;
const GICD_IPRIORITYR: usize = GICD + 0x400;
const GICD_ICFGR: usize = GICD + 0xc00;
const GICD_IROUTER: usize = GICD + 0x6000;

const GICR: usize = 0x080a_0000;
const GICR_STRIDE: usize = 0x2_0000;
const GICR_CTLR: usize = 0x0;
const GICR_TYPER: usize = 0x8;
const GICR_WAKER: usize = 0x14;
const GICR_PROPBASER: usize = 0x70;
const GICR_PENDBASER: usize = 0x78;
/// Offset of the frame of SGIs and PPIs.
const SGI: usize = 0x1_0000;
const GICR_IGROUPR0: usize = SGI + 0x80;
const GICR_ISENABLER0: usize = SGI + 0x100;
const GICR_IPRIORITYR: usize = SGI + 0x400;

const CHILDREN_ASLEEP: u32 = 1 << 2;
const REGISTER_WRITE_PENDING: u32 = 1 << 31;

/// Priority of every interrupt.
pub(crate) const PRIORITY: u8 = 0xa0;

/// INTID bits of LPIs.
pub(crate) const LPI_BITS: usize = 14;

/// Enables affinity routing and Group 1.
pub(crate) fn open_distributor() {
    write_32(GICD_CTLR, 0x12);
    while read_32(GICD_CTLR) & REGISTER_WRITE_PENDING != 0 {}
}

/// Configures an SPI: edge-triggered, in Group 1, routed to the vCPU `target`. The SPI stays
/// disabled.
pub(crate) fn configure_spi(intid: u32, target: u64) {
    let (word, bit) = place(intid);
    write_32(GICD_IGROUPR + word, read_32(GICD_IGROUPR + word) | bit);
    let field = GICD_ICFGR + intid as usize / 16 * 4;
    write_32(field, read_32(field) | 2 << (intid % 16 * 2));
    write_8(GICD_IPRIORITYR + intid as usize, PRIORITY);
    write_64(GICD_IROUTER + intid as usize * 8, target);
}

/// Enables an SPI.
#[inline(always)]
pub(crate) fn enable(intid: u32) {
    let (word, bit) = place(intid);
    write_32(GICD_ISENABLER + word, bit);
}

/// Disables an SPI.
#[inline(always)]
pub(crate) fn disable(intid: u32) {
    let (word, bit) = place(intid);
    write_32(GICD_ICENABLER + word, bit);
}

/// Makes an SPI pending.
#[inline(always)]
pub(crate) fn set_pending(intid: u32) {
    let (word, bit) = place(intid);
    write_32(GICD_ISPENDR + word, bit);
}

/// Returns the offset of an interrupt's 32-bit register in a bank, and its bit there.
const fn place(intid: u32) -> (usize, u32) {
    (intid as usize / 32 * 4, 1 << (intid % 32))
}

/// Returns true if the redistributor of a vCPU is the last one.
pub(crate) fn is_last(vcpu: usize) -> bool {
    const LAST: u64 = 1 << 4;
    read_64(GICR + vcpu * GICR_STRIDE + GICR_TYPER) & LAST != 0
}

/// Wakes the redistributor of a vCPU, and enables its SGIs and the PPI `ppi`.
pub(crate) fn open_redistributor(vcpu: usize, ppi: u32) {
    let frame = GICR + vcpu * GICR_STRIDE;
    write_32(frame + GICR_WAKER, 0);
    while read_32(frame + GICR_WAKER) & CHILDREN_ASLEEP != 0 {}
    write_32(frame + GICR_IGROUPR0, u32::MAX);
    for intid in (0..16).chain([ppi as usize]) {
        write_8(frame + GICR_IPRIORITYR + intid, PRIORITY);
    }
    // A priority that was written reads back.
    assert!(read_8(frame + GICR_IPRIORITYR) == PRIORITY);
    write_32(frame + GICR_ISENABLER0, 0xffff | 1 << ppi);
}

/// Gives the redistributor of a vCPU its LPI tables, and enables LPIs.
pub(crate) fn enable_lpis(vcpu: usize, configuration: usize, pending: usize) {
    let frame = GICR + vcpu * GICR_STRIDE;
    let property = configuration as u64 | (LPI_BITS as u64 - 1);
    write_64(frame + GICR_PROPBASER, property);
    write_64(frame + GICR_PENDBASER, pending as u64 | 1 << 62);
    write_32(frame + GICR_CTLR, 1);
}
