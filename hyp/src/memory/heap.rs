//! The heap behind `alloc`: small blocks by size ([`super::small`]), larger ones by a general
//! allocator.
//!
//! Interrupts are masked at EL2, so that a lock's holder is never interrupted. Nothing on the way
//! into or out of the guest allocates.
#![expect(unsafe_code)]
// UNSAFETY: implements an allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;
use talc::TalcLock;
use talc::source::Manual;

use super::small::{CHUNK, SizeClass, SmallBlocks};

#[global_allocator]
static HEAP: Heap = Heap {
    small: Mutex::new(SmallBlocks::new()),
    large: TalcLock::new(Manual),
};

/// Bytes allocated and not freed.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Most bytes allocated at once.
static MOST_USED: AtomicUsize = AtomicUsize::new(0);
/// Bytes allocated when the VMs started.
static USED_AT_START: AtomicUsize = AtomicUsize::new(0);

struct Heap {
    /// Locked before `large`.
    small: Mutex<SmallBlocks>,
    large: TalcLock<Mutex<()>, Manual>,
}

// SAFETY: memory comes from `large`, as a block or as a chunk that `small` cuts into blocks. One
// caller at a time owns a block.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Relaxed: statistics.
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_USED.fetch_max(used, Ordering::Relaxed);
        match SizeClass::of(layout) {
            Some(class) => {
                // SAFETY: a chunk's size is not 0.
                let chunk = || unsafe { self.large.alloc(CHUNK) };
                self.small.lock().allocate(class, chunk)
            }
            // SAFETY: by the caller's promise, the size is not 0.
            None => unsafe { self.large.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        match SizeClass::of(layout) {
            // SAFETY: by the caller's promise, `alloc` took the block from this class.
            Some(class) => unsafe { self.small.lock().free(block, class) },
            // SAFETY: by the caller's promise, `alloc` took the block from `large`.
            None => unsafe { self.large.dealloc(block, layout) },
        }
    }
}

/// Gives the heap memory.
///
/// # Safety
/// The `length` bytes at `start` are mapped as the home is, and nobody else uses them from now on.
pub(crate) unsafe fn add(start: usize, length: usize) {
    // SAFETY: by the caller's promise, the memory is mapped and unused.
    let claimed = unsafe { HEAP.large.lock().claim(start as *mut u8, length) };
    assert!(claimed.is_some(), "no room for a heap");
}

/// Notes that the VMs start: what is used now is the hypervisor's own.
pub(crate) fn note_start() {
    USED_AT_START.store(used(), Ordering::Relaxed);
}

/// Returns the number of allocated bytes.
pub(crate) fn used() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Returns the number of bytes that were allocated when the VMs started.
pub(crate) fn used_at_start() -> usize {
    USED_AT_START.load(Ordering::Relaxed)
}

/// Returns the largest number of allocated bytes so far.
pub(crate) fn most_used() -> usize {
    MOST_USED.load(Ordering::Relaxed)
}
