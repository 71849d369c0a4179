//! A read-mostly cell: readers take a consistent snapshot without a lock, writers replace it whole.
//!
//! With the feature `std` it is `arc-swap`. On bare metal and under loom, where arc-swap's
//! thread-local storage is not to be had on stable Rust, it is crossbeam's `Atomic` with the same
//! face: the old value is freed once every CPU that may read it has unpinned.
#![cfg_attr(any(not(feature = "std"), loom), expect(unsafe_code))]
// UNSAFETY: dereferences an epoch-protected pointer while the caller's guard is alive.

use core::ops::Deref;

use crossbeam_epoch::Guard;

#[cfg(any(not(feature = "std"), loom))]
use super::{Mutant, Watched, mutant, relaxed_by};

/// A cell holding a `T` that is read far more often than it is replaced.
pub struct Snapshot<T: Send + Sync + 'static> {
    #[cfg(all(feature = "std", not(loom)))]
    inner: arc_swap::ArcSwap<T>,
    #[cfg(any(not(feature = "std"), loom))]
    inner: crossbeam_epoch::Atomic<Value<T>>,
}

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

/// What [`Snapshot::load`] read, usable as a `&T` while the epoch guard lives.
pub struct Loaded<'g, T: Send + Sync + 'static> {
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
    /// A cell that holds `value`.
    pub fn new(value: T) -> Self {
        Self {
            #[cfg(all(feature = "std", not(loom)))]
            inner: arc_swap::ArcSwap::from_pointee(value),
            #[cfg(any(not(feature = "std"), loom))]
            inner: crossbeam_epoch::Atomic::new(Value::new(value)),
        }
    }

    /// The current value; it stays as it is for as long as the result lives.
    #[inline]
    #[cfg_attr(all(feature = "std", not(loom)), expect(unused_variables))]
    pub fn load<'g>(&self, guard: &'g Guard) -> Loaded<'g, T> {
        #[cfg(all(feature = "std", not(loom)))]
        {
            Loaded {
                inner: self.inner.load(),
                guard: core::marker::PhantomData::<&'g Guard>,
            }
        }
        #[cfg(any(not(feature = "std"), loom))]
        {
            // Acquire: pairs with the AcqRel swap in `store`.
            let shared = self.inner.load(crate::sync::Ordering::Acquire, guard);
            // SAFETY: the pointer is never null, and what it points to is freed only after `guard` has
            // been dropped, because `store` defers the destruction to the epoch.
            let Value { value, watched } = unsafe { shared.deref() };
            watched.read();
            Loaded { inner: value }
        }
    }

    /// Replaces the value. Readers that hold the old one keep it; it is freed after them.
    pub fn store(&self, value: T, guard: &Guard) {
        #[cfg(all(feature = "std", not(loom)))]
        {
            let _ = guard;
            self.inner.store(alloc::sync::Arc::new(value));
        }
        #[cfg(any(not(feature = "std"), loom))]
        {
            // AcqRel: pairs with the Acquire in `load`, and with the previous `store`.
            let order = crate::sync::Ordering::AcqRel;
            let order = relaxed_by(Mutant::TopologyPublishedRelaxed, order);
            let new = crossbeam_epoch::Owned::new(Value::new(value));
            let old = self.inner.swap(new, order, guard);
            if mutant(Mutant::TopologyFreedAtOnce) {
                // SAFETY: as in `load`.
                unsafe { old.deref() }.watched.end();
                return;
            }
            // SAFETY: `old` is unreachable now and nobody else retires it: the swap returned it once.
            unsafe { guard.defer_destroy(old) };
        }
    }
}

#[cfg(any(not(feature = "std"), loom))]
impl<T: Send + Sync + 'static> Drop for Snapshot<T> {
    fn drop(&mut self) {
        // SAFETY: exclusive access: no reader holds a snapshot of a cell that is being dropped.
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
}
