//! Deliberate faults of the transitions ([`Mutant`]), each a function of the right outcome. In
//! builds without mutants all functions are constant or return the right outcome.

use crate::lr::ListRegister;
use crate::sync::Ordering;
use crate::sync::{Mutant, mutant, weakened_by};

use super::{CANCEL_P, PENDING, REF, State, UNMAPPED};

/// Returns `order`, of a successful transition, or Relaxed if the fault, or the fault of all
/// transitions, is selected.
#[inline]
pub(super) fn of_order(fault: Mutant, order: Ordering) -> Ordering {
    weakened_by(fault, weakened_by(Mutant::EveryTransitionRelaxed, order))
}

/// Returns true if a fault links an interrupt not allowed to be linked.
#[inline]
pub(super) fn of_link(free: bool, alive: bool, here: bool) -> bool {
    mutant(Mutant::LinkedTwice) && alive && here
        || mutant(Mutant::InsertedAfterFree) && free && here
}

/// Returns true if a fault stages a queued interrupt.
#[inline]
pub(super) fn of_staging() -> bool {
    mutant(Mutant::StagedTwice)
}

/// Returns true if a fault takes every target for the list's vCPU.
#[inline]
pub(super) fn of_prune() -> bool {
    mutant(Mutant::StaysOnTheOldList)
}

/// Returns true if the selected fault is in folding or pruning, and so in the general path.
#[inline]
pub(super) fn is_of_fold() -> bool {
    [
        Mutant::FoldDropsReference,
        Mutant::FoldOverwritesLatch,
        Mutant::LineFoldedAsLatch,
        Mutant::CancelOutlivesFold,
        Mutant::StaysOnTheOldList,
    ]
    .into_iter()
    .any(mutant)
}

/// Returns the result of folding `old` from `lr`: `right`, or a faulty version of `right`.
#[inline]
pub(super) fn of_fold(old: State, lr: ListRegister, right: State) -> State {
    let pending = lr.is_pending() && !old.cancel_pending();
    if mutant(Mutant::FoldDropsReference) {
        State(right.0 - REF)
    } else if mutant(Mutant::FoldOverwritesLatch) {
        right.with_flag(PENDING, pending && old.lr_latch())
    } else if mutant(Mutant::LineFoldedAsLatch) && pending {
        right.with(PENDING, 0)
    } else if mutant(Mutant::CancelOutlivesFold) {
        right.with(old.0 & CANCEL_P, 0)
    } else {
        right
    }
}

/// Returns the result of `clear_pending`: `right`, or a faulty version of `right`.
#[inline]
pub(super) fn of_clear_pending(old: State, right: State) -> State {
    if mutant(Mutant::ClearMissesListRegister) {
        right.with(0, CANCEL_P & !old.0)
    } else {
        right
    }
}

/// Returns the result of a put: `right`, or a faulty version of `right`.
#[inline]
pub(super) fn of_put(old: State, withdraw: bool, right: State) -> State {
    if mutant(Mutant::UnmappedStaysPending) {
        State(old.0.wrapping_sub(REF))
    } else if mutant(Mutant::UnmappedForAll) && withdraw {
        right.with(UNMAPPED, PENDING)
    } else if mutant(Mutant::UnmapMissesListRegister) {
        right.with(0, CANCEL_P & !old.0)
    } else {
        right
    }
}
