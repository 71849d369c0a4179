//! State of a redistributor.

use crate::sync::Ordering::Acquire;
use crate::sync::{AtomicU32, AtomicU64};

pub(crate) const CTLR_ENABLE_LPIS: u32 = 1 << 0;

pub(crate) const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;

/// No pending table is being read.
pub(crate) const NOT_SCANNING: u32 = u32::MAX;

/// State of a redistributor that is not in its interrupts.
pub(crate) struct Redistributor {
    /// `GICR_CTLR.EnableLPIs`.
    pub(crate) ctlr: AtomicU32,
    pub(crate) waker: AtomicU32,
    /// `GICR_PENDBASER`, with PTZ as last written.
    pub(crate) pendbaser: AtomicU64,
    /// Next LPI of the pending table to look at, or [`NOT_SCANNING`].
    pub(crate) scan: AtomicU32,
}

impl Redistributor {
    pub(crate) fn new() -> Self {
        Self {
            ctlr: AtomicU32::new(0),
            waker: AtomicU32::new(WAKER_PROCESSOR_SLEEP),
            pendbaser: AtomicU64::new(0),
            scan: AtomicU32::new(NOT_SCANNING),
        }
    }

    /// `GICR_CTLR.EnableLPIs`.
    #[inline]
    pub(crate) fn lpis_enabled(&self) -> bool {
        // Acquire: pairs with `write_gicr_ctlr`.
        self.ctlr.load(Acquire) & CTLR_ENABLE_LPIS != 0
    }
}
