//! Translation tables of devices: stage 2 as the SMMU walks it for the DMA of a guest's devices.
//!
//! Devices find the guest's memory at its guest-physical addresses. They find one more page for
//! each ITS of the guest: a write to `GITS_TRANSLATER`, an MSI, reaches the physical ITS. The CPUs'
//! tables do not map that page: a guest's own write traps. All other addresses fault, the
//! hypervisor's home and the registers of other devices included.
//!
//! The tables have the format of the CPUs' stage 2. They are tables of their own because the SMMU
//! may have fewer address bits than the CPUs.

use core::ops::Range;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes as Attributes};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, MemoryRegion, Stage2 as Regime};

use super::layout::{self, PAGE};
use super::reach::Reach;
use super::stage2::MEMORY;

const TRANSLATER: Attributes = Attributes::MEMATTR_DEVICE_nGnRE
    .union(Attributes::S2AP_ACCESS_WO)
    .union(Attributes::ACCESS_FLAG)
    .union(Attributes::XN)
    .union(Attributes::VALID);

/// Bits that one table of level 1 resolves.
const LEVEL_1_BITS: u32 = 39;

/// Place of a page or a range in a guest.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Physical addresses.
    pub(crate) physical: Range<usize>,
    /// Guest-physical address of the first byte.
    pub(crate) at: usize,
}

impl Placed {
    /// Returns a range whose guest-physical addresses are its physical ones.
    pub(crate) fn identity(range: &Range<usize>) -> Self {
        Self {
            physical: range.clone(),
            at: range.start,
        }
    }

    /// Returns the page that contains this physical address, by identity.
    pub(crate) fn page_of(address: usize) -> Self {
        let start = address / PAGE * PAGE;
        Self::identity(&(start..start + PAGE))
    }
}

/// Tables of a guest's devices.
pub(crate) struct DmaTables {
    mapping: Mapping<LinearTranslation<Attributes>, Regime>,
    /// VMID, by which the SMMU tags cached translations.
    vmid: u16,
    shape: Shape,
}

/// Shape of the tables: the level at which a walk begins, and the address bits.
#[derive(Clone, Copy, Debug)]
struct Shape {
    level: usize,
    bits: u32,
}

impl Shape {
    /// Returns the shape for output addresses of this reach. A walk begins with one table: without
    /// level 0, guest-physical addresses have 39 bits at most.
    const fn of(output: Reach) -> Self {
        match output.level_1_tables() {
            None => Self {
                level: 0,
                bits: output.bits(),
            },
            Some(1) => Self {
                level: 1,
                bits: output.bits(),
            },
            Some(_) => Self {
                level: 1,
                bits: LEVEL_1_BITS,
            },
        }
    }
}

impl DmaTables {
    /// Returns tables that map `memory`, and the pages of `translaters` for MSIs. `output` is the
    /// reach of the SMMU's output addresses. No other tables have this VMID while a stream is
    /// attached to these: the SMMU would take translations of either for the other's.
    ///
    /// # Panics
    /// If a range is out of the tables' or the SMMU's reach.
    pub(crate) fn new(
        output: Reach,
        vmid: u16,
        memory: impl Iterator<Item = Placed>,
        translaters: impl Iterator<Item = Placed>,
    ) -> Self {
        let shape = Shape::of(output);
        let tables = LinearTranslation::new(layout::physical_offset());
        let mut mapping = Mapping::new(tables, shape.level, Regime);
        let memory = memory.map(|piece| (piece, MEMORY));
        let translaters = translaters.map(|page| (page, TRANSLATER));

        for (Placed { physical, at }, attributes) in memory.chain(translaters) {
            let end = at + physical.len();
            assert!(
                end <= 1 << shape.bits && physical.end <= output.end(),
                "devices do not reach {physical:#x?} at {at:#x}"
            );
            mapping
                .map_range(
                    &MemoryRegion::new(at, end),
                    PhysicalAddress(physical.start),
                    attributes,
                    Constraints::empty(),
                )
                .unwrap_or_else(|error| panic!("cannot map {physical:#x?} for devices: {error}"));
        }

        Self {
            mapping,
            vmid,
            shape,
        }
    }

    /// Returns the VMID.
    pub(crate) fn vmid(&self) -> u16 {
        self.vmid
    }

    /// Returns the physical address of the first table.
    pub(crate) fn root(&self) -> u64 {
        self.mapping.root_address().0 as u64
    }

    /// Returns the number of guest-physical address bits.
    pub(crate) fn bits(&self) -> u32 {
        self.shape.bits
    }

    /// Returns the level at which a walk begins.
    pub(crate) fn level(&self) -> usize {
        self.shape.level
    }
}
