//! A slice that others point into while its owner is moved about.
//!
//! ap_lists and list registers point to interrupts, and the VM that owns these may be moved meanwhile: out
//! of the function that built it, into what the embedder keeps. Moving a `Box` claims that nobody else
//! points to what is in it, which the compiler may rely on. This makes no such claim.
#![expect(unsafe_code)]
// UNSAFETY: owns an allocation by raw pointer.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

/// A slice on the heap, of a length that does not change. Shared access only, to the end.
///
/// # Invariants
/// `items` came from a `Box`, which this owns.
pub(crate) struct Fixed<T> {
    items: NonNull<[T]>,
    owned: PhantomData<T>,
}

// SAFETY: it owns the `T`s and gives out shared references to them.
unsafe impl<T: Send> Send for Fixed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Fixed<T> {}

impl<T> FromIterator<T> for Fixed<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let items: Box<[T]> = items.into_iter().collect();
        Self {
            // INVARIANT: from a `Box` that is ours.
            items: NonNull::from(Box::leak(items)),
            owned: PhantomData,
        }
    }
}

impl<T> Deref for Fixed<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: by the type invariant it is allocated, and nobody gets a unique reference to it.
        unsafe { self.items.as_ref() }
    }
}

impl<'a, T> IntoIterator for &'a Fixed<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Drop for Fixed<T> {
    fn drop(&mut self) {
        // SAFETY: by the type invariant; this is the end of it.
        drop(unsafe { Box::from_raw(self.items.as_ptr()) });
    }
}
