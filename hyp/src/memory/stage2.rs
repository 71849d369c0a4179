//! Stage 2 of the guests.
//!
//! The guest with the whole machine has its memory and its devices by identity. A VM has memory at
//! the RAM of QEMU's `virt` board, and nothing else. All other addresses are not mapped, and trap:
//! the hypervisor's home, the frames of the interrupt controller, addresses without a device.
//!
//! Memory is write-back here and devices are non-cacheable, so that the guest's own tables choose
//! the type of every access within these limits, as without a hypervisor.

use alloc::boxed::Box;
use core::ops::Range;

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable, VTCR_EL2, VTTBR_EL2, Writeable};
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes as Attributes};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, MemoryRegion, Stage2 as Regime};

use super::layout;
use super::ranges::Pages;

const MEMORY: Attributes = Attributes::MEMATTR_NORMAL_INNER_WB
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

/// VMID of the guest with the whole machine, and of the first VM.
const FIRST_VMID: u16 = 1;

/// Tables of a guest.
pub(crate) struct Stage2 {
    /// Value of `VTTBR_EL2` while the guest runs.
    base: u64,
}

impl Stage2 {
    /// Returns tables that map `memory` and `devices` by identity. The tables live for ever.
    pub(crate) fn identity(memory: &Pages, devices: &Pages) -> Self {
        let memory = memory.iter().map(|range| (range, range.start, MEMORY));
        let devices = devices.iter().map(|range| (range, range.start, DEVICE));
        Self::new(FIRST_VMID, memory.chain(devices))
    }

    /// Returns tables of VM number `index`, that map `memory` to guest-physical address `at`. The
    /// tables live for ever.
    pub(crate) fn for_vm(index: usize, memory: &Range<usize>, at: usize) -> Self {
        Self::new(
            FIRST_VMID + index as u16,
            [(memory, at, MEMORY)].into_iter(),
        )
    }

    fn new<'a>(
        vmid: u16,
        pieces: impl Iterator<Item = (&'a Range<usize>, usize, Attributes)>,
    ) -> Self {
        let tables = LinearTranslation::new(layout::physical_offset());
        let mut mapping = Mapping::new(tables, 0, Regime);
        for (physical, at, attributes) in pieces {
            mapping
                .map_range(
                    &MemoryRegion::new(at, at + physical.len()),
                    PhysicalAddress(physical.start),
                    attributes,
                    Constraints::empty(),
                )
                .unwrap_or_else(|error| panic!("cannot map {physical:#x?} for a guest: {error}"));
        }
        let root = Box::leak(Box::new(mapping)).root_address().0 as u64;
        Self {
            base: root | u64::from(vmid) << 48,
        }
    }

    /// Makes the calling CPU translate the guest's accesses by these tables.
    ///
    /// # Panics
    /// If the CPU has fewer than 44 bits of physical address: tables cannot begin at level 0 then.
    pub(crate) fn activate(&self) {
        // With 4 KiB pages, 48 bits are the most without FEAT_LPA2.
        let range = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5);
        let bits = [32, 36, 40, 42, 44, 48][range as usize];
        assert!(
            bits >= 44,
            "CPUs with {bits}-bit physical addresses are not supported"
        );

        VTCR_EL2.write(
            VTCR_EL2::RES1.val(1)
                + VTCR_EL2::PS.val(range)
                + VTCR_EL2::TG0::Granule4KB
                + VTCR_EL2::SH0::Inner
                + VTCR_EL2::ORGN0::NormalWBRAWA
                + VTCR_EL2::IRGN0::NormalWBRAWA
                + VTCR_EL2::SL0.val(2)
                + VTCR_EL2::T0SZ.val(64 - bits),
        );
        VTTBR_EL2.set(self.base);
    }
}
