//! Witness of a structure's life, for loom.
//!
//! loom sees its own atomics and cells. loom does not see the free of a `Box`, nor two CPUs in a
//! structure with a single owner. A [`Watched`] inside a structure makes both visible: every use
//! reads or writes a loom cell, and the end of the structure writes the cell. loom then reports
//! every use that is not ordered after the creation and before the end. Without loom, a [`Watched`]
//! is empty.

#[cfg(loom)]
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

#[cfg(loom)]
const LIVE: u8 = 0;
#[cfg(loom)]
const DEFERRED: u8 = 1;
#[cfg(loom)]
const ENDED: u8 = 2;

/// An allocation that loom tracks.
#[cfg(loom)]
struct Tracked(#[expect(dead_code)] loom::alloc::Track<()>);

#[cfg(loom)]
impl Default for Tracked {
    fn default() -> Self {
        Self(loom::alloc::Track::new(()))
    }
}

/// Witness of a structure's life.
#[derive(Default)]
pub(crate) struct Watched {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
    /// Lets loom notice a structure that is never freed.
    #[cfg(loom)]
    _tracked: Tracked,
    // Not loom's atomic: an observation of the actual execution, without effect on the model.
    #[cfg(loom)]
    fate: AtomicU8,
}

impl Watched {
    /// Records a shared use of the structure.
    #[inline]
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        {
            assert_ne!(self.fate.load(Relaxed), ENDED, "used after it was freed");
            self.cell.with(|_| ());
        }
    }

    /// Records an exclusive use of the structure.
    #[inline]
    pub(crate) fn write(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }

    /// Records the deferral of the structure's free to the epoch, at most once.
    #[inline]
    pub(crate) fn defer(&self) {
        #[cfg(loom)]
        assert_eq!(self.fate.swap(DEFERRED, Relaxed), LIVE, "freed twice");
    }

    /// Records the free of the structure.
    #[inline]
    pub(crate) fn end(&self) {
        #[cfg(loom)]
        // During a panic the model has failed already, and a further check would report nothing
        // new.
        if self.fate.swap(ENDED, Relaxed) != ENDED && !std::thread::panicking() {
            self.write();
        }
    }
}

#[cfg(loom)]
impl Drop for Watched {
    fn drop(&mut self) {
        self.end();
    }
}
