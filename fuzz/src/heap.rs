//! What this thread has allocated.
#![expect(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait; this one passes everything on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts, and has the system do the work.
struct Heap;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated and not freed.
pub fn live() -> isize {
    LIVE.get()
}

fn count(bytes: isize) {
    // A thread that ends frees what it has after its thread-locals are gone.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above; what we are given came from `alloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;
