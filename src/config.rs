//! Configuration of one VM's interrupt controller: frames, counts and quotas.
//!
//! The VM's FDT or ACPI tables describe the same values to the guest.

use alloc::vec::Vec;

use crate::error::{ForeignDomain, TORN_DOWN};
use crate::intid::{Affinity, IntId, ItsId, VcpuId};

/// Size of the distributor's frame in bytes.
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// Size of one vCPU's redistributor frames (`RD_base` and `SGI_base`) in bytes, and the stride of
/// a region.
pub const REDISTRIBUTOR_STRIDE: u64 = 0x2_0000;
/// Size of an ITS's frames (control and translation) in bytes.
pub const ITS_SIZE: u64 = 0x2_0000;
/// Offset of `GICD_SETSPI_NSR` from the distributor's base.
pub(crate) const SETSPI_NSR: u64 = 0x0040;
/// Offset of `GICR_SETLPIR` from a redistributor's base.
pub(crate) const SETLPIR: u64 = 0x0040;
/// Offset of `GITS_TRANSLATER` from an ITS's base.
pub const GITS_TRANSLATER: u64 = 0x1_0040;

/// Most regions of redistributor frames.
const MAX_REGIONS: usize = 64;

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
    /// Guest-physical address of the distributor, 64 KiB aligned.
    pub distributor: u64,
    /// Regions of redistributor frames, at most 64, together with room for `max_vcpus`. An access
    /// looks at the regions in order.
    pub redistributors: Vec<RedistributorRegion>,
    /// The ITSes, at most 16; none if `lpis` is 0.
    pub its: Vec<ItsConfig>,
    /// Number of LPIs, from INTID 8192 up; also the quota of LPIs mapped or pending at once.
    ///
    /// * 0: no LPIs.
    /// * [`LPIS_OF_16_BITS`]: all LPIs of 16 bits of INTID. `GICD_TYPER.num_LPIs` is 0: `IDbits`
    ///   gives the number.
    /// * A power of two from 32 to 65,536, given by `GICD_TYPER.num_LPIs`. 65,536 LPIs take 17 bits
    ///   of INTID: a CPU with 16 bits (`ICH_VTR_EL2.IDbits`) refuses to enter the vCPUs
    ///   ([`EntryError::IntidBits`](crate::EntryError::IntidBits)), and Linux, which uses no more
    ///   than 16 bits, warns at boot that `num_LPIs` is too large.
    pub lpis: u32,
    /// `GICR_TYPER.DirectLPI`: devices and the guest make LPIs pending by `GICR_SETLPIR`. For a VM
    /// with LPIs and no ITS: with one, the register is IMPLEMENTATION DEFINED (IHI 0069, 12.11).
    pub direct_lpis: bool,
    /// `GICD_TYPER2.nASSGIcap`: the guest may ask for SGIs without an active state
    /// (`GICD_CTLR.nASSGIreq`), which a GICv4.1 with virtual SGIs delivers directly. On another
    /// machine such a guest's SGIs go through list registers, and have an active state.
    pub nassgi_cap: bool,
    /// PPI of the maintenance interrupt, INTID 16-31, for the VM's description. The guest never
    /// receives the interrupt.
    pub maintenance: IntId,
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
            distributor: 0x0800_0000,
            redistributors: board_regions(count),
            its: Vec::new(),
            lpis: 0,
            direct_lpis: false,
            nassgi_cap: false,
            maintenance: IntId::ppi(25).expect("25 is a PPI"),
        }
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

    /// Gives a VM without an ITS [`LPIS_OF_16_BITS`] LPIs, made pending by `GICR_SETLPIR`.
    #[must_use]
    pub fn with_direct_lpis(mut self) -> Self {
        self.lpis = LPIS_OF_16_BITS;
        self.direct_lpis = true;
        self
    }

    /// Returns the INTID after the largest SPI.
    #[must_use]
    pub const fn spi_end(&self) -> u32 {
        // `Config::validate` refuses a number that wraps.
        IntId::FIRST_SPI.wrapping_add(self.spis)
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
        if self.lpis == 0 {
            10
        } else {
            u32::BITS - self.lpi_end().wrapping_sub(1).leading_zeros()
        }
    }

    /// Returns the `(base, bytes)` of every frame, for the VM's memory map.
    pub fn frames(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        core::iter::once((self.distributor, DISTRIBUTOR_SIZE))
            .chain(
                self.redistributors
                    .iter()
                    .map(|region| (region.base, region.size())),
            )
            .chain(self.its.iter().map(|its| (its.base, ITS_SIZE)))
    }

    /// Returns the address of `GICD_SETSPI_NSR` (IHI 0069, 12.9), for a device's write of an SPI.
    #[must_use]
    pub const fn message_address(&self) -> u64 {
        self.distributor.saturating_add(SETSPI_NSR)
    }

    /// Returns the address of a vCPU's `GICR_SETLPIR` (IHI 0069, 12.11), for a device's write of an
    /// LPI if [`Config::direct_lpis`] is set, or `None` if the regions have no room for the vCPU.
    #[must_use]
    pub fn lpi_address(&self, vcpu: VcpuId) -> Option<u64> {
        let base = self.redistributor_base(vcpu);
        base.map(|base| base.saturating_add(SETLPIR))
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

        let power = self.lpis.is_power_of_two() && matches!(self.lpis, 32..=0x1_0000);
        if !power && !matches!(self.lpis, 0 | LPIS_OF_16_BITS) {
            return Err(ConfigError::LpiCount(self.lpis));
        }

        if self.lpis == 0 && !self.its.is_empty() {
            return Err(ConfigError::ItsWithoutLpis);
        }

        if self.direct_lpis && (self.lpis == 0 || !self.its.is_empty()) {
            return Err(ConfigError::DirectLpis);
        }

        if self.its.len() > 16 {
            return Err(ConfigError::ItsCount(self.its.len()));
        }

        if !matches!(self.maintenance.raw(), 16..32) {
            return Err(ConfigError::Maintenance(self.maintenance));
        }

        if self.redistributors.len() > MAX_REGIONS {
            return Err(ConfigError::RegionCount(self.redistributors.len()));
        }

        let room = self
            .redistributors
            .iter()
            .fold(0usize, |room, region| room.saturating_add(region.count));
        if room < self.max_vcpus || self.redistributors.iter().any(|region| region.count == 0) {
            return Err(ConfigError::RedistributorRoom(room));
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

    /// Checks the alignment and the end of every frame, and that no two frames overlap.
    fn validate_frames(&self) -> Result<(), ConfigError> {
        let mut frames: Vec<(u64, u64)> = self.frames().collect();
        frames.sort_unstable();

        for &(base, size) in &frames {
            if base & 0xffff != 0 {
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

/// Reason for refusing a [`Config`] or a further vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A pin of another domain than the VM's ([`Vgic::add_vcpu`](crate::Vgic::add_vcpu)).
    ForeignDomain,
    /// A VM being reset ([`Vgic::reset`](crate::Vgic::reset)), saved or restored, frozen
    /// ([`Vgic::freeze`](crate::Vgic::freeze)), or taken apart
    /// ([`Vgic::teardown`](crate::Vgic::teardown)).
    TornDown,
    /// A number of vCPUs outside 1-4,095.
    VcpuCount(usize),
    /// A `max_vcpus` below the number of vCPUs, or above 4,095.
    MaxVcpus(usize),
    /// An affinity shared by two vCPUs.
    DuplicateAffinity(Affinity),
    /// A number of SPIs other than 988 or a multiple of 32 up to 960.
    SpiCount(u32),
    /// A number of LPIs other than 0, a power of two from 32 to 65,536, or [`LPIS_OF_16_BITS`].
    LpiCount(u32),
    /// An ITS in a VM without LPIs.
    ItsWithoutLpis,
    /// `direct_lpis` in a VM without LPIs, or with an ITS.
    DirectLpis,
    /// More than 16 ITSes.
    ItsCount(usize),
    /// An ITS with a field out of range.
    Its(ItsId),
    /// A maintenance interrupt other than a PPI.
    Maintenance(IntId),
    /// More than 64 regions of redistributor frames.
    RegionCount(usize),
    /// Redistributor regions with room for only the given number of vCPUs, or an empty region.
    RedistributorRoom(usize),
    /// Address of a frame without 64 KiB alignment.
    Unaligned(u64),
    /// Address of a frame with an end above the 52-bit guest-physical address space.
    Unaddressable(u64),
    /// Addresses of two overlapping frames.
    Overlap(u64, u64),
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ForeignDomain => ForeignDomain.fmt(f),
            Self::TornDown => f.write_str(TORN_DOWN),
            Self::VcpuCount(n) => write!(f, "{n} vCPUs; 1 to 4095 are supported"),
            Self::MaxVcpus(n) => {
                write!(f, "max_vcpus is {n}: below the vCPUs given, or above 4095")
            }
            Self::DuplicateAffinity(a) => write!(f, "two vCPUs have affinity {:#010x}", a.packed()),
            Self::SpiCount(n) => write!(f, "{n} SPIs; give a multiple of 32 up to 960, or 988"),
            Self::LpiCount(n) => {
                write!(
                    f,
                    "{n} LPIs; give 0, a power of two from 32 to 65536, or 57344"
                )
            }
            Self::ItsWithoutLpis => write!(f, "an ITS needs LPIs: `lpis` is 0"),
            Self::DirectLpis => write!(f, "direct LPIs need LPIs, and no ITS"),
            Self::ItsCount(n) => write!(f, "{n} ITSes; at most 16 are supported"),
            Self::Its(id) => write!(f, "ITS {}: bits or collections out of range", id.0),
            Self::Maintenance(id) => write!(f, "maintenance interrupt {} is not a PPI", id.raw()),
            Self::RegionCount(n) => {
                write!(f, "{n} redistributor regions; at most 64 are supported")
            }
            Self::RedistributorRoom(n) => {
                write!(
                    f,
                    "redistributor regions have room for {n} vCPUs, or one is empty"
                )
            }
            Self::Unaligned(base) => write!(f, "the frame at {base:#x} is not 64 KiB aligned"),
            Self::Unaddressable(base) => write!(f, "the frame at {base:#x} ends above 2^52"),
            Self::Overlap(a, b) => write!(f, "the frames at {a:#x} and {b:#x} overlap"),
        }
    }
}

impl core::error::Error for ConfigError {}

impl From<ForeignDomain> for ConfigError {
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vcpus: u8) -> Config {
        Config::new((0..vcpus).map(|n| Affinity::new(0, 0, 0, n)).collect()).with_its(0x0808_0000)
    }

    #[test]
    fn redistributors_fill_the_regions_in_order() {
        let base = |config: &Config, n| config.redistributor_base(VcpuId::new(n).unwrap());
        let large = config(200);
        assert_eq!(base(&large, 0), Some(0x080a_0000));
        assert_eq!(base(&large, 122), Some(0x080a_0000 + 122 * 0x2_0000));
        assert_eq!(base(&large, 123), Some(0x40_0000_0000));
        assert_eq!(base(&large, 199), Some(0x40_0000_0000 + 76 * 0x2_0000));
        assert_eq!(base(&large, 200), None);

        let mut regions = config(4);
        regions.redistributors = [(0x1000_0000, 1), (0x2000_0000, 0), (0x3000_0000, 2)]
            .map(|(base, count)| RedistributorRegion { base, count })
            .to_vec();
        assert_eq!(base(&regions, 0), Some(0x1000_0000));
        assert_eq!(base(&regions, 1), Some(0x3000_0000));
        assert_eq!(base(&regions, 2), Some(0x3002_0000));
        assert_eq!(base(&regions, 3), None);

        // No configuration, valid or not, makes it panic.
        regions.redistributors[0] = RedistributorRegion {
            base: u64::MAX,
            count: usize::MAX,
        };
        assert_eq!(base(&regions, 511), Some(u64::MAX));
    }

    /// A mistake made in a valid configuration.
    type Spoil = fn(&mut Config);

    #[test]
    fn the_number_of_lpis_gives_the_bits_of_an_intid() {
        for (lpis, bits, end) in [
            (0, 10, 8192),
            (32, 14, 8224),
            (0x2000, 14, 0x4000),
            (0x8000, 16, 0xa000),
            (LPIS_OF_16_BITS, 16, 0x1_0000),
            (0x1_0000, 17, 0x1_2000),
        ] {
            let config = Config {
                lpis,
                ..Config::new(config(1).vcpus)
            };
            assert_eq!(config.validate(), Ok(()), "{lpis} LPIs");
            assert_eq!(
                (config.intid_bits(), config.lpi_end()),
                (bits, end),
                "{lpis} LPIs"
            );
        }
    }

    #[test]
    fn no_configuration_makes_a_getter_panic() {
        let last_lpi = 0_u32.wrapping_sub(IntId::FIRST_LPI);
        for (spis, lpis, bits) in [(u32::MAX, u32::MAX, 13), (0, last_lpi, 32)] {
            let config = Config {
                lpis,
                spis,
                ..config(1)
            };
            let _ = (config.spi_end(), config.lpi_end());
            assert_eq!(config.intid_bits(), bits);
        }
    }

    #[test]
    fn defaults_are_valid_and_each_mistake_has_its_error() {
        assert_eq!(config(4).validate(), Ok(()));
        assert_eq!(config(200).validate(), Ok(()));
        let cases: [(Spoil, ConfigError); 28] = [
            (|c| c.vcpus.clear(), ConfigError::VcpuCount(0)),
            (|c| c.max_vcpus = 3, ConfigError::MaxVcpus(3)),
            (|c| c.max_vcpus = 4096, ConfigError::MaxVcpus(4096)),
            (
                |c| c.vcpus[1] = c.vcpus[0],
                ConfigError::DuplicateAffinity(Affinity::new(0, 0, 0, 0)),
            ),
            (|c| c.spis = 33, ConfigError::SpiCount(33)),
            (|c| c.spis = 992, ConfigError::SpiCount(992)),
            (|c| c.lpis = 0x2_0000, ConfigError::LpiCount(0x2_0000)),
            (|c| c.lpis = 57_343, ConfigError::LpiCount(57_343)),
            (|c| c.lpis = u32::MAX, ConfigError::LpiCount(u32::MAX)),
            (|c| c.lpis = 0, ConfigError::ItsWithoutLpis),
            (|c| c.direct_lpis = true, ConfigError::DirectLpis),
            (
                |c| c.its = alloc::vec![c.its[0]; 17],
                ConfigError::ItsCount(17),
            ),
            (
                |c| c.vcpus = config(250).vcpus.repeat(17),
                ConfigError::VcpuCount(4250),
            ),
            (|c| c.lpis = 16, ConfigError::LpiCount(16)),
            (|c| c.its[0].event_bits = 17, ConfigError::Its(ItsId(0))),
            (|c| c.its[0].event_bits = 0, ConfigError::Its(ItsId(0))),
            (|c| c.its[0].device_bits = 33, ConfigError::Its(ItsId(0))),
            (|c| c.its[0].collections = 0, ConfigError::Its(ItsId(0))),
            (
                |c| c.its[0].collections = 0x1_0001,
                ConfigError::Its(ItsId(0)),
            ),
            (
                |c| c.maintenance = IntId::spi(32).unwrap(),
                ConfigError::Maintenance(IntId::spi(32).unwrap()),
            ),
            (
                |c| c.redistributors[0].count = 3,
                ConfigError::RedistributorRoom(3),
            ),
            (
                |c| c.redistributors = c.redistributors.repeat(65),
                ConfigError::RegionCount(65),
            ),
            (
                |c| {
                    c.redistributors.push(RedistributorRegion {
                        base: 0x1_0000,
                        count: 0,
                    })
                },
                ConfigError::RedistributorRoom(4),
            ),
            (
                |c| {
                    c.redistributors =
                        alloc::vec![RedistributorRegion { base: 0x1_0000, count: usize::MAX }; 2]
                },
                ConfigError::Unaddressable(0x1_0000),
            ),
            (
                |c| c.distributor = 0x0800_1000,
                ConfigError::Unaligned(0x0800_1000),
            ),
            (
                |c| c.its[0].base = 0x000f_ffff_ffff_0000,
                ConfigError::Unaddressable(0x000f_ffff_ffff_0000),
            ),
            (
                |c| c.its[0].base = 0x0800_0000,
                ConfigError::Overlap(0x0800_0000, 0x0800_0000),
            ),
            (
                |c| c.its[0].base = 0x07ff_0000,
                ConfigError::Overlap(0x07ff_0000, 0x0800_0000),
            ),
        ];

        for (spoil, error) in cases {
            let mut config = config(4);
            spoil(&mut config);
            assert_eq!(config.validate(), Err(error), "{error}");
        }
    }
}
