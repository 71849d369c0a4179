//! Work on a range of items, done in slices by any number of CPUs.

use core::cell::Cell;

use super::Ordering::{Acquire, Relaxed, Release};
use super::{AtomicU32, AtomicU64, Mutant, mutant, spin_loop};

/// The next item of a round with nothing left to claim.
const NOTHING: u64 = u32::MAX as u64;
/// The next item of a round that is due and not begun. Nothing can be claimed yet.
const DUE: u64 = NOTHING - 1;

/// A task over the items 0 to `end`, an argument of the methods. A CPU that starts the task begins
/// a new round: every item is claimed once more.
///
/// The claim is a compare-and-swap: each slice of a round belongs to a single CPU. `busy` counts
/// the CPUs at work on a slice. A reader that finds nothing left to claim and no CPU busy sees the
/// effects of every slice. The number of the round keeps a CPU about to claim a slice of an old
/// round from claiming a slice of the new round, and from beginning the new round if it is due.
#[derive(Debug)]
pub struct Slices {
    /// The next item in bits 31:0, the number of the round in bits 63:32.
    next: AtomicU64,
    /// CPUs at work on a slice.
    busy: AtomicU32,
}

/// A round that was found due, for the CPU that may begin it.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Due(u64);

/// A claimed slice: items `first` to `end`. Dropped when the slice is done.
#[must_use]
#[derive(Debug)]
pub struct Slice<'a> {
    /// First item.
    pub first: u32,
    /// End of the items, exclusive.
    pub end: u32,
    slices: &'a Slices,
}

impl Default for Slices {
    fn default() -> Self {
        Self::new()
    }
}

impl Slices {
    /// Makes a task with nothing to claim: [`Slices::start`] begins the first round.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: AtomicU64::new(NOTHING),
            busy: AtomicU32::new(0),
        }
    }

    /// Begins a new round at item 0.
    pub fn start(&self) {
        self.renew(0);
    }

    /// Makes a new round due, which [`Slices::begin`] begins. Ends the round before.
    pub fn expect(&self) {
        self.renew(DUE);
    }

    /// Replaces the round by a new one at item `first`.
    fn renew(&self, first: u64) {
        // Release: publishes the reason of the round to the CPUs that claim; pairs with the Acquire
        // in `claim`, `due` and `has_more`. Relaxed: the number of the round is only counted up.
        let _ = self.next.fetch_update(Release, Relaxed, |next| {
            Some(if mutant(Mutant::RoundWithoutNumber) {
                first
            } else {
                (next | NOTHING).wrapping_add(1) | first
            })
        });
    }

    /// Returns the round that is due, if one is.
    #[inline]
    pub fn due(&self) -> Option<Due> {
        // Acquire: pairs with the Release in `expect`.
        let next = self.next.load(Acquire);
        (next & NOTHING == DUE).then_some(Due(next))
    }

    /// Begins the round that was found due, unless another CPU has begun or stopped it.
    pub fn begin(&self, due: Due) -> bool {
        let due = if mutant(Mutant::AnyRoundBegun) {
            match self.due() {
                Some(due) => due,
                None => return false,
            }
        } else {
            due
        };
        // Release: publishes what the CPU has done since the round was due; pairs with the Acquire
        // in `claim`. Relaxed: the word is only compared.
        self.next
            .compare_exchange(due.0, due.0 & !NOTHING, Release, Relaxed)
            .is_ok()
    }

    /// Leaves nothing to claim, and no round due. Slices claimed earlier are still done, and
    /// [`Slices::is_busy`] returns true until they are.
    pub fn stop(&self) {
        // Acquire: pairs with the Release in `claim`, where the CPU is counted before the claim.
        self.next.fetch_or(NOTHING, Acquire);
    }

    /// Ends the task: leaves nothing to claim, and waits for the slices claimed earlier. The caller
    /// holds no lock, and is at work on no slice.
    pub fn end(&self) {
        self.stop();
        // A CPU that claims is counted before, so that the stop hides none from the look.
        while self.is_busy() && !mutant(Mutant::EndsAmidASlice) {
            spin_loop();
        }
    }

    /// Claims the next slice of up to `length` items, or returns `None` if nothing is left. The
    /// slice begins at `skip(next)`, the first item to claim at or after the item `next`. If `skip`
    /// returns `None`, nothing is claimed, and the items are left for a later call.
    #[inline]
    pub fn claim(
        &self,
        end: u32,
        length: u32,
        skip: impl Fn(u32) -> Option<u32>,
    ) -> Option<Slice<'_>> {
        // Saves 6 of the 154 instructions of mmio/GICD_CTLR_read.
        if !self.has_more(end) {
            return None;
        }

        if !mutant(Mutant::BusyAfterTheClaim) {
            // Relaxed: published by the claim. A CPU that finds nothing left to claim finds this
            // CPU busy.
            self.busy.fetch_add(1, Relaxed);
        }

        let first = Cell::new(end);
        // Release: publishes that the CPU is busy; pairs with the Acquire in `stop` and `is_done`.
        // Acquire: pairs with the Release in `renew` and `begin`.
        let claimed = self.next.fetch_update(Release, Acquire, |next| {
            let at = Some(next as u32).filter(|at| *at < end)?;
            first.set(skip(at)?.min(end));
            Some(next & !NOTHING | u64::from(first.get().saturating_add(length)))
        });

        if mutant(Mutant::BusyAfterTheClaim) {
            // Relaxed: too late.
            self.busy.fetch_add(1, Relaxed);
        }

        // Dropped at once if the claim failed: the CPU is no longer busy.
        let slice = Slice {
            first: first.get(),
            end: first.get().saturating_add(length).min(end),
            slices: self,
        };

        claimed.is_ok().then_some(slice)
    }

    /// Returns true if something is left to claim. The caller sees the reason of the round, and
    /// every other task as the CPU did that began the round.
    #[inline]
    #[must_use]
    pub fn has_more(&self, end: u32) -> bool {
        // Acquire: pairs with the Release in `renew` and `begin`.
        (self.next.load(Acquire) as u32) < end
    }

    /// Returns true if a CPU is at work on a slice.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        // Acquire: pairs with the Release in the drop of the slice.
        self.busy.load(Acquire) != 0
    }

    /// Returns true if every slice has been claimed and done; the caller sees the effects. A round
    /// that is due is for [`Slices::due`] to tell.
    #[inline]
    #[must_use]
    pub fn is_done(&self, end: u32) -> bool {
        // Acquire, for both loads and in this order: pairs with the Release in `claim`, where the
        // CPU is counted before the claim, and in the drop of the slice.
        self.next.load(Acquire) as u32 >= end && self.busy.load(Acquire) == 0
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        // Release: a CPU that finds no CPU busy sees the effects of the slice; pairs with the
        // Acquire in `is_done` and `is_busy`.
        self.slices.busy.fetch_sub(1, Release);
    }
}
