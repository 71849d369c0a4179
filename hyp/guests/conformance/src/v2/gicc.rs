//! The CPU interface, `GICC` (IHI 0048 4.4), of the calling CPU.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::cpu::{self, spin_until};
use crate::mmio::{read_32, write_32};

/// Value that an acknowledge reads without a pending interrupt.
pub(crate) const NONE: u32 = 1023;

/// Value that an acknowledge reads if the pending interrupt is of Group 1, and `AckCtl` is 0.
pub(crate) const OF_GROUP_1: u32 = 1022;

/// Priority mask that lets every priority through.
pub(crate) const OPEN: u32 = 0xff;

/// Running priority without an active interrupt.
pub(crate) const IDLE: u32 = 0xff;

pub(crate) const CTLR: usize = 0x0;
pub(crate) const PMR: usize = 0x4;
pub(crate) const BPR: usize = 0x8;
pub(crate) const IAR: usize = 0xc;
pub(crate) const EOIR: usize = 0x10;
pub(crate) const RPR: usize = 0x14;
pub(crate) const HPPIR: usize = 0x18;
pub(crate) const ABPR: usize = 0x1c;
pub(crate) const AIAR: usize = 0x20;
pub(crate) const AEOIR: usize = 0x24;
pub(crate) const AHPPIR: usize = 0x28;
/// The first of four, before the four `GICC_NSAPR<n>`.
const APR: usize = 0xd0;
pub(crate) const IIDR: usize = 0xfc;
pub(crate) const DIR: usize = 0x1000;

/// `GICC_CTLR.EnableGrp0`.
pub(crate) const GROUP_0: u32 = 1 << 0;
/// `GICC_CTLR.EnableGrp1`.
pub(crate) const GROUP_1: u32 = 1 << 1;
/// `GICC_CTLR.AckCtl`: `IAR` acknowledges Group 1 too.
pub(crate) const ACK_CTL: u32 = 1 << 2;
/// `GICC_CTLR.FIQEn`: Group 0 is signalled as FIQ.
pub(crate) const FIQ_EN: u32 = 1 << 3;
/// `GICC_CTLR.CBPR`: `BPR` groups the priorities of both groups.
pub(crate) const CBPR: u32 = 1 << 4;
/// `GICC_CTLR.EOImode`: `EOIR` drops the priority only, `DIR` deactivates.
pub(crate) const EOI_MODE: u32 = 1 << 9;

/// Microseconds that an expected interrupt may take: ample for a busy host.
const ARRIVAL: u64 = 3_000_000;

/// Base of the interface, which is the same for every CPU.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Sets the base of the interface.
pub(crate) fn use_base(base: usize) {
    BASE.store(base, Relaxed);
}

/// Returns the address of a register.
pub(crate) fn at(register: usize) -> usize {
    BASE.load(Relaxed) + register
}

/// Reads a register.
pub(crate) fn read(register: usize) -> u32 {
    read_32(at(register))
}

/// Writes a register.
pub(crate) fn write(register: usize, value: u32) {
    write_32(at(register), value);
}

/// Acknowledges the highest-priority pending interrupt (`GICC_IAR`). For an SGI, bits 12:10 are the
/// source CPU.
pub(crate) fn acknowledge() -> u32 {
    let read = read(IAR);
    cpu::synchronize();
    read
}

/// Acknowledges the highest-priority pending interrupt of Group 1 (`GICC_AIAR`).
pub(crate) fn acknowledge_aliased() -> u32 {
    let read = read(AIAR);
    cpu::synchronize();
    read
}

/// Ends an interrupt (`GICC_EOIR`).
pub(crate) fn end(acknowledged: u32) {
    write(EOIR, acknowledged);
}

/// Deactivates an interrupt (`GICC_DIR`).
pub(crate) fn deactivate(acknowledged: u32) {
    write(DIR, acknowledged);
}

/// Sets the priority mask.
pub(crate) fn set_pmr(mask: u32) {
    write(PMR, mask);
}

/// Enables Group 0 with these further bits of `GICC_CTLR`.
pub(crate) fn set_ctlr(bits: u32) {
    write(CTLR, GROUP_0 | bits);
}

/// Enables both groups, which `IAR` acknowledges, with these further bits of `GICC_CTLR`.
pub(crate) fn take_both_groups(bits: u32) {
    write(CTLR, GROUP_0 | GROUP_1 | ACK_CTL | bits);
}

/// Reads the running priority.
pub(crate) fn running_priority() -> u32 {
    read(RPR)
}

/// Reads the highest-priority pending interrupt (`GICC_HPPIR`).
pub(crate) fn highest_pending() -> u32 {
    read(HPPIR)
}

/// Waits for an interrupt and acknowledges it. Returns [`NONE`] if none arrives.
pub(crate) fn take() -> u32 {
    let mut read = NONE;
    spin_until(ARRIVAL, || {
        read = acknowledge();
        read != NONE
    });
    read
}

/// Returns the least binary point: a write of less has its effect.
pub(crate) fn least_binary_point() -> u32 {
    let before = read(BPR);
    write(BPR, 0);
    let least = read(BPR);
    write(BPR, before);
    least
}

/// Reads `GICC_APR0` to 3, then `GICC_NSAPR0` to 3. Their format is left open, but 0 stands for no
/// active priority.
pub(crate) fn active_priorities() -> [u32; 8] {
    core::array::from_fn(|place| read(APR + 4 * place))
}

/// Returns true if a priority is active.
pub(crate) fn has_active_priorities() -> bool {
    active_priorities()
        .into_iter()
        .any(|register| register != 0)
}

/// Writes what [`active_priorities`] reads.
pub(crate) fn set_active_priorities(values: [u32; 8]) {
    for (place, value) in values.into_iter().enumerate() {
        write(APR + 4 * place, value);
    }
}

/// Brings the interface into its reset state, and lets Group 0 of every priority through.
pub(crate) fn reset() {
    write(CTLR, 0);
    set_active_priorities([0; 8]);
    write(BPR, 0);
    write(ABPR, 0);
    set_pmr(OPEN);
    set_ctlr(0);
}
