//! Bytes of heap of a VM.

#![expect(unsafe_code)]
// UNSAFETY: a global allocator is an unsafe trait. The allocator here counts and forwards every
// call.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::vm::{FIRST_LPI, Vm};

/// Bytes allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The system's heap with a count. A program using [`sizes`] makes `Heap` its
/// `#[global_allocator]`.
pub struct Heap;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Heap {
    // The default implementations of the other methods call `alloc` and `dealloc`. Relaxed: a
    // count.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract of `alloc`, and `layout` is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract of `dealloc`: `block` came from `alloc`, hence
        // from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Returns the bytes occupied by the result of `make`, and the result.
fn bytes<T>(make: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.load(Relaxed);
    let made = black_box(make());
    (LIVE.load(Relaxed).saturating_sub(before), made)
}

/// Returns the name and bytes of each measured size.
pub fn sizes() -> Vec<(&'static str, f64)> {
    const DEVICES: u64 = 128;
    const EVENTS: u64 = 256;
    const VCPUS: usize = 64;

    let (one, small) = bytes(|| Vm::new(1));
    let (many, _large) = bytes(|| Vm::new(1 + VCPUS));

    let cpu = small.cpu(1);
    let (mapped, ()) = bytes(|| {
        for device in 0..DEVICES {
            let first = u64::from(FIRST_LPI) + device * EVENTS;
            small.map(&cpu, device, EVENTS, first, |_| 0);
        }
    });
    let (single, ()) = bytes(|| small.map(&cpu, DEVICES, 1, 60_000, |_| 0));

    vec![
        (
            "a mapped LPI, of 256 to a device",
            mapped as f64 / (DEVICES * EVENTS) as f64,
        ),
        ("the first LPI of a device, far from others", single as f64),
        ("a vCPU", (many - one) as f64 / VCPUS as f64),
        (
            "a VM with one vCPU and one ITS",
            (one - Vm::host_bytes()) as f64,
        ),
    ]
}
