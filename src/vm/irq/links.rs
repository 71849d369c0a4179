//! Links of an interrupt on an ap_list or on the free list.

use core::ptr;

use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicPtr, AtomicU8, Watched};

use super::Irq;

/// Links of an intrusive circular list, and the bucket of the interrupt. Atomic only to need no
/// `unsafe`.
///
/// The lock of the ap_list named by `queued_on` guards the links. The links of an interrupt without
/// references belong to the CPU that has put the last one, and to the
/// [`FreeList`](crate::vm::free_list::FreeList) from the push on.
pub(crate) struct Links {
    next: AtomicPtr<Irq>,
    prev: AtomicPtr<Irq>,
    bucket: AtomicU8,
    watched: Watched,
}

impl Links {
    /// Makes the links of an interrupt on no list.
    pub(super) fn new() -> Self {
        Self {
            next: AtomicPtr::new(ptr::null_mut()),
            prev: AtomicPtr::new(ptr::null_mut()),
            bucket: AtomicU8::new(0),
            watched: Watched::default(),
        }
    }

    /// Returns the next interrupt, null if the interrupt is linked to none.
    #[inline]
    pub(crate) fn next(&self) -> *const Irq {
        self.watched.read();
        // Relaxed: the ap_list's lock orders the access, or the publication by `FreeList::push`.
        self.next.load(Relaxed)
    }

    /// Sets the next interrupt.
    #[inline]
    pub(crate) fn set_next(&self, next: *const Irq) {
        self.watched.write();
        // Relaxed: the ap_list's lock orders the access, or `FreeList::push` publishes the link.
        self.next.store(next.cast_mut(), Relaxed);
    }

    /// Returns the interrupt before, null if the interrupt is linked to none.
    #[inline]
    pub(crate) fn prev(&self) -> *const Irq {
        self.watched.read();
        // Relaxed: the ap_list's lock orders the access.
        self.prev.load(Relaxed)
    }

    /// Sets the interrupt before.
    #[inline]
    pub(crate) fn set_prev(&self, prev: *const Irq) {
        self.watched.write();
        // Relaxed: the ap_list's lock orders the access.
        self.prev.store(prev.cast_mut(), Relaxed);
    }

    /// Returns the bucket.
    #[inline]
    pub(crate) fn bucket(&self) -> u8 {
        self.watched.read();
        // Relaxed: the ap_list's lock orders the access.
        self.bucket.load(Relaxed)
    }

    /// Sets the bucket.
    #[inline]
    pub(crate) fn set_bucket(&self, bucket: u8) {
        self.watched.write();
        // Relaxed: the ap_list's lock orders the access.
        self.bucket.store(bucket, Relaxed);
    }
}
