//! A slice at a constant address, for pointers into the slice to stay valid while the owner moves.
//!
//! ap_lists and list registers point to interrupts, and the owner of the interrupts, the VM, may
//! move meanwhile. Moving a `Box` asserts unique access to the contents, and the compiler may rely
//! on the assertion. [`FixedSlice`] makes no such assertion.
#![expect(unsafe_code)]
// UNSAFETY: `FixedSlice` owns an allocation by raw pointer.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

/// A slice of constant length on the heap, with shared access only until the drop.
///
/// # Invariants
/// `items` came from a `Box` owned by the `FixedSlice`.
pub(crate) struct FixedSlice<T> {
    items: NonNull<[T]>,
    owned: PhantomData<T>,
}

// SAFETY: a `FixedSlice` owns its `T`s, so sending it sends the `T`s, and `T: Send`.
unsafe impl<T: Send> Send for FixedSlice<T> {}
// SAFETY: a shared `FixedSlice` gives out shared references to its `T`s only, and `T: Sync`.
unsafe impl<T: Sync> Sync for FixedSlice<T> {}

impl<T> FromIterator<T> for FixedSlice<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let items: Box<[T]> = items.into_iter().collect();
        Self {
            // INVARIANT: the leaked `Box` belongs to the new `FixedSlice`.
            items: NonNull::from(Box::leak(items)),
            owned: PhantomData,
        }
    }
}

impl<T> Deref for FixedSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: by the type invariant the slice is allocated until the drop, and no unique
        // reference to the slice is made before the drop.
        unsafe { self.items.as_ref() }
    }
}

impl<'a, T> IntoIterator for &'a FixedSlice<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Drop for FixedSlice<T> {
    fn drop(&mut self) {
        // SAFETY: by the type invariant `items` came from a `Box` owned by the `FixedSlice`, and
        // the drop runs once.
        drop(unsafe { Box::from_raw(self.items.as_ptr()) });
    }
}
