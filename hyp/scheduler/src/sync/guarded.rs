//! Values that belong to one CPU at a time.
#![cfg_attr(loom, expect(unsafe_code))]
// UNSAFETY: only in models, where loom's cell has to be shared to show two CPUs that use it at
// once.

/// A number that belongs to one CPU at a time, by a lock or by a state word. The owner of the value
/// says which.
///
/// A wrong access would be a wrong number, not undefined behaviour: outside of models the number is
/// an atomic, whose loads and stores cost no more than plain ones. In models it is a cell, and loom
/// reports each access that is not ordered after the one before.
pub(crate) struct Guarded(Cell);

#[cfg(not(loom))]
type Cell = core::sync::atomic::AtomicU64;
#[cfg(loom)]
type Cell = loom::cell::Cell<u64>;

// SAFETY: loom runs one thread at a time, and fails the model if two accesses are not ordered.
#[cfg(loom)]
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Returns a value for its first owner.
    pub(crate) fn new(value: u64) -> Self {
        Self(Cell::new(value))
    }

    /// Returns the value, which belongs to the calling CPU.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        #[cfg(loom)]
        return self.0.get();
        // Relaxed: the owner's lock or state word orders the accesses.
        #[cfg(not(loom))]
        self.0.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Changes the value, which belongs to the calling CPU.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        #[cfg(loom)]
        self.0.set(value);
        // Relaxed: the owner's lock or state word orders the accesses.
        #[cfg(not(loom))]
        self.0.store(value, core::sync::atomic::Ordering::Relaxed);
    }
}
