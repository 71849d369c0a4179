//! The tables that the MMU is first turned on with.
//!
//! They map just enough to read the device tree, to report what is wrong with it, and to fill the
//! hypervisor's final memory. [`super::head`] maps by identity the two blocks of 1 GiB that hold
//! the image and the device tree, and maps the image at its link address. Entries are added here,
//! never changed, so that nothing has to be invalidated.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;

use super::head::NORMAL_BLOCK;
use crate::memory::layout::{BLOCK, IMAGE_BASE};

/// Attributes of a block of device memory: accessed, never executable, attribute 1.
const DEVICE_BLOCK: u64 = (1 << 54) | (1 << 10) | (1 << 2) | 1;
const GIB: usize = 1 << 30;

/// Root, level 1 of the identity map, level 1 and level 2 of the image's map. [`super::head`]
/// relies on the order.
#[repr(C, align(4096))]
pub(super) struct Tables {
    root: [AtomicU64; 512],
    identity: [AtomicU64; 512],
    image_1: [AtomicU64; 512],
    image_2: [AtomicU64; 512],
}

pub(super) static EARLY_TABLES: Tables = Tables {
    root: [const { AtomicU64::new(0) }; 512],
    identity: [const { AtomicU64::new(0) }; 512],
    image_1: [const { AtomicU64::new(0) }; 512],
    image_2: [const { AtomicU64::new(0) }; 512],
};

/// Maps the GiB around the device at `address` by identity, unless the GiB is mapped already.
///
/// # Panics
/// If the device is beyond the first 512 GiB.
pub(super) fn map_device(address: usize) {
    let _ = &EARLY_TABLES.root;
    let entry = &EARLY_TABLES.identity[address / GIB];
    if entry.load(Ordering::Relaxed) == 0 {
        entry.store(
            (address / GIB * GIB) as u64 | DEVICE_BLOCK,
            Ordering::Relaxed,
        );
        publish();
    }
}

/// Maps `length` bytes of RAM at physical address `to` to virtual address `from`. Both addresses
/// are multiples of [`BLOCK`], and the virtual range is not mapped yet.
///
/// # Panics
/// If `from` is outside the image's GiB.
pub(super) fn map_memory(from: usize, to: usize, length: usize) {
    let _ = &EARLY_TABLES.image_1;
    for offset in (0..length).step_by(BLOCK) {
        let entry = &EARLY_TABLES.image_2[(from + offset - IMAGE_BASE) / BLOCK];
        assert_eq!(
            entry.load(Ordering::Relaxed),
            0,
            "virtual address {from:#x} is mapped twice"
        );
        entry.store((to + offset) as u64 | NORMAL_BLOCK, Ordering::Relaxed);
    }
    publish();
}

/// Makes new entries visible to this CPU's table walks.
fn publish() {
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
}
