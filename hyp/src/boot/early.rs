//! The tables that the MMU is first turned on with.
//!
//! They map just enough to read the device tree, to report what is wrong with it, and to fill the
//! hypervisor's final memory. [`super::head`] maps by identity the first block of the image, which
//! holds the code that turns the MMU on and off, and the two blocks from the device tree's first
//! byte on. Nothing else is mapped as memory: firmware may keep what is nearby from EL2, and a CPU
//! reads ahead wherever memory is mapped. The image is mapped at its link address. Entries are
//! added here, never changed, so that nothing has to be invalidated.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;

use super::head::NORMAL_BLOCK;
use crate::memory::layout::{BLOCK, IMAGE_BASE, PAGE};

/// Attributes of a block of device memory: accessed, never executable, attribute 1.
const DEVICE_BLOCK: u64 = (1 << 54) | (1 << 10) | (1 << 2) | 1;

/// Bits of an entry of which only the lower is set in that of a block.
const KIND: u64 = 3;
const TABLE: u64 = 3;

const GIB: usize = 1 << 30;

/// Bytes that an entry of the root covers.
const ROOT_ENTRY: usize = 512 << 30;

/// Tables, by their place in [`EARLY_TABLES`]. [`super::head`] relies on the first three.
const ROOT: usize = 0;
/// Level 1 and level 2 of the image at its link address.
pub(super) const IMAGE_1: usize = 1;
const IMAGE_2: usize = 2;
/// Tables that [`super::head`] takes for the three blocks of identity: levels 1 and 2 of each.
pub(super) const POOL: usize = 3;
/// Level 1 of a device, if no other table serves.
const DEVICE_1: usize = POOL + 6;
const TABLES: usize = DEVICE_1 + 1;

type Table = [AtomicU64; 512];

/// The tables.
#[repr(C, align(4096))]
pub(super) struct Tables([Table; TABLES]);

pub(super) static EARLY_TABLES: Tables =
    Tables([const { [const { AtomicU64::new(0) }; 512] }; TABLES]);

/// Maps the device at `address` by identity: the GiB around it, or the block of [`BLOCK`] bytes if
/// memory in that GiB is mapped. Called once.
pub(super) fn map_device(address: usize) {
    let Tables(tables) = &EARLY_TABLES;
    // The tables' physical address, by the entry that refers to one.
    let first = address_in(&tables[ROOT][IMAGE_BASE / ROOT_ENTRY]) - IMAGE_1 * PAGE;
    let table_at = |physical: usize| &tables[(physical - first) / PAGE];

    let root = &tables[ROOT][address / ROOT_ENTRY];
    if root.load(Ordering::Relaxed) == 0 {
        root.store((first + DEVICE_1 * PAGE) as u64 | TABLE, Ordering::Relaxed);
    }

    let entry = &table_at(address_in(root))[address / GIB % 512];
    let (entry, size) = match entry.load(Ordering::Relaxed) & KIND {
        TABLE => (&table_at(address_in(entry))[address / BLOCK % 512], BLOCK),
        _ => (entry, GIB),
    };
    if entry.load(Ordering::Relaxed) == 0 {
        let block = address / size * size;
        entry.store(block as u64 | DEVICE_BLOCK, Ordering::Relaxed);
        publish();
    }
}

/// Maps `length` bytes of RAM at physical address `to` to virtual address `from`. Both addresses
/// are multiples of [`BLOCK`], and the virtual range is not mapped yet.
///
/// # Panics
/// If `from` is outside the image's GiB.
pub(super) fn map_memory(from: usize, to: usize, length: usize) {
    let Tables(tables) = &EARLY_TABLES;
    for offset in (0..length).step_by(BLOCK) {
        let entry = &tables[IMAGE_2][(from + offset - IMAGE_BASE) / BLOCK];
        assert_eq!(
            entry.load(Ordering::Relaxed),
            0,
            "virtual address {from:#x} is mapped twice"
        );
        entry.store((to + offset) as u64 | NORMAL_BLOCK, Ordering::Relaxed);
    }
    publish();
}

/// Returns the address in an entry.
fn address_in(entry: &AtomicU64) -> usize {
    const ADDRESS: u64 = 0xffff_ffff_f000;
    (entry.load(Ordering::Relaxed) & ADDRESS) as usize
}

/// Makes new entries visible to this CPU's table walks.
fn publish() {
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
}
