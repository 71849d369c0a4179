//! What the guest's physical addresses mean: themselves.
//!
//! The guest has its memory and its devices by identity. What it has not (the hypervisor's home, the
//! frames of the interrupt controller, addresses where there is nothing) is not mapped, and traps.
//!
//! Memory is write-back here and devices are non-cacheable, so that the guest's own tables choose the
//! type of every access within those limits, as on the bare machine.

use alloc::boxed::Box;

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

/// The identifier of the one guest in the TLBs.
const VMID: u64 = 1;

/// A guest's tables.
pub(crate) struct Stage2 {
    root: u64,
}

impl Stage2 {
    /// Tables that map `memory` and `devices`; they stay for ever.
    pub(crate) fn new(memory: &Pages, devices: &Pages) -> Self {
        let tables = LinearTranslation::new(layout::physical_offset());
        let mut mapping = Mapping::new(tables, 0, Regime);
        let sets = [(memory, MEMORY), (devices, DEVICE)];
        for (range, attributes) in sets
            .into_iter()
            .flat_map(|(set, attributes)| set.iter().map(move |r| (r, attributes)))
        {
            let region = MemoryRegion::new(range.start, range.end);
            mapping
                .map_range(
                    &region,
                    PhysicalAddress(range.start),
                    attributes,
                    Constraints::empty(),
                )
                .unwrap_or_else(|error| panic!("cannot map {range:#x?} for the guest: {error}"));
        }
        Self {
            root: Box::leak(Box::new(mapping)).root_address().0 as u64,
        }
    }

    /// Makes the calling CPU translate the guest's accesses by these tables.
    ///
    /// # Panics
    /// If the CPU has fewer than 44 bits of physical address: then tables cannot begin at level 0.
    pub(crate) fn activate(&self) {
        // 48 bits are the most that 4 KiB pages describe without FEAT_LPA2.
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
        VTTBR_EL2.set(self.root | VMID << 48);
    }
}
