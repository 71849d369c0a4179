//! The redistributor of one vCPU.

use crate::Vgic;
use crate::epoch::Pin;
use crate::host::Host;
use crate::sync::AtomicU32;
use crate::sync::Ordering::Acquire;

/// State of a redistributor.
pub(crate) struct Redistributor {
    /// `GICR_CTLR`, the bits that are written.
    ctlr: AtomicU32,
}

impl Redistributor {
    pub(crate) fn new() -> Self {
        Self {
            ctlr: AtomicU32::new(0),
        }
    }

    /// `GICR_CTLR.EnableLPIs`.
    #[inline]
    pub(crate) fn lpis_enabled(&self) -> bool {
        // Acquire: pairs with the write of GICR_CTLR.
        self.ctlr.load(Acquire) & 1 != 0
    }
}

impl<H: Host> Vgic<H> {
    /// Reads one slice of the pending tables that vCPUs have enabled.
    pub(crate) fn advance_pending_tables(&self, pin: &Pin<'_>) {
        let _ = pin;
    }
}
