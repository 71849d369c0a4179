//! State of the distributor.

use alloc::boxed::Box;

use crate::fixed::Fixed;
use crate::intid::{Affinity, IntId, VcpuId};
use crate::sync::Ordering::Acquire;
use crate::sync::{AtomicU32, AtomicU64};
use crate::vm::ap_list::{Class, Classes};
use crate::vm::irq::{Irq, LEVEL};

/// Everybody has been told.
const TOLD: u32 = u32::MAX / 2;

/// No sweep is going on.
pub(crate) const NOT_SWEEPING: u64 = u32::MAX as u64;

/// State of the distributor.
pub(crate) struct Distributor {
    /// `GICD_CTLR.EnableGrp0` and `EnableGrp1`.
    pub(crate) groups: AtomicU32,
    /// vCPUs that may not have taken their list registers back for us.
    pub(crate) rwp_vcpus: AtomicU32,
    /// Next vCPU to tell of a change of the group enables; at least [`TOLD`] when there is none.
    pub(crate) telling: AtomicU32,
    /// CPUs that are telling a slice of them.
    pub(crate) tellers: AtomicU32,
    pub(crate) spis: Fixed<Irq>,
    /// `GICD_IROUTER<n>` as written, by SPI.
    pub(crate) routers: Box<[AtomicU64]>,
    /// `GICR_PROPBASER`, common to all redistributors (`GICR_TYPER.CommonLPIAff` = 0).
    pub(crate) propbaser: AtomicU64,
    /// How far `GICR_INVALLR` has come; see [`super::lpi_tables`].
    pub(crate) sweep: AtomicU64,
    /// CPUs that are reading a slice of them.
    pub(crate) sweepers: AtomicU32,
    /// vCPUs whose pending table is being read, a bit each.
    pub(crate) scanning: [AtomicU64; VcpuId::MAX_COUNT / 64],
}

impl Distributor {
    pub(crate) fn new(spis: u32, first: Option<Affinity>) -> Self {
        let intids =
            || (IntId::FIRST_SPI..IntId::FIRST_SPI.saturating_add(spis)).filter_map(IntId::spi);
        // The reset value of IROUTER is UNKNOWN; here everything goes to vCPU 0.
        let router = first.map_or(0, Affinity::mpidr);
        Self {
            groups: AtomicU32::new(0),
            rwp_vcpus: AtomicU32::new(0),
            telling: AtomicU32::new(TOLD),
            tellers: AtomicU32::new(0),
            spis: intids()
                .map(|intid| Irq::new(intid, LEVEL, VcpuId::new(0)))
                .collect(),
            routers: intids().map(|_| AtomicU64::new(router)).collect(),
            propbaser: AtomicU64::new(0),
            sweep: AtomicU64::new(NOT_SWEEPING),
            sweepers: AtomicU32::new(0),
            scanning: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    #[inline]
    pub(crate) fn spi(&self, intid: IntId) -> Option<&Irq> {
        self.spis.get(Self::index(intid)?)
    }

    /// Where an SPI is in `spis` and `routers`.
    #[inline]
    pub(crate) fn index(intid: IntId) -> Option<usize> {
        Some(intid.raw().checked_sub(IntId::FIRST_SPI)? as usize)
    }

    pub(crate) fn spis(&self) -> &[Irq] {
        &self.spis
    }

    /// `GICD_CTLR.EnableGrp0` in bit 0, and `EnableGrp1` in bit 1.
    #[inline]
    pub(crate) fn group_enables(&self) -> u32 {
        // Acquire: pairs with `write_group_enables`.
        self.groups.load(Acquire)
    }

    /// The classes that `GICD_CTLR` lets through to list registers.
    #[inline]
    pub(crate) fn open_groups(&self) -> Classes {
        let groups = self.group_enables();
        Classes::NONE
            .with(Class::Group0, groups & 1 != 0)
            .with(Class::Group1, groups & 2 != 0)
    }

    /// Both groups enabled, as a guest's `GICD_CTLR` write would.
    #[cfg(test)]
    pub(crate) fn open_all_groups(&self) {
        // Release: pairs with `open_groups`.
        self.groups.store(3, crate::sync::Ordering::Release);
    }
}
