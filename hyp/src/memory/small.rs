//! Small blocks of the heap. Each size has a list of its own, so that an allocation takes the same
//! few instructions whatever was allocated and freed before.
//!
//! A guest decides by its mappings what is allocated and freed. A general allocator searches for a
//! piece that is large enough and aligned, past as many other pieces as the guest likes.
#![expect(unsafe_code)]
// UNSAFETY: links free blocks through their own first bytes.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

/// Bytes of the largest small block.
const LARGEST: usize = 4096;

/// Largest size that is a multiple of 16 only. Above, there are four sizes to each doubling.
const LINEAR: usize = 64;
const STEP: usize = 16;
const CLASSES: usize = LINEAR / STEP + 4 * (LARGEST / LINEAR).ilog2() as usize;

/// Memory that is cut into blocks of one size. Never returned.
pub(super) const CHUNK: Layout = match Layout::from_size_align(16 << 10, LARGEST) {
    Ok(layout) => layout,
    Err(_) => panic!("the alignment is a power of two"),
};

const _: () = assert!(SizeClass(CLASSES - 1).size() == LARGEST);

/// Size class of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SizeClass(usize);

impl SizeClass {
    /// Returns the smallest class that holds `layout`, or `None` if `layout` is too large.
    pub(super) fn of(layout: Layout) -> Option<Self> {
        // Blocks of a chunk lie at multiples of their size, so that a multiple of the alignment is
        // aligned.
        let bytes = layout.pad_to_align().size().max(1);
        if bytes > LARGEST {
            return None;
        }
        let last = bytes - 1;
        if bytes <= LINEAR {
            return Some(Self(last / STEP));
        }
        let doubling = last.ilog2();
        let quarter = (last >> (doubling - 2)) - 4;
        let above = (doubling - LINEAR.ilog2()) as usize;
        Some(Self(LINEAR / STEP + 4 * above + quarter))
    }

    /// Returns the bytes of a block.
    const fn size(self) -> usize {
        let linear = LINEAR / STEP;
        if self.0 < linear {
            return (self.0 + 1) * STEP;
        }
        let (above, quarter) = ((self.0 - linear) / 4, (self.0 - linear) % 4);
        (LINEAR << above) / 4 * (quarter + 5)
    }
}

/// Free block: points to the next one.
struct FreeBlock(*mut FreeBlock);

/// Blocks of one size.
struct BlockList {
    /// Freed blocks.
    free: *mut FreeBlock,
    /// Unused rest of the last chunk, of `bytes` bytes.
    rest: *mut u8,
    bytes: usize,
}

/// Blocks of all sizes.
pub(super) struct SmallBlocks {
    lists: [BlockList; CLASSES],
}

// SAFETY: the lists own the blocks that they point to.
unsafe impl Send for SmallBlocks {}

impl SmallBlocks {
    /// Returns lists without a chunk.
    pub(super) const fn new() -> Self {
        Self {
            lists: [const {
                BlockList {
                    free: ptr::null_mut(),
                    rest: ptr::null_mut(),
                    bytes: 0,
                }
            }; CLASSES],
        }
    }

    /// Allocates a block of this class. `chunk` returns unused memory of the
    /// layout [`CHUNK`], or null.
    pub(super) fn allocate(
        &mut self,
        class: SizeClass,
        chunk: impl FnOnce() -> *mut u8,
    ) -> *mut u8 {
        let list = &mut self.lists[class.0];
        if list.free.is_null() {
            if list.bytes < class.size() {
                let Some(chunk) = NonNull::new(chunk()) else {
                    return ptr::null_mut();
                };
                list.rest = chunk.as_ptr();
                list.bytes = CHUNK.size();
            }
            let block = list.rest;
            list.rest = list.rest.wrapping_add(class.size());
            list.bytes -= class.size();
            block
        } else {
            let block = list.free;
            // SAFETY: `free` has written the link, and nobody else has the block.
            list.free = unsafe { (*block).0 };
            block.cast()
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// `allocate` returned the block for this class, and nobody uses it any more.
    pub(super) unsafe fn free(&mut self, block: *mut u8, class: SizeClass) {
        let list = &mut self.lists[class.0];
        let block = block.cast::<FreeBlock>();
        // SAFETY: by the caller's promise, the block is unused. Every class is large and aligned
        // enough for a link.
        unsafe { block.write(FreeBlock(list.free)) };
        list.free = block;
    }
}
