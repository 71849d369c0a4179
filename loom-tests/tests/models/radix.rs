//! `radix`: lookup against insertion, removal, growth and reclamation of nodes. No reader sees freed
//! memory, no value is put where readers cannot find it, and what a reader finds is initialised.
#![allow(unsafe_code, reason = "the table takes raw pointers")]

use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_tests::check;
use vgic::epoch::{CpuLocal, CpuPin, Domain};
use vgic::intid::CpuId;
use vgic::radix::Radix;

/// A value that loom watches: whoever reads it must come after whoever wrote it.
struct Value(UnsafeCell<u32>);

impl Value {
    fn read(&self) -> u32 {
        // SAFETY: loom checks that nobody writes it.
        self.0.with(|value| unsafe { *value })
    }
}

// SAFETY: loom checks every access.
unsafe impl Sync for Value {}

struct Shared {
    table: Radix<Value>,
    values: [Value; 4],
    domain: Domain,
}

impl Shared {
    /// A table of two levels, and two CPUs.
    fn new() -> (Arc<Self>, [CpuLocal; 2]) {
        let shared = Self {
            table: Radix::new(4),
            values: std::array::from_fn(|n| Value(UnsafeCell::new(n as u32))),
            domain: Domain::new(),
        };
        let locals = [0, 1].map(|n| shared.domain.register(CpuId(n)));
        (Arc::new(shared), locals)
    }

    fn insert(&self, key: u32, pin: &CpuPin<'_>) {
        let value = NonNull::from(&self.values[key as usize]);
        // SAFETY: the values live as long as the table.
        let inserted = unsafe { self.table.insert(key, value, pin.guard()) }.is_ok();
        assert!(inserted, "{key} is there already");
    }

    fn get(&self, key: u32, pin: &CpuPin<'_>) -> Option<u32> {
        self.table.get(key, pin.guard()).map(Value::read)
    }

    fn remove(&self, key: u32, pin: &CpuPin<'_>) {
        let removed = self
            .table
            .remove(key, &self.values[key as usize], pin.guard());
        assert!(removed.is_some(), "{key} is gone already");
    }
}

/// Runs `work` on another CPU, which stays in the epoch until it has been waited for.
fn spawn(
    shared: &Arc<Shared>,
    local: CpuLocal,
    work: impl FnOnce(&Shared, &CpuLocal) + 'static,
) -> thread::JoinHandle<CpuLocal> {
    let shared = shared.clone();
    thread::spawn(move || {
        work(&shared, &local);
        local
    })
}

/// Neighbours in one node: the node lives as long as either is there, and dies once.
#[test]
fn insertion_against_removal() {
    check(3, || {
        let (shared, [local, other]) = Shared::new();
        let other = spawn(&shared, other, |shared, local| {
            let pin = local.pin();
            shared.insert(1, &pin);
            assert_eq!(shared.get(1, &pin), Some(1), "put where nobody finds it");
            shared.remove(1, &pin);
        });
        for _ in 0..2 {
            let pin = local.pin();
            shared.insert(2, &pin);
            assert_eq!(shared.get(2, &pin), Some(2), "put where nobody finds it");
            assert!(shared.get(1, &pin).is_none_or(|found| found == 1));
            shared.remove(2, &pin);
        }
        other.join().unwrap();
        assert!(shared.table.next(0, local.pin().guard()).is_none());
    });
}

/// A node is emptied and reclaimed while a reader is on its way through it.
#[test]
fn reclamation_against_lookup() {
    check(3, || {
        let (shared, [local, other]) = Shared::new();
        shared.insert(1, &local.pin());
        let other = spawn(&shared, other, |shared, local| {
            for _ in 0..2 {
                let pin = local.pin();
                assert!(shared.get(1, &pin).is_none_or(|found| found == 1));
            }
        });
        shared.remove(1, &local.pin());
        // Whatever the epoch can free by now, it frees.
        local.pin().guard().flush();
        shared.insert(2, &local.pin());
        local.pin().guard().flush();
        other.join().unwrap();
        assert_eq!(shared.get(2, &local.pin()), Some(2));
    });
}

/// A reader that finds a value finds what was written to it before.
#[test]
fn publication() {
    check(4, || {
        let (shared, [local, other]) = Shared::new();
        shared.insert(2, &local.pin());
        let other = spawn(&shared, other, |shared, local| {
            let found = shared.get(1, &local.pin());
            assert!(found.is_none_or(|found| found == 7));
        });
        // In the epoch before: entering it is a fence, and would publish the value by itself.
        let pin = local.pin();
        let _entered = pin.guard();
        // SAFETY: loom checks that nobody reads it meanwhile.
        shared.values[1].0.with_mut(|value| unsafe { *value = 7 });
        shared.insert(1, &pin);
        drop(pin);
        other.join().unwrap();
        assert_eq!(shared.get(1, &local.pin()), Some(7));
    });
}

/// Two CPUs put the first values into a node that neither has seen: one of them makes it.
#[test]
fn growth_against_growth() {
    check(4, || {
        let (shared, [local, other]) = Shared::new();
        let other = spawn(&shared, other, |shared, local| {
            shared.insert(1, &local.pin());
        });
        shared.insert(2, &local.pin());
        other.join().unwrap();
        let pin = local.pin();
        assert_eq!(shared.get(1, &pin), Some(1));
        assert_eq!(shared.get(2, &pin), Some(2));
    });
}
