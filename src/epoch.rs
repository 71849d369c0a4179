//! Epochs: who may still be reading what has been unlinked.
//!
//! One [`Domain`] serves a whole hypervisor. Every physical CPU registers once and owns the
//! [`CpuLocal`] it gets. A [`CpuPin`] is what every operation of the library asks for: one for each exit
//! from the guest, dropped before the next entry, so that nobody is in the epoch while in a guest.
//!
//! Entering the epoch is a store and a full barrier, and most exits look nothing up. So a pin enters it
//! when it is first asked for its guard, and at most once: whoever follows a pointer that others may
//! retire (an LPI, a device, a topology) got it by that guard. SPIs, PPIs, SGIs and vCPUs live as long as
//! their VM, and an interrupt on a list as long as it is there: for those nobody has to be in the epoch.
#![expect(unsafe_code)]
// UNSAFETY: a pin's guard is written through a shared reference, once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};

use crossbeam_epoch::{Collector, Guard, LocalHandle};

use crate::intid::CpuId;
use crate::sync::{Ledger, Rank, SpinLock};
use crate::trace::{Counters, Totals};

/// What a CPU leaves to the epoch before it collects: interrupts, devices, nodes of tables.
const PILE: u32 = 64;

/// The epoch collector of one hypervisor, shared by all its VMs.
pub struct Domain {
    collector: Collector,
    counters: SpinLock<Vec<Arc<Counters>>>,
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl Domain {
    /// A domain that no CPU has joined yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            collector: Collector::new(),
            counters: SpinLock::new(Rank::Topology, Vec::new()),
        }
    }

    /// Registers the calling physical CPU. Allocates; done once per CPU, at its boot.
    #[must_use]
    pub fn register(&self, id: CpuId) -> CpuLocal {
        let local = CpuLocal {
            id,
            loaded: Cell::new(core::ptr::null()),
            garbage: Cell::new(0),
            handle: self.collector.register(),
            ledger: Ledger::default(),
            counters: Arc::new(Counters::default()),
        };
        self.counters
            .lock(&local.ledger)
            .push(local.counters.clone());
        local
    }

    /// The sum of all CPUs' counters, those of CPUs that have left included.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for counters in self.counters.lock(&Ledger::default()).iter() {
            totals.add(counters);
        }
        totals
    }
}

/// What one physical CPU owns in a [`Domain`]. It stays on that CPU (`!Send`, `!Sync`).
pub struct CpuLocal {
    id: CpuId,
    /// The vCPU whose state is in this CPU's registers; compared, never followed.
    loaded: Cell<*const ()>,
    /// What has been left to the epoch since [`CpuPin::collect`].
    garbage: Cell<u32>,
    handle: LocalHandle,
    ledger: Ledger,
    counters: Arc<Counters>,
}

impl CpuLocal {
    /// The physical CPU that registered.
    #[inline]
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Begins what this CPU does between an exit and the next entry. Costs nothing until something is
    /// looked up: see [`CpuPin::guard`].
    #[inline]
    pub fn pin(&self) -> CpuPin<'_> {
        CpuPin {
            guard: UnsafeCell::new(None),
            local: self,
        }
    }

    /// Whether the state of `vcpu` is in this CPU's registers.
    #[inline]
    pub(crate) fn has<V>(&self, vcpu: &V) -> bool {
        core::ptr::eq(self.loaded.get(), core::ptr::from_ref(vcpu).cast())
    }

    /// Whether the state of any vCPU is in this CPU's registers.
    pub(crate) fn is_loaded(&self) -> bool {
        !self.loaded.get().is_null()
    }

    /// Notes whose state is in this CPU's registers.
    pub(crate) fn set_loaded<V>(&self, vcpu: Option<&V>) {
        self.loaded
            .set(vcpu.map_or(core::ptr::null(), core::ptr::from_ref).cast());
    }

    /// This CPU's counters.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// What one CPU does between an exit and the next entry: which CPU it is, and its stay in the epoch.
#[must_use]
pub struct CpuPin<'c> {
    /// Written once, by [`CpuPin::enter`]. A `OnceCell` would look twice whether it has been.
    guard: UnsafeCell<Option<Guard>>,
    local: &'c CpuLocal,
}

impl<'c> CpuPin<'c> {
    /// The epoch guard: nothing that this CPU reaches by it is freed until the pin is dropped. The first
    /// call enters the epoch, a store and a full barrier; pins inside one that has are a plain increment.
    /// Every 128th entry also frees a bounded number of things that nobody can reach any more, and
    /// allocates a node of the epoch's queue once in some thousand of those.
    #[inline]
    #[must_use]
    pub fn guard(&self) -> &Guard {
        // SAFETY: a pin stays on its CPU (`!Sync`), and `enter`, which alone writes to it, does so before
        // there is a reference to what it writes.
        match unsafe { &*self.guard.get() } {
            Some(guard) => guard,
            None => self.enter(),
        }
    }

    /// As [`CpuPin::guard`], for where it is mostly the first call.
    #[inline(always)]
    pub(crate) fn first_guard(&self) -> &Guard {
        // SAFETY: as in `guard`.
        match unsafe { &*self.guard.get() } {
            Some(guard) => guard,
            None => self.enter_here(),
        }
    }

    #[inline(never)]
    fn enter(&self) -> &Guard {
        self.enter_here()
    }

    #[inline(always)]
    fn enter_here(&self) -> &Guard {
        let guard = self.local.handle.pin();
        // SAFETY: as in `guard`, which has found nothing there. What the epoch frees meanwhile is not given
        // this pin.
        unsafe { (*self.guard.get()).insert(guard) }
    }

    /// The calling CPU's part in the domain.
    #[inline]
    pub(crate) fn local(&self) -> &'c CpuLocal {
        self.local
    }

    /// Notes that what has been unlinked was left to the epoch.
    #[inline]
    pub(crate) fn leaves_garbage(&self) {
        let garbage = &self.local.garbage;
        garbage.set(garbage.get().saturating_add(1));
    }

    /// Frees what was left to the epoch before, and that nobody can reach any more, if more than a little has
    /// been left to it since the last time: whoever leaves something sees to it that it does not pile up.
    /// Allocates a node of the epoch's queue. No lock is held.
    #[inline]
    pub(crate) fn collect(&self) {
        if self.local.garbage.get() >= PILE {
            self.collect_now();
        }
    }

    #[cold]
    fn collect_now(&self) {
        self.local.garbage.set(0);
        self.guard().flush();
    }

    /// The physical CPU.
    #[inline]
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.local.id
    }

    /// This CPU's lock ledger.
    #[inline]
    #[must_use]
    pub fn ledger(&self) -> &'c Ledger {
        &self.local.ledger
    }

    /// This CPU's counters.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> &'c Counters {
        &self.local.counters
    }

    /// Runs `f`, a lookup, and books it together with any lock that it took.
    #[inline]
    pub(crate) fn lookup<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.local.ledger.acquired();
        let result = f();
        let counters = self.counters();
        counters.lookups.add(1);
        counters
            .lookup_locks_taken
            .add(self.local.ledger.acquired() - before);
        result
    }

    /// Begins anew, as if the pin had been dropped and another one made: for a CPU that goes on at once with
    /// something else, such as a thread that injects in a loop. What was obtained under the pin is gone. A pin
    /// that is in the epoch stays in it, with two loads and no barrier; without effect inside another one.
    #[inline]
    pub fn renew(&mut self) {
        if let Some(guard) = self.guard.get_mut() {
            guard.repin();
        }
    }

    /// Runs `f`, in which the CPU sleeps, outside the epoch, so that reclamation goes on meanwhile.
    /// References obtained under the pin are gone afterwards. Without effect inside another pin that is in
    /// the epoch.
    pub fn unpinned<R>(&mut self, f: impl FnOnce() -> R) -> R {
        *self.guard.get_mut() = None;
        f()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU8;
    use crate::sync::Ordering::Relaxed;

    /// Whether something that `cpu` leaves to the epoch is freed while `between` is done again and again.
    fn is_freed(cpu: &CpuLocal, mut between: impl FnMut()) -> bool {
        let freed = Arc::new(AtomicU8::new(0));
        let mark = freed.clone();
        cpu.pin().guard().defer(move || mark.store(1, Relaxed));
        for _ in 0..16 {
            between();
            cpu.pin().guard().flush();
        }
        // Relaxed, both: one thread.
        freed.load(Relaxed) != 0
    }

    #[test]
    fn a_pin_holds_back_what_it_may_have_reached_until_it_is_renewed() {
        let domain = Domain::new();
        let [one, other] = [0, 1].map(|n| domain.register(CpuId(n)));
        let mut pin = other.pin();
        assert!(is_freed(&one, || ()), "nothing has been looked up");
        let _ = pin.guard();
        assert!(!is_freed(&one, || ()));
        assert!(is_freed(&one, || pin.renew()));
        // Inside another pin it would be the other's as well.
        let mut inner = other.pin();
        let _ = inner.guard();
        assert!(!is_freed(&one, || inner.renew()));
        drop(inner);
        assert!(is_freed(&one, || pin.renew()));
    }
}
