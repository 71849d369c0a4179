//! Memory shared with a controller that reads and writes memory itself: an ITS, the redistributors,
//! an SMMU.
#![expect(unsafe_code)]
// UNSAFETY: allocates memory with an alignment that is known at run time only.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::{cache, layout};

/// Memory that is zeroed and clean in the caches at first.
#[derive(Debug)]
pub(crate) struct Table {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the table owns its memory.
unsafe impl Send for Table {}
// SAFETY: the memory is accessed by atomics only.
unsafe impl Sync for Table {}

impl Table {
    /// Allocates `size` bytes at a multiple of `alignment`, a power of two. The size is rounded up
    /// to a multiple of the alignment.
    pub(crate) fn new(size: usize, alignment: usize) -> Self {
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
    pub(crate) fn physical(&self) -> u64 {
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
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let place = &self.bytes()[offset..offset + bytes.len()];
        for (place, &byte) in place.iter().zip(bytes) {
            place.store(byte, Ordering::Relaxed);
        }
        let start = place.as_ptr().addr();
        cache::clean_and_invalidate(&(start..start + bytes.len()));
    }

    /// Returns the memory as double words, for controllers whose structures consist of them.
    fn words(&self) -> &[AtomicU64] {
        let count = self.layout.size() / size_of::<u64>();
        // SAFETY: `self` owns that many initialized double words. The table's user accesses it by
        // double words or by bytes, not by both.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().cast(), count) }
    }

    /// Writes a double word in one access, and cleans the caches. A write is visible to the
    /// controller before the next one is.
    ///
    /// # Panics
    /// If there is no double word number `index`.
    pub(crate) fn write_word(&self, index: usize, value: u64) {
        let word = &self.words()[index];
        // Relaxed: the cache maintenance, which ends with a DSB, orders writes.
        word.store(value, Ordering::Relaxed);
        let start = core::ptr::from_ref(word).addr();
        cache::clean_and_invalidate(&(start..start + size_of::<u64>()));
    }

    /// Reads a double word, as the controller has written it.
    ///
    /// # Panics
    /// If there is no double word number `index`.
    pub(crate) fn read_word(&self, index: usize) -> u64 {
        let word = &self.words()[index];
        let start = core::ptr::from_ref(word).addr();
        cache::clean_and_invalidate(&(start..start + size_of::<u64>()));
        // Relaxed: the cache maintenance, which ends with a DSB, orders reads.
        word.load(Ordering::Relaxed)
    }

    fn range(&self) -> Range<usize> {
        let start = self.start.addr().get();
        start..start + self.layout.size()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout, and the controller has given it
        // back.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
