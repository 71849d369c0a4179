//! Transitions by an injection, a line or a register write. Any CPU, any time, no lock.

use crate::intid::VcpuId;
use crate::steps::step;
use crate::sync::Ordering::Release;
use crate::sync::{Mutant, mutant};

use super::{
    ACTIVE, CANCEL_A, CANCEL_P, Changed, FollowUp, HW, Irq, LINE, LR_ASKED, MESSAGE, PENDING,
    Raised, State, mutant_hooks,
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

        // Release: module docs of `irq`, "Publication"; also if nothing changes.
        let order = mutant_hooks::of_order(Mutant::RaiseRelaxed, Release);
        let old = State(self.state.fetch_or(PENDING, order));
        Raised {
            old,
            new: State(old.0 | PENDING),
        }
    }

    /// Sets the level of the input line. A line of an edge-triggered interrupt that rises is an
    /// edge, to be raised by the caller ([`Changed::is_rising_edge`]).
    #[inline]
    pub(crate) fn set_line(&self, high: bool) -> Changed {
        self.set_source(LINE, high)
    }

    /// Asserts the level-sensitive interrupt by a message, `GICD_SETSPI_NSR`, or takes the message
    /// back and leaves the latch alone. A message of an edge-triggered interrupt has no effect.
    pub(crate) fn set_message(&self, asserted: bool) -> Changed {
        self.set_source(MESSAGE, asserted)
    }

    /// Sets one of the sources of the level ([`ASSERTED`](super::state::ASSERTED)).
    #[inline]
    fn set_source(&self, source: u64, high: bool) -> Changed {
        step();
        // Release: module docs of `irq`, "Publication".
        let order = mutant_hooks::of_order(Mutant::LineRelaxed, Release);
        let old = State(if high {
            self.state.fetch_or(source, order)
        } else {
            self.state.fetch_and(!source, order)
        });

        let new = old.with_flag(source, high);

        let changed = old.level_is_high() != new.level_is_high();
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
        self.clear_pending_and(0)
    }

    /// Takes a message back, and clears the pending state as [`Irq::clear_pending`] does:
    /// `GICD_CLRSPI_NSR`. The line stays.
    pub(crate) fn clear_message(&self) -> Changed {
        self.clear_pending_and(MESSAGE)
    }

    #[inline(always)]
    fn clear_pending_and(&self, source: u64) -> Changed {
        self.update(|old| {
            let physical = if old.active() { 0 } else { HW };
            let cancel = if old.in_lr() { CANCEL_P } else { 0 };
            let left = self.released(old, PENDING | source | physical);
            mutant_hooks::of_clear_pending(old, left.with(cancel, 0))
        })
    }

    /// Asks for the state in the list register, which the next fold or refresh gives. Returns the
    /// vCPU of the list register; `None`, changing nothing, if the interrupt is in none.
    pub(crate) fn ask_lr(&self) -> Option<VcpuId> {
        self.transition(|old| old.in_lr().then(|| old.with(LR_ASKED, 0)))
            .ok()
            .and_then(|(_, new)| new.queued_on())
    }

    /// Takes the pending latch of an LPI routed to `vcpu`, whose pending state has moved to the
    /// pending table. Returns `None`, changing nothing, without a latch or with another target.
    pub(crate) fn take_pending(&self, vcpu: VcpuId) -> Option<Changed> {
        let (old, new) = self
            .transition(|old| {
                let here = old.latch() && old.target() == Some(vcpu);
                here.then(|| old.with(0, PENDING))
            })
            .ok()?;

        Some(Changed {
            old,
            new,
            follow_up: new.follow_up_change(),
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
