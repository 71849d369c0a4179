//! Configuration of one VM's interrupt controller: frames, counts and quotas.
//!
//! The VM's FDT or ACPI tables describe the same values to the guest.

mod error;

use alloc::vec::Vec;

use crate::intid::{Affinity, IntId, ItsId, Kind, VcpuId};

pub use error::ConfigError;

/// Size of the distributor's frame in bytes.
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// Size of one vCPU's redistributor frames (`RD_base` and `SGI_base`) in bytes, and the stride of
/// a region.
pub const REDISTRIBUTOR_STRIDE: u64 = 0x2_0000;
/// Size of an ITS's frames (control and translation) in bytes.
pub const ITS_SIZE: u64 = 0x2_0000;
/// Offset of `GITS_TRANSLATER` from an ITS's base.
pub const GITS_TRANSLATER: u64 = 0x1_0040;
/// Size of a GICv2's distributor frame in bytes.
pub const GICV2_DISTRIBUTOR_SIZE: u64 = 0x1000;
/// Size of a GICv2's CPU interface frame in bytes.
pub const GICV2_CPU_INTERFACE_SIZE: u64 = 0x2000;
/// Size of a GICv2m frame in bytes.
pub const V2M_SIZE: u64 = 0x1000;
/// Offset of `MSI_SETSPI_NS` from a GICv2m frame's base.
pub const V2M_SETSPI: u64 = 0x40;

/// Most regions of redistributor frames.
const MAX_REGIONS: usize = 64;

/// Most vCPUs of a VM with a GICv2: `GICD_ITARGETSR<n>` and `GICD_SGIR` have a bit for each.
pub(crate) const MAX_GICV2_VCPUS: usize = 8;

/// Most GICv2m frames.
const MAX_V2M_FRAMES: usize = 8;

/// All LPIs of 16 bits of INTID: 57,344, from INTID 8192 to 65,535.
pub const LPIS_OF_16_BITS: u32 = 0x1_0000 - IntId::FIRST_LPI;

/// A contiguous range of redistributor frames. The vCPUs fill the regions in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedistributorRegion {
    /// Guest-physical address, 64 KiB aligned.
    pub base: u64,
    /// Number of vCPUs that fit, each [`REDISTRIBUTOR_STRIDE`] bytes; at least 1.
    pub count: usize,
}

impl RedistributorRegion {
    /// Returns the size of the region in bytes.
    const fn size(&self) -> u64 {
        // `Config::validate` refuses a saturated size: the region would end above 2^52.
        (self.count as u64).saturating_mul(REDISTRIBUTOR_STRIDE)
    }
}

/// Configuration of an ITS.
///
/// Later versions may have more fields: end a literal with `..ItsConfig::at(base)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItsConfig {
    /// Guest-physical address, 64 KiB aligned.
    pub base: u64,
    /// Bits of DeviceID, 1-32 (`GITS_TYPER.Devbits` + 1).
    pub device_bits: u8,
    /// Bits of EventID, 1-16 (`GITS_TYPER.ID_bits` + 1).
    pub event_bits: u8,
    /// Most devices mapped at once. A `MAPD` beyond the quota fails.
    pub max_devices: u32,
    /// Most events with room in all mapped devices together. A `MAPD` beyond the quota fails.
    pub max_events: u32,
    /// Number of collections, 1-65536. ICIDs are below the number.
    pub collections: u32,
}

impl ItsConfig {
    /// Returns an ITS at `base` with 16-bit DeviceIDs and EventIDs, at most 4,096 devices and
    /// 262,144 events, and 4,096 collections: at least one for each vCPU of any VM.
    #[must_use]
    pub const fn at(base: u64) -> Self {
        Self {
            base,
            device_bits: 16,
            event_bits: 16,
            max_devices: 4096,
            max_events: 0x4_0000,
            collections: (VcpuId::MAX_COUNT as u32).next_power_of_two(),
        }
    }
}

/// Configuration of a GICv2m frame: MSIs that make SPIs pending, for a VM with a GICv2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V2mConfig {
    /// Guest-physical address, 4 KiB aligned.
    pub base: u64,
    /// INTID of the first SPI of the frame, from 32 up.
    pub first_spi: u32,
    /// Number of SPIs of the frame, at least 1. All are SPIs of the VM, and of no other frame.
    pub spis: u32,
}

impl V2mConfig {
    /// Returns the INTIDs of the frame's SPIs.
    #[must_use]
    pub const fn intids(&self) -> core::ops::Range<u32> {
        // `Config::validate` refuses a frame that ends beyond the SPIs.
        self.first_spi..self.first_spi.saturating_add(self.spis)
    }
}

/// Configuration of a GICv2 (IHI 0048) in place of the GICv3: [`Config::gicv2`].
///
/// Later versions may have more fields: begin with [`Config::with_gicv2`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gicv2Config {
    /// Guest-physical address of the CPU interface (`GICC`), 4 KiB aligned.
    pub cpu_interface: u64,
    /// The GICv2m frames, at most 8; none for a VM without MSIs.
    pub v2m: Vec<V2mConfig>,
}

/// Returns the regions of QEMU's `virt` board for the redistributors of `vcpus` vCPUs.
fn board_regions(vcpus: usize) -> Vec<RedistributorRegion> {
    let near = vcpus.clamp(1, 123);
    let mut regions = alloc::vec![RedistributorRegion {
        base: 0x080a_0000,
        count: near,
    }];
    if vcpus > near {
        regions.push(RedistributorRegion {
            base: 0x40_0000_0000,
            count: vcpus - near,
        });
    }
    regions
}

/// Configuration of one VM's interrupt controller.
///
/// Later versions may have more fields: end a literal with `..Config::new(vcpus)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Affinities of the vCPUs present from the start, in [`VcpuId`] order; 1-4,095. Only vCPU 0
    /// starts powered on; see [`Vgic::power_on`](crate::Vgic::power_on).
    pub vcpus: Vec<Affinity>,
    /// Most vCPUs that the VM may grow to ([`crate::Vgic::add_vcpu`]); at least `vcpus.len()`, at
    /// most 4,095. A larger number needs more room in `redistributors` too, which
    /// [`Config::with_max_vcpus`] makes.
    pub max_vcpus: usize,
    /// Number of SPIs: a multiple of 32 from 0 to 960, or 988. The number determines
    /// `GICD_TYPER.ITLinesNumber`.
    pub spis: u32,
    /// Number of extended SPIs of GICv3.1, from INTID 4096 up: a multiple of 32 from 0 to 1,024,
    /// given by `GICD_TYPER.ESPI` and `ESPI_range`.
    ///
    /// A CPU without INTIDs 1024-8191 refuses to enter the vCPUs
    /// ([`EntryError::ExtendedRange`](crate::EntryError::ExtendedRange)).
    pub extended_spis: u32,
    /// Number of extended PPIs of GICv3.1 of each vCPU, from INTID 1056 up: 0, 32 or 64, given by
    /// `GICR_TYPER.PPInum`; on CPUs as for `extended_spis`.
    pub extended_ppis: u32,
    /// Guest-physical address of the distributor, 64 KiB aligned; 4 KiB with a GICv2.
    pub distributor: u64,
    /// Regions of redistributor frames, at most 64, together with room for `max_vcpus`. An access
    /// looks at the regions in order.
    pub redistributors: Vec<RedistributorRegion>,
    /// The ITSes, at most 16; none if `lpis` is 0.
    pub its: Vec<ItsConfig>,
    /// Number of LPIs, from INTID 8192 up; also the quota of LPIs mapped at once.
    ///
    /// * 0: no LPIs.
    /// * [`LPIS_OF_16_BITS`]: all LPIs of 16 bits of INTID. `GICD_TYPER.num_LPIs` is 0: `IDbits`
    ///   gives the number.
    /// * A power of two from 32 to 65,536, given by `GICD_TYPER.num_LPIs`. 65,536 LPIs take 17 bits
    ///   of INTID: a CPU with 16 bits (`ICH_VTR_EL2.IDbits`) refuses to enter the vCPUs
    ///   ([`EntryError::IntidBits`](crate::EntryError::IntidBits)), and Linux, which uses no more
    ///   than 16 bits, warns at boot that `num_LPIs` is too large.
    pub lpis: u32,
    /// `GICD_TYPER2.nASSGIcap`: the guest may ask for SGIs without an active state
    /// (`GICD_CTLR.nASSGIreq`), which a GICv4.1 with virtual SGIs delivers directly. On another
    /// machine such a guest's SGIs go through list registers, and have an active state.
    pub nassgi_cap: bool,
    /// PPI of the maintenance interrupt, INTID 16-31, or extended and of `extended_ppis`, for
    /// the VM's description. The guest never receives the interrupt.
    pub maintenance: IntId,
    /// A GICv2 for the guest in place of the GICv3, for at most 8 vCPUs, all present from the
    /// start. There are no redistributors, LPIs, ITSes and extended interrupts then, and
    /// `nassgi_cap` is false: anything else is [`ConfigError::NotOfGicv2`]. The guest's accesses to
    /// the CPU interface trap, and the embedder drives the guest's IRQ and FIQ:
    /// [`Vgic::virtual_lines`](crate::Vgic::virtual_lines).
    pub gicv2: Option<Gicv2Config>,
}

impl Config {
    /// Returns the configuration of a VM with the given vCPUs, 988 SPIs and no ITS.
    ///
    /// The frames are those of QEMU's `virt` board. The redistributors of vCPUs beyond the first
    /// 123 are at 0x40_0000_0000.
    #[must_use]
    pub fn new(vcpus: Vec<Affinity>) -> Self {
        let count = vcpus.len();
        Self {
            vcpus,
            max_vcpus: count,
            spis: 988,
            extended_spis: 0,
            extended_ppis: 0,
            distributor: 0x0800_0000,
            redistributors: board_regions(count),
            its: Vec::new(),
            lpis: 0,
            nassgi_cap: false,
            maintenance: IntId::ppi(25).expect("25 is a PPI"),
            gicv2: None,
        }
    }

    /// Gives the guest a GICv2 in place of the GICv3, with the frames of QEMU's `virt` board: a CPU
    /// interface at 0x0801_0000, and a GICv2m frame at 0x0802_0000 for the SPIs 80-143. A VM with
    /// fewer than 112 SPIs needs another frame, or none ([`Gicv2Config::v2m`]). Removes the
    /// redistributors: call after [`Config::with_max_vcpus`], which adds them.
    #[must_use]
    pub fn with_gicv2(mut self) -> Self {
        self.redistributors.clear();
        self.gicv2 = Some(Gicv2Config {
            cpu_interface: 0x0801_0000,
            v2m: alloc::vec![V2mConfig {
                base: 0x0802_0000,
                first_spi: 80,
                spis: 64,
            }],
        });
        self
    }

    /// Lets the VM grow to `max_vcpus` vCPUs, and replaces the regions of redistributor frames by
    /// those of QEMU's `virt` board for as many.
    #[must_use]
    pub fn with_max_vcpus(mut self, max_vcpus: usize) -> Self {
        self.max_vcpus = max_vcpus;
        self.redistributors = board_regions(max_vcpus);
        self
    }

    /// Adds an ITS at `base`, and sets the number of LPIs to [`LPIS_OF_16_BITS`]: every CPU holds
    /// their INTIDs, and every guest can use all of them.
    #[must_use]
    pub fn with_its(mut self, base: u64) -> Self {
        self.lpis = LPIS_OF_16_BITS;
        self.its.push(ItsConfig::at(base));
        self
    }

    /// Returns the INTID after the largest SPI.
    #[must_use]
    pub const fn spi_end(&self) -> u32 {
        // `Config::validate` refuses a number that wraps.
        IntId::FIRST_SPI.wrapping_add(self.spis)
    }

    /// Returns the INTID after the largest extended SPI, or 4096 if the VM has none.
    #[must_use]
    pub const fn extended_spi_end(&self) -> u32 {
        IntId::FIRST_EXTENDED_SPI.wrapping_add(self.extended_spis)
    }

    /// Returns the INTID after the largest extended PPI, or 1056 if the VM has none.
    #[must_use]
    pub const fn extended_ppi_end(&self) -> u32 {
        IntId::FIRST_EXTENDED_PPI.wrapping_add(self.extended_ppis)
    }

    /// Returns true if the VM has extended SPIs or extended PPIs.
    #[must_use]
    pub const fn has_extended_range(&self) -> bool {
        self.extended_spis | self.extended_ppis != 0
    }

    /// Returns the INTID after the largest LPI, or 8192 if the VM has no LPIs.
    #[must_use]
    pub const fn lpi_end(&self) -> u32 {
        // `Config::validate` refuses a number that wraps.
        IntId::FIRST_LPI.wrapping_add(self.lpis)
    }

    /// Returns the number of INTID bits, `GICD_TYPER.IDbits` + 1.
    #[must_use]
    pub const fn intid_bits(&self) -> u32 {
        let end = match self.lpis {
            0 if self.extended_spis != 0 => self.extended_spi_end(),
            0 if self.extended_ppis != 0 => self.extended_ppi_end(),
            0 => 0x400, // The special INTIDs have 10 bits.
            _ => self.lpi_end(),
        };
        u32::BITS - end.wrapping_sub(1).leading_zeros()
    }

    /// Returns the `(base, bytes)` of every frame, for the VM's memory map.
    pub fn frames(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let distributor = match self.gicv2 {
            None => DISTRIBUTOR_SIZE,
            Some(_) => GICV2_DISTRIBUTOR_SIZE,
        };
        let gicv2 = self.gicv2.iter().flat_map(|gicv2| {
            core::iter::once((gicv2.cpu_interface, GICV2_CPU_INTERFACE_SIZE))
                .chain(gicv2.v2m.iter().map(|v2m| (v2m.base, V2M_SIZE)))
        });
        core::iter::once((self.distributor, distributor))
            .chain(gicv2)
            .chain(
                self.redistributors
                    .iter()
                    .map(|region| (region.base, region.size())),
            )
            .chain(self.its.iter().map(|its| (its.base, ITS_SIZE)))
    }

    /// Returns the guest-physical address of a vCPU's redistributor: the `RD_base` frame, with the
    /// `SGI_base` frame 64 KiB above (IHI 0069, 12.10). Returns `None` if the regions have no room
    /// for the vCPU.
    #[must_use]
    pub fn redistributor_base(&self, vcpu: VcpuId) -> Option<u64> {
        let mut place = vcpu.index();
        for region in &self.redistributors {
            if place < region.count {
                // `Config::validate` refuses a saturated address: the region would end above 2^52.
                let offset = REDISTRIBUTOR_STRIDE.saturating_mul(place as u64);
                return Some(region.base.saturating_add(offset));
            }
            place -= region.count;
        }
        None
    }

    /// Returns the bits of the VM's CPUs in the registers of a GICv2: `GICD_SGIR` and
    /// `GICD_SPENDSGIR<n>`.
    pub(crate) fn gicv2_cpus(&self) -> u8 {
        let beyond = MAX_GICV2_VCPUS.saturating_sub(self.vcpus.len());
        u8::MAX.checked_shr(beyond as u32).unwrap_or(0)
    }

    /// Returns the bits of the VM's CPUs in `GICD_ITARGETSR<n>`, which is RAZ/WI with one CPU
    /// (IHI 0048, 4.3.12).
    pub(crate) fn gicv2_targets(&self) -> u8 {
        if self.vcpus.len() > 1 {
            self.gicv2_cpus()
        } else {
            0
        }
    }

    /// Returns the value of each SPI's router after reset; `None` for SPIs that are routed to no
    /// vCPU. With a GICv2, `GICD_ITARGETSR<n>` are 0 then, and RAZ/WI with one vCPU.
    pub(crate) fn first_router(&self) -> Option<u64> {
        match (&self.gicv2, self.vcpus.first()) {
            (None, Some(first)) => Some(first.mpidr()),
            (Some(_), Some(_)) if self.vcpus.len() == 1 => Some(0),
            _ => None,
        }
    }

    /// Checks every field against the architecture and against the other fields.
    ///
    /// # Errors
    /// [`ConfigError`] of the first check that fails.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limit = VcpuId::MAX_COUNT;
        if self.vcpus.is_empty() || self.vcpus.len() > limit {
            return Err(ConfigError::VcpuCount(self.vcpus.len()));
        }

        if self.max_vcpus < self.vcpus.len() || self.max_vcpus > limit {
            return Err(ConfigError::MaxVcpus(self.max_vcpus));
        }

        let mut affinities = self.vcpus.clone();
        affinities.sort_unstable();
        if let Some(pair) = affinities.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::DuplicateAffinity(pair[0]));
        }

        if self.spis != 988 && (!self.spis.is_multiple_of(32) || self.spis > 960) {
            return Err(ConfigError::SpiCount(self.spis));
        }

        if !self.extended_spis.is_multiple_of(32) || self.extended_spis > 1024 {
            return Err(ConfigError::ExtendedSpiCount(self.extended_spis));
        }

        if !matches!(self.extended_ppis, 0 | 32 | 64) {
            return Err(ConfigError::ExtendedPpiCount(self.extended_ppis));
        }

        let power = self.lpis.is_power_of_two() && matches!(self.lpis, 32..=0x1_0000);
        if !power && !matches!(self.lpis, 0 | LPIS_OF_16_BITS) {
            return Err(ConfigError::LpiCount(self.lpis));
        }

        if self.lpis == 0 && !self.its.is_empty() {
            return Err(ConfigError::ItsWithoutLpis);
        }

        if self.its.len() > 16 {
            return Err(ConfigError::ItsCount(self.its.len()));
        }

        let is_ppi = self.maintenance.kind() == Kind::Ppi;
        if !is_ppi || self.maintenance.raw() >= self.extended_ppi_end() {
            return Err(ConfigError::Maintenance(self.maintenance));
        }

        if self.redistributors.len() > MAX_REGIONS {
            return Err(ConfigError::RegionCount(self.redistributors.len()));
        }

        match &self.gicv2 {
            None => self.validate_redistributors()?,
            Some(gicv2) => self.validate_gicv2(gicv2)?,
        }

        for (index, its) in self.its.iter().enumerate() {
            if !matches!(its.device_bits, 1..=32)
                || !matches!(its.event_bits, 1..=16)
                || !matches!(its.collections, 1..=0x1_0000)
            {
                return Err(ConfigError::Its(ItsId(index as u8)));
            }
        }

        self.validate_frames()
    }

    /// Checks that the redistributors have room for every vCPU.
    fn validate_redistributors(&self) -> Result<(), ConfigError> {
        let room = self
            .redistributors
            .iter()
            .fold(0usize, |room, region| room.saturating_add(region.count));
        if room < self.max_vcpus || self.redistributors.iter().any(|region| region.count == 0) {
            return Err(ConfigError::RedistributorRoom(room));
        }
        Ok(())
    }

    /// Checks that a VM with a GICv2 has nothing that only a GICv3 has, and its GICv2m frames.
    fn validate_gicv2(&self, gicv2: &Gicv2Config) -> Result<(), ConfigError> {
        if self.vcpus.len() > MAX_GICV2_VCPUS || self.max_vcpus != self.vcpus.len() {
            return Err(ConfigError::Gicv2Vcpus(self.max_vcpus));
        }
        let only_of_gicv3 = self.lpis != 0 || self.nassgi_cap || self.has_extended_range();
        if !self.redistributors.is_empty() || only_of_gicv3 {
            return Err(ConfigError::NotOfGicv2);
        }
        if gicv2.v2m.len() > MAX_V2M_FRAMES {
            return Err(ConfigError::V2mCount(gicv2.v2m.len()));
        }

        let mut intids: Vec<_> = gicv2.v2m.iter().map(V2mConfig::intids).collect();
        intids.sort_unstable_by_key(|intids| intids.start);
        let mut free = IntId::FIRST_SPI;
        for intids in intids {
            if intids.is_empty() || intids.start < free || intids.end > self.spi_end() {
                return Err(ConfigError::V2mSpis(intids.start));
            }
            free = intids.end;
        }
        Ok(())
    }

    /// Checks the alignment and the end of every frame, and that no two frames overlap.
    fn validate_frames(&self) -> Result<(), ConfigError> {
        let mut frames: Vec<(u64, u64)> = self.frames().collect();
        frames.sort_unstable();
        let unaligned = match self.gicv2 {
            None => 0xffff,
            Some(_) => 0xfff,
        };

        for &(base, size) in &frames {
            if base & unaligned != 0 {
                return Err(ConfigError::Unaligned(base));
            }
            if base.checked_add(size).is_none_or(|end| end > 1 << 52) {
                return Err(ConfigError::Unaddressable(base));
            }
        }

        match frames
            .windows(2)
            .find(|pair| pair[0].0 + pair[0].1 > pair[1].0)
        {
            Some(pair) => Err(ConfigError::Overlap(pair[0].0, pair[1].0)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
