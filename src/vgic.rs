//! One VM's interrupt controller: how interrupts come in, and how their references move.
//!
//! # Paths of an interrupt
//! Whoever makes an interrupt pending calls one of the transitions of [`crate::irq`] and *pays* what it
//! returns as owed: insert it, settle it, or tell the vCPU that has it in a list register. That is the
//! whole of injection; everything a register write or an ITS command does to an interrupt goes through
//! the same [`Vgic::pay`].
//!
//! # References
//! * A table or mapping that makes an interrupt exist owns one. SPIs, PPIs and SGIs have one for the
//!   life of the VM; an LPI has one for each event mapped to it.
//! * The ap_list owns one from [`Vgic::insert`] to [`Vgic::prune`].
//! * An interrupt on its way from one list to another is kept by the CPU that carries it.
//!
//! Borrowing an interrupt for one operation takes none: the epoch guard keeps it allocated, and
//! inserting it fails if it is dying.
#![expect(unsafe_code)]
// UNSAFETY: hands LPIs to the table and to the epoch by raw pointer.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use arrayvec::ArrayVec;
use crossbeam_epoch::Shared;

use crate::ap_list::Classes;
use crate::config::{Config, ConfigError};
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::{Affinity, DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use crate::irq::{Folded, GivenBack, Irq, Owed, Raised, State};
use crate::its::Its;
use crate::mmio::gicd::Distributor;
use crate::radix::Radix;
use crate::sync::Ordering::{AcqRel, Acquire, Release};
use crate::sync::{AtomicU16, AtomicU32, Rank, Snapshot, SpinLock};
use crate::topology::Topology;
use crate::trace::TracePoint;
use crate::vcpu::residency::{Kick, NEW, NOTE, RECALL};
use crate::vcpu::{AWAITED_BY_GICD, Vcpu};

/// A virtual GICv3 for one VM.
pub struct Vgic<H: Host> {
    host: H,
    config: Config,
    distributor: Distributor,
    /// Room for `max_vcpus`, of which `present` are there.
    vcpus: Box<[Vcpu]>,
    present: AtomicU16,
    topology: Snapshot<Topology>,
    growth: SpinLock<()>,
    lpis: Radix<Irq>,
    its: Box<[Its]>,
    /// Bounded work left over for [`Vgic::advance`]: bit n for ITS n, and the bits below.
    deferred: AtomicU32,
}

/// [`Vgic::advance`] has vCPUs to tell of a change of `GICD_CTLR`.
pub(crate) const DEFERRED_GROUPS: u32 = 1 << 16;
/// [`Vgic::advance`] has a pending table to read.
pub(crate) const DEFERRED_PENDING_TABLE: u32 = 1 << 17;
/// [`Vgic::advance`] has LPI configurations to read again.
pub(crate) const DEFERRED_SWEEP: u32 = 1 << 18;

/// Why an interrupt could not be injected.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InjectError {
    /// The VM has no such vCPU.
    UnknownVcpu,
    /// The VM has no such interrupt, or it is not of the kind that the call is for.
    UnknownInterrupt,
    /// The VM has no such ITS, or the guest has it disabled.
    ItsDisabled,
    /// The guest has not mapped the device.
    UnmappedDevice,
    /// The guest has not mapped the event.
    UnmappedEvent,
}

impl core::fmt::Display for InjectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownVcpu => "the VM has no such vCPU",
            Self::UnknownInterrupt => "the VM has no such interrupt of this kind",
            Self::ItsDisabled => "the ITS does not exist or is disabled",
            Self::UnmappedDevice => "the guest has not mapped the device",
            Self::UnmappedEvent => "the guest has not mapped the event",
        })
    }
}

impl core::error::Error for InjectError {}

/// What an injection came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injected {
    /// It made the interrupt pending.
    Pending,
    /// The interrupt was pending already; the guest will see the two as one.
    Coalesced,
}

/// What was left of a VM when it was torn down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remains {
    /// References beyond the one of each SPI, PPI and SGI; 0 unless the library lost count.
    pub references: u64,
    /// Interrupts that were pending, by [`Kind`].
    pub pending: [u64; Kind::COUNT],
}

impl<H: Host> Vgic<H> {
    /// Builds the controller of a VM; vCPU 0 is powered on, the others wait for [`Vgic::power_on`].
    /// Allocates all per-vCPU state for `config.max_vcpus`.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration is not valid.
    pub fn new(config: Config, host: H) -> Result<Self, ConfigError> {
        config.validate()?;
        let vcpus = (0..config.max_vcpus)
            .filter_map(VcpuId::new)
            .map(|id| Vcpu::new(id, id.index() == 0))
            .collect();
        Ok(Self {
            host,
            distributor: Distributor::new(config.spis, config.vcpus.first().copied()),
            vcpus,
            present: AtomicU16::new(config.vcpus.len() as u16),
            topology: Snapshot::new(Topology::new(config.vcpus.clone())),
            growth: SpinLock::new(Rank::Topology, ()),
            lpis: Radix::new(u32::from(config.lpi_bits)),
            its: (0..)
                .zip(&config.its)
                .map(|(id, its)| Its::new(ItsId(id), its))
                .collect(),
            deferred: AtomicU32::new(0),
            config,
        })
    }

    /// The embedder's side.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The configuration that the VM was built from; `vcpus` are those present from the start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// vCPUs present.
    pub fn vcpu_count(&self) -> usize {
        // Acquire: pairs with the Release in `add_vcpu`.
        usize::from(self.present.load(Acquire))
    }

    /// The affinity of a vCPU.
    #[must_use]
    pub fn affinity(&self, pin: &Pin<'_>, vcpu: VcpuId) -> Option<Affinity> {
        self.topology.load(pin.guard()).affinity(vcpu)
    }

    /// The vCPU with this affinity, in O(1).
    #[must_use]
    pub fn find_vcpu(&self, pin: &Pin<'_>, affinity: Affinity) -> Option<VcpuId> {
        self.topology.load(pin.guard()).find(affinity)
    }

    /// Adds a vCPU, powered off, and returns its index. Readers of the topology go on undisturbed.
    ///
    /// # Errors
    /// [`ConfigError::MaxVcpus`] when the VM is full, [`ConfigError::DuplicateAffinity`].
    pub fn add_vcpu(&self, pin: &Pin<'_>, affinity: Affinity) -> Result<VcpuId, ConfigError> {
        let _growth = self.growth.lock(pin.ledger());
        let topology = self.topology.load(pin.guard());
        if topology.find(affinity).is_some() {
            return Err(ConfigError::DuplicateAffinity(affinity));
        }
        let index = topology.len();
        let id = VcpuId::new(index)
            .filter(|_| index < self.vcpus.len())
            .ok_or(ConfigError::MaxVcpus(self.vcpus.len()))?;
        let mut affinities: Vec<Affinity> = topology.affinities().to_vec();
        affinities.push(affinity);
        self.topology.store(Topology::new(affinities), pin.guard());
        // Release: pairs with the Acquire in `vcpu_count`.
        self.present.store(index as u16 + 1, Release);
        self.route_to_new(pin, affinity, id);
        Ok(id)
    }

    #[inline]
    pub(crate) fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus
            .get(id.index())
            .filter(|_| id.index() < self.vcpu_count())
    }

    pub(crate) fn topology(&self) -> &Snapshot<Topology> {
        &self.topology
    }

    #[inline]
    pub(crate) fn distributor(&self) -> &Distributor {
        &self.distributor
    }

    pub(crate) fn its(&self, id: ItsId) -> Option<&Its> {
        self.its.get(usize::from(id.0))
    }

    pub(crate) fn itses(&self) -> &[Its] {
        &self.its
    }

    pub(crate) fn lpis(&self) -> &Radix<Irq> {
        &self.lpis
    }

    // --- looking interrupts up -------------------------------------------------------------------

    /// The interrupt that `intid` names on `vcpu`; LPIs only while they are mapped. Takes no lock.
    pub(crate) fn irq<'g>(
        &'g self,
        pin: &'g Pin<'_>,
        vcpu: &'g Vcpu,
        intid: IntId,
    ) -> Option<&'g Irq> {
        match intid.kind() {
            Kind::Sgi | Kind::Ppi => vcpu.private(intid),
            Kind::Spi => self.distributor.spi(intid),
            Kind::Lpi => self.lpi(pin, intid),
        }
    }

    /// The LPI with this INTID, if it is mapped or still on a list. Takes no lock.
    pub(crate) fn lpi<'g>(&'g self, pin: &'g Pin<'_>, intid: IntId) -> Option<&'g Irq> {
        let key = intid.raw().checked_sub(IntId::FIRST_LPI)?;
        pin.lookup(|| self.lpis.get(key, pin.guard()))
    }

    // --- injection -------------------------------------------------------------------------------

    /// An edge on the SPI `intid`.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn inject_spi(&self, pin: &Pin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.spi(intid)?;
        Ok(self.raised(pin, irq, irq.raise()))
    }

    /// Sets the level of the line of SPI `intid`. Interrupts configured as edge-triggered ignore it.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn set_spi_line(&self, pin: &Pin<'_>, intid: IntId, high: bool) -> Result<(), InjectError> {
        let irq = self.spi(intid)?;
        self.set_line(pin, irq, high);
        Ok(())
    }

    /// Forwards a physical interrupt, active on this or another CPU, as the SPI `intid`: the guest's
    /// deactivation will deactivate it ([`Vgic::connect_spi`] says which one).
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn forward_spi(&self, pin: &Pin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.spi(intid)?;
        Ok(self.raised(pin, irq, irq.raise_hw()))
    }

    /// Says which physical interrupt, 16-1019, [`Vgic::forward_spi`] of `intid` stands for. Before the
    /// first one.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if either is out of range.
    pub fn connect_spi(&self, intid: IntId, pintid: IntId) -> Result<(), InjectError> {
        self.spi(intid)?.set_pintid(physical(pintid)?);
        Ok(())
    }

    /// An edge on the PPI `intid` of `vcpu`.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], [`InjectError::UnknownInterrupt`] if it is not a PPI.
    pub fn inject_ppi(
        &self,
        pin: &Pin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        let irq = self.ppi(vcpu, intid)?;
        Ok(self.raised(pin, irq, irq.raise()))
    }

    /// Sets the level of the line of PPI `intid` of `vcpu`.
    ///
    /// # Errors
    /// As for [`Vgic::inject_ppi`].
    pub fn set_ppi_line(
        &self,
        pin: &Pin<'_>,
        vcpu: VcpuId,
        intid: IntId,
        high: bool,
    ) -> Result<(), InjectError> {
        let irq = self.ppi(vcpu, intid)?;
        self.set_line(pin, irq, high);
        Ok(())
    }

    /// Forwards a physical PPI, active on the CPU that has `vcpu`, as the PPI `intid` of `vcpu`: the
    /// guest's deactivation will deactivate it. The virtual timer comes this way.
    ///
    /// # Errors
    /// As for [`Vgic::inject_ppi`].
    pub fn forward_ppi(
        &self,
        pin: &Pin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        let irq = self.ppi(vcpu, intid)?;
        Ok(self.raised(pin, irq, irq.raise_hw()))
    }

    /// Says which physical interrupt, 16-1019, [`Vgic::forward_ppi`] of `intid` stands for. Before the
    /// first one.
    ///
    /// # Errors
    /// As for [`Vgic::inject_ppi`], and if `pintid` is out of range.
    pub fn connect_ppi(
        &self,
        vcpu: VcpuId,
        intid: IntId,
        pintid: IntId,
    ) -> Result<(), InjectError> {
        self.ppi(vcpu, intid)?.set_pintid(physical(pintid)?);
        Ok(())
    }

    /// An MSI: `device` writes `event` to the translation register of ITS `its`. Looks the interrupt
    /// up without a lock and without guest memory; from interrupt context too.
    ///
    /// # Errors
    /// [`InjectError`] when the guest has not mapped it; nothing has happened then.
    #[inline]
    pub fn inject_msi(
        &self,
        pin: &Pin<'_>,
        its: ItsId,
        device: DeviceId,
        event: EventId,
    ) -> Result<Injected, InjectError> {
        let its = self.its(its).ok_or(InjectError::ItsDisabled)?;
        let irq = pin.lookup(|| its.translate(device, event, pin.guard()))?;
        let raised = irq.raise();
        if raised.void {
            // Unmapped since it was looked up.
            return Err(InjectError::UnmappedEvent);
        }
        Ok(self.raised(pin, irq, raised))
    }

    fn spi(&self, intid: IntId) -> Result<&Irq, InjectError> {
        self.distributor
            .spi(intid)
            .ok_or(InjectError::UnknownInterrupt)
    }

    fn ppi(&self, vcpu: VcpuId, intid: IntId) -> Result<&Irq, InjectError> {
        let vcpu = self.vcpu(vcpu).ok_or(InjectError::UnknownVcpu)?;
        if intid.kind() != Kind::Ppi {
            return Err(InjectError::UnknownInterrupt);
        }
        vcpu.private(intid).ok_or(InjectError::UnknownInterrupt)
    }

    pub(crate) fn set_line(&self, pin: &Pin<'_>, irq: &Irq, high: bool) {
        let change = irq.set_line(high);
        if change.injected {
            self.count_injection(pin, irq, false);
        }
        self.count_withdrawn(pin, irq, change.withdrawn);
        self.pay(pin, irq, change.owed);
    }

    /// Books a raise, and pays what it owes.
    #[inline]
    pub(crate) fn raised(&self, pin: &Pin<'_>, irq: &Irq, raised: Raised) -> Injected {
        if !raised.void {
            self.count_injection(pin, irq, raised.coalesced);
        }
        self.pay(pin, irq, raised.owed);
        if raised.coalesced {
            Injected::Coalesced
        } else {
            Injected::Pending
        }
    }

    #[inline]
    fn count_injection(&self, pin: &Pin<'_>, irq: &Irq, coalesced: bool) {
        let kind = irq.intid().kind() as usize;
        pin.counters().injections[kind].add(1);
        if coalesced {
            pin.counters().coalesced[kind].add(1);
        }
    }

    // --- paying what a transition owes -----------------------------------------------------------

    /// Does what a transition of `irq` owes.
    #[inline]
    pub(crate) fn pay(&self, pin: &Pin<'_>, irq: &Irq, owed: Owed) {
        match owed {
            Owed::Nothing => {}
            Owed::Insert => self.insert(pin, irq),
            Owed::Settle(vcpu) => self.settle(pin, irq, vcpu),
            Owed::Recall(vcpu) => self.notify(pin, vcpu, RECALL),
            Owed::Note(vcpu) => self.notify(pin, vcpu, NOTE),
        }
    }

    /// Queues `irq` on its target, takes the list's reference, and tells the vCPU. Nothing happens if it
    /// is queued already, dying, or wants no list any more.
    pub(crate) fn insert(&self, pin: &Pin<'_>, irq: &Irq) {
        let mut state = irq.state();
        // Another round only if another CPU moved the interrupt to another vCPU meanwhile.
        while state.queued_on().is_none() && state.refs() != 0 && state.wants_list() {
            let Some(vcpu) = state.target().and_then(|target| self.vcpu(target)) else {
                return;
            };
            let mut list = vcpu.ap_list.lock(pin.ledger());
            match irq.link(vcpu.id) {
                Ok(linked) => {
                    list.link(irq, linked);
                    drop(list);
                    pin.counters().list_gets.add(1);
                    self.host.trace(TracePoint::ListGet(irq.intid(), vcpu.id));
                    self.notify(pin, vcpu.id, NEW);
                    return;
                }
                Err(now) => state = now,
            }
        }
    }

    /// Reconsiders the place of `irq`, last seen waiting on the list of `on`.
    fn settle(&self, pin: &Pin<'_>, irq: &Irq, on: VcpuId) {
        let mut on = Some(on);
        // Another round only if another CPU moved the interrupt to another list meanwhile.
        while let Some(vcpu) = on.and_then(|on| self.vcpu(on)) {
            let mut leaving = Leaving::new();
            let mut list = vcpu.ap_list.lock(pin.ledger());
            let state = irq.state();
            if state.queued_on() == Some(vcpu.id) {
                if state.in_lr() {
                    drop(list);
                    self.notify(pin, vcpu.id, RECALL);
                } else {
                    list.unlink(irq);
                    self.prune(pin, vcpu, &mut list, irq, &mut leaving);
                    drop(list);
                    self.notify(pin, vcpu.id, NEW);
                    self.dispatch(pin, leaving);
                }
                return;
            }
            drop(list);
            on = state.queued_on();
        }
        self.insert(pin, irq);
    }

    /// Gives a vCPU work and tells it if need be. No lock is held.
    pub(crate) fn notify(&self, pin: &Pin<'_>, vcpu: VcpuId, work: u32) {
        let Some(this) = self.vcpu(vcpu) else {
            return;
        };
        match this.residency.notify(work) {
            Kick::Nothing => {}
            Kick::Ipi(cpu) => {
                pin.counters().kicks.add(1);
                self.host.kick(cpu, vcpu);
            }
            Kick::Wake => {
                pin.counters().wakes.add(1);
                self.host.wake(vcpu);
            }
        }
    }

    /// What was left over from a pass under an ap_list lock, which is released now.
    pub(crate) fn dispatch(&self, pin: &Pin<'_>, leaving: Leaving) {
        for (owner, pintid) in leaving.deactivate {
            self.host.deactivate(owner, pintid);
        }
        for (irq, fate) in leaving.irqs {
            // SAFETY: carried: our reference keeps it alive; dying: it is freed below, by us alone,
            // and not before our pin is dropped.
            let irq = unsafe { irq.as_ref() };
            match fate {
                Fate::Carried => {
                    self.insert(pin, irq);
                    self.put_lookup(pin, irq);
                }
                Fate::Dying => self.release(pin, irq),
            }
        }
    }

    /// Books what a fold found.
    pub(crate) fn account(&self, pin: &Pin<'_>, irq: &Irq, folded: Folded) {
        let kind = irq.intid().kind() as usize;
        let counters = pin.counters();
        counters.deliveries[kind].add(u64::from(folded.delivered));
        counters.coalesced[kind].add(u64::from(folded.coalesced));
        counters.withdrawn[kind].add(u64::from(folded.withdrawn));
        counters.injections[kind].add(u64::from(folded.repended));
    }

    /// Books the end of an active state outside the list registers; `old` is the state before.
    pub(crate) fn ended(&self, pin: &Pin<'_>, irq: &Irq, old: State) {
        if old.active() && old.level() && old.line() && !old.hw() {
            // The line is still high: it is pending once more.
            self.count_injection(pin, irq, false);
        }
    }

    /// The vCPU has taken its list registers back: whoever waited for that goes on.
    pub(crate) fn recalled(&self, vcpu: &Vcpu) {
        if vcpu.recalled() & AWAITED_BY_GICD != 0 {
            self.distributor.recalled();
        }
    }

    // --- references ------------------------------------------------------------------------------

    /// Gives back a reference that a lookup or a carrier holds.
    pub(crate) fn put_lookup(&self, pin: &Pin<'_>, irq: &Irq) {
        self.given_back(pin, irq, irq.put());
    }

    /// Books a lookup's put, and pays what it owes; the pin keeps the interrupt allocated meanwhile.
    fn given_back(&self, pin: &Pin<'_>, irq: &Irq, given: GivenBack) {
        pin.counters().lookup_puts.add(1);
        self.host.trace(TracePoint::LookupPut(irq.intid()));
        self.count_withdrawn(pin, irq, given.withdrawn);
        if given.last {
            self.release(pin, irq);
        } else {
            self.pay(pin, irq, given.owed);
        }
    }

    pub(crate) fn trace_lookup_get(&self, pin: &Pin<'_>, irq: &Irq) {
        pin.counters().lookup_gets.add(1);
        self.host.trace(TracePoint::LookupGet(irq.intid()));
    }

    pub(crate) fn trace_list_put(&self, pin: &Pin<'_>, irq: &Irq, vcpu: VcpuId) {
        pin.counters().list_puts.add(1);
        self.host.trace(TracePoint::ListPut(irq.intid(), vcpu));
    }

    /// Frees an LPI whose last reference the caller has put: out of the table if it is still there, and
    /// to the epoch.
    fn release(&self, pin: &Pin<'_>, irq: &Irq) {
        let Some(key) = irq.intid().raw().checked_sub(IntId::FIRST_LPI) else {
            debug_assert!(false, "{:?} lost the VM's own reference", irq.intid());
            return;
        };
        // False if the INTID was mapped again meanwhile and the new interrupt took the slot.
        self.lpis.remove(key, irq, pin.guard());
        let raw: *const Irq = irq;
        // SAFETY: allocated as a `Box` in `map_lpi`; out of the table; the last reference is gone, and
        // only the caller that put it comes here.
        unsafe { pin.guard().defer_destroy(Shared::from(raw)) };
    }

    /// Maps an LPI to `target` for one more event, and takes the mapping's reference: revives the
    /// interrupt of that INTID if it still lives on a list, else makes a new one, disabled. `None` if the
    /// VM has no such LPI, or it has too many mappings.
    pub(crate) fn map_lpi<'g>(
        &self,
        pin: &'g Pin<'_>,
        intid: IntId,
        target: Option<VcpuId>,
    ) -> Option<&'g Irq> {
        let key = intid.raw().checked_sub(IntId::FIRST_LPI)?;
        if intid.raw() >= self.config.lpi_end() {
            return None;
        }
        let mut fresh: Option<Box<Irq>> = None;
        // Another round only if another CPU maps or frees the same INTID meanwhile.
        loop {
            let found = self.lpis.get(key, pin.guard());
            if let Some(irq) = found {
                // SAFETY: lives as long as the table holds it or the guard is pinned.
                let irq: &'g Irq = unsafe { &*core::ptr::from_ref(irq) };
                if let Some(owed) = irq.map(target) {
                    self.trace_lookup_get(pin, irq);
                    self.pay(pin, irq, owed);
                    return Some(irq);
                }
                if irq.state().refs() != 0 {
                    return None;
                }
            }
            let new =
                NonNull::from(Box::leak(fresh.take().unwrap_or_else(|| {
                    Box::new(Irq::new(intid, crate::irq::GROUP1, target))
                })));
            // SAFETY: freed only by `release`, after it has left the table, through the epoch.
            let put = unsafe {
                match found {
                    None => self.lpis.insert(key, new, pin.guard()).is_ok(),
                    Some(dying) => self.lpis.replace(key, dying, new, pin.guard()),
                }
            };
            if put {
                // SAFETY: as above; the mapping's reference, which `Irq::new` counts, keeps it.
                let irq: &'g Irq = unsafe { new.as_ref() };
                self.trace_lookup_get(pin, irq);
                return Some(irq);
            }
            // SAFETY: it was not published: still ours alone.
            fresh = Some(unsafe { Box::from_raw(new.as_ptr()) });
        }
    }

    /// Ends one mapping of an LPI: withdraws what is pending and puts the mapping's reference.
    pub(crate) fn unmap_lpi(&self, pin: &Pin<'_>, irq: &Irq) {
        self.given_back(pin, irq, irq.unmap());
    }

    pub(crate) fn count_withdrawn(&self, pin: &Pin<'_>, irq: &Irq, withdrawn: bool) {
        pin.counters().withdrawn[irq.intid().kind() as usize].add(u64::from(withdrawn));
    }

    // --- power -----------------------------------------------------------------------------------

    /// Powers a vCPU on, so that it may be entered; false if it was on already or does not exist.
    pub fn power_on(&self, vcpu: VcpuId) -> bool {
        self.vcpu(vcpu)
            .is_some_and(|vcpu| vcpu.residency.set_power(true))
    }

    // --- deferred work ---------------------------------------------------------------------------

    /// Whether [`Vgic::advance`] has something to do; one load.
    #[inline]
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        // Acquire: pairs with `defer`.
        self.deferred.load(Acquire) != 0
    }

    pub(crate) fn defer(&self, work: u32) {
        // AcqRel: pairs with `has_deferred` and `take_deferred`.
        self.deferred.fetch_or(work, AcqRel);
    }

    /// Does one bounded slice of what guests' register writes have left over: ITS commands, vCPUs to
    /// tell of a change of `GICD_CTLR`, pending tables to read. The embedder calls it on exits while
    /// [`Vgic::has_deferred`]; any CPU may, several at once.
    pub fn advance(&self, pin: &Pin<'_>) {
        // AcqRel: pairs with `defer`.
        let work = self.deferred.swap(0, AcqRel);
        if work & DEFERRED_GROUPS != 0 {
            self.advance_groups(pin);
        }
        if work & DEFERRED_PENDING_TABLE != 0 {
            self.advance_pending_tables(pin);
        }
        if work & DEFERRED_SWEEP != 0 {
            self.advance_sweep(pin);
        }
        for index in 0..self.its.len() {
            if work & 1 << index != 0 {
                self.advance_its(pin, ItsId(index as u8));
            }
        }
    }

    // --- teardown --------------------------------------------------------------------------------

    /// Takes the VM apart: every list is emptied, every mapping ended, every count checked. No vCPU's
    /// registers may be on a CPU.
    ///
    /// # Errors
    /// The first vCPU that has not been [`Vgic::put`].
    pub fn teardown(self, pin: &Pin<'_>) -> Result<Remains, VcpuId> {
        if let Some(vcpu) = self
            .vcpus
            .iter()
            .find(|vcpu| vcpu.residency.get().cpu().is_some())
        {
            return Err(vcpu.id);
        }
        let remains = self.dismantle(pin);
        debug_assert_eq!(remains.references, 0, "references are left at teardown");
        Ok(remains)
    }

    fn dismantle(&self, pin: &Pin<'_>) -> Remains {
        let mut remains = Remains::default();
        let mut from = 0;
        while let Some((key, irq)) = self.lpis.next(from, pin.guard()) {
            let state = irq.state();
            remains.pending[Kind::Lpi as usize] += u64::from(state.pending() && !state.unmapped());
            from = key + 1;
        }
        for its in &self.its {
            its.dismantle(self, pin);
        }
        for vcpu in &self.vcpus {
            for irq in vcpu.privates() {
                remains.pending[irq.intid().kind() as usize] += u64::from(irq.state().pending());
            }
        }
        for irq in self.distributor.spis() {
            remains.pending[Kind::Spi as usize] += u64::from(irq.state().pending());
        }
        for vcpu in &self.vcpus {
            self.empty_list(pin, vcpu);
        }
        let private = self.vcpus.iter().flat_map(Vcpu::privates);
        for irq in private.chain(self.distributor.spis()) {
            remains.references += u64::from(irq.state().refs()) - 1;
        }
        let mut from = 0;
        while let Some((key, irq)) = self.lpis.next(from, pin.guard()) {
            remains.references += u64::from(irq.state().refs());
            from = key + 1;
        }
        remains
    }

    /// Takes every interrupt off a vCPU's list, through prune like any other.
    fn empty_list(&self, pin: &Pin<'_>, vcpu: &Vcpu) {
        loop {
            let mut leaving = Leaving::new();
            let mut list = vcpu.ap_list.lock(pin.ledger());
            let Some((irq, _)) = list.first(Classes(0xf)) else {
                return;
            };
            let irq: *const Irq = irq;
            // SAFETY: linked, so the list's reference keeps it alive, and we hold the list's lock.
            let irq = unsafe { &*irq };
            let _ = irq.update(|state| state.with(0, crate::irq::ACTIVE | crate::irq::ENABLED));
            list.unlink(irq);
            self.prune(pin, vcpu, &mut list, irq, &mut leaving);
            drop(list);
            self.dispatch(pin, leaving);
        }
    }
}

fn physical(pintid: IntId) -> Result<u16, InjectError> {
    if matches!(pintid.kind(), Kind::Ppi | Kind::Spi) {
        Ok(pintid.raw() as u16)
    } else {
        Err(InjectError::UnknownInterrupt)
    }
}

impl<H: Host> Drop for Vgic<H> {
    fn drop(&mut self) {
        // After `teardown` there is nothing left, and this only looks. Without, a vCPU may still be on
        // a CPU: what its registers hold goes back to its list first.
        let domain = crate::epoch::Domain::new();
        let local = domain.register(crate::intid::CpuId(u16::MAX));
        let pin = local.pin();
        for index in 0..self.vcpus.len() {
            self.vcpus[index].abandon_registers();
        }
        let _ = self.dismantle(&pin);
    }
}

/// What becomes of an interrupt that has left a list.
#[derive(Clone, Copy)]
enum Fate {
    /// It goes to another vCPU's list; the reference is ours until it is there.
    Carried,
    /// Its last reference is gone.
    Dying,
}

/// What a pass under an ap_list lock leaves to be done once the lock is released.
pub(crate) struct Leaving {
    irqs: ArrayVec<(NonNull<Irq>, Fate), { Self::CAPACITY }>,
    deactivate: ArrayVec<(Option<VcpuId>, u16), { crate::lr::MAX }>,
}

impl Leaving {
    /// Every list register's interrupt, and as many from the buckets.
    const CAPACITY: usize = 3 * crate::lr::MAX;

    pub(crate) fn new() -> Self {
        Self {
            irqs: ArrayVec::new_const(),
            deactivate: ArrayVec::new_const(),
        }
    }

    /// Whether another interrupt might not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.irqs.is_full()
    }

    pub(crate) fn carried(&mut self, irq: &Irq) {
        self.push(irq, Fate::Carried);
    }

    pub(crate) fn dying(&mut self, irq: &Irq) {
        self.push(irq, Fate::Dying);
    }

    fn push(&mut self, irq: &Irq, fate: Fate) {
        debug_assert!(!self.irqs.is_full());
        // Bounded by the passes that fill it: checked by `is_full` before each interrupt.
        let _ = self.irqs.try_push((NonNull::from(irq), fate));
    }

    /// Notes a physical interrupt to deactivate; at most one per list register.
    pub(crate) fn deactivate(&mut self, irq: &Irq) {
        debug_assert!(!self.deactivate.is_full());
        let _ = self.deactivate.try_push((irq.owner(), irq.pintid()));
    }
}
