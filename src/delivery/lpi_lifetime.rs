//! An LPI's way into the table and out again: mapping, unmapping, freeing.
//!
//! An LPI exists while a reference to the LPI is left; [`irq`](crate::vm::irq) has the table of
//! references. The table of LPIs owns no reference: the slots are weak. A CPU that puts the last
//! reference empties the slot, unless another LPI of the INTID has taken the slot, and leaves the
//! memory to the epoch. Injection, entry and exit must not allocate, and push the LPI onto the
//! [`FreeList`](crate::vm::free_list::FreeList) instead.
#![expect(unsafe_code)]
// UNSAFETY: hands LPIs to the table and to the epoch by raw pointer.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crate::delivery::{count, queue};
use crate::epoch::{CpuPin, Garbage};
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::radix::Radix;
use crate::sync::{Mutant, mutant};
use crate::trace::TracePoint;
use crate::vm::Vm;
use crate::vm::deferred::DEFERRED_FREE;
use crate::vm::irq::{Block, Changed, ENABLED, GROUP1, Irq, PENDING, PutResult, State};

/// LPIs to free per slice.
const SLICE: usize = 64;

/// Maps an LPI to `target` for one more event, and takes the mapping's reference. Allocates.
///
/// An LPI of the INTID with references left gets the mapping; otherwise a new LPI, disabled, takes
/// the slot. Returns `None` for an INTID outside the VM's LPIs, or for an LPI with too many
/// mappings. Under the ITS's command lock.
pub(crate) fn map<'g, H: Host>(
    vm: &Vm<H>,
    pin: &'g CpuPin<'_>,
    intid: IntId,
    target: Option<VcpuId>,
) -> Option<&'g Irq> {
    let key = intid.raw().checked_sub(IntId::FIRST_LPI)?;
    if intid.raw() >= vm.config.lpi_end() {
        return None;
    }

    let mut fresh: Option<Box<Irq>> = None;
    // Repeats only if another CPU has mapped or freed an LPI of the INTID meanwhile.
    loop {
        let found = vm.lpis.get(key, pin.guard());
        if let Some(irq) = found {
            // SAFETY: the pin's guard keeps the LPI allocated for `'g`.
            let irq: &'g Irq = unsafe { &*core::ptr::from_ref(irq) };
            if let Some(follow_up) = irq.map(target) {
                trace_mapping_get(vm, pin, irq);
                queue::follow_up(vm, pin, irq, follow_up);
                return Some(irq);
            }
            if irq.state().refs() != 0 {
                return None;
            }
        }

        let new = fresh
            .take()
            .unwrap_or_else(|| Box::new(Irq::new(intid, GROUP1, target)));
        let new = NonNull::from(Box::leak(new));
        // SAFETY: the LPI is freed only by `free`, through the epoch, after removal from the table.
        let published = unsafe {
            match found {
                None => vm.lpis.insert(key, new, pin.guard(), &vm.garbage),
                Some(dying) => vm.lpis.replace(key, dying, new, pin.guard()),
            }
        };

        if published {
            // SAFETY: the mapping's reference, counted by `Irq::new`, and the pin's guard keep the
            // LPI.
            let irq: &'g Irq = unsafe { new.as_ref() };
            trace_mapping_get(vm, pin, irq);
            return Some(irq);
        }

        // SAFETY: the LPI was not published: no other CPU has a pointer.
        fresh = Some(unsafe { Box::from_raw(new.as_ptr()) });
    }
}

/// Returns true if two LPIs, by their INTIDs, can be made by one [`make`].
pub(crate) fn are_made_at_once(one: u32, other: u32) -> bool {
    let [one, other] = [one, other].map(|intid| intid.wrapping_sub(IntId::FIRST_LPI));
    Radix::<Irq>::share_a_leaf(one, other)
}

/// Makes LPIs of these INTIDs, states and collections for a VM that is restored, each with `refs`
/// references, for mappings of the caller's. Inserts on a list what is deliverable. The INTIDs
/// rise, and [`are_made_at_once`] holds for any two. Allocates.
///
/// Afterwards `refs` has the number of references that the caller has: fewer only if another CPU
/// has mapped an INTID meanwhile, too many times.
pub(crate) fn make<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    lpis: impl Iterator<Item = (IntId, State, u16)>,
    refs: &mut [u16],
) {
    let guard = pin.guard();
    let lpis = lpis.zip(&*refs);
    let block =
        Block::make(lpis.map(|((intid, state, icid), refs)| (intid, state.with_refs(*refs), icid)));
    // SAFETY: the LPIs are freed by `free` alone, through the epoch: not before the guard is
    // dropped.
    let lpis = unsafe { block.as_ref() }.lpis();
    let entry = |irq: &Irq| {
        let key = irq.intid().raw().wrapping_sub(IntId::FIRST_LPI);
        (key, NonNull::from(irq))
    };

    // Before any CPU finds the LPIs, and makes them pending.
    for irq in lpis {
        let state = irq.state();
        for _ in 0..state.refs() {
            trace_mapping_get(vm, pin, irq);
        }
        queue::complete(vm, pin, irq, Changed::of_new(state));
    }

    let mut entries = lpis.iter().map(entry).peekable();
    // SAFETY: an LPI is freed by `free` alone, through the epoch, after removal from the table.
    if unsafe { vm.lpis.insert_leaf(&mut entries, guard, &vm.garbage) } {
        return;
    }
    for (irq, refs) in lpis.iter().zip(refs) {
        let (key, new) = entry(irq);
        // SAFETY: an LPI is freed by `free` alone, through the epoch, after removal from the table.
        if !unsafe { vm.lpis.insert(key, new, guard, &vm.garbage) } {
            *refs = give_way(vm, pin, irq, *refs);
        }
    }
}

/// Gives up a new LPI with `refs` references for mappings: the table has an LPI of the INTID, which
/// is not freed yet, or which another CPU has mapped meanwhile. Returns the number of references to
/// that LPI, or to the one that takes its place.
#[cold]
fn give_way<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, new: &Irq, refs: u16) -> u16 {
    let (state, icid) = (new.state(), new.icid());
    for _ in 0..refs {
        unmap(vm, pin, new);
    }

    let mut taken = 0;
    while taken < refs
        && let Some(irq) = map(vm, pin, new.intid(), state.target())
    {
        taken = taken.saturating_add(1);
        irq.set_icid(icid);
        let changed = irq.update(|old| {
            let flags = state.0 & (PENDING | ENABLED);
            old.with(flags, ENABLED).with_priority(state.priority())
        });
        queue::complete(vm, pin, irq, changed);
    }
    taken
}

/// Traces and counts the take of a mapping's reference.
fn trace_mapping_get<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    pin.counters().mapping_gets.add(1);
    vm.host.trace(TracePoint::MappingGet(irq.intid()));
}

/// Ends a mapping of an LPI: withdraws the pending state and puts the mapping's reference. Under
/// the ITS's command lock. May allocate.
pub(crate) fn unmap<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let put = irq.unmap();
    pin.counters().mapping_puts.add(1);
    vm.host.trace(TracePoint::MappingPut(irq.intid()));
    if complete_put(vm, pin, irq, put) {
        free(vm, pin, irq);
    }
}

/// Puts the reference of a migration, after the insertion on the new list.
pub(crate) fn put_migration<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let put = irq.put();
    pin.counters().migration_puts.add(1);
    vm.host.trace(TracePoint::MigrationPut(irq.intid()));
    if complete_put(vm, pin, irq, put) {
        defer_free(vm, irq);
    }
}

/// Counts the change of a put and does the follow-up. The pin keeps the interrupt allocated
/// meanwhile. Returns true if the reference was the last: the caller frees the interrupt.
#[must_use]
fn complete_put<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, put: PutResult) -> bool {
    count::on_change(pin, irq, put.changed);
    if !put.last {
        queue::follow_up(vm, pin, irq, put.changed.follow_up);
    }
    put.last
}

/// Leaves an LPI to [`Vgic::advance`](crate::Vgic::advance), after the caller has put the last
/// reference. Allocates nothing.
pub(crate) fn defer_free<H: Host>(vm: &Vm<H>, irq: &Irq) {
    if mutant(Mutant::DeferredBeforePushed) {
        vm.deferred.add(DEFERRED_FREE);
        vm.free_list.push(irq);
        return;
    }

    // The work before its note: the CPU that takes the note over finds the work.
    vm.free_list.push(irq);
    vm.deferred.add(DEFERRED_FREE);
}

/// Frees a slice of the LPIs in the free list, unless too much of the VM's memory waits for the
/// epoch. Allocates.
pub(crate) fn advance_free_list<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    for _ in 0..SLICE {
        if vm.garbage.pieces() >= Garbage::LIMIT || !free_next(vm, pin) {
            break;
        }
    }

    let _ = vm.is_full_of_garbage(pin);
    pin.collect();
    if !vm.free_list.is_empty() {
        vm.deferred.add(DEFERRED_FREE);
    }
}

/// Frees all LPIs in the free list, at the end of a VM.
pub(crate) fn free_all<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    while free_next(vm, pin) {}
}

/// Frees the next LPI in the free list. Returns false if there is none. Allocates.
// Out of line: saves 2 of the 254 instructions of its_commands/sync.
#[inline(never)]
fn free_next<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> bool {
    let next = vm.free_list.pop(pin.guard());
    if let Some(irq) = next {
        free(vm, pin, irq);
    }
    next.is_some()
}

/// Frees an LPI after the caller has put the last reference: removes the LPI from the table, if
/// still present, and leaves the memory to the epoch. Allocates.
fn free<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let Some(key) = irq.intid().raw().checked_sub(IntId::FIRST_LPI) else {
        debug_assert!(false, "{:?} lost the VM's own reference", irq.intid());
        return;
    };

    irq.watched.defer();
    pin.leaves_garbage();

    // Finds nothing if another LPI of the INTID has taken the slot.
    vm.lpis.remove(key, irq, pin.guard(), &vm.garbage);
    if mutant(Mutant::TranslationWithoutReference) {
        irq.watched.end();
        return;
    }

    let raw = core::ptr::from_ref(irq).cast_mut();
    // SAFETY: the LPI was allocated as a `Box` in `map`, or in a `Block` in `make`, and is out of
    // the table. The last reference has been put. Only the CPU that put the last reference, or
    // popped the LPI from the free list, calls `free`.
    unsafe { vm.garbage.leave(raw, pin.guard()) };
}
