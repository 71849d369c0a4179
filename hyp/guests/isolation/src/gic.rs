//! The interrupt controller: register addresses, and a set-up in which everything may interrupt.
#![expect(unsafe_code)]
// UNSAFETY: the CPU interface and the timer are system registers.

use crate::memory::{self, read32, read64, write32, write64};
use crate::{cpu, mrs, msr};

/// The distributor.
pub(crate) const GICD: u64 = 0x0800_0000;
pub(crate) const GICD_SIZE: u64 = 0x1_0000;
/// The ITS.
pub(crate) const GITS: u64 = 0x0808_0000;
pub(crate) const GITS_SIZE: u64 = 0x2_0000;
/// The redistributors, in order of the vCPUs.
pub(crate) const GICR: u64 = 0x080a_0000;
pub(crate) const GICR_SIZE: u64 = 0x2_0000;

/// Distributor registers with a bit or a field for each interrupt. A redistributor has them in its
/// second frame.
pub(crate) const CTLR: u64 = 0x0000;
pub(crate) const TYPER: u64 = 0x0004;
pub(crate) const IGROUPR: u64 = 0x0080;
pub(crate) const ISENABLER: u64 = 0x0100;
pub(crate) const ISPENDR: u64 = 0x0200;
pub(crate) const ICPENDR: u64 = 0x0280;
pub(crate) const ICACTIVER: u64 = 0x0380;
pub(crate) const IPRIORITYR: u64 = 0x0400;
pub(crate) const ICFGR: u64 = 0x0c00;
pub(crate) const IROUTER: u64 = 0x6000;

/// Registers of a redistributor's first frame.
pub(crate) const GICR_CTLR: u64 = 0x0000;
const GICR_TYPER: u64 = 0x0008;
const GICR_WAKER: u64 = 0x0014;
pub(crate) const GICR_PROPBASER: u64 = 0x0070;
pub(crate) const GICR_PENDBASER: u64 = 0x0078;
/// Offset of a redistributor's second frame.
pub(crate) const SGI_FRAME: u64 = 0x1_0000;

/// `GICD_CTLR`: affinity routing, and both groups enabled.
pub(crate) const GICD_ENABLED: u32 = 1 << 4 | 0b11;

/// The first SPI, and the first special INTID behind the last SPI.
pub(crate) const FIRST_SPI: u64 = 32;
pub(crate) const SPECIAL: u64 = 1020;
/// The first LPI, and the number of LPIs.
pub(crate) const FIRST_LPI: u64 = 8192;
pub(crate) const LPIS: u64 = 8192;

/// INTID bits, less one, as in `GICR_PROPBASER`.
const ID_BITS: u64 = 13;

/// The virtual timer's PPI.
pub(crate) const TIMER: u64 = 27;

/// Memory of the LPI tables, each at a multiple of 64 KiB.
const CONFIGURATION: u64 = memory::SPARE;
const PENDING: u64 = CONFIGURATION + 0x1_0000;

/// Returns the address of vCPU number `index`'s redistributor.
pub(crate) fn redistributor(index: usize) -> u64 {
    GICR + index as u64 * GICR_SIZE
}

/// Returns the number of redistributors, one for each vCPU.
pub(crate) fn count_redistributors() -> usize {
    const LAST: u64 = 1 << 4;
    let is_last = |&index: &usize| read64(redistributor(index) + GICR_TYPER) & LAST != 0;
    (0..cpu::MAX_VCPUS)
        .find(is_last)
        .map_or(cpu::MAX_VCPUS, |last| last + 1)
}

/// Returns the numbers of the 32-bit words that hold SPIs.
pub(crate) fn spi_words() -> core::ops::Range<u64> {
    1..u64::from(read32(GICD + TYPER) & 0x1f) + 1
}

/// Sets the distributor up: every SPI is enabled, in Group 1, and edge-triggered or level-sensitive
/// as `configuration` returns for each `GICD_ICFGR<n>`.
pub(crate) fn start_distributor(mut configuration: impl FnMut(u64) -> u32) {
    write32(GICD + CTLR, 0);
    for word in spi_words() {
        write32(GICD + IGROUPR + word * 4, u32::MAX);
        write32(GICD + ICPENDR + word * 4, u32::MAX);
        write32(GICD + ICACTIVER + word * 4, u32::MAX);
        for half in [word * 2, word * 2 + 1] {
            write32(GICD + ICFGR + half * 4, configuration(half));
        }
        write32(GICD + ISENABLER + word * 4, u32::MAX);
    }
    write32(GICD + CTLR, GICD_ENABLED);
    // An LPI's byte: its priority and its enable bit.
    (0..LPIS / 8).for_each(|place| write64(CONFIGURATION + place * 8, 0xa1a1_a1a1_a1a1_a1a1));
}

/// Sets the calling vCPU's redistributor and CPU interface up: every SGI and PPI is enabled, in
/// Group 1, and LPIs are on.
pub(crate) fn start_cpu(eoi_mode: bool) {
    let frame = redistributor(cpu::index());
    write32(frame + GICR_WAKER, 0);
    let private = frame + SGI_FRAME;
    write32(private + IGROUPR, u32::MAX);
    write32(private + ICPENDR, u32::MAX);
    write32(private + ICACTIVER, u32::MAX);
    (0..8).for_each(|word| write32(private + IPRIORITYR + word * 4, 0x9090_9090));
    write32(private + ISENABLER, u32::MAX);
    write32(frame + GICR_CTLR, 0);
    write64(frame + GICR_PROPBASER, CONFIGURATION | ID_BITS);
    write64(
        frame + GICR_PENDBASER,
        PENDING + cpu::index() as u64 * 0x1_0000,
    );
    write32(frame + GICR_CTLR, 1);

    msr!("S3_0_C12_C12_5", 7); // ICC_SRE_EL1
    cpu::synchronize();
    msr!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1
    msr!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
    msr!("S3_0_C12_C12_4", u64::from(eoi_mode) << 1); // ICC_CTLR_EL1
    msr!("S3_0_C12_C8_4", 0); // ICC_AP0R0_EL1
    msr!("S3_0_C12_C9_0", 0); // ICC_AP1R0_EL1
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    cpu::synchronize();
}

/// Acknowledges the highest-priority pending interrupt of Group 1.
pub(crate) fn acknowledge() -> u64 {
    let intid = mrs!("S3_0_C12_C12_0") & 0xff_ffff; // ICC_IAR1_EL1
    cpu::publish();
    intid
}

/// Ends the interrupt, with a deactivation if `eoi_mode` is set.
pub(crate) fn end(intid: u64, eoi_mode: bool) {
    msr!("S3_0_C12_C12_1", intid); // ICC_EOIR1_EL1
    if eoi_mode && intid < FIRST_LPI {
        deactivate(intid);
    }
}

/// Deactivates the interrupt.
pub(crate) fn deactivate(intid: u64) {
    msr!("S3_0_C12_C11_1", intid); // ICC_DIR_EL1
}

/// Sends an SGI of Group 1. `value` is that of `ICC_SGI1R_EL1`.
pub(crate) fn send_sgi(value: u64) {
    cpu::publish();
    msr!("S3_0_C12_C11_5", value);
}

/// Makes the virtual timer fire at `deadline`.
pub(crate) fn set_timer(deadline: u64) {
    msr!("cntv_cval_el0", deadline);
    msr!("cntv_ctl_el0", 1);
    cpu::synchronize();
}

/// Turns the virtual timer off.
pub(crate) fn stop_timer() {
    msr!("cntv_ctl_el0", 0);
    cpu::synchronize();
}
