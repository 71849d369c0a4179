//! The locks that a CPU holds: the lock order, and calls from interrupt handlers.

use core::cell::Cell;

use super::Counter;
use super::Ordering::SeqCst;
use super::compiler_fence;

/// Position of a lock in the lock order (module docs of [`crate::sync`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Rank {
    /// Changes of a VM as a whole: added vCPUs, connections of interrupts, the claim for a
    /// teardown or reset. Also the list of a domain's CPUs.
    Topology = 1,
    /// An ITS's command queue and tables.
    ItsCommand = 2,
    /// A virtual PE, or the direct events of an ITS. No lock is taken inside.
    Direct = 3,
    /// A vCPU's active/pending list. No lock is taken inside.
    ApList = 4,
}

/// Number of ranks.
const RANKS: usize = Rank::ApList as usize;

/// Record of the locks of a physical CPU. Every acquisition names the locks of the acquiring CPU.
///
/// A CPU records a lock when it has the lock, or begins to wait, and strikes the record out after
/// the release. An interrupt handler on that CPU finds the record. A CPU that has to wait checks
/// the record first, and panics instead of waiting for itself. Debug builds check every
/// acquisition. A handler is not noticed that comes between the draw of a ticket and the record, a
/// few instructions later.
#[derive(Default)]
pub(crate) struct HeldLocks {
    /// For each rank, true if the CPU holds or waits for a lock of that rank.
    held: [Cell<bool>; RANKS],
    acquired: Counter,
}

impl HeldLocks {
    /// Returns the number of locks that the CPU has taken so far.
    #[inline]
    #[must_use]
    pub(crate) fn acquired(&self) -> u64 {
        self.acquired.get()
    }

    /// Returns true if the CPU holds no lock.
    #[cfg(all(test, not(loom)))]
    pub(super) fn is_empty(&self) -> bool {
        self.held.iter().all(|held| !held.get())
    }

    /// Checks the lock order before a CPU takes a lock of `rank`. Does nothing in release
    /// builds.
    ///
    /// # Panics
    /// If the lock order forbids the acquisition.
    #[inline]
    pub(super) fn check_order(&self, rank: u8) {
        if cfg!(debug_assertions) {
            self.check(rank);
        }
    }

    /// Records that the CPU waits for a lock of `rank`.
    ///
    /// # Panics
    /// If the wait might never end: the lock order forbids the acquisition.
    #[inline]
    pub(super) fn wait(&self, rank: u8) {
        self.check(rank);
        self.record(rank);
    }

    /// Records and counts the acquisition of a lock of `rank`.
    #[inline]
    pub(super) fn acquire(&self, rank: u8) -> Held<'_> {
        self.acquired.add(1);
        self.record(rank);
        Held(self.entry(rank))
    }

    /// Checks the lock order after a lock of `rank` was not free.
    ///
    /// # Panics
    /// If the lock order forbids the acquisition: a handler that tries again might do so for ever.
    #[inline]
    pub(super) fn check(&self, rank: u8) {
        for (outer, held) in (1..).zip(&self.held) {
            if outer >= rank && held.get() {
                forbidden(rank, outer);
            }
        }
    }

    /// Records that the CPU holds or waits for a lock of `rank`.
    #[inline]
    fn record(&self, rank: u8) {
        self.entry(rank).set(true);
        // SeqCst: for the compiler alone. A handler on this CPU sees the record while the CPU waits
        // or has the lock. No other CPU looks.
        compiler_fence(SeqCst);
    }

    /// Returns the entry of the locks of `rank`.
    #[inline]
    fn entry(&self, rank: u8) -> &Cell<bool> {
        &self.held[usize::from(rank) - 1]
    }
}

/// Panics, because a CPU that holds or waits for a lock of rank `outer` takes one of rank `rank`.
#[cold]
#[inline(never)]
fn forbidden(rank: u8, outer: u8) -> ! {
    panic!(
        "lock order: a CPU takes a lock of rank {rank} while it holds or waits for a lock of rank \
         {outer}; an interrupt handler, or a callback of Host, has called the library in the \
         middle of a call on the same CPU"
    );
}

/// The entry of a held lock in a [`HeldLocks`], struck out when dropped.
pub(super) struct Held<'a>(&'a Cell<bool>);

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        // SeqCst: for the compiler alone. A handler on this CPU sees the release before the record
        // is struck out.
        compiler_fence(SeqCst);
        self.0.set(false);
    }
}
