//! Transitions by an injection, a line or a register write. Any CPU, any time, no lock.

use crate::steps::step;
use crate::sync::Ordering::AcqRel;
use crate::sync::{Mutant, mutant, weakened_by};

use super::{
    ACTIVE, CANCEL_A, CANCEL_P, Changed, FollowUp, HW, Irq, LINE, PENDING, Raised, State,
    mutant_hooks,
};

impl Irq {
    /// Sets the pending latch: an edge, an MSI or an SGI. One atomic operation, no loop.
    #[inline]
    pub(crate) fn raise(&self) -> Raised {
        step();
        self.watched.read();
        if mutant(Mutant::RaiseLooksFirst)
            && let old = self.state()
            && old.latch()
        {
            return Raised { old, new: old };
        }

        // AcqRel: module docs of `irq`, "Publication"; also if nothing changes.
        let order = weakened_by(Mutant::RaiseRelaxed, AcqRel);
        let old = State(self.state.fetch_or(PENDING, order));
        Raised {
            old,
            new: State(old.0 | PENDING),
        }
    }

    /// Sets the level of the input line.
    #[inline]
    pub(crate) fn set_line(&self, high: bool) -> Changed {
        step();
        // AcqRel: module docs of `irq`, "Publication".
        let old = State(if high {
            self.state.fetch_or(LINE, AcqRel)
        } else {
            self.state.fetch_and(!LINE, AcqRel)
        });

        let new = old.with_flag(LINE, high);

        let changed = old.line() != high && old.level();
        let follow_up = match old.queued_on() {
            _ if !changed => FollowUp::Nothing,
            _ if high => new.follow_up_pending(old),
            Some(_) if old.in_lr() && mutant(Mutant::DropNotNoted) => FollowUp::Nothing,
            Some(vcpu) if old.in_lr() => FollowUp::RecallLater(vcpu),
            Some(vcpu) => FollowUp::Requeue(vcpu),
            None => FollowUp::Nothing,
        };

        Changed {
            old,
            new,
            follow_up,
        }
    }

    /// Applies a register write to flags, priority or target. `change` leaves `queued_on`, the LR
    /// bits and the references alone.
    pub(crate) fn update(&self, change: impl Fn(State) -> State) -> Changed {
        let (old, new) = self.apply(change);
        let follow_up = if old == new {
            FollowUp::Nothing
        } else {
            new.follow_up_change()
        };

        Changed {
            old,
            new,
            follow_up,
        }
    }

    /// Withdraws the latch and a list register's pending state: `ICPENDR`, `CLEAR`. A physical PPI
    /// stays owned ([`physical`](super::physical)).
    pub(crate) fn clear_pending(&self) -> Changed {
        self.update(|old| {
            let physical = if old.active() { 0 } else { HW };
            let cancel = if old.in_lr() { CANCEL_P } else { 0 };
            let left = self.released(old, PENDING | physical);
            mutant_hooks::of_clear_pending(old, left.with(cancel, 0))
        })
    }

    /// Ends the active state, also in a list register: `ICACTIVER`, a trapped `ICC_DIR_EL1`, or
    /// `EOIcount`. A physical PPI stays owned ([`physical`](super::physical)).
    pub(crate) fn clear_active(&self) -> Changed {
        self.update(|old| {
            // With a pending state behind the active one, the physical interrupt waits for the end
            // of the pending state.
            let ends = old.active() && !old.latch();
            let physical = if ends { HW } else { 0 };
            let cancel = if old.in_lr() { CANCEL_A } else { 0 };
            self.released(old, ACTIVE | physical).with(cancel, 0)
        })
    }
}
