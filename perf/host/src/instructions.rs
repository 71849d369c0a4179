//! Does every operation where callgrind counts.
//!
//! callgrind collects inside [`vgic_measured`] only and dumps its counts after each [`vgic_finished`]; the
//! n-th dump belongs to the n-th line that this prints.

use std::hint::black_box;

use perf_host::catalog;
use perf_host::operation::Operation;

/// Batches that are counted.
const ROUNDS: u64 = 4;

/// Does the operations of ours whose name contains `filter`; prints each one's name and how often it was
/// counted.
pub(crate) fn run(filter: &str) {
    for entry in catalog::all() {
        if !entry.ours || !entry.name.contains(filter) {
            continue;
        }
        let mut operation = entry.make();
        // The first time, caches and the allocator's lists fill.
        operation.prepare();
        operation.run();
        for _ in 0..ROUNDS {
            operation.prepare();
            vgic_measured(operation.as_mut());
        }
        println!("{} {}", entry.name, ROUNDS * entry.batch);
        vgic_finished();
    }
}

/// What is counted.
#[inline(never)]
fn vgic_measured(operation: &mut dyn Operation) {
    black_box(operation).run();
    black_box(());
}

/// Where the counts are dumped.
#[inline(never)]
fn vgic_finished() {
    black_box(());
}
