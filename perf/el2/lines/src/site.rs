//! Instructions at EL2 that access memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// An instruction that accesses memory.
pub(crate) struct Site {
    /// Its virtual address.
    pub(crate) address: u64,
    /// True if a load by it fetches the line in order to write it.
    pub(crate) is_atomic: bool,
}

impl Site {
    /// Returns the site of the instruction `word` at `address`, which lives for ever.
    pub(crate) fn of(address: u64, word: u32) -> &'static Self {
        static SITES: Mutex<Option<HashMap<(u64, u32), &'static Site>>> = Mutex::new(None);
        let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
        sites
            .get_or_insert_default()
            .entry((address, word))
            .or_insert_with(|| {
                let is_atomic = is_atomic(word);
                Box::leak(Box::new(Self { address, is_atomic }))
            })
    }
}

/// Returns true for an exclusive load or store, a compare-and-swap, or an atomic operation on
/// memory (DDI 0487, C4.1). QEMU carries them out as a load and a store, if one thread runs all
/// CPUs. A CPU fetches the line once, as its own.
const fn is_atomic(word: u32) -> bool {
    const EXCLUSIVE: u32 = 0x0800_0000;
    const EXCLUSIVE_MASK: u32 = 0x3f00_0000;
    /// Acquire and release without exclusivity: o2 is set and o1 is not.
    const ORDERED: u32 = 0x0080_0000;
    const ORDERED_MASK: u32 = 0x00a0_0000;
    const OPERATION: u32 = 0x3820_0000;
    const OPERATION_MASK: u32 = 0x3b20_0c00;
    /// `LDAPR`, a load.
    const LDAPR: u32 = 0x3820_c000;
    const LDAPR_MASK: u32 = 0x3b20_fc00;
    if word & EXCLUSIVE_MASK == EXCLUSIVE {
        return word & ORDERED_MASK != ORDERED;
    }
    word & OPERATION_MASK == OPERATION && word & LDAPR_MASK != LDAPR
}

/// Returns true for `DSB`, `DMB`, `ISB` and `SB`.
pub(crate) const fn is_barrier(word: u32) -> bool {
    const BARRIER: u32 = 0xd503_3000;
    const BARRIER_MASK: u32 = 0xffff_f000;
    // 2 is CLREX.
    word & BARRIER_MASK == BARRIER && matches!((word >> 5) & 7, 1 | 4..=7)
}
