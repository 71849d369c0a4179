//! State of a redistributor (IHI 0069, 12.11). [`crate::mmio::gicr`] has its registers.

use crate::intid::IntId;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU32, AtomicU64, Slices};
use crate::vm::rwp::Control;

/// `GICR_CTLR.EnableLPIs`.
pub(crate) const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// `GICR_WAKER.ProcessorSleep`.
pub(crate) const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;

/// `GICR_PENDBASER.PTZ`: the guest declares the table all zeros.
pub(crate) const PENDBASER_PTZ: u64 = 1 << 62;

/// Physical address in `GICR_PROPBASER`, 4 KiB aligned.
const TABLE: u64 = 0x000f_ffff_ffff_f000;

/// Returns the guest-physical address of an LPI's byte in the configuration table of a
/// `GICR_PROPBASER`; `None` beyond the end of the table.
pub(crate) fn configuration_address(propbaser: u64, intid: u32) -> Option<u64> {
    let index = u64::from(intid.checked_sub(IntId::FIRST_LPI)?);
    in_tables(propbaser, intid).then(|| (propbaser & TABLE).saturating_add(index))
}

/// Returns the guest-physical address of the byte with an LPI's bit in the pending table of a
/// `GICR_PENDBASER`; `None` beyond the end of the table. The table begins with unused bits, for
/// INTIDs below 8192.
pub(crate) fn pending_address(propbaser: u64, pendbaser: u64, intid: u32) -> Option<u64> {
    let table = pendbaser & TABLE & !0xffff;
    in_tables(propbaser, intid).then(|| table.saturating_add(u64::from(intid) / 8))
}

/// Returns true if the tables have an entry for an INTID: `GICR_PROPBASER.IDbits` is the number of
/// bits of the largest INTID, less 1.
fn in_tables(propbaser: u64, intid: u32) -> bool {
    u64::from(intid) >> (propbaser & 0x1f) <= 1
}

/// State of a redistributor apart from the interrupts.
pub(crate) struct Redistributor {
    /// `GICR_CTLR.EnableLPIs`; and the writes in progress.
    pub(crate) control: Control,
    /// `GICR_WAKER.ProcessorSleep`.
    pub(crate) waker: AtomicU32,
    /// `GICR_PENDBASER`, with PTZ as last written, until LPIs are enabled.
    pub(crate) pendbaser: AtomicU64,
    /// LPIs with bits of the pending table to read.
    pub(crate) scan: Slices,
    /// LPIs with bits of the pending table to write. Due until the vCPU has folded the list
    /// registers: see [`lpi_tables`](crate::delivery::lpi_tables).
    pub(crate) store: Slices,
    /// `GICR_PENDBASER` when the guest disabled LPIs.
    pub(crate) store_base: AtomicU64,
}

impl Redistributor {
    /// Makes a redistributor after reset.
    pub(crate) fn new() -> Self {
        Self {
            control: Control::default(),
            waker: AtomicU32::new(WAKER_PROCESSOR_SLEEP),
            pendbaser: AtomicU64::new(0),
            scan: Slices::new(),
            store: Slices::new(),
            store_base: AtomicU64::new(0),
        }
    }

    /// Resets the registers.
    pub(crate) fn reset(&self) {
        self.control.reset();
        // Relaxed, both: ordered by the caller's claim of the vCPUs.
        self.waker.store(WAKER_PROCESSOR_SLEEP, Relaxed);
        self.pendbaser.store(0, Relaxed);
    }

    /// Wakes the redistributor up, in a VM with a GICv2: no register of the guest's would.
    pub(crate) fn wake_up(&self) {
        // Relaxed: ordered by the caller's claim of the vCPU, or the VM is being made.
        self.waker.store(0, Relaxed);
    }

    /// Returns `GICR_CTLR.EnableLPIs`.
    #[inline]
    pub(crate) fn lpis_enabled(&self) -> bool {
        self.control.get() & CTLR_ENABLE_LPIS != 0
    }

    /// Returns `GICR_WAKER.ProcessorSleep`.
    pub(crate) fn is_asleep(&self) -> bool {
        // Relaxed: a write that puts the redistributor to sleep is published by the notification
        // after it.
        self.waker.load(Relaxed) & WAKER_PROCESSOR_SLEEP != 0
    }
}
