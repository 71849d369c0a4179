//! Counts of each load, and their form in the output.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use mesi::Transfer;

use crate::load::Load;

/// Counts of a load that are no transfers. Relaxed: they order nothing.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) atomics: AtomicU64,
    pub(crate) barriers: AtomicU64,
    /// Lines that came from memory.
    pub(crate) cold: AtomicU64,
}

/// Counts by the load's number.
static COUNTS: [Counts; Load::END] = [const {
    Counts {
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        atomics: AtomicU64::new(0),
        barriers: AtomicU64::new(0),
        cold: AtomicU64::new(0),
    }
}; Load::END];

/// Returns the counts of the load with this number.
pub(crate) fn of(load: usize) -> &'static Counts {
    &COUNTS[load]
}

/// Increments a count.
pub(crate) fn add(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

/// Transfers that are counted together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) load: usize,
    /// Number of the line.
    pub(crate) line: u64,
    /// Virtual address of the instruction.
    pub(crate) site: u64,
    pub(crate) kind: Transfer,
}

/// Transfers of one [`Key`].
struct Transfers {
    count: u64,
    /// Virtual address of the first access.
    address: u64,
    /// CPUs that fetched the line, one bit each.
    cpus: u128,
}

static TRANSFERS: Mutex<BTreeMap<Key, Transfers>> = Mutex::new(BTreeMap::new());

/// Counts a transfer to a CPU.
pub(crate) fn transfer(key: Key, address: u64, cpu: usize) {
    let mut transfers = TRANSFERS.lock().unwrap_or_else(PoisonError::into_inner);
    let transfers = transfers.entry(key).or_insert(Transfers {
        count: 0,
        address,
        cpus: 0,
    });
    transfers.count += 1;
    transfers.cpus |= 1 << cpu;
}

/// Formats all counts:
///
/// * `load NUMBER READS WRITES ATOMICS BARRIERS COLD`
/// * `transfer LOAD LINE ADDRESS SITE KIND COUNT CPUS`, with the addresses, the line's number and
///   the set of CPUs in hexadecimal digits.
pub(crate) fn report() -> String {
    let mut text = String::new();
    for load in Load::ALL {
        let counts = of(load as usize);
        let _ = writeln!(
            text,
            "load {} {} {} {} {} {}",
            load as usize,
            counts.reads.load(Relaxed),
            counts.writes.load(Relaxed),
            counts.atomics.load(Relaxed),
            counts.barriers.load(Relaxed),
            counts.cold.load(Relaxed),
        );
    }

    let transfers = TRANSFERS.lock().unwrap_or_else(PoisonError::into_inner);
    for (key, transfers) in transfers.iter() {
        let _ = writeln!(
            text,
            "transfer {} {:x} {:x} {:x} {} {} {:x}",
            key.load,
            key.line,
            transfers.address,
            key.site,
            key.kind.name(),
            transfers.count,
            transfers.cpus,
        );
    }
    text
}
