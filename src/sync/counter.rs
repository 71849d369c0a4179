//! Event counters that cost one plain add.

/// A count of events with a single writer: the CPU that owns it. Readers on other CPUs see a recent
/// value. Without the feature `counters` it is empty and always reads 0.
#[derive(Default)]
pub struct Counter {
    // Statistics only: relaxed throughout, no access has a partner. Deliberately not loom's atomic, so
    // that counting adds no interleavings to a model.
    #[cfg(feature = "counters")]
    value: core::sync::atomic::AtomicU64,
}

impl Counter {
    /// Adds `n`. Only the owning CPU may call this; concurrent callers lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        #[cfg(feature = "counters")]
        {
            use core::sync::atomic::Ordering::Relaxed;
            // Relaxed: statistics. A load and a store instead of a read-modify-write: there is one writer.
            self.value
                .store(self.value.load(Relaxed).wrapping_add(n), Relaxed);
        }
        #[cfg(not(feature = "counters"))]
        let _ = n;
    }

    /// The count so far.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        #[cfg(feature = "counters")]
        {
            // Relaxed: as above.
            self.value.load(core::sync::atomic::Ordering::Relaxed)
        }
        #[cfg(not(feature = "counters"))]
        0
    }
}
