//! Memory that is shared with an ITS or the redistributors.
#![expect(unsafe_code)]
// UNSAFETY: allocates with an alignment that is only known at run time.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::memory::{cache, layout};

/// Zeroed memory, clean in the caches.
#[derive(Debug)]
pub(super) struct Table {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory, owned, and lent as atomics.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// `size` bytes at a multiple of `alignment`, a power of two; both are rounded up as the ITS needs.
    pub(super) fn new(size: usize, alignment: usize) -> Self {
        let layout = Layout::from_size_align(size.next_multiple_of(alignment), alignment)
            .expect("the alignment is a power of two");
        // SAFETY: the size is not 0, for every table has entries.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        let table = Self { start, layout };
        cache::clean_and_invalidate(&table.range());
        table
    }

    /// The physical address.
    pub(super) fn physical(&self) -> u64 {
        layout::physical(self.start.addr().get()) as u64
    }

    /// The memory, which the controller may write at the same time.
    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `self` owns that much initialised memory, and lends it only like this.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().cast(), self.layout.size()) }
    }

    /// Writes at byte `offset`, through to where a controller sees it that does not snoop the caches,
    /// whatever it accepts in its base registers.
    ///
    /// # Panics
    /// If that is not inside.
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
        // SAFETY: allocated with this layout, and the ITS has given it back.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
