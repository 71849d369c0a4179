//! Reasons for refusing a configuration.

use crate::error::{ForeignDomain, TORN_DOWN};
use crate::intid::{Affinity, IntId, ItsId};

/// Reason for refusing a [`Config`](crate::Config) or a further vCPU.
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
    /// A number of extended SPIs other than a multiple of 32 up to 1,024.
    ExtendedSpiCount(u32),
    /// A number of extended PPIs other than 0, 32 or 64.
    ExtendedPpiCount(u32),
    /// A number of LPIs other than 0, a power of two from 32 to 65,536, or
    /// [`LPIS_OF_16_BITS`](super::LPIS_OF_16_BITS).
    LpiCount(u32),
    /// An ITS in a VM without LPIs.
    ItsWithoutLpis,
    /// More than 16 ITSes.
    ItsCount(usize),
    /// An ITS with a field out of range.
    Its(ItsId),
    /// A maintenance interrupt other than a PPI of the VM.
    Maintenance(IntId),
    /// More than 64 regions of redistributor frames.
    RegionCount(usize),
    /// Redistributor regions with room for only the given number of vCPUs, or an empty region.
    RedistributorRoom(usize),
    /// A VM with a GICv2 that has more than 8 vCPUs, or a `max_vcpus` of another number than its
    /// vCPUs.
    Gicv2Vcpus(usize),
    /// A VM with a GICv2, and with redistributors, LPIs, extended interrupts or `nassgi_cap`.
    NotOfGicv2,
    /// More than 8 GICv2m frames.
    V2mCount(usize),
    /// A GICv2m frame, by its first SPI, without an SPI, or with SPIs that the VM does not have, or
    /// that another frame has.
    V2mSpis(u32),
    /// Address of a frame without 64 KiB alignment; 4 KiB with a GICv2.
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
            Self::ExtendedSpiCount(n) => {
                write!(f, "{n} extended SPIs; give a multiple of 32 up to 1024")
            }
            Self::ExtendedPpiCount(n) => write!(f, "{n} extended PPIs; give 0, 32 or 64"),
            Self::LpiCount(n) => {
                write!(
                    f,
                    "{n} LPIs; give 0, a power of two from 32 to 65536, or 57344"
                )
            }
            Self::ItsWithoutLpis => write!(f, "an ITS needs LPIs: `lpis` is 0"),
            Self::ItsCount(n) => write!(f, "{n} ITSes; at most 16 are supported"),
            Self::Its(id) => write!(f, "ITS {}: bits or collections out of range", id.0),
            Self::Maintenance(id) => {
                write!(
                    f,
                    "maintenance interrupt {} is not a PPI of the VM",
                    id.raw()
                )
            }
            Self::RegionCount(n) => {
                write!(f, "{n} redistributor regions; at most 64 are supported")
            }
            Self::RedistributorRoom(n) => {
                write!(
                    f,
                    "redistributor regions have room for {n} vCPUs, or one is empty"
                )
            }
            Self::Gicv2Vcpus(n) => {
                write!(
                    f,
                    "a GICv2 has at most 8 vCPUs, all from the start; max_vcpus is {n}"
                )
            }
            Self::NotOfGicv2 => f.write_str(
                "a GICv2 has no redistributors, LPIs, extended interrupts and nASSGIcap",
            ),
            Self::V2mCount(n) => write!(f, "{n} GICv2m frames; at most 8 are supported"),
            Self::V2mSpis(first) => {
                write!(
                    f,
                    "the SPIs of a GICv2m frame, from {first}, are none or not its own"
                )
            }
            Self::Unaligned(base) => {
                write!(
                    f,
                    "the frame at {base:#x} is not 64 KiB aligned, or 4 KiB with a GICv2"
                )
            }
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
