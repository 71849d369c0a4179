//! A read-mostly cell: readers take a consistent snapshot without a lock, writers replace the
//! value.
//!
//! With the feature `std`, the cell is an `arc-swap`. Bare metal lacks arc-swap's thread-local
//! storage on stable Rust, and loom does not see arc-swap's atomics: in both builds the cell is
//! crossbeam's `Atomic`, with the same interface. An old value is freed after the unpinning of
//! every CPU with a reference to the value.
#![cfg_attr(any(not(feature = "std"), loom), expect(unsafe_code))]
// UNSAFETY: an epoch-protected pointer is dereferenced while the caller's guard is alive.

use core::ops::Deref;

use crossbeam_epoch::Guard;

#[cfg(any(not(feature = "std"), loom))]
use super::{Mutant, Watched, mutant, weakened_by};

/// A cell with a `T` that is read far more often than replaced.
pub(crate) struct Snapshot<T: Send + Sync + 'static> {
    #[cfg(all(feature = "std", not(loom)))]
    inner: arc_swap::ArcSwap<T>,
    #[cfg(any(not(feature = "std"), loom))]
    inner: crossbeam_epoch::Atomic<Value<T>>,
}

/// The value of a cell, with loom's witness of its life.
#[cfg(any(not(feature = "std"), loom))]
struct Value<T> {
    value: T,
    watched: Watched,
}

#[cfg(any(not(feature = "std"), loom))]
impl<T> Value<T> {
    fn new(value: T) -> Self {
        Self {
            value,
            watched: Watched::default(),
        }
    }
}

/// The value read by [`Snapshot::load`], usable as a `&T` while the epoch guard lives.
pub(crate) struct Loaded<'g, T: Send + Sync + 'static> {
    #[cfg(all(feature = "std", not(loom)))]
    inner: arc_swap::Guard<alloc::sync::Arc<T>>,
    #[cfg(all(feature = "std", not(loom)))]
    guard: core::marker::PhantomData<&'g Guard>,
    #[cfg(any(not(feature = "std"), loom))]
    inner: &'g T,
}

impl<T: Send + Sync + 'static> Deref for Loaded<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        #[cfg(all(feature = "std", not(loom)))]
        return &self.inner;
        #[cfg(any(not(feature = "std"), loom))]
        return self.inner;
    }
}

impl<T: Send + Sync + 'static> Snapshot<T> {
    /// Creates a cell with `value`.
    pub(crate) fn new(value: T) -> Self {
        Self {
            #[cfg(all(feature = "std", not(loom)))]
            inner: arc_swap::ArcSwap::from_pointee(value),
            #[cfg(any(not(feature = "std"), loom))]
            inner: crossbeam_epoch::Atomic::new(Value::new(value)),
        }
    }

    /// Returns the current value. The value stays the same for as long as the result lives.
    ///
    /// Panics in debug builds if `guard` is `crossbeam_epoch::unprotected`, which pins no CPU.
    #[inline]
    pub(crate) fn load<'g>(&self, guard: &'g Guard) -> Loaded<'g, T> {
        debug_assert!(guard.collector().is_some(), "a load outside the epoch");
        #[cfg(all(feature = "std", not(loom)))]
        {
            Loaded {
                inner: self.inner.load(),
                guard: core::marker::PhantomData::<&'g Guard>,
            }
        }

        #[cfg(any(not(feature = "std"), loom))]
        {
            // Acquire: pairs with the Release swap in `store`.
            let shared = self.inner.load(crate::sync::Ordering::Acquire, guard);
            // SAFETY: the pointer is never null, and the value is freed only after `guard` has been
            // dropped, because `store` defers the destruction to the epoch.
            let Value { value, watched } = unsafe { shared.deref() };
            watched.read();
            Loaded { inner: value }
        }
    }

    /// Replaces the value. The old value is freed after its last reader. All callers hold one lock.
    pub(crate) fn store(&self, value: T, guard: &Guard) {
        #[cfg(all(feature = "std", not(loom)))]
        {
            let _ = guard;
            self.inner.store(alloc::sync::Arc::new(value));
        }

        #[cfg(any(not(feature = "std"), loom))]
        {
            // Release: pairs with the Acquire in `load`. The caller's lock orders the `store` of
            // the old value.
            let order = crate::sync::Ordering::Release;
            let order = weakened_by(Mutant::TopologyPublishedRelaxed, order);
            let new = crossbeam_epoch::Owned::new(Value::new(value));
            let old = self.inner.swap(new, order, guard);

            if mutant(Mutant::TopologyFreedAtOnce) {
                // SAFETY: the pointer is never null, and the value is not freed: the fault leaks
                // the value.
                unsafe { old.deref() }.watched.end();
                return;
            }
            // SAFETY: the swap made `old` unreachable and returned the pointer to this CPU only, so
            // the value is freed once.
            unsafe { guard.defer_destroy(old) };
        }
    }
}

#[cfg(any(not(feature = "std"), loom))]
impl<T: Send + Sync + 'static> Drop for Snapshot<T> {
    fn drop(&mut self) {
        // SAFETY: a drop has exclusive access to the cell, and the pointer is never null.
        drop(unsafe { core::mem::take(&mut self.inner).into_owned() });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_loaded() {
        let collector = crossbeam_epoch::Collector::new();
        let handle = collector.register();
        let cell = Snapshot::new(alloc::vec![1]);
        let guard = handle.pin();
        let old = cell.load(&guard);
        cell.store(alloc::vec![2, 3], &guard);
        assert_eq!(*old, [1]);
        assert_eq!(*cell.load(&guard), [2, 3]);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a load outside the epoch")]
    #[expect(unsafe_code)]
    fn a_load_needs_the_epoch() {
        // SAFETY: the cell is local to the thread, so no other thread frees its value.
        let unpinned = unsafe { crossbeam_epoch::unprotected() };
        let _ = Snapshot::new(1).load(unpinned);
    }
}
