//! Ownership of physical interrupts: connection, forwarding, release.
//!
//! A forwarded physical interrupt stays active until the guest has done with it. It has one owner
//! at any time, named by a bit of the state word:
//!
//! | bit | owner |
//! |---|---|
//! | none | the physical controller, or the embedder that has acknowledged the interrupt |
//! | HW | the state word |
//! | LR_HW | a list register |
//!
//! * [`Irq::forward`] sets HW.
//! * A fill moves HW to LR_HW. A fold moves LR_HW back.
//! * The guest's deactivation ends LR_HW, in hardware: the fold finds the list register empty.
//! * Any other end calls [`Host::deactivate`], on the CPU that has cleared HW or LR_HW.
//!
//! HW and LR_HW together mean that the guest has ended the interrupt in the list register, and that
//! it has been forwarded again.
//!
//! # A physical PPI belongs to a CPU
//! A list register deactivates the PPI of its own CPU. For this reason HW and LR_HW of a physical
//! PPI are set only while the vCPU is on the CPU with the active PPI, and only that CPU clears
//! them:
//! 1. [`Irq::forward`] is called on the CPU that has the vCPU.
//! 2. [`Irq::release`] takes the PPI back before the vCPU leaves the CPU. A pending level is then
//!    pending no more: the PPI's line, if still high, makes the PPI pending again wherever the line
//!    is next. An edge stays pending. An active state stays active, without a physical interrupt.
//! 3. Another CPU that ends the pending or the active state leaves HW set, and asks the CPU of the
//!    vCPU to release the PPI, by [`Irq::release_unused`].
//!
//! A physical SPI has one active state for all CPUs: any CPU may clear HW.
//!
//! # The number of a physical interrupt to deactivate
//! The transition that ends an ownership sets RELEASING if [`Host::deactivate`] has to be called.
//! The CPU that made the transition then reads `pintid` by [`Irq::ended`], which clears RELEASING,
//! and calls [`Host::deactivate`]. Until then `pintid` stays, whoever disconnects the interrupt.
//! A physical interrupt is not forwarded once more before it is deactivated, so that RELEASING has
//! one setter at a time.
//!
//! [`Host::deactivate`]: crate::Host::deactivate

use crate::host::PhysicalInterrupt;
use crate::intid::{CpuId, IntId};
use crate::sync::{Mutant, mutant};

use super::{
    ACTIVE, CANCEL_P, CONNECTED, Changed, FollowUp, HW, Irq, PENDING, RELEASING, Raised, State,
};

/// Connection and forwarding.
impl Irq {
    /// Sets the pending latch on behalf of an active physical interrupt, and takes the ownership of
    /// the physical interrupt. Returns `None`, changing nothing, without a connection.
    #[inline]
    pub(crate) fn forward(&self) -> Option<Raised> {
        if mutant(Mutant::ForwardLooksFirst) {
            return self.state().connected().then(|| {
                let (old, new) = self.apply(|old| old.with(PENDING | HW, 0));
                Raised { old, new }
            });
        }

        self.transition(|old| old.connected().then(|| old.with(PENDING | HW, 0)))
            .ok()
            .map(|(old, new)| Raised { old, new })
    }

    /// Connects the interrupt to the physical interrupt `pintid`. Returns false if the interrupt is
    /// connected to another one, or still owns another one. Under the lock `Vm::growth`.
    pub(crate) fn connect(&self, pintid: u16) -> bool {
        let state = self.state();
        if state.connected() {
            return self.pintid() == pintid;
        }

        // Without CONNECTED, the other bits are only cleared, and HW and LR_HW may set RELEASING.
        let in_use = state.uses_pintid();
        if in_use && !(state.releasing() && mutant(Mutant::ConnectedTooEarly)) {
            return false;
        }

        self.set_pintid(pintid);
        let _ = self.apply(|old| old.with(CONNECTED, 0));
        true
    }

    /// Ends the connection. A level that is pending because of the physical interrupt is pending no
    /// more. Unless `all`, a physical PPI stays owned, as the module says.
    pub(crate) fn disconnect(&self, all: bool) -> Changed {
        self.update(|old| {
            let line = if old.awaits_line_outside() {
                PENDING
            } else {
                0
            };
            let left = self.released(old, HW | line).with(0, CONNECTED);
            if all { left.ends_ownership() } else { left }
        })
    }

    /// Returns true if the connected physical interrupt is a PPI.
    #[inline]
    pub(crate) fn is_of_ppi(&self) -> bool {
        IntId::wired(self.pintid()).is_private()
    }

    /// Returns the connected physical interrupt; `cpu` is the CPU of a PPI.
    #[inline]
    pub(crate) fn physical(&self, cpu: CpuId) -> PhysicalInterrupt {
        PhysicalInterrupt::new(self.pintid(), cpu)
    }

    /// Returns the physical interrupt whose ownership a transition of this CPU has ended, to be
    /// deactivated; `cpu` is the CPU of a PPI. The interrupt may be connected to another then.
    pub(crate) fn ended(&self, cpu: CpuId) -> PhysicalInterrupt {
        let physical = self.physical(cpu);
        let _ = self.apply(|old| old.with(0, RELEASING));
        physical
    }
}

/// Release.
impl Irq {
    /// Returns `old` without the flags of `clear`, but with HW for a physical PPI. Without HW, the
    /// ownership has ended.
    #[inline]
    pub(super) fn released(&self, old: State, clear: u64) -> State {
        let left = old.with(0, clear & !HW);
        if clear & HW == 0 || !old.hw() || self.keeps_ppi() {
            left
        } else {
            left.ends_ownership()
        }
    }

    /// Returns true if the physical interrupt is a PPI, which its own CPU takes from the word.
    #[cold]
    #[inline(never)]
    fn keeps_ppi(&self) -> bool {
        self.is_of_ppi() && !mutant(Mutant::ReleasedElsewhere)
    }

    /// Returns true if the state word, as loaded, owns a physical PPI.
    fn owns_ppi(&self, state: State) -> bool {
        // HW first: the number is constant while HW is set.
        state.hw() && self.is_of_ppi()
    }

    /// Takes a physical PPI from the state word, before the vCPU leaves the CPU of the PPI. A level
    /// is pending no more. Returns the change, after which the caller deactivates the physical
    /// PPI; `None` if the state word owns none.
    pub(crate) fn release(&self) -> Option<Changed> {
        self.transition(|old| {
            let line = if old.level() { PENDING } else { 0 };
            self.owns_ppi(old)
                .then(|| old.with(0, line).ends_ownership())
        })
        .ok()
        .map(|(old, new)| Changed {
            old,
            new,
            follow_up: new.follow_up_change(),
        })
    }

    /// Takes a physical PPI from the state word if no pending or active state is behind it any
    /// more, or if the connection has ended. Returns true if the caller has to deactivate it. On
    /// the CPU that has the vCPU.
    pub(crate) fn release_unused(&self) -> bool {
        self.transition(|old| {
            let used = old.0 & (PENDING | ACTIVE) != 0 && old.connected();
            (self.owns_ppi(old) && !used).then(|| old.ends_ownership())
        })
        .is_ok()
    }

    /// Withdraws a level that is pending because of a physical interrupt, whose line has been found
    /// low. In a list register, the pending state is cancelled. Returns `None`, changing nothing,
    /// if the level is not pending any more.
    pub(crate) fn withdraw_level(&self) -> Option<Changed> {
        let (old, new) = self
            .transition(|old| {
                old.awaits_line().then(|| {
                    if old.awaits_line_outside() {
                        // The physical interrupt waits for the end of an active state.
                        let physical = if old.active() { 0 } else { HW };
                        self.released(old, PENDING | physical)
                    } else {
                        old.with(CANCEL_P, 0)
                    }
                })
            })
            .ok()?;

        let follow_up = match new.queued_on() {
            Some(vcpu) if new.in_lr() => FollowUp::RecallLater(vcpu),
            Some(vcpu) => FollowUp::Requeue(vcpu),
            None => FollowUp::Nothing,
        };
        Some(Changed {
            old,
            new,
            follow_up,
        })
    }
}

impl State {
    /// Returns the state without HW. If HW was set, a physical interrupt has to be deactivated.
    fn ends_ownership(self) -> Self {
        if self.hw() {
            self.with(RELEASING, HW)
        } else {
            self
        }
    }
}
