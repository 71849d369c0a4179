//! `radix`: lookup against insertion, removal, growth and reclamation of nodes. No reader sees
//! freed memory. Readers find every inserted value. A value found by a reader is initialised.
#![allow(unsafe_code, reason = "the table takes raw pointers")]

use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_tests::check;
use vgic::epoch::{CpuLocal, CpuPin, Domain, Garbage};
use vgic::internals::{Radix, guard};
use vgic::intid::CpuId;

/// A value watched by loom: a read has to come after the write.
struct Value(UnsafeCell<u32>);

impl Value {
    fn write(&self, new: u32) {
        // SAFETY: loom's cell panics on a concurrent access.
        self.0.with_mut(|value| unsafe { *value = new });
    }

    fn read(&self) -> u32 {
        // SAFETY: loom's cell panics on a concurrent write.
        self.0.with(|value| unsafe { *value })
    }
}

// SAFETY: loom's cell panics on every unsynchronised access.
unsafe impl Sync for Value {}

struct Shared {
    table: Radix<Value>,
    values: [Value; 8],
    garbage: Garbage,
    domain: Domain,
}

impl Shared {
    /// Returns a table of the root and a level of nodes, and two CPUs of its domain.
    fn new() -> (Arc<Self>, [CpuLocal; 2]) {
        Self::with_bits(4)
    }

    /// Returns a table for keys of `bits` bits, with two bits in a level, and two CPUs of its
    /// domain.
    fn with_bits(bits: u32) -> (Arc<Self>, [CpuLocal; 2]) {
        let shared = Self {
            table: Radix::new(bits),
            values: std::array::from_fn(|n| Value(UnsafeCell::new(n as u32))),
            garbage: Garbage::default(),
            domain: Domain::new(),
        };
        let locals = [0, 1].map(|n| shared.domain.register(CpuId(n)).unwrap());
        (Arc::new(shared), locals)
    }

    fn insert(&self, key: u32, pin: &CpuPin<'_>) {
        let value = NonNull::from(&self.values[key as usize]);
        // SAFETY: `values` and `table` are fields of one `Shared`: the value lives as long as the
        // table.
        let inserted = unsafe { self.table.insert(key, value, guard(pin), &self.garbage) };
        assert!(inserted, "{key} is there already");
    }

    /// Inserts the values of `keys`, of one leaf. Returns false if the table has the leaf.
    fn insert_leaf(&self, keys: &[u32], pin: &CpuPin<'_>) -> bool {
        let values = |key: &u32| (*key, NonNull::from(&self.values[*key as usize]));
        let mut entries = keys.iter().map(values).peekable();
        // SAFETY: `values` and `table` are fields of one `Shared`: the values live as long as the
        // table.
        unsafe {
            self.table
                .insert_leaf(&mut entries, guard(pin), &self.garbage)
        }
    }

    /// Replaces the value of `key` by the value of `other`, a key without a value.
    fn replace(&self, key: u32, other: u32, pin: &CpuPin<'_>) {
        let [old, new] = [key, other].map(|key| &self.values[key as usize]);
        // SAFETY: `values` and `table` are fields of one `Shared`: the value lives as long as the
        // table.
        let replaced = unsafe { self.table.replace(key, old, NonNull::from(new), guard(pin)) };
        assert!(replaced, "{key} has another value");
    }

    fn get(&self, key: u32, pin: &CpuPin<'_>) -> Option<u32> {
        self.table.get(key, guard(pin)).map(Value::read)
    }

    fn remove(&self, key: u32, pin: &CpuPin<'_>) {
        let value = &self.values[key as usize];
        let removed = self.table.remove(key, value, guard(pin), &self.garbage);
        assert!(removed.is_some(), "{key} is gone already");
    }
}

/// Runs `work` on another CPU. The CPU stays in the epoch until joined.
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

/// Races insertions and removals of two neighbours in one node. The node lives as long as either
/// value is present, and is freed once.
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

        assert!(shared.table.next(0, guard(&local.pin())).is_none());
    });
}

/// Races the emptying and reclamation of a node against readers inside the node.
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
        // Frees everything the epoch allows by now.
        local.pin().collect_garbage();
        shared.insert(2, &local.pin());
        local.pin().collect_garbage();
        other.join().unwrap();

        assert_eq!(shared.get(2, &local.pin()), Some(2));
    });
}

/// Checks publication: a reader that finds a value, under its key or on a walk, sees the write
/// before the insertion, or before the replacement of an older value.
#[test]
fn publication() {
    check(4, || {
        let (shared, [local, other]) = Shared::new();
        shared.insert(2, &local.pin());

        let other = spawn(&shared, other, |shared, local| {
            let pin = local.pin();
            let replaced = shared.get(2, &pin);
            assert!(matches!(replaced, Some(2 | 13)), "{replaced:?}");
            let first = shared.table.next(0, guard(&pin));
            let first = first.map(|(key, value)| (key, value.read()));
            assert!(matches!(first, Some((1, 11) | (2, 2 | 13))), "{first:?}");
        });
        // Enter the epoch before the write: the entry is a fence, and would publish the value by
        // itself.
        let pin = local.pin();
        let _entered = guard(&pin);
        shared.values[1].write(11);
        shared.insert(1, &pin);
        shared.values[3].write(13);
        shared.replace(2, 3, &pin);
        drop(pin);
        other.join().unwrap();

        let pin = local.pin();
        assert_eq!(shared.get(1, &pin), Some(11));
        assert_eq!(shared.get(2, &pin), Some(13));
    });
}

/// Races insertions of two CPUs against the removals of what the other CPU has inserted. The CPU
/// that removes a value has it complete, and to itself.
#[test]
fn removal_against_insertion() {
    check(4, || {
        let (shared, [local, other]) = Shared::new();
        let insert_and_remove = |own: u32, others: u32| {
            move |shared: &Shared, local: &CpuLocal| {
                let pin = local.pin();
                // Enter the epoch before the write: the entry is a fence.
                let guard = guard(&pin);
                shared.values[own as usize].write(own);
                shared.insert(own, &pin);
                let value = &shared.values[others as usize];
                if shared
                    .table
                    .remove(others, value, guard, &shared.garbage)
                    .is_some()
                {
                    value.write(0);
                }
            }
        };

        let other = spawn(&shared, other, insert_and_remove(1, 2));
        insert_and_remove(2, 1)(&shared, &local);
        other.join().unwrap();

        let pin = local.pin();
        for key in [1, 2] {
            let left = shared.get(key, &pin);
            assert_eq!(left.is_none(), shared.values[key as usize].read() == 0);
            if left.is_some() {
                shared.remove(key, &pin);
            }
        }
        assert!(shared.table.is_empty(), "a node is left");
    });
}

/// Races two insertions below a missing node. One CPU allocates the node.
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

/// Races an insertion into a node against the removal of the node's only value, under a parent with
/// no other child. Once both values are gone, so are the nodes of both levels.
#[test]
fn two_levels_of_one_node() {
    check(3, || {
        let (shared, [local, other]) = Shared::with_bits(6);
        shared.insert(1, &local.pin());

        let other = spawn(&shared, other, |shared, local| {
            let pin = local.pin();
            shared.insert(2, &pin);
            shared.remove(2, &pin);
        });
        shared.remove(1, &local.pin());
        other.join().unwrap();

        assert!(shared.table.is_empty(), "a node is left");
    });
}

/// Races two insertions and removals in neighbouring nodes of one parent, which both CPUs grow.
/// Once both values are gone, so are the nodes of both levels.
#[test]
fn two_levels_of_two_nodes() {
    check(3, || {
        let (shared, [local, other]) = Shared::with_bits(6);
        let other = spawn(&shared, other, |shared, local| {
            let pin = local.pin();
            shared.insert(5, &pin);
            shared.remove(5, &pin);
        });
        let pin = local.pin();
        shared.insert(1, &pin);
        shared.remove(1, &pin);
        other.join().unwrap();
        assert!(shared.table.is_empty(), "a node is left");
    });
}

/// Races two insertions below a parent without the child that both need. The CPU that comes second
/// leaves no count behind.
#[test]
fn two_levels_against_growth() {
    check(3, || {
        let (shared, [local, other]) = Shared::with_bits(6);
        shared.insert(5, &local.pin());
        let other = spawn(&shared, other, |shared, local| {
            shared.insert(1, &local.pin());
        });
        shared.insert(2, &local.pin());
        other.join().unwrap();
        let pin = local.pin();
        for key in [1, 2, 5] {
            shared.remove(key, &pin);
        }
        assert!(shared.table.is_empty(), "a node is left");
    });
}

/// Races a leaf that is linked with its values against an insertion that makes the same leaf, and
/// against the removal of a value. One leaf is left, and no node once its values are removed.
#[test]
fn a_leaf_against_growth() {
    check(3, || {
        let (shared, [local, other]) = Shared::with_bits(6);
        let other = spawn(&shared, other, |shared, local| {
            let pin = local.pin();
            shared.insert(3, &pin);
            if shared.get(1, &pin).is_some() {
                shared.remove(1, &pin);
            }
        });
        let pin = local.pin();
        // Enter the epoch before the write: the entry is a fence.
        let _entered = guard(&pin);
        shared.values[1].write(11);
        let linked = shared.insert_leaf(&[1, 2], &pin);
        other.join().unwrap();

        assert_eq!(shared.get(3, &pin), Some(3));
        assert_eq!(shared.get(2, &pin), linked.then_some(2));
        for key in 1..4 {
            if shared.get(key, &pin).is_some() {
                shared.remove(key, &pin);
            }
        }
        assert!(shared.table.is_empty(), "a node is left");
    });
}

/// Checks the publication of a leaf: a reader that finds a value, under its key or on a walk, sees
/// the write before the leaf was linked.
#[test]
fn publication_of_a_leaf() {
    check(4, || {
        let (shared, [local, other]) = Shared::with_bits(6);
        let other = spawn(&shared, other, |shared, local| {
            let pin = local.pin();
            assert!(matches!(shared.get(2, &pin), None | Some(12)));
            let first = shared.table.next(0, guard(&pin));
            let first = first.map(|(key, value)| (key, value.read()));
            assert!(matches!(first, None | Some((1, 11))), "{first:?}");
        });
        let pin = local.pin();
        // Enter the epoch before the write: the entry is a fence, and would publish the value by
        // itself.
        let _entered = guard(&pin);
        shared.values[1].write(11);
        shared.values[2].write(12);
        assert!(shared.insert_leaf(&[1, 2], &pin));
        other.join().unwrap();
    });
}
