//! The heap behind `alloc`: small blocks by their size ([`super::small`]), and the rest by a general allocator.
//!
//! Interrupts are masked whenever the hypervisor runs, so a lock holder is never interrupted; nothing
//! on the way into or out of the guest allocates.
#![expect(unsafe_code)]
// UNSAFETY: hands memory to the allocator, and is one.

use core::alloc::{GlobalAlloc, Layout};

use spin::Mutex;
use talc::TalcLock;
use talc::source::Manual;

use super::small::{CHUNK, SizeClass, SmallBlocks};

#[global_allocator]
static HEAP: Heap = Heap {
    small: Mutex::new(SmallBlocks::new()),
    large: TalcLock::new(Manual),
};

struct Heap {
    /// Its lock is taken before that of `large`.
    small: Mutex<SmallBlocks>,
    large: TalcLock<Mutex<()>, Manual>,
}

// SAFETY: memory comes from `large`, as a block or as a chunk that `small` cuts into blocks, each of which one
// caller has at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match SizeClass::of(layout) {
            Some(class) => {
                // SAFETY: a chunk has a size.
                let chunk = || unsafe { self.large.alloc(CHUNK) };
                self.small.lock().allocate(class, layout.size(), chunk)
            }
            // SAFETY: forwarded to the caller.
            None => unsafe { self.large.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match SizeClass::of(layout) {
            // SAFETY: by the caller's promise, `alloc` took it from there.
            Some(class) => unsafe { self.small.lock().free(block, class, layout.size()) },
            // SAFETY: forwarded to the caller.
            None => unsafe { self.large.dealloc(block, layout) },
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// The `length` bytes at `start` are mapped, and nobody else uses them from now on.
pub(crate) unsafe fn start(start: usize, length: usize) {
    // SAFETY: forwarded to the caller.
    let claimed = unsafe { HEAP.large.lock().claim(start as *mut u8, length) };
    assert!(claimed.is_some(), "no room for a heap");
}

/// Bytes that are allocated.
pub(crate) fn used() -> usize {
    let (small, chunks) = HEAP.small.lock().used();
    HEAP.large.lock().counters().allocated_bytes - chunks + small
}
