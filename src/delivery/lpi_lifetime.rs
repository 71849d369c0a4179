//! References: who keeps an interrupt, and an LPI's way in and out of the table.
//!
//! Whoever puts the last reference of an LPI has to free it, which may allocate: the epoch keeps lists of
//! what it defers. Injection, entry and exit must not allocate, so they only defer_free the interrupt among the
//! [`FreeList`], one compare-and-swap, and [`Vgic::advance`] frees those, a slice at a time. The table may
//! hold a dying interrupt meanwhile; nobody can take a reference to it any more, and a new mapping of its
//! INTID takes its place.
#![expect(unsafe_code)]
use alloc::boxed::Box;
use core::ptr::NonNull;

use crossbeam_epoch::Shared;

use crate::delivery::{count, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::sync::{Mutant, mutant};
use crate::trace::TracePoint;
use crate::vm::irq::{Irq, Put};
use crate::vm::{DEFERRED_FREE, Vm};

/// FreeList interrupts that one call of [`Vgic::advance`] frees.
const SLICE: usize = 64;

/// Puts the reference of a migration, after the interrupt is on its new list.
pub(crate) fn put_migration<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    pin.counters().migration_puts.add(1);
    vm.host.trace(TracePoint::MigrationPut(irq.intid()));
    if given_back(vm, pin, irq, irq.put()) {
        defer_free(vm, irq);
    }
}

/// Counts what a put changed, and pays what it owes; the pin keeps the interrupt allocated meanwhile.
/// True if it was the last reference: the caller frees the interrupt or buries it.
#[must_use]
fn given_back<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, given: Put) -> bool {
    count::change(vm, pin, irq, given.changed);
    if !given.last {
        queue::follow_up(vm, pin, irq, given.changed.follow_up);
    }
    given.last
}

/// Leaves an interrupt whose last reference the caller has put to [`Vgic::advance`]. Allocates nothing.
pub(crate) fn defer_free<H: Host>(vm: &Vm<H>, irq: &Irq) {
    vm.free_list.push(irq);
    vm.defer(DEFERRED_FREE);
}

/// Frees a slice of the dying.
pub(crate) fn advance_free_list<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    for _ in 0..SLICE {
        let Some(irq) = vm.free_list.pop(pin) else {
            break;
        };
        free(vm, pin, irq);
    }
    pin.collect();
    if !vm.free_list.is_empty() {
        vm.defer(DEFERRED_FREE);
    }
}

/// Frees all of the dying; for a VM that ends.
pub(crate) fn free_all<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    while let Some(irq) = vm.free_list.pop(pin) {
        free(vm, pin, irq);
    }
}

fn trace_mapping_get<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    pin.counters().mapping_gets.add(1);
    vm.host.trace(TracePoint::MappingGet(irq.intid()));
}

/// Frees an LPI whose last reference the caller has put: out of the table if it is still there, and
/// to the epoch.
pub(crate) fn free<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let Some(key) = irq.intid().raw().checked_sub(IntId::FIRST_LPI) else {
        debug_assert!(false, "{:?} lost the VM's own reference", irq.intid());
        return;
    };
    irq.watched.defer();
    pin.leaves_garbage();
    // False if the INTID was mapped again meanwhile and the new interrupt took the slot.
    vm.lpis.remove(key, irq, pin.guard());
    if mutant(Mutant::TranslationWithoutReference) {
        irq.watched.end();
        return;
    }
    let raw: *const Irq = irq;
    // SAFETY: allocated as a `Box` in `map_lpi`; out of the table; the last reference is gone, and
    // only the caller that put it, or dug the interrupt out, comes here.
    unsafe { pin.guard().defer_destroy(Shared::from(raw)) };
}

/// Maps an LPI to `target` for one more event, and takes the mapping's reference: revives the
/// interrupt of that INTID if it still lives on a list, else makes a new one, disabled. `None` if the
/// VM has no such LPI, or it has too many mappings.
pub(crate) fn map_lpi<'g, H: Host>(
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
    // Another round only if another CPU maps or frees the same INTID meanwhile.
    loop {
        let found = vm.lpis.get(key, pin.guard());
        if let Some(irq) = found {
            // SAFETY: lives as long as the table holds it or the guard is pinned.
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
        let new =
            NonNull::from(Box::leak(fresh.take().unwrap_or_else(|| {
                Box::new(Irq::new(intid, crate::vm::irq::GROUP1, target))
            })));
        // SAFETY: freed only by `free`, after it has left the table, through the epoch.
        let put = unsafe {
            match found {
                None => vm.lpis.insert(key, new, pin.guard()).is_ok(),
                Some(dying) => vm.lpis.replace(key, dying, new, pin.guard()),
            }
        };
        if put {
            // SAFETY: as above; the mapping's reference, which `Irq::new` counts, keeps it.
            let irq: &'g Irq = unsafe { new.as_ref() };
            trace_mapping_get(vm, pin, irq);
            return Some(irq);
        }
        // SAFETY: it was not published: still ours alone.
        fresh = Some(unsafe { Box::from_raw(new.as_ptr()) });
    }
}

/// Ends one mapping of an LPI: withdraws what is pending and puts the mapping's reference.
pub(crate) fn unmap_lpi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    pin.counters().mapping_puts.add(1);
    vm.host.trace(TracePoint::MappingPut(irq.intid()));
    if given_back(vm, pin, irq, irq.unmap()) {
        free(vm, pin, irq);
    }
}
