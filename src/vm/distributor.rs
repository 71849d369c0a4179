//! State of the distributor (IHI 0069, 12.9). [`crate::mmio::gicd`] has its registers.
// A guest's numbers are claims: no value of theirs may stop the hypervisor here.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use alloc::boxed::Box;

use crate::config::{Config, LPIS_OF_16_BITS};
use crate::fixed::FixedSlice;
use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU64, Slices};
use crate::vm::ap_list::{Class, Classes};
use crate::vm::broadcasts::Broadcasts;
use crate::vm::irq::{Irq, LEVEL};
use crate::vm::rwp::{Awaited, Control, Looks};

/// `GICD_CTLR.nASSGIreq`, in [`Distributor::control`] as in the register.
pub(crate) const NO_ACTIVE_SGIS: u32 = 1 << 8;

/// Returns `GICD_TYPER` of a GICv3 (12.9). Cases `ident.typer_intid_bits`,
/// `ident.typer_lpis_agree`, `ident.typer_num_lpis`, `ident.gicd_typer_is_read_only`,
/// `extended.typer`.
pub(crate) fn typer(config: &Config) -> u64 {
    let less_one = |count: u32| u64::from(count.wrapping_sub(1));
    // num_LPIs: 2^(n + 1) LPIs; 0 for all LPIs of IDbits, as on most implementations. Linux warns
    // of a number beyond the LPIs of 16 bits of INTID.
    let num_lpis = match config.lpis {
        0 | LPIS_OF_16_BITS => 0,
        lpis => less_one(lpis.trailing_zeros()),
    };
    // ESPI_range: "Maximum Extended SPI INTID is 32 * (ESPI_range + 1) + 4095."
    let extended = match config.extended_spis {
        0 => 0,
        spis => 1 << 8 | less_one(spis / 32) << 27,
    };

    // ITLinesNumber, num_LPIs, MBIS, LPIS, IDbits, A3V, No1N, RSS.
    less_one(config.spi_end().div_ceil(32))
        | extended
        | num_lpis << 11
        | 1 << 16
        | u64::from(config.lpis != 0) << 17
        | less_one(config.intid_bits()) << 19
        | 1 << 24
        | 1 << 25
        | 1 << 26
}

/// A range of SPIs, without holes.
struct Range {
    /// INTID of the first.
    first: u32,
    spis: FixedSlice<Irq>,
    /// By SPI: `GICD_IROUTER<n>` or `GICD_IROUTER<n>E` as written; the byte in `GICD_ITARGETSR<n>`
    /// of a GICv2.
    routers: Box<[AtomicU64]>,
}

impl Range {
    /// Makes `count` SPIs after reset, from INTID `first` up, routed to vCPU 0 by `router`, or to
    /// none. Allocates nothing for none.
    fn new(first: u32, count: u32, router: Option<u64>) -> Self {
        // The reset value of GICD_IROUTER<n> is UNKNOWN.
        let target = router.and(VcpuId::new(0));
        let router = router.unwrap_or(0);
        let intids = || (first..first.saturating_add(count)).filter_map(IntId::spi);
        Self {
            first,
            spis: intids()
                .map(|intid| Irq::new(intid, LEVEL, target))
                .collect(),
            routers: intids().map(|_| AtomicU64::new(router)).collect(),
        }
    }

    /// Returns the index of an SPI: beyond the SPIs for the INTIDs above the range.
    #[inline]
    fn index(&self, intid: IntId) -> Option<usize> {
        Some(intid.raw().checked_sub(self.first)? as usize)
    }

    /// Returns an SPI of the range and the router.
    #[inline]
    fn router(&self, intid: IntId) -> Option<(&Irq, &AtomicU64)> {
        let index = self.index(intid)?;
        Some((self.spis.get(index)?, self.routers.get(index)?))
    }

    /// Returns each SPI with the router.
    fn routed(&self) -> impl Iterator<Item = (&Irq, &AtomicU64)> {
        self.spis.iter().zip(&self.routers)
    }
}

/// State of the distributor, and of the redistributor registers common to the VM.
pub(crate) struct Distributor {
    /// `GICD_CTLR.EnableGrp0` in bit 0, `EnableGrp1` in bit 1, and [`NO_ACTIVE_SGIS`]; and the
    /// writes in progress.
    pub(crate) control: Control,
    /// vCPUs to notify of a write of the group enables.
    pub(crate) notifications: Slices,
    /// Number of vCPUs that `GICD_CTLR.RWP` may wait for: [`rwp`](super::rwp).
    pub(crate) rwp_vcpus: Awaited,
    /// vCPUs to look at before `GICD_CTLR.RWP` reads 0.
    pub(crate) rwp_looks: Looks,
    pub(crate) broadcasts: Broadcasts,
    /// `GICD_TYPER` of a GICv3, made once and not at each read.
    pub(crate) typer: u64,
    /// The SPIs, from INTID 32 on.
    spis: Range,
    /// The extended SPIs, from INTID 4096 on.
    extended: Range,
    /// `GICR_PROPBASER`, common to all redistributors (`GICR_TYPER.CommonLPIAff` = 0).
    pub(crate) propbaser: AtomicU64,
    /// LPIs with a configuration to read again (`GICR_INVALLR`).
    pub(crate) config_reload: Slices,
    /// vCPUs with a pending table that may have slices to claim, a bit each.
    pub(crate) scanning: Box<[AtomicU64]>,
}

impl Distributor {
    /// Makes the distributor of a VM with `config` after reset, with the router `first` of every
    /// SPI: each is routed to vCPU 0, or to none without a value.
    pub(crate) fn new(config: &Config, first: Option<u64>) -> Self {
        Self {
            control: Control::default(),
            notifications: Slices::new(),
            rwp_vcpus: Awaited::default(),
            rwp_looks: Looks::default(),
            broadcasts: Broadcasts::new(),
            typer: typer(config),
            spis: Range::new(IntId::FIRST_SPI, config.spis, first),
            extended: Range::new(IntId::FIRST_EXTENDED_SPI, config.extended_spis, first),
            propbaser: AtomicU64::new(0),
            config_reload: Slices::new(),
            scanning: (0..config.max_vcpus.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
        }
    }

    /// Resets the registers, with `first` as every SPI's router. Leaves the interrupts alone.
    pub(crate) fn reset(&self, first: Option<u64>) {
        self.control.reset();
        // Relaxed: ordered by the caller's claim of the vCPUs, as the routers are.
        self.propbaser.store(0, Relaxed);
        let router = first.unwrap_or(0);
        for (_, register) in self.all_routed() {
            register.store(router, Relaxed);
        }
        for word in &self.scanning {
            // Relaxed: a hint; a table without slices is passed over.
            word.store(0, Relaxed);
        }
    }

    /// Returns the SPI `intid`, extended or not.
    #[inline]
    pub(crate) fn spi(&self, intid: IntId) -> Option<&Irq> {
        match self.spis.spis.get(self.spis.index(intid)?) {
            Some(irq) => Some(irq),
            None => self.extended_spi(intid),
        }
    }

    /// Returns the extended SPI `intid`. The INTIDs of the extended range are beyond all others.
    #[cold]
    fn extended_spi(&self, intid: IntId) -> Option<&Irq> {
        self.extended.spis.get(self.extended.index(intid)?)
    }

    /// Returns the SPI `intid` and the router: `GICD_IROUTER<n>`, or `GICD_IROUTER<n>E` of an
    /// extended SPI.
    pub(crate) fn router(&self, intid: IntId) -> Option<(&Irq, &AtomicU64)> {
        match self.spis.router(intid) {
            Some(found) => Some(found),
            None => self.extended_router(intid),
        }
    }

    /// Returns the extended SPI `intid` and `GICD_IROUTER<n>E`.
    #[cold]
    fn extended_router(&self, intid: IntId) -> Option<(&Irq, &AtomicU64)> {
        self.extended.router(intid)
    }

    /// Returns the SPIs from INTID 32 on, without extended SPIs.
    pub(crate) fn spis(&self) -> &[Irq] {
        &self.spis.spis
    }

    /// Returns the extended SPIs, from INTID 4096 on.
    pub(crate) fn extended_spis(&self) -> &[Irq] {
        &self.extended.spis
    }

    /// Returns every SPI, extended SPIs last.
    pub(crate) fn all_spis(&self) -> impl Iterator<Item = &Irq> {
        self.spis().iter().chain(self.extended_spis())
    }

    /// Returns each SPI with `GICD_IROUTER<n>`, without extended SPIs.
    pub(crate) fn routed(&self) -> impl Iterator<Item = (&Irq, &AtomicU64)> {
        self.spis.routed()
    }

    /// Returns each extended SPI with `GICD_IROUTER<n>E`.
    pub(crate) fn extended_routed(&self) -> impl Iterator<Item = (&Irq, &AtomicU64)> {
        self.extended.routed()
    }

    /// Returns every SPI with the router, extended SPIs last.
    pub(crate) fn all_routed(&self) -> impl Iterator<Item = (&Irq, &AtomicU64)> {
        self.routed().chain(self.extended_routed())
    }

    /// Returns `GICD_CTLR.EnableGrp0` in bit 0 and `EnableGrp1` in bit 1, with other bits above.
    #[inline]
    pub(crate) fn group_enables(&self) -> u32 {
        self.control.get()
    }

    /// Returns true if the guest has asked for SGIs without an active state:
    /// `GICD_CTLR.nASSGIreq`.
    pub(crate) fn no_active_sgis(&self) -> bool {
        self.control.get() & NO_ACTIVE_SGIS != 0
    }

    /// Returns the classes of the groups that `GICD_CTLR` enables.
    #[inline]
    pub(crate) fn enabled_groups(&self) -> Classes {
        let groups = self.group_enables();
        Classes::NONE
            .with(Class::Group0, groups & 1 != 0)
            .with(Class::Group1, groups & 2 != 0)
    }

    /// Enables both groups, as a guest's write of `GICD_CTLR` would.
    #[cfg(test)]
    pub(crate) fn open_all_groups(&self) {
        let _ = self.control.write(3);
    }
}
