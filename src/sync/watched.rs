//! What loom is told of memory that it does not manage.
//!
//! loom sees its own atomics and cells, not that a `Box` is freed, nor that two CPUs are at a structure
//! that one of them should own. A [`Watched`] inside such a structure makes both visible: it is a cell
//! that every use reads or writes, and that its end writes, so that loom reports a use that is not ordered
//! before the end or after the creation, whether or not it happened to go well. Without loom it is
//! nothing.

#[cfg(loom)]
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

#[cfg(loom)]
const LIVE: u8 = 0;
#[cfg(loom)]
const RETIRED: u8 = 1;
#[cfg(loom)]
const ENDED: u8 = 2;

/// The witness of a structure's life.
#[derive(Default)]
pub(crate) struct Watched {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
    /// Not loom's: an observation in the order in which things happen.
    #[cfg(loom)]
    fate: AtomicU8,
}

impl Watched {
    /// The structure is looked at.
    #[inline]
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        {
            assert_ne!(self.fate.load(Relaxed), ENDED, "used after it was freed");
            self.cell.with(|_| ());
        }
    }

    /// The structure is changed by the one CPU that may.
    #[inline]
    pub(crate) fn write(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }

    /// The structure is handed to the epoch, once.
    #[inline]
    pub(crate) fn defer(&self) {
        #[cfg(loom)]
        assert_eq!(self.fate.swap(RETIRED, Relaxed), LIVE, "freed twice");
    }

    /// The structure is freed.
    #[inline]
    pub(crate) fn end(&self) {
        #[cfg(loom)]
        // The end of a model that has failed already says nothing.
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
