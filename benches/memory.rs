//! Bytes of heap: for a VM, for a vCPU, for a mapped LPI with its table slots and its translation.
//!
//! Exact, so it prints what it counts instead of timing it.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Bed, Spread};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code)]
// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: forwarded.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes held by a VM of this shape; the guest's RAM, which every shape has, included.
fn held(vcpus: usize, devices: u64, events: u64) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    let bed = Bed::new(vcpus, devices, events, Spread::All);
    let held = HELD.load(Ordering::Relaxed) - before;
    drop(bed);
    held
}

/// The guest's RAM.
const RAM: usize = 0x50_0000;

fn main() {
    let base = held(1, 0, 0);
    println!("memory/vm_with_1_vcpu_and_988_spis: {} bytes", base - RAM);
    let vcpu = (held(129, 0, 0) - base) / 128;
    println!("memory/vcpu: {vcpu} bytes");
    for (devices, events) in [(1, 1), (1, 64), (16, 16), (64, 1024)] {
        let each = (held(1, devices, events) - base) as f64 / (devices * events) as f64;
        println!("memory/lpi/{devices}_devices_of_{events}_events: {each:.1} bytes each");
    }
}
