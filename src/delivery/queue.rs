//! Paying what a transition owes: onto a list, off it, to another; and telling the vCPU.
#![expect(unsafe_code)]
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::delivery::{count, lpi_lifetime, prune};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::sync::{Mutant, mutant};
use crate::trace::TracePoint;
use crate::vm::irq::{Changed, FollowUp, Irq, State};
use crate::vm::residency::{Kick, NEW, RECALL, RECALL_LATER, RERAISED};
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, staging};

/// Does what a transition of `irq` owes.
#[inline]
pub(crate) fn follow_up<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, follow_up: FollowUp) {
    match follow_up {
        FollowUp::Nothing => {}
        FollowUp::Insert => insert(vm, pin, irq),
        FollowUp::Requeue(vcpu) => requeue(vm, pin, irq, vcpu),
        FollowUp::Recall(vcpu) => notify(vm, pin, vcpu, RECALL),
        FollowUp::Reraised(vcpu) => notify(vm, pin, vcpu, RERAISED),
        FollowUp::RecallLater(vcpu) => notify(vm, pin, vcpu, RECALL_LATER),
    }
}

/// Books a change and pays what it owes.
pub(crate) fn complete<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
    count::change(vm, pin, irq, changed);
    follow_up(vm, pin, irq, changed.follow_up);
}

/// Queues `irq` on its target, takes the list's reference, and tells the vCPU. Nothing happens if it
/// is queued already, dying, or wants no list any more.
pub(crate) fn insert<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    if let Some(vcpu) = vm.vcpus.get(irq.state().target_index()) {
        insert_on(vm, pin, irq, vcpu);
    }
}

/// As [`Vgic::insert`], for an interrupt whose target was this vCPU a moment ago.
pub(crate) fn insert_on<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) {
    if let Err(now) = try_insert(vm, pin, irq, vcpu) {
        insert_retry(vm, pin, irq, now);
    }
}

/// As [`Vgic::insert`], for an interrupt that was just found in this state, not to be inserted where it
/// had been.
#[cold]
fn insert_retry<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, mut now: State) {
    // Another round only if another CPU moved the interrupt to another vCPU meanwhile.
    while now.queued_on().is_none()
        && now.refs() != 0
        && now.wants_list()
        && let Some(vcpu) = vm.vcpus.get(now.target_index())
    {
        match try_insert(vm, pin, irq, vcpu) {
            Ok(()) => return,
            Err(state) => now = state,
        }
    }
}

/// Inserts `irq` on this vCPU, or says in which state it is that it cannot be.
#[inline(always)]
fn try_insert<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) -> Result<(), State> {
    let mut list = vcpu.ap_list.lock(pin.ledger());
    if staging::stage(vm, pin, vcpu, &list, irq) {
        drop(list);
        // It is in a list register when we next enter the guest, which is where we go.
        trace_list_get(vm, pin, irq, vcpu.id);
        return Ok(());
    }
    let linked = irq.link(vcpu.id)?;
    list.link(irq, linked);
    drop(list);
    trace_list_get(vm, pin, irq, vcpu.id);
    if !mutant(Mutant::NewTargetNotTold) {
        notify_vcpu(vm, pin, vcpu, NEW);
    }
    Ok(())
}

#[inline]
fn trace_list_get<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, vcpu: VcpuId) {
    pin.counters().list_gets.add(1);
    vm.host.trace(TracePoint::ListGet(irq.intid(), vcpu));
}

/// An interrupt that has left a list may be gone already, but for its INTID.
#[inline]
pub(crate) fn trace_list_put<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, intid: IntId, vcpu: VcpuId) {
    pin.counters().list_puts.add(1);
    vm.host.trace(TracePoint::ListPut(intid, vcpu));
}

/// Reconsiders the place of `irq`, last seen waiting on the list of `on`.
pub(crate) fn requeue<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, on: VcpuId) {
    let mut on = Some(on);
    // Another round only if another CPU moved the interrupt to another list meanwhile.
    while let Some(vcpu) = on.and_then(|on| vm.vcpu(on)) {
        let mut after = AfterUnlock::new();
        let mut list = vcpu.ap_list.lock(pin.ledger());
        let state = irq.state();
        if state.queued_on() == Some(vcpu.id) {
            if state.in_lr() {
                drop(list);
                notify(vm, pin, vcpu.id, RECALL);
            } else {
                list.unlink(irq);
                if mutant(Mutant::UnlinkedTwice) {
                    drop(list);
                    list = vcpu.ap_list.lock(pin.ledger());
                }
                prune::prune(vm, pin, vcpu, &mut list, irq, &mut after);
                drop(list);
                notify(vm, pin, vcpu.id, NEW);
                run_after_unlock(vm, pin, &mut after);
            }
            return;
        }
        drop(list);
        on = state.queued_on();
    }
    insert(vm, pin, irq);
}

/// Gives a vCPU work and tells it if need be. No lock is held.
pub(crate) fn notify<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: VcpuId, work: u32) {
    if let Some(vcpu) = vm.vcpu(vcpu) {
        notify_vcpu(vm, pin, vcpu, work);
    }
}

/// As [`Vgic::notify`].
#[inline]
fn notify_vcpu<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, work: u32) {
    match vcpu.residency.notify(work) {
        Kick::Nothing => {}
        Kick::Ipi(cpu) => {
            pin.counters().kicks.add(1);
            vm.host.kick(cpu, vcpu.id);
        }
        Kick::Wake => {
            pin.counters().wakes.add(1);
            vm.host.wake(vcpu.id);
        }
    }
}

/// What was left over from a pass under an ap_list lock, which is released now.
#[inline]
pub(crate) fn run_after_unlock<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, after: &mut AfterUnlock) {
    if !after.is_empty() {
        run_after_unlock_slow(vm, pin, after);
    }
}

/// The uncommon part, and the large one: it is handed over by reference and not inlined.
#[cold]
fn run_after_unlock_slow<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, after: &mut AfterUnlock) {
    // What is carried may be freed as soon as our reference is given back.
    let _entered = pin.guard();
    for (owner, pintid) in after.deactivate.drain(..) {
        vm.host.deactivate(owner, pintid);
    }
    for (irq, fate) in after.irqs.drain(..) {
        // SAFETY: carried: our reference keeps it alive; dying: it is buried below, by us alone, and not
        // freed before.
        let irq = unsafe { irq.as_ref() };
        match fate {
            Unlinked::Migrating => {
                if !mutant(Mutant::MigrationForgotten) {
                    insert(vm, pin, irq);
                }
                lpi_lifetime::put_migration(vm, pin, irq);
            }
            Unlinked::Dying => lpi_lifetime::defer_free(vm, irq),
        }
    }
}

/// What becomes of an interrupt that has left a list.
#[derive(Clone, Copy)]
enum Unlinked {
    /// It goes to another vCPU's list; the reference is ours until it is there.
    Migrating,
    /// Its last reference is gone.
    Dying,
}

/// What a pass under an ap_list lock leaves to be done once the lock is released.
pub(crate) struct AfterUnlock {
    irqs: ArrayVec<(NonNull<Irq>, Unlinked), { Self::CAPACITY }>,
    deactivate: ArrayVec<(Option<VcpuId>, u16), { crate::lr::MAX }>,
}

impl AfterUnlock {
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

    pub(crate) fn migrating(&mut self, irq: &Irq) {
        self.push(irq, Unlinked::Migrating);
    }

    pub(crate) fn dying(&mut self, irq: &Irq) {
        self.push(irq, Unlinked::Dying);
    }

    fn push(&mut self, irq: &Irq, fate: Unlinked) {
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
