//! State of a GICv2 (IHI 0048) that a GICv3 does not have: the sources of SGIs, what each CPU
//! interface would take, and two fields of `GICC_CTLR`. All else is where a GICv3 has it: SPIs and
//! enables in the distributor, priority mask, binary points and active priorities in the registers
//! `ICH_*_EL2`.
//!
//! # Sources of SGIs
//! An SGI of a GICv2 comes from a CPU, the *source*, and the acknowledging vCPU reads its number:
//! the SGI is pending once for each source (IHI 0048, 3.2.2, 4.3.15). The state word of the SGI is
//! pending while a source is, and the sources are beside the word:
//! 1. A sender adds its bit and then raises the SGI. Both are atomic, and any CPU may do so.
//! 2. The vCPU's own CPU takes a source at the acknowledge, and raises the SGI again if it finds
//!    another source left. Nobody else takes sources away: `GICD_CPENDSGIR<n>` is banked.
//! 3. A sender may be late: the vCPU may have taken the sender's bit together with an earlier raise
//!    of another sender. Then the SGI is pending without a source, and the acknowledge passes it
//!    by.
//!
//! # SPIs with several targets
//! One of the CPUs of `GICD_ITARGETSR<n>` takes the SPI (the 1-N model, IHI 0048, 1.4.2). A CPU
//! masking the SPI, or busy with a more urgent interrupt, does not keep the others from taking the
//! SPI: each interface publishes its mask, enables and running priority in [`Interface::opening`],
//! and [`delivery::routing`](crate::delivery::routing) routes the SPIs by these values, after each
//! change. For a bound on the time of an access, [`MOST_SHARED`] SPIs are routed so. Others go to
//! the lowest target.
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
use crate::cpu_interface::priority;
use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Mutant, fence, mutant};

/// `GICC_CTLR.AckCtl`: `GICC_IAR` acknowledges interrupts of Group 1 too.
pub(crate) const CTLR_ACK_CTL: u32 = 1 << 2;
/// `GICC_CTLR.FIQEn`: interrupts of Group 0 are signalled as FIQ.
pub(crate) const CTLR_FIQ_EN: u32 = 1 << 3;

/// Number of SGIs.
pub(crate) const SGIS: usize = IntId::FIRST_PPI as usize;

/// State of a VM's GICv2.
pub(crate) struct Gicv2 {
    interfaces: [Interface; MAX_GICV2_VCPUS],
    /// SPIs with several targets, a bit each from INTID 32 on.
    shared: [AtomicU64; SHARED_WORDS],
}

/// Most SPIs with several targets routed by the state of the CPU interfaces. CPUs adding SPIs at
/// the same time may exceed the number, by one each.
const MOST_SHARED: u32 = 64;

/// Words of [`Gicv2::shared`].
const SHARED_WORDS: usize = (IntId::END_SPI - IntId::FIRST_SPI).div_ceil(u64::BITS) as usize;

/// State of a vCPU's CPU interface, and of its SGIs.
pub(crate) struct Interface {
    /// By SGI: the vCPUs, a bit each, that the SGI is pending from.
    pending: [AtomicU8; SGIS],
    /// [`CTLR_ACK_CTL`] and [`CTLR_FIQ_EN`].
    control: AtomicU32,
    /// The group enables, the mask and the binary points, as in `ICH_VMCR_EL2`, in bits 31:0, and
    /// the running priority in bits 39:32. 0 for an interface that takes nothing.
    opening: AtomicU64,
}

impl Gicv2 {
    /// Makes the state after reset.
    pub(crate) fn new() -> Self {
        Self {
            interfaces: core::array::from_fn(|_| Interface {
                pending: core::array::from_fn(|_| AtomicU8::new(0)),
                control: AtomicU32::new(0),
                opening: AtomicU64::new(0),
            }),
            shared: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Returns the interface of a vCPU.
    pub(crate) fn interface(&self, vcpu: VcpuId) -> Option<&Interface> {
        self.interfaces.get(vcpu.index())
    }

    /// Returns the interfaces of the first `count` vCPUs.
    pub(crate) fn interfaces(&self, count: usize) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().take(count)
    }

    /// Resets all interfaces, and takes the sources of all SGIs away. The vCPUs are claimed.
    pub(crate) fn reset(&self) {
        for word in &self.shared {
            // Relaxed: the claim of the vCPUs orders it.
            word.store(0, Relaxed);
        }
        for interface in &self.interfaces {
            interface.set_control(0);
            interface.publish(0, 0);
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
            interface.publish(0, 0);
        }
    }

    /// Notes whether the SPI `intid` has several targets. Returns false if it has not, or if too
    /// many others have.
    pub(crate) fn set_shared(&self, intid: IntId, on: bool) -> bool {
        let place = intid.raw().saturating_sub(IntId::FIRST_SPI);
        let Some(word) = self.shared.get((place / u64::BITS) as usize) else {
            return false;
        };

        let bit = 1 << (place % u64::BITS);
        // Relaxed, all: the fence below gives the order, and concurrent writers of one register are
        // the guest's race.
        word.fetch_and(!bit, Relaxed);
        let count = |word: &AtomicU64| word.load(Relaxed).count_ones();
        let shared: u32 = self.shared.iter().map(count).sum();
        if !on || shared >= MOST_SHARED {
            return false;
        }

        word.fetch_or(bit, Relaxed);
        // SeqCst: pairs with the fence in `publish`: an interface that changes finds the bit, or
        // the caller, who looks at the interfaces next, finds the change.
        fence(SeqCst);
        true
    }

    /// Returns the SPIs with several targets.
    pub(crate) fn shared(&self) -> impl Iterator<Item = IntId> {
        let places = (0..).step_by(u64::BITS as usize);
        self.shared.iter().zip(places).flat_map(|(word, first)| {
            // Relaxed: the fence in `publish` gives the order.
            let mut left = word.load(Relaxed);
            core::iter::from_fn(move || {
                let place = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                let intid = IntId::FIRST_SPI.saturating_add(place).saturating_add(first);
                (place < u64::BITS).then(|| IntId::spi(intid)).flatten()
            })
        })
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

    /// Publishes the state of the interface. Returns true for a change. On the CPU that has the
    /// vCPU, or with the vCPU claimed.
    pub(crate) fn publish(&self, vmcr: u64, running_priority: u8) -> bool {
        let opening = vmcr & u64::from(u32::MAX) | u64::from(running_priority) << u32::BITS;
        // Relaxed: only this CPU writes it, and the fence gives the order.
        let changed = self.opening.load(Relaxed) != opening;
        if changed {
            self.opening.store(opening, Relaxed);
            // SeqCst: pairs with that of another interface, and with `Gicv2::set_shared`: of two
            // CPUs that change at once, one at least sees both changes.
            if !mutant(Mutant::PublishedWithoutFence) {
                fence(SeqCst);
            }
        }
        changed
    }

    /// Returns true if the interface would take a pending interrupt of the priority and group: the
    /// group is enabled, and neither the mask nor the running priority holds the interrupt back.
    pub(crate) fn would_take(&self, priority: u8, group1: bool) -> bool {
        // Relaxed: the fence in `publish` gives the order.
        let opening = self.opening.load(Relaxed);
        let running = (opening >> u32::BITS) as u8;

        priority::signals(opening & u64::from(u32::MAX), running, priority, group1)
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
        // Acquire: pairs with the Release in `add`: the vCPU that takes a source sees what the
        // sender wrote before.
        self.pending
            .get(sgi)
            .map_or(0, |sources| sources.load(Acquire))
    }

    /// Adds sources of SGI `sgi`; the caller then raises the SGI.
    pub(crate) fn add(&self, sgi: usize, sources: u8) {
        if let Some(pending) = self.pending.get(sgi) {
            // Release: publishes what the sender wrote before; pairs with the Acquire in `sources`.
            pending.fetch_or(sources, Release);
        }
    }

    /// Takes sources of SGI `sgi` away. Returns the remaining ones. On the CPU that has the vCPU.
    pub(crate) fn remove(&self, sgi: usize, sources: u8) -> u8 {
        self.pending.get(sgi).map_or(0, |pending| {
            // Relaxed: no more is seen than the bits; a read-modify-write leaves what the senders
            // have published to a later look.
            pending.fetch_and(!sources, Relaxed) & !sources
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
