//! Every operation, for callgrind to count.
//!
//! callgrind collects inside [`vgic_measured`] only, and dumps its counts after each
//! [`vgic_finished`]. The n-th dump belongs to the n-th printed line.

use std::hint::black_box;

use perf_host::catalog;
use perf_host::operation::Operation;

/// Counted batches.
const ROUNDS: u64 = 4;

/// Runs the library's operations with a name containing `filter`. Prints each operation's name and
/// count.
pub(crate) fn run(filter: &str) {
    for entry in catalog::all() {
        if !entry.ours || !entry.name.contains(filter) {
            continue;
        }

        let mut operation = entry.make();
        // The first batch fills the caches and the allocator's lists.
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

/// Runs the counted part.
#[inline(never)]
fn vgic_measured(operation: &mut dyn Operation) {
    black_box(operation).run();
    black_box(());
}

/// Marks the end of an operation: callgrind dumps its counts.
#[inline(never)]
fn vgic_finished() {
    black_box(());
}
