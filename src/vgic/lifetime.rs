//! References: who keeps an interrupt, and an LPI's way in and out of the table.
//!
//! Whoever puts the last reference of an LPI has to free it, which may allocate: the epoch keeps lists of
//! what it defers. Injection, entry and exit must not allocate, so they only bury the interrupt among the
//! [`Dying`], one compare-and-swap, and [`Vgic::advance`] frees those, a slice at a time. The table may
//! hold a dying interrupt meanwhile; nobody can take a reference to it any more, and a new mapping of its
//! INTID takes its place.
#![expect(unsafe_code)]
// UNSAFETY: hands LPIs to the table and to the epoch by raw pointer.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crossbeam_epoch::Shared;

use crate::Vgic;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::irq::{GivenBack, Irq};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicPtr, Mutant, mutant};
use crate::trace::TracePoint;

use super::DEFERRED_DYING;

/// Dying interrupts that one call of [`Vgic::advance`] frees.
const SLICE: usize = 64;

/// LPIs whose last reference is gone, until they are freed: a stack through their links, which no list
/// needs any more.
///
/// # Invariants
/// Whatever is reachable from here has no references, was buried once, and is freed by whoever digs it
/// out. A CPU that is in the epoch may follow the pointers: what is dug out meanwhile is freed only after it,
/// and not until then can an interrupt at the same address be buried.
pub(super) struct Dying(AtomicPtr<Irq>);

impl Dying {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    fn bury(&self, irq: &Irq) {
        debug_assert!(irq.state().refs() == 0, "{:?} is alive", irq.intid());
        let this = core::ptr::from_ref(irq).cast_mut();
        // Relaxed: only compared, and passed on through the link.
        let mut top = self.0.load(Relaxed);
        loop {
            // Relaxed: published by the exchange.
            irq.links.next.store(top, Relaxed);
            // Release: pairs with the Acquire in `dig`. Relaxed: as for `top` above.
            match self.0.compare_exchange_weak(top, this, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn is_empty(&self) -> bool {
        // Relaxed: only looked at, by the CPU that has just dug; whoever buries asks for the next time.
        self.0.load(Relaxed).is_null()
    }

    fn dig<'g>(&self, pin: &'g CpuPin<'_>) -> Option<&'g Irq> {
        let _entered = pin.guard();
        // Acquire, here and below: pairs with the Release in `bury`, which published the link.
        let mut top = self.0.load(Acquire);
        loop {
            // SAFETY: by the type invariant, in the epoch as we are.
            let irq = unsafe { top.as_ref() }?;
            // Relaxed: never written again once it was published.
            let next = irq.links.next.load(Relaxed);
            match self.0.compare_exchange_weak(top, next, Acquire, Acquire) {
                Ok(_) => return Some(irq),
                Err(now) => top = now,
            }
        }
    }
}

impl<H: Host> Vgic<H> {
    /// Puts the reference of a migration, after the interrupt is on its new list.
    pub(crate) fn put_migration(&self, pin: &CpuPin<'_>, irq: &Irq) {
        pin.counters().migration_puts.add(1);
        self.host.trace(TracePoint::MigrationPut(irq.intid()));
        if self.given_back(pin, irq, irq.put()) {
            self.bury(irq);
        }
    }

    /// Counts what a put changed, and pays what it owes; the pin keeps the interrupt allocated meanwhile.
    /// True if it was the last reference: the caller frees the interrupt or buries it.
    #[must_use]
    fn given_back(&self, pin: &CpuPin<'_>, irq: &Irq, given: GivenBack) -> bool {
        self.book(pin, irq, given.changed);
        if !given.last {
            self.pay(pin, irq, given.changed.owed);
        }
        given.last
    }

    /// Leaves an interrupt whose last reference the caller has put to [`Vgic::advance`]. Allocates nothing.
    pub(crate) fn bury(&self, irq: &Irq) {
        self.dying.bury(irq);
        self.defer(DEFERRED_DYING);
    }

    /// Frees a slice of the dying.
    pub(super) fn advance_dying(&self, pin: &CpuPin<'_>) {
        for _ in 0..SLICE {
            let Some(irq) = self.dying.dig(pin) else {
                break;
            };
            self.release(pin, irq);
        }
        pin.collect();
        if !self.dying.is_empty() {
            self.defer(DEFERRED_DYING);
        }
    }

    /// Frees all of the dying; for a VM that ends.
    pub(super) fn release_dying(&self, pin: &CpuPin<'_>) {
        while let Some(irq) = self.dying.dig(pin) {
            self.release(pin, irq);
        }
    }

    fn trace_mapping_get(&self, pin: &CpuPin<'_>, irq: &Irq) {
        pin.counters().mapping_gets.add(1);
        self.host.trace(TracePoint::MappingGet(irq.intid()));
    }

    pub(crate) fn trace_migration_get(&self, pin: &CpuPin<'_>, irq: &Irq) {
        pin.counters().migration_gets.add(1);
        self.host.trace(TracePoint::MigrationGet(irq.intid()));
    }

    /// An interrupt that has left a list may be gone already, but for its INTID.
    #[inline]
    pub(crate) fn trace_list_put(&self, pin: &CpuPin<'_>, intid: IntId, vcpu: VcpuId) {
        pin.counters().list_puts.add(1);
        self.host.trace(TracePoint::ListPut(intid, vcpu));
    }

    /// Frees an LPI whose last reference the caller has put: out of the table if it is still there, and
    /// to the epoch.
    fn release(&self, pin: &CpuPin<'_>, irq: &Irq) {
        let Some(key) = irq.intid().raw().checked_sub(IntId::FIRST_LPI) else {
            debug_assert!(false, "{:?} lost the VM's own reference", irq.intid());
            return;
        };
        irq.watched.retire();
        pin.leaves_garbage();
        // False if the INTID was mapped again meanwhile and the new interrupt took the slot.
        self.lpis.remove(key, irq, pin.guard());
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
    pub(crate) fn map_lpi<'g>(
        &self,
        pin: &'g CpuPin<'_>,
        intid: IntId,
        target: Option<VcpuId>,
    ) -> Option<&'g Irq> {
        let key = intid.raw().checked_sub(IntId::FIRST_LPI)?;
        if intid.raw() >= self.config.lpi_end() {
            return None;
        }
        let mut fresh: Option<Box<Irq>> = None;
        // Another round only if another CPU maps or frees the same INTID meanwhile.
        loop {
            let found = self.lpis.get(key, pin.guard());
            if let Some(irq) = found {
                // SAFETY: lives as long as the table holds it or the guard is pinned.
                let irq: &'g Irq = unsafe { &*core::ptr::from_ref(irq) };
                if let Some(owed) = irq.map(target) {
                    self.trace_mapping_get(pin, irq);
                    self.pay(pin, irq, owed);
                    return Some(irq);
                }
                if irq.state().refs() != 0 {
                    return None;
                }
            }
            let new =
                NonNull::from(Box::leak(fresh.take().unwrap_or_else(|| {
                    Box::new(Irq::new(intid, crate::irq::GROUP1, target))
                })));
            // SAFETY: freed only by `release`, after it has left the table, through the epoch.
            let put = unsafe {
                match found {
                    None => self.lpis.insert(key, new, pin.guard()).is_ok(),
                    Some(dying) => self.lpis.replace(key, dying, new, pin.guard()),
                }
            };
            if put {
                // SAFETY: as above; the mapping's reference, which `Irq::new` counts, keeps it.
                let irq: &'g Irq = unsafe { new.as_ref() };
                self.trace_mapping_get(pin, irq);
                return Some(irq);
            }
            // SAFETY: it was not published: still ours alone.
            fresh = Some(unsafe { Box::from_raw(new.as_ptr()) });
        }
    }

    /// Ends one mapping of an LPI: withdraws what is pending and puts the mapping's reference.
    pub(crate) fn unmap_lpi(&self, pin: &CpuPin<'_>, irq: &Irq) {
        pin.counters().mapping_puts.add(1);
        self.host.trace(TracePoint::MappingPut(irq.intid()));
        if self.given_back(pin, irq, irq.unmap()) {
            self.release(pin, irq);
        }
    }
}
