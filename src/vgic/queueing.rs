//! Paying what a transition owes: onto a list, off it, to another; and telling the vCPU.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that have left a list and are kept by who carries them.

use core::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::Vgic;
use crate::ap_list::ApList;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Kind, VcpuId};
use crate::irq::{Changed, Folded, Irq, Owed, State};
use crate::sync::{Mutant, mutant};
use crate::trace::TracePoint;
use crate::vcpu::residency::{AGAIN, Kick, NEW, NOTE, Place, RECALL};
use crate::vcpu::{AWAITED_BY_GICD, Vcpu};

impl<H: Host> Vgic<H> {
    /// Does what a transition of `irq` owes.
    #[inline]
    pub(crate) fn pay(&self, pin: &CpuPin<'_>, irq: &Irq, owed: Owed) {
        match owed {
            Owed::Nothing => {}
            Owed::Insert => self.insert(pin, irq),
            Owed::Settle(vcpu) => self.settle(pin, irq, vcpu),
            Owed::Recall(vcpu) => self.notify(pin, vcpu, RECALL),
            Owed::Again(vcpu) => self.notify(pin, vcpu, AGAIN),
            Owed::Note(vcpu) => self.notify(pin, vcpu, NOTE),
        }
    }

    /// Queues `irq` on its target, takes the list's reference, and tells the vCPU. Nothing happens if it
    /// is queued already, dying, or wants no list any more.
    pub(crate) fn insert(&self, pin: &CpuPin<'_>, irq: &Irq) {
        if let Some(vcpu) = self.vcpus().get(irq.state().target_index()) {
            self.insert_first(pin, irq, vcpu);
        }
    }

    /// As [`Vgic::insert`], for an interrupt whose target was this vCPU a moment ago.
    pub(crate) fn insert_first(&self, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) {
        if let Err(now) = self.insert_at(pin, irq, vcpu) {
            self.insert_elsewhere(pin, irq, now);
        }
    }

    /// As [`Vgic::insert`], for an interrupt that was just found in this state, not to be inserted where it
    /// had been.
    #[cold]
    fn insert_elsewhere(&self, pin: &CpuPin<'_>, irq: &Irq, mut now: State) {
        // Another round only if another CPU moved the interrupt to another vCPU meanwhile.
        while now.queued_on().is_none()
            && now.refs() != 0
            && now.wants_list()
            && let Some(vcpu) = self.vcpus().get(now.target_index())
        {
            match self.insert_at(pin, irq, vcpu) {
                Ok(()) => return,
                Err(state) => now = state,
            }
        }
    }

    /// Inserts `irq` on this vCPU, or says in which state it is that it cannot be.
    #[inline(always)]
    fn insert_at(&self, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) -> Result<(), State> {
        let mut list = vcpu.ap_list.lock(pin.ledger());
        if self.post(pin, vcpu, &list, irq) {
            drop(list);
            // It is in a list register when we next enter the guest, which is where we go.
            self.trace_list_get(pin, irq, vcpu.id);
            return Ok(());
        }
        let linked = irq.link(vcpu.id)?;
        list.link(irq, linked);
        drop(list);
        self.trace_list_get(pin, irq, vcpu.id);
        if !mutant(Mutant::NewTargetNotTold) {
            self.notify_vcpu(pin, vcpu, NEW);
        }
        Ok(())
    }

    /// The groups, a bit each, in which `irq` may be signalled to `vcpu`. Whoever closes one after this look
    /// has the vCPU take its registers back.
    #[inline]
    pub(crate) fn groups_open_to(&self, vcpu: &Vcpu, irq: &Irq) -> u32 {
        if irq.kind() == Kind::Lpi && !vcpu.redistributor.lpis_enabled() {
            0
        } else {
            self.distributor.group_enables()
        }
    }

    #[inline]
    fn trace_list_get(&self, pin: &CpuPin<'_>, irq: &Irq, vcpu: VcpuId) {
        pin.counters().list_gets.add(1);
        self.host.trace(TracePoint::ListGet(irq.intid(), vcpu));
    }

    /// Puts `irq` straight into a free list register, if `vcpu` is the one that the calling CPU has and is
    /// out of the guest, nothing more urgent waits, and there is nothing special about it. The list's lock
    /// is held; the list takes its reference as ever.
    #[inline(always)]
    fn post(&self, pin: &CpuPin<'_>, vcpu: &Vcpu, list: &ApList, irq: &Irq) -> bool {
        if list.waiting() != 0 {
            return false;
        }
        let Some(mut registers) = vcpu.registers_at_home(pin.local()) else {
            return false;
        };
        let Some(index) = registers.free_while_simple() else {
            return false;
        };
        let groups = self.groups_open_to(vcpu, irq);
        let Some(image) = irq.link_loaded(vcpu.id, groups) else {
            return false;
        };
        registers.post(index, image, irq);
        true
    }

    /// Reconsiders the place of `irq`, last seen waiting on the list of `on`.
    fn settle(&self, pin: &CpuPin<'_>, irq: &Irq, on: VcpuId) {
        let mut on = Some(on);
        // Another round only if another CPU moved the interrupt to another list meanwhile.
        while let Some(vcpu) = on.and_then(|on| self.vcpu(on)) {
            let mut leaving = Leaving::new();
            let mut list = vcpu.ap_list.lock(pin.ledger());
            let state = irq.state();
            if state.queued_on() == Some(vcpu.id) {
                if state.in_lr() {
                    drop(list);
                    self.notify(pin, vcpu.id, RECALL);
                } else {
                    list.unlink(irq);
                    if mutant(Mutant::UnlinkedTwice) {
                        drop(list);
                        list = vcpu.ap_list.lock(pin.ledger());
                    }
                    self.prune(pin, vcpu, &mut list, irq, &mut leaving);
                    drop(list);
                    self.notify(pin, vcpu.id, NEW);
                    self.dispatch(pin, &mut leaving);
                }
                return;
            }
            drop(list);
            on = state.queued_on();
        }
        self.insert(pin, irq);
    }

    /// Gives a vCPU work and tells it if need be. No lock is held.
    pub(crate) fn notify(&self, pin: &CpuPin<'_>, vcpu: VcpuId, work: u32) {
        if let Some(vcpu) = self.vcpu(vcpu) {
            self.notify_vcpu(pin, vcpu, work);
        }
    }

    /// As [`Vgic::notify`].
    #[inline]
    fn notify_vcpu(&self, pin: &CpuPin<'_>, vcpu: &Vcpu, work: u32) {
        match vcpu.residency.notify(work) {
            Kick::Nothing => {}
            Kick::Ipi(cpu) => {
                pin.counters().kicks.add(1);
                self.host.kick(cpu, vcpu.id);
            }
            Kick::Wake => {
                pin.counters().wakes.add(1);
                self.host.wake(vcpu.id);
            }
        }
    }

    /// What was left over from a pass under an ap_list lock, which is released now.
    #[inline]
    pub(crate) fn dispatch(&self, pin: &CpuPin<'_>, leaving: &mut Leaving) {
        if !leaving.is_empty() {
            self.dispatch_all(pin, leaving);
        }
    }

    /// The uncommon part, and the large one: it is handed over by reference and not inlined.
    #[cold]
    fn dispatch_all(&self, pin: &CpuPin<'_>, leaving: &mut Leaving) {
        // What is carried may be freed as soon as our reference is given back.
        let _entered = pin.guard();
        for (owner, pintid) in leaving.deactivate.drain(..) {
            self.host.deactivate(owner, pintid);
        }
        for (irq, fate) in leaving.irqs.drain(..) {
            // SAFETY: carried: our reference keeps it alive; dying: it is buried below, by us alone, and not
            // freed before.
            let irq = unsafe { irq.as_ref() };
            match fate {
                Fate::Carried => {
                    if !mutant(Mutant::CarriedAndForgotten) {
                        self.insert(pin, irq);
                    }
                    self.put_migration(pin, irq);
                }
                Fate::Dying => self.bury(irq),
            }
        }
    }

    /// Books what a fold found.
    #[inline]
    pub(crate) fn account(&self, pin: &CpuPin<'_>, irq: &Irq, folded: Folded) {
        let kind = irq.kind() as usize;
        let counters = pin.counters();
        for (happened, counter) in [
            (folded.delivered, &counters.deliveries),
            (folded.coalesced, &counters.coalesced),
            (folded.withdrawn, &counters.withdrawn),
            (folded.repended, &counters.injections),
        ] {
            if happened {
                counter[kind].add(1);
            }
        }
    }

    /// Books what a change made pending, or no longer pending.
    #[inline]
    pub(crate) fn book(&self, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
        let kind = irq.kind() as usize;
        let (before, after) = (changed.old.booked(), changed.new.booked());
        if after > before {
            pin.counters().injections[kind].add(after - before);
        } else if before > after {
            pin.counters().withdrawn[kind].add(before - after);
        }
    }

    /// Books a change and pays what it owes.
    pub(crate) fn settle_up(&self, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
        self.book(pin, irq, changed);
        self.pay(pin, irq, changed.owed);
    }

    /// The vCPU is out of the guest and about to take its list registers back, if the work in `place` asks
    /// for it: whoever waited for that need not wait any more.
    #[inline]
    pub(crate) fn recalled(&self, vcpu: &Vcpu, place: Place) {
        if vcpu.recalled(place) & AWAITED_BY_GICD != 0 {
            self.distributor.recalled();
        }
    }
}

/// What becomes of an interrupt that has left a list.
#[derive(Clone, Copy)]
enum Fate {
    /// It goes to another vCPU's list; the reference is ours until it is there.
    Carried,
    /// Its last reference is gone.
    Dying,
}

/// What a pass under an ap_list lock leaves to be done once the lock is released.
pub(crate) struct Leaving {
    irqs: ArrayVec<(NonNull<Irq>, Fate), { Self::CAPACITY }>,
    deactivate: ArrayVec<(Option<VcpuId>, u16), { crate::lr::MAX }>,
}

impl Leaving {
    /// Every list register's interrupt, and as many from the buckets.
    const CAPACITY: usize = 3 * crate::lr::MAX;

    pub(crate) fn new() -> Self {
        Self {
            irqs: ArrayVec::new_const(),
            deactivate: ArrayVec::new_const(),
        }
    }

    /// Whether nothing is left.
    #[inline]
    fn is_empty(&self) -> bool {
        self.irqs.is_empty() && self.deactivate.is_empty()
    }

    /// Whether another interrupt might not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.irqs.is_full()
    }

    pub(crate) fn carried(&mut self, irq: &Irq) {
        self.push(irq, Fate::Carried);
    }

    pub(crate) fn dying(&mut self, irq: &Irq) {
        self.push(irq, Fate::Dying);
    }

    fn push(&mut self, irq: &Irq, fate: Fate) {
        debug_assert!(!self.irqs.is_full());
        // Bounded by the passes that fill it: checked by `is_full` before each interrupt.
        let _ = self.irqs.try_push((NonNull::from(irq), fate));
    }

    /// Notes a physical interrupt to deactivate; at most one per list register.
    pub(crate) fn deactivate(&mut self, irq: &Irq) {
        debug_assert!(!self.deactivate.is_full());
        let _ = self.deactivate.try_push((irq.owner(), irq.pintid()));
    }
}
