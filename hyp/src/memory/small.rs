//! Small blocks of the heap, each size in a list of its own, so that it takes the same few instructions to
//! allocate one whatever has been allocated and freed before.
//!
//! A guest decides what is allocated and freed by what it maps. A general allocator looks for a piece that is
//! large enough and aligned, past all those that are not, and those are as many as the guest likes.
#![expect(unsafe_code)]
// UNSAFETY: links free blocks through their own first bytes.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

/// Bytes of the largest small block.
const LARGEST: usize = 4096;

/// Sizes up to here are multiples of 16; from there on there are four to each doubling.
const LINEAR: usize = 64;
const STEP: usize = 16;
const CLASSES: usize = LINEAR / STEP + 4 * (LARGEST / LINEAR).ilog2() as usize;

/// What is cut into blocks of one size: taken once, and kept.
pub(super) const CHUNK: Layout = match Layout::from_size_align(16 << 10, LARGEST) {
    Ok(layout) => layout,
    Err(_) => panic!("the alignment is a power of two"),
};

const _: () = assert!(SizeClass(CLASSES - 1).size() == LARGEST);

/// The sizes that blocks come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SizeClass(usize);

impl SizeClass {
    /// The smallest one that holds `layout`; none if that is too large.
    pub(super) fn of(layout: Layout) -> Option<Self> {
        // Blocks of a chunk lie at multiples of their size: a multiple of the alignment is aligned.
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

    /// Bytes of a block.
    const fn size(self) -> usize {
        let linear = LINEAR / STEP;
        if self.0 < linear {
            return (self.0 + 1) * STEP;
        }
        let (above, quarter) = ((self.0 - linear) / 4, (self.0 - linear) % 4);
        (LINEAR << above) / 4 * (quarter + 5)
    }
}

/// A block that is free: the next one.
struct FreeBlock(*mut FreeBlock);

/// Blocks of one size.
struct BlockList {
    /// Those that have been freed.
    free: *mut FreeBlock,
    /// What has not been used of the last chunk.
    rest: *mut u8,
    bytes: usize,
}

/// All of them.
pub(super) struct SmallBlocks {
    lists: [BlockList; CLASSES],
    /// Bytes asked for and not freed.
    used: usize,
    /// Bytes of chunks.
    chunks: usize,
}

// SAFETY: it owns the blocks that it points to.
unsafe impl Send for SmallBlocks {}

impl SmallBlocks {
    /// Without a chunk.
    pub(super) const fn new() -> Self {
        Self {
            lists: [const {
                BlockList {
                    free: ptr::null_mut(),
                    rest: ptr::null_mut(),
                    bytes: 0,
                }
            }; CLASSES],
            used: 0,
            chunks: 0,
        }
    }

    /// Takes a block of this class for `size` bytes; `chunk` gives memory of the layout [`CHUNK`] that is
    /// nobody else's, or null.
    pub(super) fn allocate(
        &mut self,
        class: SizeClass,
        size: usize,
        chunk: impl FnOnce() -> *mut u8,
    ) -> *mut u8 {
        let list = &mut self.lists[class.0];
        let block = if list.free.is_null() {
            if list.bytes < class.size() {
                let Some(chunk) = NonNull::new(chunk()) else {
                    return ptr::null_mut();
                };
                list.rest = chunk.as_ptr();
                list.bytes = CHUNK.size();
                self.chunks += CHUNK.size();
            }
            let block = list.rest;
            list.rest = list.rest.wrapping_add(class.size());
            list.bytes -= class.size();
            block
        } else {
            let block = list.free;
            // SAFETY: `free` put it there, and nobody else has it.
            list.free = unsafe { (*block).0 };
            block.cast()
        };
        self.used += size;
        block
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `allocate` gave it for this class and size, and nobody uses it any more.
    pub(super) unsafe fn free(&mut self, block: *mut u8, class: SizeClass, size: usize) {
        let list = &mut self.lists[class.0];
        let block = block.cast::<FreeBlock>();
        // SAFETY: it is ours, and large and aligned enough.
        unsafe { block.write(FreeBlock(list.free)) };
        list.free = block;
        self.used -= size;
    }

    /// Bytes of blocks that are in use, and of all chunks.
    pub(super) const fn used(&self) -> (usize, usize) {
        (self.used, self.chunks)
    }
}
