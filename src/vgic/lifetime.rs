//! References: who keeps an interrupt, and an LPI's way in and out of the table.
#![expect(unsafe_code)]
// UNSAFETY: hands LPIs to the table and to the epoch by raw pointer.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crossbeam_epoch::Shared;

use crate::Vgic;
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::irq::{GivenBack, Irq};
use crate::trace::TracePoint;

impl<H: Host> Vgic<H> {
    /// Gives back a reference that a lookup or a carrier holds.
    pub(crate) fn put_lookup(&self, pin: &Pin<'_>, irq: &Irq) {
        self.given_back(pin, irq, irq.put());
    }

    /// Books a lookup's put, and pays what it owes; the pin keeps the interrupt allocated meanwhile.
    fn given_back(&self, pin: &Pin<'_>, irq: &Irq, given: GivenBack) {
        pin.counters().lookup_puts.add(1);
        self.host.trace(TracePoint::LookupPut(irq.intid()));
        self.count_withdrawn(pin, irq, given.withdrawn);
        if given.last {
            self.release(pin, irq);
        } else {
            self.pay(pin, irq, given.owed);
        }
    }

    pub(crate) fn trace_lookup_get(&self, pin: &Pin<'_>, irq: &Irq) {
        pin.counters().lookup_gets.add(1);
        self.host.trace(TracePoint::LookupGet(irq.intid()));
    }

    pub(crate) fn trace_list_put(&self, pin: &Pin<'_>, irq: &Irq, vcpu: VcpuId) {
        pin.counters().list_puts.add(1);
        self.host.trace(TracePoint::ListPut(irq.intid(), vcpu));
    }

    /// Frees an LPI whose last reference the caller has put: out of the table if it is still there, and
    /// to the epoch.
    pub(super) fn release(&self, pin: &Pin<'_>, irq: &Irq) {
        let Some(key) = irq.intid().raw().checked_sub(IntId::FIRST_LPI) else {
            debug_assert!(false, "{:?} lost the VM's own reference", irq.intid());
            return;
        };
        // False if the INTID was mapped again meanwhile and the new interrupt took the slot.
        self.lpis.remove(key, irq, pin.guard());
        let raw: *const Irq = irq;
        // SAFETY: allocated as a `Box` in `map_lpi`; out of the table; the last reference is gone, and
        // only the caller that put it comes here.
        unsafe { pin.guard().defer_destroy(Shared::from(raw)) };
    }

    /// Maps an LPI to `target` for one more event, and takes the mapping's reference: revives the
    /// interrupt of that INTID if it still lives on a list, else makes a new one, disabled. `None` if the
    /// VM has no such LPI, or it has too many mappings.
    pub(crate) fn map_lpi<'g>(
        &self,
        pin: &'g Pin<'_>,
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
                    self.trace_lookup_get(pin, irq);
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
                self.trace_lookup_get(pin, irq);
                return Some(irq);
            }
            // SAFETY: it was not published: still ours alone.
            fresh = Some(unsafe { Box::from_raw(new.as_ptr()) });
        }
    }

    /// Ends one mapping of an LPI: withdraws what is pending and puts the mapping's reference.
    pub(crate) fn unmap_lpi(&self, pin: &Pin<'_>, irq: &Irq) {
        self.given_back(pin, irq, irq.unmap());
    }

    pub(crate) fn count_withdrawn(&self, pin: &Pin<'_>, irq: &Irq, withdrawn: bool) {
        pin.counters().withdrawn[irq.intid().kind() as usize].add(u64::from(withdrawn));
    }
}
