//! Tables of LPIs behind one interface: the library's, other common tables, and the cheapest table
//! of this shape.

use std::collections::{BTreeMap, HashMap, LinkedList};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::ArcSwapOption;
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use vgic::epoch::Garbage;
use vgic::internals::Radix;

/// Bits of a key: 65,536 LPIs.
pub const BITS: u32 = 16;

/// The object of a lookup, in a cache line of its own like an interrupt.
#[repr(align(64))]
pub struct Lpi {
    state: AtomicU64,
    references: AtomicU64,
}

impl Lpi {
    fn new(key: u32) -> Self {
        Self {
            state: AtomicU64::new(key.into()),
            references: AtomicU64::new(1),
        }
    }

    #[inline]
    fn read(&self) -> u64 {
        // Relaxed: the measured load needs no order.
        self.state.load(Relaxed)
    }
}

/// A thread's access to a table.
pub trait Reader {
    /// Finds the LPI and reads it under the lookup's protection. Returns 0 on a miss.
    fn borrowed(&self, key: u32) -> u64;
    /// Finds the LPI, takes a reference able to outlive the lookup, reads the LPI, and puts the
    /// reference. Returns 0 on a miss.
    fn owned(&self, key: u32) -> u64 {
        self.borrowed(key)
    }
}

/// A table of LPIs.
pub trait Table: Send + Sync {
    /// Returns a reader for the calling thread.
    fn reader(&self) -> Box<dyn Reader + '_>;
}

/// The tables by name, the library's first.
pub const TABLES: [&str; 6] = [
    "radix",
    "two_loads",
    "arc_swap",
    "rwlock_btree",
    "mutex_hashmap",
    "spin_list",
];

/// Returns a table with the given keys.
pub fn table(name: &str, keys: &[u32]) -> Box<dyn Table> {
    match name {
        "radix" => Box::new(EpochRadix::new(keys)),
        "two_loads" => Box::new(TwoLoads::new(keys)),
        "arc_swap" => Box::new(Slots::new(keys)),
        "rwlock_btree" => Box::new(RwLock::new(shared(keys).collect::<BTreeMap<_, _>>())),
        "mutex_hashmap" => Box::new(Mutex::new(shared(keys).collect::<HashMap<_, _>>())),
        "spin_list" => Box::new(SpinList::new(keys)),
        _ => panic!("no table {name}"),
    }
}

fn shared(keys: &[u32]) -> impl Iterator<Item = (u32, Arc<Lpi>)> + '_ {
    keys.iter().map(|&key| (key, Arc::new(Lpi::new(key))))
}

/// The library's table: a radix table with nodes reclaimed by the epoch.
struct EpochRadix {
    collector: Collector,
    radix: Radix<Lpi>,
    /// The LPIs referenced by the table.
    _lpis: Box<[Lpi]>,
}

impl EpochRadix {
    #[expect(unsafe_code)] // UNSAFETY: the table holds pointers.
    fn new(keys: &[u32]) -> Self {
        let collector = Collector::new();

        let radix = Radix::new(BITS);
        let lpis: Box<[Lpi]> = keys.iter().map(|&key| Lpi::new(key)).collect();
        let handle = collector.register();
        let (guard, garbage) = (handle.pin(), Garbage::default());

        for (key, lpi) in keys.iter().zip(&lpis) {
            // SAFETY: the LPIs and the table live in one `EpochRadix`, and every reader borrows the
            // `EpochRadix`.
            let inserted = unsafe { radix.insert(*key, NonNull::from(lpi), &guard, &garbage) };
            assert!(inserted, "a key of its own");
        }

        drop(guard);
        Self {
            collector,
            radix,
            _lpis: lpis,
        }
    }
}

struct RadixReader<'t> {
    radix: &'t Radix<Lpi>,
    /// Pinned all along, as a CPU is for the work of one exit.
    guard: Guard,
    _handle: LocalHandle,
}

impl Table for EpochRadix {
    fn reader(&self) -> Box<dyn Reader + '_> {
        let handle = self.collector.register();
        Box::new(RadixReader {
            radix: &self.radix,
            guard: handle.pin(),
            _handle: handle,
        })
    }
}

impl Reader for RadixReader<'_> {
    #[inline]
    fn borrowed(&self, key: u32) -> u64 {
        self.radix.get(key, &self.guard).map_or(0, Lpi::read)
    }

    #[inline]
    fn owned(&self, key: u32) -> u64 {
        let Some(lpi) = self.radix.get(key, &self.guard) else {
            return 0;
        };
        // Take a reference unless the count is 0, and put the reference after the read. AcqRel
        // keeps the read between both.
        let alive = |count: u64| (count != 0).then(|| count + 1);
        if lpi.references.fetch_update(AcqRel, Acquire, alive).is_err() {
            return 0;
        }
        let read = black_box(lpi).read();
        lpi.references.fetch_sub(1, AcqRel);
        read
    }
}

/// The cheapest table: two dependent loads, a check for presence, no reclamation.
struct TwoLoads(Box<[Option<Box<Leaf>>]>);

type Leaf = [Option<Box<Lpi>>; 256];

impl TwoLoads {
    fn new(keys: &[u32]) -> Self {
        let mut root: Box<[Option<Box<Leaf>>]> = (0..256).map(|_| None).collect();
        for &key in keys {
            let leaf = root[key as usize >> 8]
                .get_or_insert_with(|| Box::new(core::array::from_fn(|_| None)));
            leaf[key as usize & 0xff] = Some(Box::new(Lpi::new(key)));
        }
        Self(root)
    }
}

impl Table for TwoLoads {
    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

impl Reader for &TwoLoads {
    #[inline]
    fn borrowed(&self, key: u32) -> u64 {
        self.0[key as usize >> 8 & 0xff]
            .as_ref()
            .and_then(|leaf| leaf[key as usize & 0xff].as_ref())
            .map_or(0, |lpi| lpi.read())
    }
}

/// A read-copy-update cell for each LPI.
struct Slots(Box<[ArcSwapOption<Lpi>]>);

impl Slots {
    fn new(keys: &[u32]) -> Self {
        let slots: Box<[ArcSwapOption<Lpi>]> =
            (0..1 << BITS).map(|_| ArcSwapOption::empty()).collect();
        for (key, lpi) in shared(keys) {
            slots[key as usize].store(Some(lpi));
        }
        Self(slots)
    }
}

impl Table for Slots {
    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

impl Reader for &Slots {
    #[inline]
    fn borrowed(&self, key: u32) -> u64 {
        self.0[key as usize]
            .load()
            .as_ref()
            .map_or(0, |lpi| lpi.read())
    }
    #[inline]
    fn owned(&self, key: u32) -> u64 {
        self.0[key as usize].load_full().map_or(0, |lpi| lpi.read())
    }
}

impl Table for RwLock<BTreeMap<u32, Arc<Lpi>>> {
    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

impl Reader for &RwLock<BTreeMap<u32, Arc<Lpi>>> {
    fn borrowed(&self, key: u32) -> u64 {
        self.read()
            .expect("not poisoned")
            .get(&key)
            .map_or(0, |lpi| lpi.read())
    }
    fn owned(&self, key: u32) -> u64 {
        let found = self.read().expect("not poisoned").get(&key).cloned();
        found.map_or(0, |lpi| lpi.read())
    }
}

impl Table for Mutex<HashMap<u32, Arc<Lpi>>> {
    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

impl Reader for &Mutex<HashMap<u32, Arc<Lpi>>> {
    fn borrowed(&self, key: u32) -> u64 {
        self.lock()
            .expect("not poisoned")
            .get(&key)
            .map_or(0, |lpi| lpi.read())
    }
    fn owned(&self, key: u32) -> u64 {
        let found = self.lock().expect("not poisoned").get(&key).cloned();
        found.map_or(0, |lpi| lpi.read())
    }
}

/// KVM's table of 2016: a list of all LPIs under one spin lock.
struct SpinList {
    // The list is shared: only the walk is exclusive.
    taken: AtomicBool,
    list: LinkedList<(u32, Arc<Lpi>)>,
}

impl SpinList {
    fn new(keys: &[u32]) -> Self {
        Self {
            taken: AtomicBool::new(false),
            list: shared(keys).collect(),
        }
    }

    fn locked<R>(&self, find: impl FnOnce() -> R) -> R {
        // Acquire: pairs with the Release store below. Relaxed on failure: nothing is read.
        while (self.taken)
            .compare_exchange_weak(false, true, Acquire, Relaxed)
            .is_err()
        {
            core::hint::spin_loop();
        }
        let result = find();
        self.taken
            .store(false, std::sync::atomic::Ordering::Release);
        result
    }

    fn find(&self, key: u32) -> Option<&Arc<Lpi>> {
        self.list
            .iter()
            .find(|(other, _)| *other == key)
            .map(|(_, lpi)| lpi)
    }
}

impl Table for SpinList {
    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

impl Reader for &SpinList {
    fn borrowed(&self, key: u32) -> u64 {
        self.locked(|| self.find(key).map_or(0, |lpi| lpi.read()))
    }
    fn owned(&self, key: u32) -> u64 {
        self.locked(|| self.find(key).cloned())
            .map_or(0, |lpi| lpi.read())
    }
}
