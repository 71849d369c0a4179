//! LPIs whose last reference has been put, until they are freed.
//!
//! The CPU that puts the last reference of an LPI frees it, which may allocate: the epoch keeps
//! lists of what it defers. Injection, entry and exit must not allocate, so they push the interrupt
//! here, one compare-and-swap, and [`Vgic::advance`](crate::Vgic::advance) frees a slice at a time.
//! The table of LPIs may hold such an interrupt meanwhile. Nobody can take a reference to it any
//! more, and a new mapping of its INTID takes its slot.
#![expect(unsafe_code)]
// UNSAFETY: follows the links of interrupts that wait to be freed.

use crate::epoch::CpuPin;
use crate::sync::AtomicPtr;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::vm::irq::Irq;

/// A stack of LPIs through their links, which no ap_list needs any more.
///
/// # Invariants
/// Every interrupt that is reachable from here has no references, was pushed once, and is freed by
/// the CPU that pops it. A CPU in the epoch may follow the pointers: an interrupt that is popped
/// meanwhile is freed only after that CPU has left, and not until then can an interrupt at the same
/// address be pushed.
pub(crate) struct FreeList(AtomicPtr<Irq>);

impl FreeList {
    /// Makes an empty list.
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// Pushes an interrupt whose last reference the caller has put.
    pub(crate) fn push(&self, irq: &Irq) {
        debug_assert!(irq.state().refs() == 0, "{:?} is alive", irq.intid());
        let this = core::ptr::from_ref(irq).cast_mut();
        // Relaxed: only compared, and passed on through the link.
        let mut top = self.0.load(Relaxed);
        loop {
            // Relaxed: published by the exchange.
            irq.links.next.store(top, Relaxed);
            // Release: pairs with the Acquire in `pop`. Relaxed: the value is only compared.
            match self.0.compare_exchange_weak(top, this, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Returns whether the list is empty, for a CPU that has just popped. A CPU that pushes
    /// afterwards defers the work again.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: no interrupt is accessed.
        self.0.load(Relaxed).is_null()
    }

    /// Pops an interrupt, which the caller frees.
    pub(crate) fn pop<'g>(&self, pin: &'g CpuPin<'_>) -> Option<&'g Irq> {
        let _entered = pin.guard();
        // Acquire, on failure too: pairs with the Release in `push`, which published the link.
        let mut top = self.0.load(Acquire);
        loop {
            // SAFETY: by the type invariant the interrupt is not freed while this CPU is in the
            // epoch, which the guard above has entered.
            let irq = unsafe { top.as_ref() }?;
            // Relaxed: not written again once it was published.
            let next = irq.links.next.load(Relaxed);
            // Acquire: pairs with the Release in `push`.
            match self.0.compare_exchange_weak(top, next, Acquire, Acquire) {
                Ok(_) => return Some(irq),
                Err(now) => top = now,
            }
        }
    }
}
