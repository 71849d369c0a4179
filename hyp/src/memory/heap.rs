//! The heap behind `alloc`.
//!
//! Interrupts are masked whenever the hypervisor runs, so a lock holder is never interrupted; nothing
//! on the way into or out of the guest allocates.
#![expect(unsafe_code)]
// UNSAFETY: hands memory to the allocator.

use talc::TalcLock;
use talc::source::Manual;

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives the heap its memory.
///
/// # Safety
/// The `length` bytes at `start` are mapped, and nobody else uses them from now on.
pub(crate) unsafe fn start(start: usize, length: usize) {
    // SAFETY: forwarded to the caller.
    let claimed = unsafe { HEAP.lock().claim(start as *mut u8, length) };
    assert!(claimed.is_some(), "no room for a heap");
}

/// Bytes that are allocated.
pub(crate) fn used() -> usize {
    HEAP.lock().counters().allocated_bytes
}
