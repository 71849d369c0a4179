//! Looking an LPI up by its INTID: borrowed under an epoch guard, owned by a reference, and in vain; beside
//! what others do.

#[path = "common/baselines.rs"]
mod baselines;
#[path = "common/threads.rs"]
mod threads;

use std::hint::black_box;
use std::sync::atomic::Ordering;

use baselines::{ArcSwaps, MutexMap, Object, Ours, RwTree, SpinList, Table};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};

/// Visits every key of a table, in an order that no prefetcher follows.
struct Keys {
    next: u32,
    count: u32,
}

impl Keys {
    fn new(count: u32, thread: usize) -> Self {
        Self {
            next: thread as u32 * 7919,
            count,
        }
    }

    #[inline]
    fn next(&mut self) -> u32 {
        self.next = self
            .next
            .wrapping_mul(0x915f_77f5)
            .wrapping_add(0x3c6e_f35f);
        (self.next >> 8) & (self.count - 1)
    }
}

fn owned<T: Table>(group: &mut BenchmarkGroup<'_, WallTime>, count: u32) {
    let table = T::filled(count);
    for threads in threads::counts() {
        group.bench_function(
            BenchmarkId::new(T::NAME, format!("{threads}_threads")),
            |b| {
                b.iter_custom(|iterations| {
                    threads::time(threads, |thread| {
                        let table = &table;
                        move || {
                            let local = table.local();
                            let mut keys = Keys::new(count, thread);
                            for _ in 0..iterations {
                                black_box(table.owned(&local, keys.next()));
                            }
                        }
                    })
                });
            },
        );
    }
}

fn lookup(c: &mut Criterion) {
    for (count, name) in [(1, "1"), (1 << 10, "1k"), (1 << 16, "64k")] {
        let mut group = c.benchmark_group(format!("lpi_lookup/owned/{name}"));
        owned::<Ours>(&mut group, count);
        // A walk along 64k of them would take minutes.
        if count <= 1 << 10 {
            owned::<SpinList>(&mut group, count);
        }
        owned::<RwTree>(&mut group, count);
        owned::<MutexMap>(&mut group, count);
        owned::<ArcSwaps>(&mut group, count);
        group.finish();

        let table = Ours::filled(count);
        let mut group = c.benchmark_group(format!("lpi_lookup/borrowed/{name}"));
        for threads in threads::counts() {
            group.bench_function(format!("{threads}_threads"), |b| {
                b.iter_custom(|iterations| {
                    threads::time(threads, |thread| {
                        let table = &table;
                        move || {
                            let local = table.local();
                            let guard = local.pin();
                            let mut keys = Keys::new(count, thread);
                            for _ in 0..iterations {
                                black_box(table.pinned(&guard, keys.next()));
                            }
                        }
                    })
                });
            });
        }
        group.bench_function("pinned_each_time", |b| {
            let local = table.local();
            let mut keys = Keys::new(count, 0);
            b.iter(|| table.borrowed(&local, keys.next()));
        });
        group.bench_function("miss", |b| {
            let sparse = Ours::filled(1);
            let local = sparse.local();
            let guard = local.pin();
            let mut keys = Keys::new(1 << 15, 0);
            b.iter(|| sparse.pinned(&guard, keys.next() | 1 << 15));
        });
        // What any table of two levels pays for objects like these: the yardstick.
        let leaves: Vec<Box<[Box<Object>]>> = (0..count.div_ceil(256))
            .map(|leaf| {
                let keys = leaf * 256..count.min(leaf * 256 + 256);
                keys.map(|key| Box::new(Object::new(key))).collect()
            })
            .collect();
        group.bench_function("two_dependent_loads_and_the_object", |b| {
            let mut keys = Keys::new(count, 0);
            b.iter(|| {
                let key = keys.next() as usize;
                leaves[key >> 8][key & 255].state.load(Ordering::Relaxed)
            });
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    lookup(&mut criterion);
    criterion.final_summary();
}
