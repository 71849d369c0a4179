//! The table against a map, its leaves, and nodes under readers.

use super::*;
use alloc::collections::BTreeMap;
use crossbeam_epoch::Collector;

fn leak(value: u32) -> &'static u32 {
    Box::leak(Box::new(value))
}

fn insert(table: &Radix<u32>, key: u32, value: &'static u32, guard: &Guard) -> bool {
    // SAFETY: the value is never freed.
    unsafe { table.insert(key, NonNull::from(value), guard, &Garbage::default()) }
}

#[test]
fn behaves_like_a_map_at_every_depth() {
    let (every_depth, rounds): (&[u32], _) = if cfg!(miri) {
        (&[5, 17], 30)
    } else {
        (&[0, 1, 5, 8, 9, 16, 17, 32], 2000)
    };

    for &bits in every_depth {
        let collector = Collector::new();
        let handle = collector.register();
        let guard = handle.pin();
        let table = Radix::new(bits);
        let mask = table.capacity() - 1;
        let mut map = BTreeMap::new();
        let mut random = 0x1234_5678_u32;

        for _ in 0..rounds {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let key = (random >> 3) & mask & 0x8003_03ff;
            if random.is_multiple_of(3) {
                if let Some(value) = map.remove(&key) {
                    let removed = table.remove(key, value, &guard, &Garbage::default());
                    assert_eq!(removed, Some(NonNull::from(value)));
                    assert_eq!(table.remove(key, value, &guard, &Garbage::default()), None);
                }
            } else {
                let value = leak(random);
                let fresh = insert(&table, key, value, &guard);
                assert_eq!(fresh, !map.contains_key(&key));
                map.entry(key).or_insert(value);
            }
            assert_eq!(table.get(key, &guard), map.get(&key).copied());
            let from = random & mask;
            let expected = map.range(from..).next().map(|(key, value)| (*key, *value));
            assert_eq!(table.next(from, &guard), expected);
        }

        for steps in [1, 3, 100] {
            let walked = walk::tests::walk(&table, steps, &guard);
            assert!(walked.into_iter().eq(map.iter().map(|(k, v)| (*k, *v))));
        }

        let last = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
        let value = leak(last);
        if insert(&table, last, value, &guard) {
            assert_eq!(
                walk::tests::walk(&table, 100, &guard).last(),
                Some(&(last, value))
            );
            assert!(
                table
                    .remove(last, value, &guard, &Garbage::default())
                    .is_some()
            );
        }
        assert!(bits == 32 || !insert(&table, mask + 1, leak(0), &guard));

        let entries = map.iter().map(|(key, value)| (*key, NonNull::from(*value)));
        // SAFETY: the values are never freed.
        let filled = unsafe { Radix::filled(bits, entries, &guard, &Garbage::default()) };
        for table in [table, filled] {
            let walked = walk::tests::walk(&table, 100, &guard);
            assert!(walked.into_iter().eq(map.iter().map(|(k, v)| (*k, *v))));
            for (key, value) in &map {
                let removed = table.remove(*key, value, &guard, &Garbage::default());
                assert_eq!(removed, Some(NonNull::from(*value)));
            }
            assert!(table.is_empty(), "a node is left");
        }
    }
}

/// Inserts a leaf that is missing, one that the table has, and one of a table without nodes.
#[test]
fn a_leaf_is_inserted_unless_it_is_there() {
    let collector = Collector::new();
    let handle = collector.register();
    let guard = handle.pin();
    let garbage = Garbage::default();
    let values = [5, 7, 256, 300].map(|key| (key, leak(key)));
    let entries = || {
        values
            .iter()
            .map(|&(key, value)| (key, NonNull::from(value)))
    };
    for (bits, inserted) in [(17, [true, false]), (9, [true, false]), (8, [false, false])] {
        let table = Radix::new(bits);
        insert(&table, 256, leak(0), &guard);
        let mut entries = entries().peekable();
        let results = inserted.map(|_| {
            // SAFETY: the values are never freed.
            unsafe { table.insert_leaf(&mut entries, &guard, &garbage) }
        });
        assert_eq!(results, inserted, "{bits} bits");
        let found = [5, 7, 300].map(|key| table.get(key, &guard).copied());
        let [first, second] = [5, 7].map(|key| inserted[0].then_some(key));
        assert_eq!(found, [first, second, None], "{bits} bits");
        assert_eq!(
            entries.next().map(|(key, _)| key),
            Some(if inserted[0] { 256 } else { 5 })
        );
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "a lookup outside the epoch")]
fn a_lookup_needs_the_epoch() {
    // SAFETY: the table is local to the thread, so no other thread frees its nodes.
    let unpinned = unsafe { crossbeam_epoch::unprotected() };
    let _ = Radix::<u32>::new(9).get(0, unpinned);
}

#[test]
fn nodes_come_and_go_under_readers() {
    let collector = Collector::new();
    let table = Radix::<u32>::new(16);
    std::thread::scope(|scope| {
        for thread in 0..3_u32 {
            let (table, collector) = (&table, &collector);
            scope.spawn(move || {
                let handle = collector.register();
                let value = leak(thread);
                for round in 0..if cfg!(miri) { 10 } else { 20_000 } {
                    let guard = handle.pin();
                    let key = round % 3 * 256 + thread;
                    assert!(insert(table, key, value, &guard));
                    assert_eq!(table.get(key, &guard), Some(value));
                    assert!(
                        table
                            .remove(key, value, &guard, &Garbage::default())
                            .is_some()
                    );
                }
            });
        }
    });

    assert!(table.is_empty());
}
