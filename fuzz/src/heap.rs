//! Bytes allocated by the calling thread.
#![expect(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait. The allocator here forwards every call.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// A counting allocator over the system's.
struct Heap;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Returns the bytes allocated and not freed by this thread.
pub fn live() -> isize {
    LIVE.get()
}

/// Does `work`, and returns its result and the most bytes by which the heap was larger meanwhile.
pub fn peak<R>(work: impl FnOnce() -> R) -> (R, isize) {
    let before = live();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

fn count(bytes: isize) {
    // A thread may free memory after the end of its thread-locals.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        PEAK.try_with(|peak| peak.set(peak.get().max(live.get())))
    });
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller upholds the contract of `alloc`, and `layout` is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller upholds the contract of `dealloc`: `block` came from `alloc`, hence
        // from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;
