//! State of a GICv2 (IHI 0048) that a GICv3 does not have: the sources of SGIs, and two fields of
//! `GICC_CTLR`. All else is where a GICv3 has it: SPIs and enables in the distributor, priority
//! mask, binary points and active priorities in the registers `ICH_*_EL2`.
//!
//! # Sources of SGIs
//! An SGI of a GICv2 comes from a CPU, and a vCPU that acknowledges it reads which: the SGI is
//! pending once for each source (IHI 0048, 3.2.2, 4.3.15). The state word of the SGI is pending
//! while a source is, and the sources are beside the word:
//! 1. A sender adds its bit and then raises the SGI. Both are atomic, and any CPU may do so.
//! 2. The vCPU's own CPU takes a source at the acknowledge, and raises the SGI again if it finds
//!    another source left. Nobody else takes sources away: `GICD_CPENDSGIR<n>` is banked.
//! 3. A sender may be late: the vCPU may have taken the sender's bit together with an earlier raise
//!    of another sender. Then the SGI is pending without a source, and the acknowledge passes it
//!    by.
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

use crate::config::MAX_GICV2_VCPUS;
use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::{AtomicU8, AtomicU32};

/// `GICC_CTLR.AckCtl`: `GICC_IAR` acknowledges interrupts of Group 1 too.
pub(crate) const CTLR_ACK_CTL: u32 = 1 << 2;
/// `GICC_CTLR.FIQEn`: interrupts of Group 0 are signalled as FIQ.
pub(crate) const CTLR_FIQ_EN: u32 = 1 << 3;

/// Number of SGIs.
pub(crate) const SGIS: usize = IntId::FIRST_PPI as usize;

/// State of a VM's GICv2.
pub(crate) struct Gicv2([Interface; MAX_GICV2_VCPUS]);

/// State of a vCPU's CPU interface, and of its SGIs.
pub(crate) struct Interface {
    /// By SGI: the vCPUs, a bit each, that the SGI is pending from.
    pending: [AtomicU8; SGIS],
    /// [`CTLR_ACK_CTL`] and [`CTLR_FIQ_EN`].
    control: AtomicU32,
}

impl Gicv2 {
    /// Makes the state after reset.
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| Interface {
            pending: core::array::from_fn(|_| AtomicU8::new(0)),
            control: AtomicU32::new(0),
        }))
    }

    /// Returns the interface of a vCPU.
    pub(crate) fn interface(&self, vcpu: VcpuId) -> Option<&Interface> {
        self.0.get(vcpu.index())
    }

    /// Returns the interfaces of the first `count` vCPUs.
    pub(crate) fn interfaces(&self, count: usize) -> impl Iterator<Item = &Interface> {
        self.0.iter().take(count)
    }

    /// Resets all interfaces, and takes the sources of all SGIs away. The vCPUs are claimed.
    pub(crate) fn reset(&self) {
        for interface in &self.0 {
            interface.set_control(0);
            for sources in &interface.pending {
                // Relaxed: the claim of the vCPUs orders it.
                sources.store(0, Relaxed);
            }
        }
    }

    /// Resets the interface of a vCPU that is powered off, on the CPU that has the vCPU. SGIs stay
    /// pending, as they do in the distributor.
    pub(crate) fn power_off(&self, vcpu: VcpuId) {
        if let Some(interface) = self.interface(vcpu) {
            interface.set_control(0);
        }
    }
}

impl Interface {
    /// Returns AckCtl and FIQEn, as in `GICC_CTLR`. On the CPU that has the vCPU, or with the vCPU
    /// claimed.
    pub(crate) fn control(&self) -> u32 {
        // Relaxed: only the vCPU's own CPU writes it.
        self.control.load(Relaxed)
    }

    /// Sets AckCtl and FIQEn. On the CPU that has the vCPU, or with the vCPU claimed.
    pub(crate) fn set_control(&self, control: u32) {
        // Relaxed: only the vCPU's own CPU reads it.
        self.control
            .store(control & (CTLR_ACK_CTL | CTLR_FIQ_EN), Relaxed);
    }

    /// Returns `ICH_VMCR_EL2` with AckCtl and FIQEn, which the hardware does not keep.
    pub(crate) fn with_control(&self, vmcr: u64) -> u64 {
        vmcr & !u64::from(CTLR_ACK_CTL | CTLR_FIQ_EN) | u64::from(self.control())
    }

    /// Returns the sources of every SGI.
    pub(crate) fn all_sources(&self) -> [u8; SGIS] {
        core::array::from_fn(|sgi| self.sources(sgi))
    }

    /// Returns the vCPUs, a bit each, that SGI `sgi` is pending from.
    pub(crate) fn sources(&self, sgi: usize) -> u8 {
        // Acquire: pairs with the AcqRel in `add`: after a look at the SGI's state word that shows a
        // sender's raise, the sender's bit is seen.
        self.pending
            .get(sgi)
            .map_or(0, |sources| sources.load(Acquire))
    }

    /// Adds sources of SGI `sgi`; the caller then raises the SGI.
    pub(crate) fn add(&self, sgi: usize, sources: u8) {
        if let Some(pending) = self.pending.get(sgi) {
            // AcqRel: pairs with itself and with the Acquire in `sources`: the vCPU sees what the
            // sender wrote before.
            pending.fetch_or(sources, AcqRel);
        }
    }

    /// Takes sources of SGI `sgi` away. Returns those that are left. On the CPU that has the vCPU.
    pub(crate) fn remove(&self, sgi: usize, sources: u8) -> u8 {
        self.pending.get(sgi).map_or(0, |pending| {
            // AcqRel: as in `add`.
            pending.fetch_and(!sources, AcqRel) & !sources
        })
    }

    /// Takes the lowest source of SGI `sgi`. Returns the number of the source's vCPU, and whether
    /// another source is left; `None` without a source. On the CPU that has the vCPU.
    pub(crate) fn take(&self, sgi: usize) -> Option<(u32, bool)> {
        let sources = self.sources(sgi);
        if sources == 0 {
            return None;
        }

        let source = sources.trailing_zeros();
        let left = self.remove(sgi, sources & sources.wrapping_neg());
        Some((source, left != 0))
    }
}
