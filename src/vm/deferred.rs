//! The kinds of work left to [`Vgic::advance`](crate::Vgic::advance), a bit each: bit n for ITS n,
//! and those below.
//!
//! A CPU that leaves work sets the bit last, and a CPU that takes the bits over looks for the work
//! afterwards: work that is left has its bit, or a CPU at it.

use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU32, Mutant, mutant, word};

/// vCPUs have to be told of a write of `GICD_CTLR`.
pub(crate) const DEFERRED_GROUPS: u32 = 1 << 16;
/// A slice of a pending table has to be read or written.
pub(crate) const DEFERRED_PENDING_TABLE: u32 = 1 << 17;
/// LPI configurations have to be read again.
pub(crate) const DEFERRED_CONFIG_RELOAD: u32 = 1 << 18;
/// SGIs to all other vCPUs have vCPUs left to reach.
pub(crate) const DEFERRED_BROADCASTS: u32 = 1 << 20;
/// LPIs have to be freed.
pub const DEFERRED_FREE: u32 = 1 << 19;

/// The kinds of work left.
#[derive(Debug, Default)]
pub struct Deferred(AtomicU32);

word!(Deferred, AtomicU32, u32);

impl Deferred {
    /// Returns the kinds of work left; one load.
    #[inline]
    pub fn get(&self) -> u32 {
        // Relaxed: a CPU that does the work takes the bits over first.
        self.0.load(Relaxed)
    }

    /// Leaves work, which the caller has made ready.
    #[inline]
    pub fn add(&self, work: u32) {
        // Release: publishes the work; pairs with the Acquire in `take`.
        self.0.fetch_or(work, Release);
    }

    /// Takes all work over.
    #[inline]
    pub fn take(&self) -> u32 {
        if mutant(Mutant::DeferredTakenByStore) {
            let work = self.get();
            // Release: part of the fault.
            self.0.store(0, Release);
            return work;
        }

        // Acquire: pairs with the Release in `add`: the CPU sees the work of every bit.
        self.0.swap(0, Acquire)
    }
}
