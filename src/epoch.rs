//! Epochs: who may still be reading what has been unlinked.
//!
//! One [`Domain`] serves a whole hypervisor. Every physical CPU registers once and owns the
//! [`CpuLocal`] it gets; it pins once per exit from the guest and unpins before it enters again, so
//! nobody is pinned while in a guest, and a nested pin costs next to nothing. A [`Pin`] is the
//! evidence that every operation of the library asks for.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crossbeam_epoch::{Collector, Guard, LocalHandle};

use crate::intid::CpuId;
use crate::sync::{Ledger, Rank, SpinLock};
use crate::trace::{Counters, Totals};

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

    /// Pins this CPU in the current epoch: nothing that it can reach from now on is freed until the
    /// result is dropped. A store and a full fence; nested pins are a plain increment. Every 128th pin
    /// also frees a bounded number of things that nobody can reach any more, and allocates a node of the
    /// epoch's queue once in some thousand of those.
    #[inline]
    pub fn pin(&self) -> Pin<'_> {
        Pin {
            guard: self.handle.pin(),
            local: self,
        }
    }

    /// This CPU's counters.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// Evidence that the calling CPU is pinned, and which CPU it is.
#[must_use]
pub struct Pin<'c> {
    guard: Guard,
    local: &'c CpuLocal,
}

impl<'c> Pin<'c> {
    /// The epoch guard.
    #[inline]
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The physical CPU that is pinned.
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

    /// Runs `f`, in which the CPU sleeps, outside the epoch, so that reclamation goes on meanwhile.
    /// References obtained under the pin are gone afterwards. Without effect inside a nested pin.
    pub fn unpinned<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.guard.repin_after(f)
    }
}
