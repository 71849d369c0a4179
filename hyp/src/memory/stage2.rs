//! Stage 2 of the guests.
//!
//! The guest with the whole machine has its memory and its devices by identity. A VM has memory at
//! the RAM of QEMU's `virt` board, and nothing else. All other addresses are not mapped, and trap:
//! the hypervisor's home, the frames of the interrupt controller, addresses without a device.
//!
//! Memory is write-back here and devices are non-cacheable, so that the guest's own tables choose
//! the type of every access within these limits, as without a hypervisor.
#![expect(unsafe_code)]
// UNSAFETY: copies tables by their addresses.

use alloc::alloc::{alloc_zeroed, handle_alloc_error};
use alloc::boxed::Box;
use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use core::{iter, ptr};

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable, VTCR_EL2, VTTBR_EL2, Writeable};
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes as Attributes};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, MemoryRegion, Stage2 as Regime};

use super::layout::{self, PAGE};
use super::ranges::Pages;
use super::reach::Reach;

/// Attributes of memory.
pub(super) const MEMORY: Attributes = Attributes::MEMATTR_NORMAL_INNER_WB
    .union(Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Attributes::SH_INNER)
    .union(Attributes::S2AP_ACCESS_RW)
    .union(Attributes::ACCESS_FLAG)
    .union(Attributes::VALID);
const DEVICE: Attributes = Attributes::MEMATTR_NORMAL_INNER_NC
    .union(Attributes::MEMATTR_NORMAL_OUTER_NC)
    .union(Attributes::S2AP_ACCESS_RW)
    .union(Attributes::ACCESS_FLAG)
    .union(Attributes::XN)
    .union(Attributes::VALID);

/// Bits of a table's descriptor that hold the address of the next table.
const NEXT_TABLE: u64 = 0xffff_ffff_f000;

/// VMID of the guest with the whole machine, and of the first VM.
pub(crate) const FIRST_VMID: u16 = 1;

/// Tables of a guest.
pub(crate) struct Stage2 {
    /// Value of `VTTBR_EL2` while the guest runs.
    base: u64,
    /// Addresses that the tables translate.
    reach: Reach,
}

impl Stage2 {
    /// Returns tables that map `memory` and `devices` by identity. The tables live for ever.
    pub(crate) fn identity(memory: &Pages, devices: &Pages) -> Self {
        let memory = memory.iter().map(|range| (range, range.start, MEMORY));
        let devices = devices.iter().map(|range| (range, range.start, DEVICE));
        Self::new(FIRST_VMID, Constraints::empty(), memory.chain(devices))
    }

    /// Returns tables of VM number `index`, that map `memory` to guest-physical address `at`, page
    /// by page if `by_pages`, and `devices` by identity. The tables live for ever.
    pub(crate) fn for_vm<'a>(
        index: usize,
        memory: &'a Range<usize>,
        at: usize,
        by_pages: bool,
        devices: impl Iterator<Item = &'a Range<usize>>,
    ) -> Self {
        let devices = devices.map(|range| (range, range.start, DEVICE));
        let constraints = if by_pages {
            Constraints::NO_BLOCK_MAPPINGS
        } else {
            Constraints::empty()
        };
        Self::new(
            FIRST_VMID + index as u16,
            constraints,
            iter::once((memory, at, MEMORY)).chain(devices),
        )
    }

    /// Allows or denies writes of a page, in tables that map it as a page. The change takes effect
    /// with a TLB's invalidation.
    pub(crate) fn allow_writes(&self, gpa: usize, are_allowed: bool) {
        /// S2AP: writes.
        const WRITE: u64 = 1 << 7;
        if let Some(page) = self.page(gpa) {
            // SeqCst: see `super::dirty`.
            if are_allowed {
                page.fetch_or(WRITE, Ordering::SeqCst);
            } else {
                page.fetch_and(!WRITE, Ordering::SeqCst);
            }
        }
    }

    /// Returns the descriptor of a page, if the tables map it as a page.
    fn page(&self, gpa: usize) -> Option<&AtomicU64> {
        /// A table, or at the last level a page.
        const TABLE: u64 = 0b11;
        const LAST: u32 = 3;
        let mut level = if self.reach.level_1_tables().is_some() {
            1
        } else {
            0
        };
        // Tables side by side have more than 512 descriptors together.
        let mut index = gpa >> (12 + 9 * (LAST - level));
        let mut table = self.base & NEXT_TABLE;
        loop {
            let entry =
                (layout::virtual_address(table as usize) as *const AtomicU64).wrapping_add(index);
            // SAFETY: the walk is the CPU's: the tables lie in the heap and live for ever, and the
            // index is in the table, because the address is in reach.
            let entry = unsafe { &*entry };
            let descriptor = entry.load(Ordering::Relaxed);
            if descriptor & TABLE != TABLE {
                return None;
            }
            if level == LAST {
                return Some(entry);
            }
            table = descriptor & NEXT_TABLE;
            level += 1;
            index = gpa >> (12 + 9 * (LAST - level)) & 0x1ff;
        }
    }

    /// Returns tables that map each physical range of `pieces` at an address of the guest's, with
    /// these attributes, under `constraints`. Addresses out of the calling CPU's reach are not
    /// mapped.
    fn new<'a>(
        vmid: u16,
        constraints: Constraints,
        pieces: impl Iterator<Item = (&'a Range<usize>, usize, Attributes)>,
    ) -> Self {
        let reach = this_reach();
        let tables = LinearTranslation::new(layout::physical_offset());
        let mut mapping = Mapping::new(tables, 0, Regime);
        for (physical, at, attributes) in pieces {
            let end = (at + physical.len()).min(reach.end());
            if at >= end {
                continue;
            }
            mapping
                .map_range(
                    &MemoryRegion::new(at, end),
                    PhysicalAddress(physical.start),
                    attributes,
                    constraints,
                )
                .unwrap_or_else(|error| panic!("cannot map {physical:#x?} for a guest: {error}"));
        }

        let level_0 = Box::leak(Box::new(mapping)).root_address().0;
        let root = match reach.level_1_tables() {
            None => level_0,
            // SAFETY: the mapping is the root of level 0 tables in the heap, and nobody writes them
            // any more.
            Some(count) => unsafe { side_by_side(level_0, count) },
        };
        Self {
            base: root as u64 | u64::from(vmid) << 48,
            reach,
        }
    }

    /// Makes the calling CPU translate the guest's accesses by these tables.
    ///
    /// # Panics
    /// If the CPU has fewer physical address bits than the one that made the tables.
    pub(crate) fn activate(&self) {
        let reach = self.reach;
        let bits = this_reach().bits();
        assert!(
            reach.bits() <= bits,
            "this CPU has {bits}-bit physical addresses, and the boot CPU {}-bit ones",
            reach.bits()
        );

        VTCR_EL2.write(
            VTCR_EL2::RES1.val(1)
                + VTCR_EL2::PS.val(reach.ps())
                + VTCR_EL2::TG0::Granule4KB
                + VTCR_EL2::SH0::Inner
                + VTCR_EL2::ORGN0::NormalWBRAWA
                + VTCR_EL2::IRGN0::NormalWBRAWA
                + VTCR_EL2::SL0.val(reach.sl0())
                + VTCR_EL2::T0SZ.val(reach.t0sz()),
        );
        VTTBR_EL2.set(self.base);
    }
}

/// Returns the reach on the calling CPU.
fn this_reach() -> Reach {
    Reach::of(ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange))
}

/// Copies the first `count` tables of level 1 below the level 0 table at physical address `level_0`
/// to one block, side by side, and returns the block's physical address. A missing table becomes an
/// empty one. The block lives for ever.
///
/// # Safety
/// A complete level 0 table with its level 1 tables is there, in the heap, and nobody writes them
/// any more.
unsafe fn side_by_side(level_0: usize, count: usize) -> usize {
    let block = Layout::from_size_align(count * PAGE, count * PAGE)
        .expect("a power of two of pages is a size and an alignment");
    // SAFETY: the size is not 0.
    let tables = unsafe { alloc_zeroed(block) };
    if tables.is_null() {
        handle_alloc_error(block);
    }

    for index in 0..count {
        let entry = (layout::virtual_address(level_0) as *const u64).wrapping_add(index);
        // SAFETY: by the caller's promise, a table of 512 descriptors is there, and `count` is at
        // most 16.
        let descriptor = unsafe { entry.read() };
        if descriptor & 1 == 0 {
            continue;
        }
        let table = layout::virtual_address((descriptor & NEXT_TABLE) as usize) as *const u8;
        // SAFETY: by the caller's promise, a valid descriptor of level 0 names a table of level 1
        // in the heap. The block has room for `count` tables, and has just been allocated.
        unsafe { ptr::copy_nonoverlapping(table, tables.wrapping_add(index * PAGE), PAGE) };
    }
    layout::physical(tables.addr())
}
