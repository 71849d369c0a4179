//! The physical CPU interface, as EL2 uses it.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{Readable, Writeable};

use crate::cpu::registers::{
    ICC_BPR1_EL1, ICC_CTLR_EL1, ICC_DIR_EL1, ICC_EOIR1_EL1, ICC_HPPIR1_EL1, ICC_IAR1_EL1,
    ICC_IGRPEN1_EL1, ICC_PMR_EL1, ICC_SGI1R_EL1,
};

/// First of the special INTIDs. An acknowledge that reads one of 1020 to 1023 has found no
/// interrupt.
const SPECIAL: u32 = 1020;
const END_SPECIAL: u32 = 1024;

/// Enables the calling CPU's interface. `ICC_SRE_EL2` has been set.
pub(crate) fn start() {
    /// `ICC_CTLR_EL1.EOImode`.
    const EOI_MODE: u64 = 1 << 1;
    ICC_PMR_EL1.set(0xff);
    ICC_BPR1_EL1.set(0);
    ICC_CTLR_EL1.set(EOI_MODE);
    ICC_IGRPEN1_EL1.set(1);
    barrier::isb(barrier::SY);
}

/// Acknowledges the highest-priority pending interrupt, which becomes active. Returns its INTID, or
/// `None` if nothing is pending.
#[inline]
pub(crate) fn acknowledge() -> Option<u32> {
    let intid = ICC_IAR1_EL1.get() as u32;
    // The read must be complete before the interrupt is handled (IHI 0069, 4.1.1).
    barrier::dsb(barrier::SY);
    if (SPECIAL..END_SPECIAL).contains(&intid) {
        None
    } else {
        Some(intid)
    }
}

/// Returns true if `intid` is the pending interrupt of the highest priority.
pub(crate) fn is_next(intid: u32) -> bool {
    barrier::isb(barrier::SY);
    ICC_HPPIR1_EL1.get() == u64::from(intid)
}

/// Drops the running priority after `intid`, which stays active.
#[inline]
pub(crate) fn drop_priority(intid: u32) {
    ICC_EOIR1_EL1.set(intid.into());
}

/// Deactivates `intid`, which is active on the calling CPU.
#[inline]
pub(crate) fn deactivate(intid: u32) {
    ICC_DIR_EL1.set(intid.into());
}

/// Returns the value of `ICC_SGI1R_EL1` that sends SGI `intid` to the CPU with this affinity, in
/// the layout of `MPIDR_EL1`.
pub(crate) fn sgi_value(intid: u32, affinity: u64) -> u64 {
    let [aff0, aff1, aff2, _, aff3, ..] = affinity.to_le_bytes().map(u64::from);
    aff3 << 48
        | (aff0 >> 4) << 44
        | aff2 << 32
        | u64::from(intid) << 24
        | aff1 << 16
        | 1 << (aff0 & 0xf)
}

/// Sends the SGI that `value`, from [`sgi_value`], describes.
#[inline]
pub(crate) fn send_sgi(value: u64) {
    // Writes before the SGI must be visible to its receiver.
    barrier::dsb(barrier::ISHST);
    ICC_SGI1R_EL1.set(value);
    barrier::isb(barrier::SY);
}
