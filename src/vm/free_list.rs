//! LPIs without references, until freed.
//!
//! The CPU that puts the last reference of an LPI frees the LPI, which may allocate: the epoch
//! keeps lists of deferred work. Injection, entry and exit must not allocate. They push the LPI
//! onto the free list instead, with one compare-and-swap, and
//! [`Vgic::advance`](crate::Vgic::advance) frees a slice at a time. Until then the table of LPIs
//! may hold the LPI. No CPU can take a reference any more, and a new mapping of the INTID takes the
//! slot.
#![expect(unsafe_code)]
// UNSAFETY: follows the links of interrupts waiting to be freed.

use crossbeam_epoch::Guard;

use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicPtr, Gauge, Mutant, weakened_by};
use crate::vm::irq::Irq;

/// A stack of LPIs, linked through [`Links`](super::irq::Links) no longer in use by an ap_list.
///
/// # Invariants
/// Every interrupt reachable from the list has no references, was pushed once, and is freed by the
/// CPU that pops the interrupt. A CPU in the epoch may follow the pointers: an interrupt popped
/// meanwhile is freed only after the following CPU has left the epoch. Before the free, no
/// interrupt at the same address can be pushed.
pub(crate) struct FreeList {
    top: AtomicPtr<Irq>,
    /// Number of LPIs in the list, or about to be.
    length: Gauge,
}

impl FreeList {
    /// Makes an empty list.
    pub(crate) fn new() -> Self {
        Self {
            top: AtomicPtr::new(core::ptr::null_mut()),
            length: Gauge::default(),
        }
    }

    /// Pushes an interrupt after the caller has put the last reference.
    pub(crate) fn push(&self, irq: &Irq) {
        debug_assert!(irq.state().refs() == 0, "{:?} is alive", irq.intid());
        let this = core::ptr::from_ref(irq).cast_mut();
        self.length.raise();

        // Relaxed: only compared, and passed on through the link.
        let mut top = self.top.load(Relaxed);
        loop {
            irq.links.set_next(top);
            // Release: pairs with the Acquire in `pop`.
            let order = weakened_by(Mutant::FreeListPushedRelaxed, Release);
            // Relaxed: the value is only compared.
            match self.top.compare_exchange_weak(top, this, order, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Returns the number of LPIs that wait to be freed.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.length.get()
    }

    /// Returns true if the list is empty. Called after a pop: a CPU that pushes later defers the
    /// work again.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: no interrupt is accessed.
        self.top.load(Relaxed).is_null()
    }

    /// Pops an interrupt for the caller to free.
    pub(crate) fn pop<'g>(&self, _entered: &'g Guard) -> Option<&'g Irq> {
        // Acquire, every access of `top`: pairs with the Release in `push`, which published the
        // link.
        let order = weakened_by(Mutant::FreeListPoppedRelaxed, Acquire);
        let mut top = self.top.load(order);
        loop {
            // SAFETY: by the type invariant the interrupt is not freed while this CPU is in the
            // epoch, and the guard says that it is.
            let irq = unsafe { top.as_ref() }?;
            irq.watched.read();

            // Constant since the publication by `push`.
            let next = irq.links.next().cast_mut();
            match self.top.compare_exchange_weak(top, next, order, order) {
                Ok(_) => {
                    self.length.lower();
                    return Some(irq);
                }
                Err(now) => top = now,
            }
        }
    }
}
