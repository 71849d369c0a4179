//! Counts of a VM's interrupts.
//!
//! The library counts for each CPU ([`vgic::trace::Counters`]). The counts from the load of a vCPU
//! to the next one's are its VM's, but for MSIs that arrive for other VMs meanwhile.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use vgic::epoch::CpuPin;
use vgic::intid::Kind;

use super::Vm;

/// Number of interrupts of each kind.
type PerKind<T> = [T; Kind::COUNT];

/// Counts of a VM.
#[derive(Default)]
pub(crate) struct Counts {
    injections: PerKind<AtomicU64>,
    deliveries: PerKind<AtomicU64>,
}

impl Counts {
    /// Returns the number of injections, by kind.
    pub(crate) fn injections(&self) -> PerKind<u64> {
        // Relaxed, here and below: statistics.
        self.injections
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Returns the number of deliveries, by kind.
    pub(crate) fn deliveries(&self) -> PerKind<u64> {
        self.deliveries
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// The calling CPU's counts on their way to the VMs.
#[derive(Default)]
pub(crate) struct Ledger {
    /// VM that the counts from now on are of.
    vm: Cell<Option<&'static Vm>>,
    /// Counts that have been given to VMs.
    injections: Cell<PerKind<u64>>,
    deliveries: Cell<PerKind<u64>>,
}

impl Ledger {
    /// Notes that the counts from now on are the VM's.
    #[inline]
    pub(crate) fn open(&self, pin: &CpuPin<'_>, vm: &'static Vm) {
        // Without the feature there is nothing to give.
        if cfg!(feature = "counters") && !self.vm.get().is_some_and(|old| ptr::eq(old, vm)) {
            self.settle(pin);
            self.vm.set(Some(vm));
        }
    }

    /// Gives the VM the counts so far.
    #[cold]
    pub(crate) fn settle(&self, pin: &CpuPin<'_>) {
        let counters = pin.counters();
        let injections = Kind::ALL.map(|kind| counters.injections[kind].get());
        let deliveries = Kind::ALL.map(|kind| counters.deliveries[kind].get());
        let old_injections = self.injections.replace(injections);
        let old_deliveries = self.deliveries.replace(deliveries);
        if let Some(Vm { counts, .. }) = self.vm.get() {
            add(&counts.injections, injections, old_injections);
            add(&counts.deliveries, deliveries, old_deliveries);
        }
    }
}

/// Adds the differences of two counts.
fn add(sum: &PerKind<AtomicU64>, new: PerKind<u64>, old: PerKind<u64>) {
    for ((sum, new), old) in sum.iter().zip(new).zip(old) {
        if new != old {
            sum.fetch_add(new - old, Ordering::Relaxed);
        }
    }
}
