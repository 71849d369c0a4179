//! Event counters at the cost of a plain add.

// Not loom's atomic, so that counting adds no interleavings to a model.
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// A number that only its own CPU writes. Other CPUs read a recent value.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub(crate) fn increment(&self) {
        // Relaxed: statistics, without a partner. A single CPU writes.
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// Adds one, and returns the number before.
    #[inline]
    pub(crate) fn next(&self) -> usize {
        let before = self.get();
        self.increment();
        before as usize
    }

    /// Raises the number to `value`, if it is smaller.
    #[inline]
    pub(crate) fn raise(&self, value: u64) {
        // Relaxed: statistics, without a partner. A single CPU writes.
        if self.0.load(Relaxed) < value {
            self.0.store(value, Relaxed);
        }
    }

    /// Returns the number.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        // Relaxed: statistics, without a partner.
        self.0.load(Relaxed)
    }
}
