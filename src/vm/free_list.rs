//! LPIs whose last reference is gone.
#![expect(unsafe_code)]
// UNSAFETY: follows the links of interrupts that are dying.

use crate::epoch::CpuPin;
use crate::sync::AtomicPtr;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::vm::irq::Irq;

/// LPIs whose last reference is gone, until they are freed: a stack through their links, which no list
/// needs any more.
///
/// # Invariants
/// Whatever is reachable from here has no references, was buried once, and is freed by whoever digs it
/// out. A CPU that is in the epoch may follow the pointers: what is dug out meanwhile is freed only after it,
/// and not until then can an interrupt at the same address be buried.
pub(crate) struct FreeList(AtomicPtr<Irq>);

impl FreeList {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    pub(crate) fn push(&self, irq: &Irq) {
        debug_assert!(irq.state().refs() == 0, "{:?} is alive", irq.intid());
        let this = core::ptr::from_ref(irq).cast_mut();
        // Relaxed: only compared, and passed on through the link.
        let mut top = self.0.load(Relaxed);
        loop {
            // Relaxed: published by the exchange.
            irq.links.next.store(top, Relaxed);
            // Release: pairs with the Acquire in `pop`. Relaxed: as for `top` above.
            match self.0.compare_exchange_weak(top, this, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: only looked at, by the CPU that has just dug; whoever buries asks for the next time.
        self.0.load(Relaxed).is_null()
    }

    pub(crate) fn pop<'g>(&self, pin: &'g CpuPin<'_>) -> Option<&'g Irq> {
        let _entered = pin.guard();
        // Acquire, here and below: pairs with the Release in `push`, which published the link.
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
