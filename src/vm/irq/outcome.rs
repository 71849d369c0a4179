//! Results of transitions of the state word, and the work left to the caller.

use crate::intid::VcpuId;
use crate::lr::ListRegister;
use crate::sync::{Mutant, mutant};

use super::State;

/// Work left to the caller of a transition.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FollowUp {
    /// No work.
    Nothing,
    /// The interrupt wants a list and is on none: insert the interrupt.
    Insert,
    /// The interrupt waits on the list of this vCPU, perhaps in the wrong place: requeue the
    /// interrupt.
    Requeue(VcpuId),
    /// The interrupt is in a list register of this vCPU: the vCPU has to fold the list register
    /// soon.
    Recall(VcpuId),
    /// An edge has come while the interrupt is in a list register of this vCPU. The vCPU leaves the
    /// guest, because the guest may have ended the first edge.
    Reraised(VcpuId),
    /// The interrupt is in a list register of this vCPU: the vCPU has to fold the list register
    /// before the next entry.
    RecallLater(VcpuId),
}

/// Result of a raise.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Raised {
    /// The state before.
    pub(super) old: State,
    /// The state after.
    pub(super) new: State,
}

impl Raised {
    /// Returns true if the interrupt was on no list and not pending, and wants a list now if routed
    /// to a target. Most raises are of this kind.
    #[inline]
    pub(crate) fn was_idle(self) -> bool {
        self.old.is_idle()
    }

    /// Returns true if the raise leaves no work: the latch was set, and the interrupt is mapped and
    /// has a target.
    #[inline]
    pub(crate) fn needs_nothing(self) -> bool {
        self.old.latch() && !self.unmapped() && !self.without_target()
    }

    /// Returns the index of the target; beyond all vCPUs for none.
    #[inline]
    pub(crate) fn target_index(self) -> usize {
        self.old.target_index()
    }

    /// Returns true if the interrupt was pending already: the injection coalesced.
    #[inline]
    pub(crate) fn coalesced(self) -> bool {
        self.old.pending_outside()
    }

    /// Returns true for an LPI without a mapping: the raise has had no effect.
    #[inline]
    pub(crate) fn unmapped(self) -> bool {
        self.old.unmapped()
    }

    /// Returns true if the interrupt is routed to no vCPU.
    #[inline]
    pub(crate) fn without_target(self) -> bool {
        self.old.target().is_none()
    }

    /// Returns the work left to the caller. The CPU that set the latch does the follow-up; raising
    /// an unmapped LPI has none.
    #[inline]
    pub(crate) fn follow_up(self) -> FollowUp {
        if self.old.latch() || self.old.unmapped() {
            FollowUp::Nothing
        } else {
            self.new.follow_up_pending(self.old)
        }
    }
}

/// Result of a change by a line, a register, or an ITS command.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Changed {
    /// The state before.
    pub(crate) old: State,
    /// The state after.
    pub(crate) new: State,
    /// The work left to the caller.
    pub(crate) follow_up: FollowUp,
}

impl Changed {
    /// Returns the change that makes an interrupt in the state `new`, on no list.
    #[inline]
    pub(crate) fn of_new(new: State) -> Self {
        Self {
            old: State(0),
            new,
            follow_up: new.follow_up_change(),
        }
    }

    /// Returns true if the change has taken a physical interrupt from the state word: the caller
    /// deactivates the physical interrupt.
    #[inline]
    pub(crate) fn takes_physical(self) -> bool {
        self.old.hw() && !self.new.hw()
    }

    /// Returns true if a line of an edge-triggered interrupt has risen.
    #[inline]
    pub(crate) fn is_rising_edge(self) -> bool {
        !self.old.level() && !self.old.line() && self.new.line()
    }
}

/// Result of folding and unlinking, in a single step, an interrupt with an empty list register.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FastFold {
    /// The guest acknowledged the pending state.
    pub(crate) delivered: bool,
    /// The list's reference was the last.
    pub(crate) last: bool,
}

/// Result of folding an interrupt with an empty list register and filling the list register again.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refilled {
    /// The guest acknowledged the pending state that the list register held.
    pub(crate) delivered: bool,
    /// The list register's new image.
    pub(crate) image: ListRegister,
}

/// Result of pruning an interrupt that was on a list and in no list register.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pruned {
    /// The interrupt stays on the list, in the bucket given by the state.
    Kept(State),
    /// The interrupt was unlinked, and the list's reference was put.
    Removed {
        /// The list's reference was the last: the caller frees the interrupt.
        last: bool,
    },
    /// The interrupt was unlinked and goes to another vCPU's list. The caller has the old list's
    /// reference, inserts the interrupt on the new list, and then puts the reference.
    Migrating,
}

/// Result of folding a list register: the guest's part, and the fold's.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Folded {
    /// The guest acknowledged the pending state.
    pub(crate) delivered: bool,
    /// The pending state of the register coalesced with an injection since the fill.
    pub(crate) coalesced: bool,
    /// The pending state of the register was withdrawn: cleared, unmapped, or the level dropped
    /// or waits for a deactivation now.
    pub(crate) withdrawn: bool,
    /// The guest deactivated a level-sensitive interrupt: the line has to be sampled again.
    pub(crate) resample: bool,
    /// The level was still high at the deactivation: the interrupt is pending once more.
    pub(crate) repended: bool,
    /// The hypervisor has to deactivate a physical interrupt, because the guest's deactivation was
    /// cancelled.
    pub(crate) deactivate: bool,
}

/// Result of putting a reference.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PutResult {
    /// The reference was the last: the caller frees the interrupt.
    pub(crate) last: bool,
    /// The change made with the put.
    pub(crate) changed: Changed,
}

impl Folded {
    /// Compares the states before and after a fold of a list register with image `lr`.
    #[inline]
    pub(super) fn of(old: State, new: State, lr: ListRegister) -> Self {
        let delivered = old.lr_pending() && !lr.is_pending();
        // At most one of the pending states in the register and outside is left.
        let before = old.pending_count() - u64::from(delivered);
        let fewer = before > new.pending_count();
        let coalesced = fewer && old.latch() && !old.cancel_pending();

        Self {
            delivered,
            coalesced,
            withdrawn: fewer && !coalesced,
            resample: new.level() && !old.lr_hw() && lr.is_empty(),
            repended: before < new.pending_count(),
            deactivate: old.lr_hw() && !lr.is_empty() && !new.hw(),
        }
    }
}

impl Pruned {
    /// Compares the states before and after the prune of a queued interrupt.
    #[inline]
    pub(super) fn of(old: State, new: State) -> Self {
        if new.queued_on().is_some() {
            Self::Kept(new)
        } else if old.deliverable() {
            Self::Migrating
        } else {
            Self::Removed {
                last: new.refs() == 0,
            }
        }
    }
}

impl State {
    /// Returns the follow-up for a newly pending interrupt; `old` is the state before.
    #[inline]
    pub(super) fn follow_up_pending(self, old: Self) -> FollowUp {
        match self.queued_on() {
            None if self.wants_list() => FollowUp::Insert,
            None => FollowUp::Nothing,
            Some(_) if self.in_lr() && mutant(Mutant::RaisedAgainWithoutKick) => FollowUp::Nothing,
            // The guest may have ended the edge in the list register. A level raises a maintenance
            // interrupt at the guest's deactivation, and is sampled then.
            Some(vcpu) if self.in_lr() && self.latch() && !old.latch() => FollowUp::Reraised(vcpu),
            Some(_) if self.in_lr() => FollowUp::Nothing,
            // The interrupt waits as pending already, or as active, and keeps the place in the
            // list.
            Some(_) if old.pending() || old.active() => FollowUp::Nothing,
            Some(vcpu) => FollowUp::Requeue(vcpu),
        }
    }

    /// Returns the follow-up of an interrupt after a change of anything but its pending state.
    pub(super) fn follow_up_change(self) -> FollowUp {
        match self.queued_on() {
            None if self.wants_list() => FollowUp::Insert,
            None => FollowUp::Nothing,
            Some(vcpu) if self.in_lr() => FollowUp::Recall(vcpu),
            Some(vcpu) => FollowUp::Requeue(vcpu),
        }
    }
}
