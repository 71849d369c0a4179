//! Cache maintenance by address.
#![expect(unsafe_code)]
// UNSAFETY: cache maintenance instructions.

use core::arch::asm;
use core::ops::Range;

use aarch64_cpu::asm::barrier;

/// Writes the memory at the mapped addresses `range` back to where a CPU with its MMU off sees it, and
/// drops it from the caches.
pub(crate) fn clean_and_invalidate(range: &Range<usize>) {
    let line = line_size();
    for address in (range.start / line * line..range.end).step_by(line) {
        // SAFETY: the range is mapped, and writing it back changes nothing that a program could see.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb(barrier::SY);
}

/// Size in bytes of the shortest data cache line of this machine (`CTR_EL0.DminLine`).
fn line_size() -> usize {
    let ctr: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << ((ctr >> 16) & 0xf)
}
