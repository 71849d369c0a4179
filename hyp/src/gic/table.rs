//! Memory shared with an ITS or the redistributors.
#![expect(unsafe_code)]
// UNSAFETY: allocates memory with an alignment that is known at run time only.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::memory::{cache, layout};

/// Memory that is zeroed and clean in the caches at first.
#[derive(Debug)]
pub(super) struct Table {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the table owns its memory.
unsafe impl Send for Table {}
// SAFETY: the table lends its memory as atomics only.
unsafe impl Sync for Table {}

impl Table {
    /// Allocates `size` bytes at a multiple of `alignment`, a power of two. The size is rounded up
    /// to a multiple of the alignment.
    pub(super) fn new(size: usize, alignment: usize) -> Self {
        let layout = Layout::from_size_align(size.next_multiple_of(alignment), alignment)
            .expect("the alignment is a power of two");
        // SAFETY: the size is not 0, because every table has entries.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        let table = Self { start, layout };
        cache::clean_and_invalidate(&table.range());
        table
    }

    /// Returns the physical address.
    pub(super) fn physical(&self) -> u64 {
        layout::physical(self.start.addr().get()) as u64
    }

    /// Returns the memory, which the controller may write at the same time.
    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `self` owns that many initialized bytes, and lends them here only.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().cast(), self.layout.size()) }
    }

    /// Writes `bytes` at byte `offset`, and cleans the caches: a controller may not snoop them,
    /// even if its base registers accept the attribute.
    ///
    /// # Panics
    /// If the range is not inside the table.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let place = &self.bytes()[offset..offset + bytes.len()];
        for (place, &byte) in place.iter().zip(bytes) {
            place.store(byte, Ordering::Relaxed);
        }
        let start = place.as_ptr().addr();
        cache::clean_and_invalidate(&(start..start + bytes.len()));
    }

    fn range(&self) -> Range<usize> {
        let start = self.start.addr().get();
        start..start + self.layout.size()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout, and the ITS has given it back.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
