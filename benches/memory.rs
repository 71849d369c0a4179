//! Bytes of heap: for a VM, for a vCPU, for a mapped LPI with its table slots and its translation.
//!
//! Exact, so it prints what it counts instead of timing it.

use perf_host::memory::{self, Heap};

#[global_allocator]
static HEAP: Heap = Heap;

fn main() {
    for (what, bytes) in memory::sizes() {
        println!("memory: {what}: {bytes:.1} bytes");
    }
}
