//! Memory that a VM has left to the epoch and that is not freed yet, counted for each VM.
//!
//! The epoch frees unlinked memory once every CPU has left the epoch that the memory was unlinked
//! in. A CPU that stalls there holds everything back, and the guest of another CPU decides how much
//! is unlinked. So the memory is counted in pieces, and the work of a guest that unlinks more waits
//! at [`Garbage::LIMIT`]. The work is deferred work, tried again with every slice: nothing has to
//! notify it once memory is freed.
//!
//! # Piles
//! A CPU leaves pieces in a pile of its own, which no other CPU can free. A pile goes to the domain
//! when it is large, or when the VM has half of the limit unfreed ([`CpuPin::hurry`]). The piles of
//! CPUs that do no more work of the VM hold at most the other half, and cannot stop the work for
//! good.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use crossbeam_epoch::Guard;

#[cfg(doc)]
use super::CpuPin;

/// Memory that a VM leaves to the epoch.
pub(crate) trait Piece: Sized {
    /// Frees the piece.
    ///
    /// # Safety
    /// No CPU refers to the piece, and the piece is freed once. It came from `Box::into_raw`,
    /// unless the type frees it in another way.
    unsafe fn free(piece: *mut Self) {
        // SAFETY: the caller promises that the piece came from `Box::into_raw`, and that no CPU
        // refers to it.
        drop(unsafe { Box::from_raw(piece) });
    }
}

/// Pieces of a VM's memory that wait for the epoch.
#[derive(Default)]
pub struct Garbage(
    /// Has an owner for each piece, beside the VM. The count is read as a statistic: no access is
    /// ordered by it.
    Arc<()>,
);

impl fmt::Debug for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Garbage").field(&self.pieces()).finish()
    }
}

impl Garbage {
    /// Number of pieces not freed at which the guest's ITS commands that may unmap more wait.
    pub const LIMIT: usize = 1024;

    /// Heap bytes of the largest piece, a device with room for 256 events or a table node, and of
    /// a pile for the piece alone.
    pub const PIECE: usize = 2400 + 2200;

    /// Returns the number of pieces that are not freed.
    #[inline]
    pub(crate) fn pieces(&self) -> usize {
        // The VM is an owner.
        Arc::strong_count(&self.0).wrapping_sub(1)
    }

    /// Leaves `piece` to the epoch.
    ///
    /// # Safety
    /// `piece` was allocated as [`Piece::free`] expects. No CPU that enters the epoch from now on
    /// finds the piece, and the piece is left once.
    #[inline]
    pub(crate) unsafe fn leave<T: Piece>(&self, piece: *mut T, guard: &Guard) {
        // The atomics of shuttle are larger.
        const { assert!(cfg!(shuttle) || size_of::<T>() <= 2400) };
        let counted = self.0.clone();
        // SAFETY: the caller promises that the piece was allocated as `free` expects and is left
        // once, and that no CPU refers to the piece when the function runs. The function may run on
        // any CPU: the pieces of a VM are of types that CPUs share.
        unsafe {
            guard.defer_unchecked(move || {
                T::free(piece);
                drop(counted);
            });
        }
    }
}
