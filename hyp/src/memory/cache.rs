//! Cache maintenance by address.
#![expect(unsafe_code)]
// UNSAFETY: cache maintenance instructions.

use core::arch::asm;
use core::ops::Range;

use aarch64_cpu::asm::barrier;

/// Cleans and invalidates the mapped addresses `range`, to the point of coherency: a CPU with its
/// MMU off sees the memory.
pub(crate) fn clean_and_invalidate(range: &Range<usize>) {
    let line = line_size();
    for address in (range.start / line * line..range.end).step_by(line) {
        // SAFETY: the range is mapped, and cache maintenance does not change memory as programs see
        // it.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb(barrier::SY);
}

/// Forgets, on all CPUs, the instructions that were fetched from memory that has changed since and
/// is clean.
pub(crate) fn invalidate_instructions() {
    // SAFETY: cache maintenance does not change memory as programs see it.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::ISH);
    barrier::isb(barrier::SY);
}

/// Fills memory with zeros, past the caches.
///
/// # Safety
/// The range is mapped, and nobody uses it.
pub(crate) unsafe fn fill_with_zeros(range: &Range<usize>) {
    // SAFETY: by the caller's promise.
    unsafe { (range.start as *mut u8).write_bytes(0, range.len()) };
    clean_and_invalidate(range);
}

/// Returns the bytes of the machine's shortest data cache line (`CTR_EL0.DminLine`).
fn line_size() -> usize {
    let ctr: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << ((ctr >> 16) & 0xf)
}
