//! The distributor: SPIs and its registers.

use alloc::boxed::Box;

use crate::Vgic;
use crate::ap_list::{Class, Classes};
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::irq::{Irq, LEVEL};
use crate::sync::Ordering::{AcqRel, Acquire};
use crate::sync::{AtomicU32, AtomicU64};

/// State of the distributor.
pub(crate) struct Distributor {
    /// `GICD_CTLR.EnableGrp0` and `EnableGrp1`.
    groups: AtomicU32,
    /// vCPUs that have not yet taken their list registers back for us.
    recalls: AtomicU32,
    spis: Box<[Irq]>,
    /// `GICD_IROUTER<n>` as written, by SPI.
    pub(crate) routers: Box<[AtomicU64]>,
}

impl Distributor {
    pub(crate) fn new(spis: u32) -> Self {
        let intids = || (IntId::FIRST_SPI..IntId::FIRST_SPI + spis).filter_map(IntId::spi);
        Self {
            groups: AtomicU32::new(0),
            recalls: AtomicU32::new(0),
            spis: intids()
                .map(|intid| Irq::new(intid, LEVEL, VcpuId::new(0)))
                .collect(),
            routers: intids().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    pub(crate) fn spi(&self, intid: IntId) -> Option<&Irq> {
        let index = intid.raw().checked_sub(IntId::FIRST_SPI)?;
        self.spis.get(index as usize)
    }

    pub(crate) fn spis(&self) -> &[Irq] {
        &self.spis
    }

    /// The classes that `GICD_CTLR` lets through to list registers.
    #[inline]
    pub(crate) fn open_groups(&self) -> Classes {
        // Acquire: pairs with the write of GICD_CTLR.
        let groups = self.groups.load(Acquire);
        Classes::NONE
            .with(Class::Group0, groups & 1 != 0)
            .with(Class::Group1, groups & 2 != 0)
    }

    /// Both groups enabled, as a guest's `GICD_CTLR` write would.
    #[cfg(test)]
    pub(crate) fn open_all_groups(&self) {
        self.groups.store(3, crate::sync::Ordering::Release);
    }

    /// One vCPU fewer to wait for: `GICD_CTLR.RWP`.
    pub(crate) fn recalled(&self) {
        // AcqRel: pairs with the register writes that count up.
        self.recalls.fetch_sub(1, AcqRel);
    }
}

impl<H: Host> Vgic<H> {
    /// Tells one slice of vCPUs of a change of `GICD_CTLR`.
    pub(crate) fn advance_groups(&self, pin: &Pin<'_>) {
        let _ = pin;
    }
}
