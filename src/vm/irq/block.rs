//! The memory of LPIs: a box for each, or a block for many.
//!
//! `MAPTI` makes an LPI in a box. A restore makes the LPIs of a leaf of the table in one block: to
//! allocate 65,536 boxes would take longer than all the rest. An LPI of a block ends alone, like
//! any other. The block is freed with its last LPI, and nothing else is made in it, so that blocks
//! hold back the memory of no more LPIs than the restored state had.
#![expect(unsafe_code)]
// UNSAFETY: frees LPIs by raw pointer, and a block with its last LPI.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::epoch::Piece;
use crate::fixed::FixedSlice;
use crate::intid::IntId;
use crate::sync::AtomicUsize;
use crate::sync::Ordering::AcqRel;

use super::{Irq, State};

/// LPIs in one allocation.
///
/// # Invariants
/// `left` counts the LPIs that are not freed. The block came from `Box::into_raw`, and is freed by
/// the CPU that takes the count to 0.
pub(crate) struct Block {
    lpis: FixedSlice<Irq>,
    left: AtomicUsize,
}

/// The block of an LPI; `None` for an LPI in a box, and for an SGI, PPI or SPI.
#[derive(Default)]
pub(super) struct Home(Option<NonNull<Block>>);

// SAFETY: only `Irq::free` follows the pointer. By the invariants of `Block` the block is allocated
// then, and its count is atomic. `Block` is `Send`, for the CPU that frees it.
unsafe impl Send for Home {}
// SAFETY: a shared `Home` gives no access to the block.
unsafe impl Sync for Home {}

impl Block {
    /// Makes a block of LPIs of the given INTIDs, states and collections: at least one, and at most
    /// as many as the upper bound of the iterator's size.
    pub(crate) fn make(lpis: impl Iterator<Item = (IntId, State, u16)>) -> NonNull<Self> {
        let block = NonNull::from(Box::leak(Box::<Self>::new_uninit())).cast::<Self>();
        let mut made = Vec::with_capacity(lpis.size_hint().1.unwrap_or_default());
        made.extend(
            lpis.map(|(intid, state, icid)| Irq::make(intid, state, icid, Home(Some(block)))),
        );
        let lpis: FixedSlice<Irq> = made.into_iter().collect();
        let left = AtomicUsize::new(lpis.len());

        // INVARIANT: no LPI is freed, and the block has been leaked above.
        // SAFETY: the memory was allocated above, for a block, and no other CPU has the pointer.
        unsafe { block.write(Self { lpis, left }) };
        block
    }

    /// Returns the LPIs of the block, in the order in which they were given.
    pub(crate) fn lpis(&self) -> &[Irq] {
        &self.lpis
    }
}

impl Piece for Irq {
    /// Frees an LPI that was allocated as a `Box`, or in a [`Block`].
    unsafe fn free(piece: *mut Self) {
        // SAFETY: the caller promises that the LPI is not freed yet.
        let Home(home) = unsafe { &(*piece).home };
        let Some(block) = *home else {
            // SAFETY: an LPI without a block was allocated as a `Box`, and the caller promises that
            // no CPU refers to it.
            drop(unsafe { Box::from_raw(piece) });
            return;
        };

        // SAFETY: by the type invariants the block is allocated, because this LPI is not freed yet.
        let left = unsafe { &block.as_ref().left };
        // AcqRel: pairs with itself. The free of the block comes after the last use of every LPI,
        // which comes before the LPI's own free.
        if left.fetch_sub(1, AcqRel) == 1 {
            // SAFETY: by the type invariants the block came from `Box::into_raw`, and this CPU
            // frees it. No CPU refers to an LPI of the block: all are freed.
            drop(unsafe { Box::from_raw(block.as_ptr()) });
        }
    }
}
