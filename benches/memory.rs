//! Bytes of heap: for a VM, for a vCPU, and for a mapped LPI with its table slots and its
//! translation.
//!
//! The numbers are exact: the program prints counts instead of timing.

use perf_host::memory::{self, Heap};

#[global_allocator]
static HEAP: Heap = Heap;

fn main() {
    for (what, bytes) in memory::sizes() {
        println!("memory: {what}: {bytes:.1} bytes");
    }
}
