//! Results of transitions of the state word, and what they leave to the caller.

use crate::intid::VcpuId;
use crate::lr::ListRegister;
use crate::sync::{Mutant, mutant};

use super::State;

/// Work that a transition leaves to its caller.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FollowUp {
    /// No work.
    Nothing,
    /// The interrupt wants a list and is on none: insert it.
    Insert,
    /// The interrupt waits on this vCPU's list and its place there may have changed: requeue it.
    Requeue(VcpuId),
    /// The interrupt is in a list register of this vCPU, which has to fold its list registers soon.
    Recall(VcpuId),
    /// An edge has come while the interrupt is in a list register of this vCPU. The vCPU leaves the
    /// guest, because the guest may have ended the first one.
    Reraised(VcpuId),
    /// The interrupt is in a list register of this vCPU, which has to fold its list registers
    /// before it next enters the guest.
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
    /// Returns whether the interrupt was on no list, not pending, and wants a list now if it has a
    /// target. Most raises are of this kind.
    #[inline]
    pub(crate) fn was_idle(self) -> bool {
        self.old.is_idle()
    }

    /// Returns whether the raise asks for nothing: the latch was set, and the interrupt is mapped
    /// and has a target.
    #[inline]
    pub(crate) fn needs_nothing(self) -> bool {
        self.old.latch() && !self.unmapped() && !self.without_target()
    }

    /// Returns the index of the target; beyond all vCPUs for none.
    #[inline]
    pub(crate) fn target_index(self) -> usize {
        self.old.target_index()
    }

    /// Returns whether the interrupt was pending already, so that this injection coalesced.
    #[inline]
    pub(crate) fn coalesced(self) -> bool {
        self.old.pending_outside()
    }

    /// Returns whether this is an LPI without a mapping: the raise has had no effect.
    #[inline]
    pub(crate) fn unmapped(self) -> bool {
        self.old.unmapped()
    }

    /// Returns whether the interrupt is routed to no vCPU.
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

/// Result of a fold and prune of an interrupt whose list register is empty, in one step.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FastFold {
    /// The guest acknowledged the pending state.
    pub(crate) delivered: bool,
    /// The image with which the interrupt stays in its list register, for an edge that has come
    /// meanwhile.
    pub(crate) reloaded: Option<ListRegister>,
    /// The list's reference was the last one.
    pub(crate) last: bool,
}

/// Result of pruning an interrupt that was on a list and in no list register.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pruned {
    /// The interrupt stays on the list, in the bucket that the state says.
    Kept(State),
    /// The interrupt was unlinked, and the list's reference was put.
    Removed {
        /// The list's reference was the last one: the caller frees the interrupt.
        last: bool,
    },
    /// The interrupt was unlinked and goes to another vCPU's list. The list's reference was handed
    /// to the caller, who inserts the interrupt there and then puts the reference.
    Migrating,
}

/// Result of folding a list register: the guest's part, and what the fold made of it.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Folded {
    /// The guest acknowledged the pending state.
    pub(crate) delivered: bool,
    /// The pending state of the register coalesced with an injection that came meanwhile.
    pub(crate) coalesced: bool,
    /// The pending state of the register was withdrawn: cleared, unmapped, or its line dropped.
    pub(crate) withdrawn: bool,
    /// The guest deactivated a level-sensitive interrupt: its line has to be sampled again.
    pub(crate) resample: bool,
    /// The line was still high at the deactivation: the interrupt is pending once more.
    pub(crate) repended: bool,
    /// The hypervisor has to deactivate a physical interrupt, because the guest's part in it was
    /// cancelled.
    pub(crate) deactivate: bool,
}

/// Result of putting a reference.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Put {
    /// The reference was the last one: the caller frees the interrupt.
    pub(crate) last: bool,
    /// The change that went with the put.
    pub(crate) changed: Changed,
}

impl Folded {
    /// Compares the states before and after a fold of a list register that holds `lr`.
    #[inline]
    pub(super) fn of(old: State, new: State, lr: ListRegister) -> Self {
        let delivered = old.lr_pending() && !lr.is_pending();
        // Of the pending states in the register and outside, at most one is left.
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
    /// Returns the follow-up of an interrupt that has become pending; `old` is the state before.
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
            // It waits as pending already, or as active, and keeps its place.
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
