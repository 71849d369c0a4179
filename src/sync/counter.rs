//! Event counters at the cost of a plain add, and amounts that several CPUs change.

use core::fmt;

/// A count of events with a single writer, the owning CPU. Readers on other CPUs see
/// a recent value. Without the feature `counters`, the type is empty and always reads 0.
#[derive(Default)]
pub struct Counter {
    // Relaxed in every access: statistics, without a partner. Not loom's atomic, so that counting
    // adds no interleavings to a model.
    #[cfg(feature = "counters")]
    value: core::sync::atomic::AtomicU64,
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Counter {
    /// Adds `n`. Only the owning CPU may call this; concurrent callers lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        #[cfg(feature = "counters")]
        {
            use core::sync::atomic::Ordering::Relaxed;
            // Relaxed: statistics, without a partner. A load and a store suffice, because only the
            // owning CPU writes.
            self.value
                .store(self.value.load(Relaxed).wrapping_add(n), Relaxed);
        }

        #[cfg(not(feature = "counters"))]
        let _ = n;
    }

    /// Returns the count so far.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        #[cfg(feature = "counters")]
        {
            // Relaxed: statistics, without a partner.
            self.value.load(core::sync::atomic::Ordering::Relaxed)
        }
        #[cfg(not(feature = "counters"))]
        0
    }
}

/// An amount that any CPU raises and lowers. Its value orders nothing.
#[derive(Default)]
pub(crate) struct Gauge {
    // Relaxed in every access: an amount, without a partner. Not loom's atomic, so that measuring
    // adds no interleavings to a model.
    value: core::sync::atomic::AtomicUsize,
}

impl Gauge {
    /// Adds 1.
    #[inline]
    pub(crate) fn raise(&self) {
        // Relaxed: an amount, without a partner.
        self.value
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }

    /// Takes 1 off. Comes after the call of [`Gauge::raise`] for the same thing.
    #[inline]
    pub(crate) fn lower(&self) {
        // Relaxed: an amount, without a partner.
        self.value
            .fetch_sub(1, core::sync::atomic::Ordering::Relaxed);
    }

    /// Returns a recent amount.
    #[inline]
    #[must_use]
    pub(crate) fn get(&self) -> usize {
        // Relaxed: an amount, without a partner.
        self.value.load(core::sync::atomic::Ordering::Relaxed)
    }
}
