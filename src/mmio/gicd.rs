//! The distributor (IHI 0069, 12.9): SPIs and what concerns the whole VM.
//!
//! One security state (`GICD_CTLR.DS` = 1) and affinity routing only (`ARE` = 1, RAO/WI): the fields of
//! SGIs and PPIs in banked registers are RAZ/WI here and live in the redistributors.
//!
//! `GICD_CTLR.RWP` is real: it reads 1 while a vCPU that was in the guest still has an interrupt in a list
//! register that a write has disabled, and while vCPUs are still to be told of a change of the group
//! enables, which happens in slices.

use alloc::boxed::Box;
use core::array;

use crate::Vgic;
use crate::ap_list::{Class, Classes};
use crate::cpu_interface::CpuInterface;
use crate::epoch::CpuPin;
use crate::fixed::Fixed;
use crate::host::Host;
use crate::intid::{Affinity, IntId, VcpuId};
use crate::irq::{Irq, LEVEL};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::{AtomicU32, AtomicU64, fence};
use crate::vcpu::residency::RECALL;
use crate::vcpu::{AWAITED_BY_GICD, Vcpu};
use crate::vgic::DEFERRED_GROUPS;

use super::bank::{Bank, offset};
use super::lpi_tables::NOT_SWEEPING;
use super::{Access, IIDR, Width, identification, one_less, read_half, write_half};

const CTLR: u64 = 0x0000;
const TYPER: u64 = 0x0004;
const IIDR_OFFSET: u64 = 0x0008;
const SETSPI_NSR: u64 = 0x0040;
const CLRSPI_NSR: u64 = 0x0048;
const IROUTER: u64 = 0x6000;
const IROUTER_END: u64 = 0x8000;
const IROUTER_PLACE: u64 = 0x1fff;

const CTLR_GROUPS: u32 = 0b11;
const CTLR_ARE: u32 = 1 << 4;
const CTLR_DS: u32 = 1 << 6;
const CTLR_RWP: u32 = 1 << 31;

/// vCPUs told of a change of `GICD_CTLR` in one slice.
const SLICE: u32 = 64;

/// Everybody has been told.
const TOLD: u32 = u32::MAX / 2;

/// State of the distributor.
pub(crate) struct Distributor {
    /// `GICD_CTLR.EnableGrp0` and `EnableGrp1`.
    groups: AtomicU32,
    /// vCPUs that may not have taken their list registers back for us.
    recalls: AtomicU32,
    /// Next vCPU to tell of a change of the group enables; at least [`TOLD`] when there is none.
    telling: AtomicU32,
    /// CPUs that are telling a slice of them.
    tellers: AtomicU32,
    spis: Fixed<Irq>,
    /// `GICD_IROUTER<n>` as written, by SPI.
    routers: Box<[AtomicU64]>,
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
            recalls: AtomicU32::new(0),
            telling: AtomicU32::new(TOLD),
            tellers: AtomicU32::new(0),
            spis: intids()
                .map(|intid| Irq::new(intid, LEVEL, VcpuId::new(0)))
                .collect(),
            routers: intids().map(|_| AtomicU64::new(router)).collect(),
            propbaser: AtomicU64::new(0),
            sweep: AtomicU64::new(NOT_SWEEPING),
            sweepers: AtomicU32::new(0),
            scanning: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    #[inline]
    pub(crate) fn spi(&self, intid: IntId) -> Option<&Irq> {
        self.spis.get(Self::index(intid)?)
    }

    /// Where an SPI is in `spis` and `routers`.
    #[inline]
    fn index(intid: IntId) -> Option<usize> {
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

    /// One vCPU more that `GICD_CTLR.RWP` may wait for.
    pub(crate) fn awaiting(&self) {
        // AcqRel: pairs with `recalled` and the read of RWP.
        self.recalls.fetch_add(1, AcqRel);
    }

    /// One vCPU fewer.
    pub(crate) fn recalled(&self) {
        // AcqRel: pairs with `awaiting`.
        self.recalls.fetch_sub(1, AcqRel);
    }

    /// The SPIs of a 32-bit register, numbered as the architecture does: 0 is the private ones.
    fn bank(&self, register: u64) -> Bank<'_> {
        let first = (register as usize).wrapping_sub(1).wrapping_mul(32);
        let spis = self.spis.get(first..).unwrap_or_default();
        Bank {
            irqs: spis.get(..32).unwrap_or(spis),
            owner: None,
        }
    }

    /// `GICD_CTLR`. Looks at the vCPUs one by one only while one of them may be awaited.
    fn ctlr(&self, vcpus: &[Vcpu]) -> u32 {
        // Acquire: pairs with `recalled` and with `advance_groups`: a guest that reads RWP as 0 sees what
        // those who were awaited did before.
        let waiting = self.telling.load(Acquire) < vcpus.len() as u32
            || self.tellers.load(Acquire) != 0
            || self.recalls.load(Acquire) != 0
                && vcpus.iter().any(|vcpu| vcpu.awaits(AWAITED_BY_GICD));
        self.group_enables() | CTLR_ARE | CTLR_DS | if waiting { CTLR_RWP } else { 0 }
    }
}

/// Splits an offset into its register block and the place in it, in bytes.
fn block(at: u64) -> (u64, u64) {
    match at {
        0x0080..0x0400 => (at & !0x7f, at & 0x7f),
        0x0400..0x0800 => (offset::IPRIORITYR, at & 0x3ff),
        0x0c00..0x0d00 => (offset::ICFGR, at & 0xff),
        _ => (at, 0),
    }
}

impl<H: Host> Vgic<H> {
    /// `GICD_TYPER`.
    fn gicd_typer(&self) -> u64 {
        let config = self.config();
        let lines = one_less(config.spi_end().div_ceil(32));
        let lpis = if config.lpi_bits == 0 {
            0
        } else {
            // num_LPIs: 2^(n + 1) of them; LPIS.
            one_less(config.lpi_bits) << 11 | 1 << 17
        };
        // MBIS, A3V, No1N, RSS.
        lines | lpis | 1 << 16 | one_less(config.intid_bits()) << 19 | 1 << 24 | 1 << 25 | 1 << 26
    }

    /// Reads a distributor register; `None` asks for the access to be tried again.
    pub(crate) fn gicd_read<I: CpuInterface>(
        &self,
        access: &Access<'_, H, I>,
        at: u64,
        width: Width,
    ) -> Option<u64> {
        let distributor = self.distributor();
        if let IROUTER..IROUTER_END = at {
            // Relaxed: what the guest wrote, for the guest; where the SPI goes is in its state word.
            let value = self
                .router(at)
                .map_or(0, |(_, router)| router.load(Relaxed));
            return Some(read_half(value, at, width));
        }
        let (register, place) = block(at);
        if register == offset::IPRIORITYR {
            return Some(match width {
                Width::Byte | Width::Word => distributor
                    .bank(place / 32)
                    .priorities(place as usize % 32, width),
                _ => 0,
            });
        }
        if width != Width::Word {
            return Some(0);
        }
        let bank = distributor.bank(place / 4);
        Some(match register {
            CTLR => {
                // The guest polls RWP: this is where what it waits for goes on.
                self.advance_groups(access.pin);
                u64::from(distributor.ctlr(self.present_vcpus()))
            }
            TYPER => self.gicd_typer(),
            IIDR_OFFSET => u64::from(IIDR),
            offset::ICFGR => distributor.bank(place / 8).half(place & 4 != 0).triggers(),
            0xffd0..=0xfffc => u64::from(identification(at)),
            _ => return access.read_bits(bank, register),
        })
    }

    /// Writes a distributor register.
    pub(crate) fn gicd_write(&self, pin: &CpuPin<'_>, at: u64, width: Width, value: u64) {
        let distributor = self.distributor();
        if let IROUTER..IROUTER_END = at {
            self.write_router(pin, at, width, value);
            return;
        }
        let (register, place) = block(at);
        match (register, width) {
            (offset::IPRIORITYR, Width::Byte | Width::Word) => {
                let bank = distributor.bank(place / 32);
                self.write_priorities(pin, bank, place as usize % 32, width, value);
            }
            (SETSPI_NSR, Width::Half | Width::Word) => self.message_spi(pin, value, true),
            (CLRSPI_NSR, Width::Half | Width::Word) => self.message_spi(pin, value, false),
            (_, Width::Word) => self.gicd_write_word(pin, register, place, value),
            _ => {}
        }
    }

    fn gicd_write_word(&self, pin: &CpuPin<'_>, register: u64, place: u64, value: u64) {
        let bank = self.distributor().bank(place / 4);
        match register {
            CTLR => self.write_group_enables(pin, value as u32 & CTLR_GROUPS),
            offset::ICFGR => {
                let bank = self.distributor().bank(place / 8);
                self.write_triggers(pin, bank.half(place & 4 != 0), value);
            }
            _ => self.write_bits(pin, bank, register, value),
        }
    }

    /// `GICD_SETSPI_NSR`, `GICD_CLRSPI_NSR`: a message makes an SPI pending or ends that. On a
    /// level-sensitive SPI the messages are the line.
    fn message_spi(&self, pin: &CpuPin<'_>, value: u64, set: bool) {
        let Some(irq) =
            IntId::spi(value as u32 & 0x1fff).and_then(|intid| self.distributor().spi(intid))
        else {
            return;
        };
        if irq.state().level() {
            self.set_line(pin, irq, set);
        } else if set {
            let _ = self.raised(pin, irq, irq.raise());
        } else {
            self.clear_pending(pin, irq);
        }
    }

    fn write_group_enables(&self, pin: &CpuPin<'_>, groups: u32) {
        let distributor = self.distributor();
        // AcqRel: pairs with `open_groups`: a vCPU told after this sees the new enables.
        if distributor.groups.swap(groups, AcqRel) != groups {
            // AcqRel: pairs with `advance_groups`.
            distributor.telling.swap(0, AcqRel);
            self.advance_groups(pin);
        }
    }

    /// Tells one slice of vCPUs of a change of the group enables.
    pub(crate) fn advance_groups(&self, pin: &CpuPin<'_>) {
        let distributor = self.distributor();
        let present = self.vcpu_count() as u32;
        // Relaxed: only saves the read-modify-write.
        if distributor.telling.load(Relaxed) >= present {
            return;
        }
        // AcqRel: before the slice is claimed, so that whoever finds nobody left to tell finds us.
        distributor.tellers.fetch_add(1, AcqRel);
        // AcqRel: pairs with `write_group_enables`; each slice is told by one CPU.
        let first = distributor.telling.fetch_add(SLICE, AcqRel);
        for index in first..present.min(first.saturating_add(SLICE)) {
            if let Some(vcpu) = VcpuId::new(index as usize).and_then(|id| self.vcpu(id)) {
                self.notify(pin, vcpu.id, RECALL);
                self.await_recall(vcpu, AWAITED_BY_GICD);
            }
        }
        // AcqRel: whoever does not find us finds the recalls.
        distributor.tellers.fetch_sub(1, AcqRel);
        if first.saturating_add(SLICE) < present {
            self.defer(DEFERRED_GROUPS);
        }
    }

    /// The SPI whose `GICD_IROUTER<n>` is at `at`, and the register.
    fn router(&self, at: u64) -> Option<(&Irq, &AtomicU64)> {
        let distributor = self.distributor();
        // Registers of 8 bytes, numbered as the INTIDs are.
        let intid = IntId::spi(((at & IROUTER_PLACE) / 8) as u32)?;
        let index = Distributor::index(intid)?;
        Some((
            distributor.spis.get(index)?,
            distributor.routers.get(index)?,
        ))
    }

    fn write_router(&self, pin: &CpuPin<'_>, at: u64, width: Width, value: u64) {
        let Some((irq, router)) = self.router(at) else {
            return;
        };
        // Relaxed: concurrent writers of one register are the guest's race.
        let old = router.load(Relaxed);
        let Some(new) = write_half(old, at, width, value) else {
            return;
        };
        // Interrupt_Routing_Mode is RAZ/WI: GICD_TYPER.No1N.
        let affinity = Affinity::from_mpidr(new);
        // Relaxed: as above; the fence orders it.
        router.store(affinity.mpidr(), Relaxed);
        // SeqCst: pairs with the fence in `Vgic::add_vcpu`: if we do not see a vCPU that is being added,
        // whoever adds it sees what we wrote.
        fence(SeqCst);
        let mut target = self.find_vcpu(pin, affinity);
        loop {
            self.route(pin, irq, target);
            // Whoever adds the vCPU may have routed the SPI to it before we did to nobody; then our
            // transition, which followed, lets us see the new topology.
            let now = self.find_vcpu(pin, affinity);
            if now == target {
                return;
            }
            target = now;
        }
    }

    fn route(&self, pin: &CpuPin<'_>, irq: &Irq, target: Option<VcpuId>) {
        let changed = irq.update(|state| state.with_target(target));
        self.pay(pin, irq, changed.owed);
        if changed.old.target() != target {
            self.host().routed(irq.intid(), target);
        }
    }

    /// Routes the SPIs that name `affinity` to its new vCPU.
    pub(crate) fn route_to_new(&self, pin: &CpuPin<'_>, affinity: Affinity, vcpu: VcpuId) {
        let distributor = self.distributor();
        for (irq, router) in distributor.spis.iter().zip(&distributor.routers) {
            // Relaxed: as in `write_router`; the fence in `Vgic::add_vcpu` orders it.
            if router.load(Relaxed) == affinity.mpidr() {
                self.route(pin, irq, Some(vcpu));
            }
        }
    }
}
