//! Queueing: insert, requeue, notify; the follow-up of every transition.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to unlinked interrupts that a migration's reference keeps alive, or
// that this CPU frees.

use core::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::delivery::{count, lpi_lifetime, physical, prune};
use crate::epoch::CpuPin;
use crate::host::{Host, PhysicalInterrupt};
use crate::intid::{IntId, VcpuId};
use crate::lr;
use crate::sync::{Mutant, mutant};
use crate::trace::TracePoint;
use crate::vm::irq::{Changed, FollowUp, Irq};
use crate::vm::residency::{Kick, NEW, RECALL, RECALL_LATER, RERAISED};
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, staging};

/// Does the follow-up of a transition of `irq`. No ap_list lock is held.
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

/// Counts a change of `irq` and does its follow-up. No ap_list lock is held.
pub(crate) fn complete<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
    count::on_change(pin, irq, changed);
    follow_up(vm, pin, irq, changed.follow_up);
}

/// Links `irq` on its target's list, or stages it, and notifies the vCPU. Does nothing if `irq` is
/// queued already, has no reference left, or wants no list any more.
pub(crate) fn insert<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    if let Some(vcpu) = vm.vcpus.get(irq.state().target_index()) {
        insert_on(vm, pin, irq, vcpu);
    }
}

/// Inserts `irq`, whose target was `vcpu` a moment ago. If `irq` has another target by now, the CPU
/// that changed the target inserts `irq` there.
pub(crate) fn insert_on<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) {
    // Copied, because the compiler would read the pin again after the lock.
    let local = pin.local();
    let mut list = vcpu.ap_list.lock(local.locks());
    if staging::stage(vm, local, vcpu, &list, irq) {
        drop(list);
        // Staged on the calling CPU, which will enter the guest: no vCPU has to be notified.
        trace_list_get(vm, pin, irq, vcpu.id);
        return;
    }

    let Some(linked) = irq.link(vcpu.id) else {
        return;
    };
    list.link(irq, linked);
    drop(list);

    trace_list_get(vm, pin, irq, vcpu.id);
    if !mutant(Mutant::NewTargetNotNotified) {
        notify_vcpu(vm, pin, vcpu, NEW);
    }
}

/// Traces and counts the take of a list's reference.
#[inline]
fn trace_list_get<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, vcpu: VcpuId) {
    pin.counters().list_gets.add(1);
    vm.host.trace(TracePoint::ListGet(irq.intid(), vcpu));
}

/// Requeues `irq`, whose change found it waiting on the list of `on`. If `irq` still waits there,
/// it is pruned. If `irq` is in a list register by now, it was chosen by its old place, perhaps
/// before a more urgent one, and `on` is recalled to choose anew. If `irq` is on another list, or
/// on none, it went there with the change.
// Out of line: saves 16 of the 155 instructions of a write of `GICD_IPRIORITYR`.
#[inline(never)]
fn requeue<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, on: VcpuId) {
    let Some(vcpu) = vm.vcpus.get(on.index()) else {
        return;
    };
    let mut after = AfterUnlock::new();
    let mut list = vcpu.ap_list.lock(pin.locks());
    let state = irq.state();
    if state.queued_on() != Some(on) {
        return;
    }
    if state.in_lr() {
        drop(list);
        notify_vcpu(vm, pin, vcpu, RECALL);
        return;
    }

    list.unlink(irq);
    if mutant(Mutant::UnlinkedTwice) {
        drop(list);
        list = vcpu.ap_list.lock(pin.locks());
    }
    prune::prune(vm, pin, vcpu, &mut list, irq, &mut after);
    drop(list);

    notify_vcpu(vm, pin, vcpu, NEW);
    after.run(vm, pin);
}

/// Gives work to the vCPU `vcpu`, which has been added. Kicks or wakes the vCPU if need be. No
/// ap_list lock is held.
pub(crate) fn notify<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: VcpuId, work: u64) {
    // Not by `Vm::vcpu`: a raise, which acquires nothing, may have found the vCPU in the state word
    // before this CPU sees the new count.
    if let Some(vcpu) = vm.vcpus.get(vcpu.index()) {
        notify_vcpu(vm, pin, vcpu, work);
    }
}

/// Gives a vCPU work, and kicks or wakes it if need be. No ap_list lock is held.
#[inline]
fn notify_vcpu<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, work: u64) {
    let is_out_here = || vcpu.is_out_of_guest(pin.local());
    match vcpu.residency.notify(work, is_out_here) {
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

/// Fate of an interrupt that a pass under an ap_list lock has unlinked.
#[derive(Clone, Copy)]
enum Unlinked {
    /// It goes to another vCPU's list. The migration owns the reference until it is there.
    Migrating,
    /// Its last reference has been put.
    Dying,
}

/// Work that a pass under an ap_list lock leaves for after the lock.
pub(crate) struct AfterUnlock {
    irqs: ArrayVec<(NonNull<Irq>, Unlinked), { Self::CAPACITY }>,
    deactivate: ArrayVec<PhysicalInterrupt, { Self::DEACTIVATIONS }>,
}

impl AfterUnlock {
    /// Every list register's interrupt, and twice as many from the buckets.
    const CAPACITY: usize = 3 * lr::MAX;

    /// Every list register's interrupt, and every PPI, extended ones included.
    const DEACTIVATIONS: usize = lr::MAX + Self::PPIS;
    const PPIS: usize = (IntId::PRIVATE - IntId::FIRST_PPI) as usize
        + (IntId::END_EXTENDED_PPI - IntId::FIRST_EXTENDED_PPI) as usize;

    /// Makes an empty collection, on the stack.
    pub(crate) fn new() -> Self {
        Self {
            irqs: ArrayVec::new_const(),
            deactivate: ArrayVec::new_const(),
        }
    }

    /// Returns whether another interrupt might not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.irqs.is_full()
    }

    /// Adds an interrupt that goes to another vCPU's list.
    pub(crate) fn add_migration(&mut self, irq: &Irq) {
        self.push(irq, Unlinked::Migrating);
    }

    /// Adds an interrupt whose last reference has been put.
    pub(crate) fn add_free(&mut self, irq: &Irq) {
        self.push(irq, Unlinked::Dying);
    }

    fn push(&mut self, irq: &Irq, unlinked: Unlinked) {
        debug_assert!(!self.irqs.is_full());
        // A pass checks `is_full` before each interrupt.
        let _ = self.irqs.try_push((NonNull::from(irq), unlinked));
    }

    /// Adds a physical interrupt to deactivate; at most one for each list register and PPI.
    pub(crate) fn add_deactivation(&mut self, physical: PhysicalInterrupt) {
        debug_assert!(!self.deactivate.is_full());
        let _ = self.deactivate.try_push(physical);
    }

    /// Does the work, if any. The lock has been released, and the caller is in the epoch if an LPI
    /// may be among the interrupts: the LPI may be freed once the migration's reference is put. The
    /// check saves 36 of the 955 instructions of vcpu_exit/4.
    #[inline]
    pub(crate) fn run<H: Host>(&mut self, vm: &Vm<H>, pin: &CpuPin<'_>) {
        if !self.irqs.is_empty() || !self.deactivate.is_empty() {
            self.run_slow(vm, pin);
        }
    }

    /// Does the work. Not a part of `run`, which saves 18 of the 937 instructions of vcpu_exit/4.
    #[inline(never)]
    fn run_slow<H: Host>(&mut self, vm: &Vm<H>, pin: &CpuPin<'_>) {
        for physical in self.deactivate.drain(..) {
            vm.host.deactivate(physical);
        }

        for (irq, unlinked) in self.irqs.drain(..) {
            // SAFETY: a migrating interrupt is kept alive by the migration's reference; a dying one
            // is freed by this CPU alone, below.
            let irq = unsafe { irq.as_ref() };
            match unlinked {
                Unlinked::Migrating => migrate(vm, pin, irq),
                Unlinked::Dying => lpi_lifetime::defer_free(vm, irq),
            }
        }
    }
}

/// Inserts an interrupt that has left the list of another vCPU, and puts the reference of the
/// migration.
#[cold]
#[inline(never)]
fn migrate<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    if irq.state().hw() {
        // A level that has waited behind an active state reaches the vCPU at once.
        physical::sample(vm, pin, irq);
    }
    if !mutant(Mutant::MigrationForgotten) {
        insert(vm, pin, irq);
    }
    lpi_lifetime::put_migration(vm, pin, irq);
}
