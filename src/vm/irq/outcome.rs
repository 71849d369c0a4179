//! What a transition of the state word found, and what its caller owes for it.

use crate::intid::VcpuId;
use crate::lr::ListRegister;
use crate::sync::{Mutant, mutant};

use super::State;

/// What the caller of a transition owes next.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FollowUp {
    /// Nothing.
    Nothing,
    /// It wants a list and is on none: insert it.
    Insert,
    /// It waits on this vCPU's list and its place there may have changed: settle it under the lock.
    Requeue(VcpuId),
    /// It is in a list register of this vCPU, which must take it back soon: leave the guest for it.
    Recall(VcpuId),
    /// It has come again while it is in a list register of this vCPU: leave the guest, for the guest may have
    /// finished with the first one.
    Reraised(VcpuId),
    /// It is in a list register of this vCPU, which must look at it before it next enters the guest.
    RecallLater(VcpuId),
}

/// What a raise found.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Raised {
    /// The state before.
    pub(super) old: State,
    /// The state after.
    pub(super) new: State,
}

impl Raised {
    /// What most raises are: news of an interrupt that is on no list and wants one, if it leads to a vCPU.
    #[inline]
    pub(crate) fn was_idle(self) -> bool {
        self.old.is_idle()
    }

    /// Its latch was set already, and it is mapped and leads to a vCPU: nothing is follow_up.
    #[inline]
    pub(crate) fn needs_nothing(self) -> bool {
        self.old.latch() && !self.unmapped() && !self.without_target()
    }

    /// The index of the vCPU that it leads to; beyond all of them for none.
    #[inline]
    pub(crate) fn target_index(self) -> usize {
        self.old.target_index()
    }

    /// It was pending already: this injection merged with that one.
    #[inline]
    pub(crate) fn coalesced(self) -> bool {
        self.old.pending_outside()
    }

    /// It is an LPI that is no longer mapped: nothing has happened.
    #[inline]
    pub(crate) fn unmapped(self) -> bool {
        self.old.unmapped()
    }

    /// It leads to no vCPU.
    #[inline]
    pub(crate) fn without_target(self) -> bool {
        self.old.target().is_none()
    }

    /// What the caller owes.
    #[inline]
    pub(crate) fn follow_up(self) -> FollowUp {
        if self.old.latch() || self.old.unmapped() {
            // Whoever set the latch owes, or has done, what follows from it; a void raise asks for
            // nothing.
            FollowUp::Nothing
        } else {
            self.new.follow_up_pending(self.old)
        }
    }
}

/// A change by a line, a register, or an ITS command.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Changed {
    /// The state before.
    pub(crate) old: State,
    /// The state after.
    pub(crate) new: State,
    /// What the caller owes.
    pub(crate) follow_up: FollowUp,
}

/// What a fold and prune in one step found.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FastFold {
    /// The guest acknowledged the pending state.
    pub(crate) delivered: bool,
    /// It has come again, and stays where it is, with this image.
    pub(crate) reloaded: Option<ListRegister>,
    /// The list's reference was the last one: the interrupt is dying.
    pub(crate) last: bool,
}

/// What became of an interrupt that was on a list but in no list register.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pruned {
    /// It stays; the state says in which bucket.
    Kept(State),
    /// It left the list, and the list's reference is gone. `last` if it was the last one.
    Removed {
        /// The interrupt is dying: the caller takes it out of its table.
        last: bool,
    },
    /// It left the list for another vCPU's. The list's reference went over to the caller, who inserts
    /// it there and then puts the reference.
    Migrating,
}

/// What the guest did with an interrupt in a list register, as fold found it.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Folded {
    /// The guest acknowledged what was pending.
    pub(crate) delivered: bool,
    /// What was still pending merged with an injection that arrived meanwhile.
    pub(crate) coalesced: bool,
    /// What was still pending was void: cleared, unmapped, or its line dropped.
    pub(crate) withdrawn: bool,
    /// A level-sensitive interrupt was deactivated: its line is to be sampled again.
    pub(crate) resample: bool,
    /// Its line was still high then: it is pending once more.
    pub(crate) repended: bool,
    /// A physical interrupt must be deactivated by the hypervisor: the guest's part in it is void.
    pub(crate) deactivate: bool,
}

/// What giving a reference back came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Put {
    /// It was the last one: the interrupt is dying.
    pub(crate) last: bool,
    /// What went with it.
    pub(crate) changed: Changed,
}

impl Folded {
    /// What taking `old` back to `new` from a list register with `lr` in it means.
    #[inline]
    pub(super) fn of(old: State, new: State, lr: ListRegister) -> Self {
        let delivered = old.lr_pending() && !lr.is_pending();
        // Of what was pending, in the register and outside, at most one state is pending now.
        let before = old.pending_count() - u64::from(delivered);
        let merged = before > new.pending_count();
        let coalesced = merged && old.latch() && !old.cancel_pending();
        Self {
            delivered,
            coalesced,
            withdrawn: merged && !coalesced,
            resample: new.level() && !old.lr_hw() && lr.is_empty(),
            repended: before < new.pending_count(),
            deactivate: old.lr_hw() && !lr.is_empty() && !new.hw(),
        }
    }
}

impl Pruned {
    /// What settling `old`, which was queued, to `new` means.
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
    /// What is follow_up once an interrupt has newly become pending; `old` is the state before.
    #[inline]
    pub(super) fn follow_up_pending(self, old: Self) -> FollowUp {
        match self.queued_on() {
            None if self.wants_list() => FollowUp::Insert,
            None => FollowUp::Nothing,
            // An edge while it is in a list register: the guest may have finished with that one. A
            // level raises a maintenance interrupt when the guest is done, and is sampled then.
            Some(_) if self.in_lr() && mutant(Mutant::RaisedAgainWithoutKick) => FollowUp::Nothing,
            Some(vcpu) if self.in_lr() && self.latch() && !old.latch() => FollowUp::Reraised(vcpu),
            Some(_) if self.in_lr() => FollowUp::Nothing,
            // It waits as pending already, or as active, and stays where it is.
            Some(_) if old.pending() || old.active() => FollowUp::Nothing,
            Some(vcpu) => FollowUp::Requeue(vcpu),
        }
    }

    /// What is follow_up after a change of anything else.
    pub(super) fn follow_up_change(self) -> FollowUp {
        match self.queued_on() {
            None if self.wants_list() => FollowUp::Insert,
            None => FollowUp::Nothing,
            Some(vcpu) if self.in_lr() => FollowUp::Recall(vcpu),
            Some(vcpu) => FollowUp::Requeue(vcpu),
        }
    }
}
