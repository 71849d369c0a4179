//! Typed identifiers: interrupts, vCPUs, physical CPUs, affinities, devices and events.

use core::fmt;

/// An interrupt identifier in one of the architecture's ranges (IHI 0069, 2.2).
///
/// | kind | INTIDs | extended range of GICv3.1 |
/// |---|---|---|
/// | SGI | 0-15 | |
/// | PPI | 16-31 | 1056-1119 |
/// | SPI | 32-1019 | 4096-5119 |
/// | LPI | 8192 and above | |
///
/// # Invariants
/// The value is in one of the ranges of the table, and below 2^24: never one of the special INTIDs
/// 1020-1023, and never reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntId(u32);

/// The architecture's classes of interrupts, in the order of their INTIDs but for the extended
/// ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Software generated interrupt, private to a vCPU.
    Sgi = 0,
    /// Private peripheral interrupt, also extended.
    Ppi = 1,
    /// Shared peripheral interrupt, also extended, routed by `GICD_IROUTER<n>` or
    /// `GICD_IROUTER<n>E`.
    Spi = 2,
    /// Locality-specific peripheral interrupt, routed by an ITS.
    Lpi = 3,
}

impl Kind {
    /// Number of kinds, for tables indexed by `kind as usize`.
    pub const COUNT: usize = 4;
    /// All kinds, in INTID order.
    pub const ALL: [Self; Self::COUNT] = [Self::Sgi, Self::Ppi, Self::Spi, Self::Lpi];

    /// Returns the kind's name in lower case, for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgi => "sgi",
            Self::Ppi => "ppi",
            Self::Spi => "spi",
            Self::Lpi => "lpi",
        }
    }
}

impl IntId {
    /// Number of INTIDs private to a vCPU (SGIs and PPIs), without extended PPIs.
    pub const PRIVATE: u32 = 32;
    /// INTID of the first PPI, number 0 in an interrupt specifier of a device tree.
    pub const FIRST_PPI: u32 = 16;
    /// INTID of the first SPI, number 0 in an interrupt specifier of a device tree.
    pub const FIRST_SPI: u32 = 32;
    /// INTID after the last SPI, extended SPIs apart.
    pub const END_SPI: u32 = 1020;
    /// INTID of the first extended PPI, number 0 in an interrupt specifier of a device tree.
    pub const FIRST_EXTENDED_PPI: u32 = 1056;
    /// INTID after the last extended PPI.
    pub const END_EXTENDED_PPI: u32 = 1120;
    /// INTID of the first extended SPI, number 0 in an interrupt specifier of a device tree.
    pub const FIRST_EXTENDED_SPI: u32 = 4096;
    /// INTID after the last extended SPI.
    pub const END_EXTENDED_SPI: u32 = 5120;
    /// INTID of the first LPI.
    pub const FIRST_LPI: u32 = 8192;
    /// INTID after the largest 24-bit INTID, the widest that `ICH_VTR_EL2.IDbits` allows.
    pub const END: u32 = 1 << 24;

    /// Checks `raw`, a claim of the guest, say. Returns `None` for special and reserved INTIDs, and
    /// from 2^24 on.
    #[must_use]
    pub const fn new(raw: u32) -> Option<Self> {
        let known = raw < Self::END_SPI || (raw >= Self::FIRST_LPI && raw < Self::END);
        if known || Self(raw).is_extended() {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// Returns the SGI with INTID `n`, or `None` unless `n` is 0-15.
    #[must_use]
    pub const fn sgi(n: u32) -> Option<Self> {
        if n < 16 { Some(Self(n)) } else { None }
    }

    /// Returns the PPI with INTID `raw`, or `None` unless `raw` is 16-31 or 1056-1119.
    #[must_use]
    pub const fn ppi(raw: u32) -> Option<Self> {
        match Self(raw).kind() {
            Kind::Ppi => Some(Self(raw)),
            _ => None,
        }
    }

    /// Returns the SPI with INTID `raw`, or `None` unless `raw` is 32-1019 or 4096-5119.
    #[must_use]
    pub const fn spi(raw: u32) -> Option<Self> {
        match raw {
            Self::FIRST_SPI..Self::END_SPI => Some(Self(raw)),
            Self::FIRST_EXTENDED_SPI..Self::END_EXTENDED_SPI => Some(Self(raw)),
            _ => None,
        }
    }

    /// Returns the PPI or SPI with INTID `raw`, which the caller has checked to be one.
    pub(crate) const fn wired(raw: u16) -> Self {
        Self(raw as u32)
    }

    /// Returns the LPI with INTID `raw`, or `None` unless `raw` is 8192 to 2^24 - 1.
    #[must_use]
    pub const fn lpi(raw: u32) -> Option<Self> {
        if raw >= Self::FIRST_LPI && raw < Self::END {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// Returns the INTID as a number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Returns the architecture's class of the interrupt.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self.0 {
            0..16 => Kind::Sgi,
            16..32 => Kind::Ppi,
            32..1020 => Kind::Spi,
            Self::FIRST_EXTENDED_PPI..Self::END_EXTENDED_PPI => Kind::Ppi,
            Self::FIRST_EXTENDED_SPI..Self::END_EXTENDED_SPI => Kind::Spi,
            _ => Kind::Lpi,
        }
    }

    /// Returns true for an SGI or a PPI: each vCPU has an interrupt of its own with the INTID.
    #[must_use]
    pub const fn is_private(self) -> bool {
        matches!(self.kind(), Kind::Sgi | Kind::Ppi)
    }

    /// Returns true for an interrupt of the extended ranges of GICv3.1: a PPI 1056-1119 or an SPI
    /// 4096-5119.
    #[must_use]
    pub const fn is_extended(self) -> bool {
        matches!(
            self.0,
            Self::FIRST_EXTENDED_PPI..Self::END_EXTENDED_PPI
                | Self::FIRST_EXTENDED_SPI..Self::END_EXTENDED_SPI
        )
    }
}

impl fmt::Debug for IntId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind().name(), self.0)
    }
}

/// Index of a vCPU in its VM, below [`VcpuId::MAX_COUNT`], in the order the vCPUs were added.
///
/// The index is the processor number of `GICR_TYPER` and of the ITS commands, not an affinity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VcpuId(pub(crate) u16);

impl VcpuId {
    /// Most vCPUs that a VM may have.
    pub const MAX_COUNT: usize = 4095;

    /// Returns the vCPU with index `n`, or `None` unless `n` is below [`VcpuId::MAX_COUNT`].
    #[must_use]
    pub const fn new(n: usize) -> Option<Self> {
        if n < Self::MAX_COUNT {
            Some(Self(n as u16))
        } else {
            None
        }
    }

    /// Returns the index, 0 to 4,094.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A physical CPU, 0-65533 by the embedder's numbering.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u16);

impl CpuId {
    /// First number that names no CPU. A residency word has 16 bits for a CPU, and needs two
    /// values for the absence of one.
    pub(crate) const FIRST_RESERVED: u16 = 0xfffe;
}

/// A processor's affinity, packed as `Aff3:Aff2:Aff1:Aff0`, eight bits each (DDI 0487,
/// `MPIDR_EL1`; IHI 0069, 2.3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Affinity(u32);

impl Affinity {
    /// Creates an affinity from its four levels.
    #[must_use]
    pub const fn new(aff3: u8, aff2: u8, aff1: u8, aff0: u8) -> Self {
        Self(u32::from_be_bytes([aff3, aff2, aff1, aff0]))
    }

    /// Creates an affinity from the packed form, `Aff3` in bits 31:24, like `GICR_TYPER` bits
    /// 63:32.
    #[must_use]
    pub const fn from_packed(packed: u32) -> Self {
        Self(packed)
    }

    /// Creates an affinity from the layout of `MPIDR_EL1` and `GICD_IROUTER<n>`: `Aff3` in bits
    /// 39:32, the other levels in bits 23:0. Ignores all other bits.
    #[must_use]
    pub const fn from_mpidr(value: u64) -> Self {
        Self(((value >> 32) as u32) << 24 | (value as u32 & 0x00ff_ffff))
    }

    /// Returns the packed form, `Aff3` in bits 31:24.
    #[must_use]
    pub const fn packed(self) -> u32 {
        self.0
    }

    /// Returns the layout of `MPIDR_EL1` and `GICD_IROUTER<n>`: `Aff3` in bits 39:32, the other
    /// levels in bits 23:0.
    #[must_use]
    pub const fn mpidr(self) -> u64 {
        ((self.0 as u64 >> 24) << 32) | (self.0 as u64 & 0x00ff_ffff)
    }

    /// Returns `Aff3`, `Aff2`, `Aff1` and `RS` in the layout of `ICC_SGI<n>R_EL1` (IHI 0069,
    /// 12.2.19). The up to 16 targets of an SGI share these fields.
    #[must_use]
    pub(crate) const fn sgi_group(self) -> u64 {
        let [aff3, aff2, aff1, aff0] = self.0.to_be_bytes();
        (aff3 as u64) << 48 | (aff0 as u64 >> 4) << 44 | (aff2 as u64) << 32 | (aff1 as u64) << 16
    }

    /// Returns `Aff0`, the level that an SGI's target list names.
    #[must_use]
    pub const fn aff0(self) -> u8 {
        self.0 as u8
    }
}

/// A DeviceID within `GITS_TYPER.Devbits` of its ITS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u32);

/// An EventID within `GITS_TYPER.ID_bits` of its ITS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId(pub u32);

/// Identifier of a collection (`ICID`), 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Icid(pub u16);

/// Index of an ITS in [`Config::its`](crate::Config::its).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ItsId(pub u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_and_reserved_intids_are_refused() {
        let special = 1020..1024;
        let reserved = [1024, 1055, 1120, 4095, 5120, 8191, 1 << 24, u32::MAX];
        for raw in special.chain(reserved) {
            assert_eq!(IntId::new(raw), None, "{raw}");
            assert_eq!((IntId::ppi(raw), IntId::spi(raw)), (None, None), "{raw}");
        }

        for (raw, kind, extended) in [
            (0, Kind::Sgi, false),
            (15, Kind::Sgi, false),
            (16, Kind::Ppi, false),
            (31, Kind::Ppi, false),
            (32, Kind::Spi, false),
            (1019, Kind::Spi, false),
            (1056, Kind::Ppi, true),
            (1119, Kind::Ppi, true),
            (4096, Kind::Spi, true),
            (5119, Kind::Spi, true),
            (8192, Kind::Lpi, false),
        ] {
            let intid = IntId::new(raw).unwrap();
            assert_eq!(
                (intid.kind(), intid.is_extended()),
                (kind, extended),
                "{raw}"
            );
            let private = matches!(kind, Kind::Sgi | Kind::Ppi);
            assert_eq!(intid.is_private(), private, "{raw}");
            assert_eq!(IntId::ppi(raw).is_some(), kind == Kind::Ppi, "{raw}");
            assert_eq!(IntId::spi(raw).is_some(), kind == Kind::Spi, "{raw}");
        }
    }

    #[test]
    fn affinity_layouts_agree() {
        let affinity = Affinity::new(4, 3, 2, 1);
        assert_eq!(affinity.packed(), 0x0403_0201);
        assert_eq!(affinity.mpidr(), 0x04_0003_0201);
        assert_eq!(
            Affinity::from_mpidr(0x04_8003_0201 & 0x04_0003_0201),
            affinity
        );
        assert_eq!(affinity.aff0(), 1);
    }
}
