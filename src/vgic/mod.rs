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
//! Borrowing an interrupt for one operation takes none: the epoch guard that it was looked up by keeps it
//! allocated, and inserting it fails if it is dying. SPIs, PPIs and SGIs need no guard.

mod inject;
mod lifetime;
mod queueing;
mod teardown;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::config::{Config, ConfigError};
use crate::epoch::CpuPin;
use crate::fixed::Fixed;
use crate::host::Host;
use crate::intid::{Affinity, IntId, ItsId, Kind, VcpuId};
use crate::irq::Irq;
use crate::its::Its;
use crate::mmio::gicd::Distributor;
use crate::radix::Radix;
use crate::sync::Ordering::{AcqRel, Acquire, Release, SeqCst};
use crate::sync::{AtomicU16, AtomicU32, Rank, Snapshot, SpinLock, fence};
use crate::topology::Topology;
use crate::vcpu::Vcpu;

pub use inject::{InjectError, Injected};
use lifetime::Dying;
pub(crate) use queueing::Leaving;
pub use teardown::TeardownReport;

/// A virtual GICv3 for one VM.
pub struct Vgic<H: Host> {
    host: H,
    config: Config,
    distributor: Distributor,
    /// Room for `max_vcpus`, of which `present` are there.
    vcpus: Fixed<Vcpu>,
    present: AtomicU16,
    topology: Snapshot<Topology>,
    growth: SpinLock<()>,
    lpis: Radix<Irq>,
    dying: Dying,
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
/// [`Vgic::advance`] has LPIs to free.
const DEFERRED_DYING: u32 = 1 << 19;

impl<H: Host> Vgic<H> {
    /// Builds the controller of a VM; vCPU 0 is powered on, the others wait for [`Vgic::power_on`].
    /// Allocates all per-vCPU state for `config.max_vcpus`.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration is not valid.
    pub fn new(config: Config, host: H) -> Result<Self, ConfigError> {
        config.validate()?;
        let vcpus: Fixed<Vcpu> = (0..config.max_vcpus)
            .filter_map(VcpuId::new)
            .map(|id| Vcpu::new(id, id.index() == 0))
            .collect();
        for (vcpu, affinity) in vcpus.iter().zip(&config.vcpus) {
            vcpu.set_affinity(*affinity);
        }
        Ok(Self {
            host,
            distributor: Distributor::new(config.spis, config.vcpus.first().copied()),
            vcpus,
            present: AtomicU16::new(config.vcpus.len() as u16),
            topology: Snapshot::new(Topology::new(config.vcpus.clone())),
            growth: SpinLock::new(Rank::Topology, ()),
            lpis: Radix::new(u32::from(config.lpi_bits)),
            dying: Dying::new(),
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
    pub fn affinity(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Option<Affinity> {
        self.topology.load(pin.guard()).affinity(vcpu)
    }

    /// The vCPU with this affinity, in O(1).
    #[must_use]
    pub fn find_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Option<VcpuId> {
        self.topology.load(pin.guard()).find(affinity)
    }

    /// Adds a vCPU, powered off, and returns its index. Readers of the topology go on undisturbed.
    ///
    /// # Errors
    /// [`ConfigError::MaxVcpus`] when the VM is full, [`ConfigError::DuplicateAffinity`].
    pub fn add_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Result<VcpuId, ConfigError> {
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
        self.vcpus[index].set_affinity(affinity);
        // Release: pairs with the Acquire in `vcpu_count`. Before the topology: whoever finds the vCPU there
        // can insert into its list.
        self.present.store(index as u16 + 1, Release);
        self.topology.store(Topology::new(affinities), pin.guard());
        // SeqCst: pairs with the fence in `write_router`: if that did not see the topology, we see what it
        // wrote.
        fence(SeqCst);
        self.route_to_new(pin, affinity, id);
        Ok(id)
    }

    #[inline]
    pub(crate) fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus
            .get(id.index())
            .filter(|_| id.index() < self.vcpu_count())
    }

    pub(crate) fn present_vcpus(&self) -> &[Vcpu] {
        &self.vcpus[..self.vcpu_count()]
    }

    /// Room for every vCPU that the VM may have, present or not.
    #[inline]
    pub(crate) fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
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

    /// The interrupt that `intid` names on `vcpu`; LPIs only while they are mapped. Takes no lock.
    pub(crate) fn irq<'g>(
        &'g self,
        pin: &'g CpuPin<'_>,
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
    pub(crate) fn lpi<'g>(&'g self, pin: &'g CpuPin<'_>, intid: IntId) -> Option<&'g Irq> {
        let key = intid.raw().checked_sub(IntId::FIRST_LPI)?;
        let irq = pin.lookup(|| self.lpis.get(key, pin.guard()))?;
        // The table may still hold one that is dying.
        (irq.state().refs() != 0).then_some(irq)
    }

    /// Powers a vCPU on, so that it may be entered; false if it was on already or does not exist.
    pub fn power_on(&self, vcpu: VcpuId) -> bool {
        self.vcpu(vcpu)
            .is_some_and(|vcpu| vcpu.residency.set_power(true))
    }

    /// Whether [`Vgic::advance`] has something to do; one load.
    #[inline]
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        // Acquire: pairs with `defer`.
        self.deferred.load(Acquire) != 0
    }

    pub(crate) fn defer(&self, work: u32) {
        // AcqRel: pairs with `has_deferred` and `advance`.
        self.deferred.fetch_or(work, AcqRel);
    }

    /// Does one bounded slice of what guests' register writes have left over: ITS commands, vCPUs to
    /// tell of a change of `GICD_CTLR`, pending tables to read, LPIs to free. The embedder calls it on
    /// exits while [`Vgic::has_deferred`]; any CPU may, several at once. It has to see to it that there is an
    /// exit, by a timer for one: a guest may wait for the interrupt of a command without any access.
    pub fn advance(&self, pin: &CpuPin<'_>) {
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
        if work & DEFERRED_DYING != 0 {
            self.advance_dying(pin);
        }
        for index in 0..self.its.len() {
            if work & 1 << index != 0 {
                self.advance_its(pin, ItsId(index as u8));
            }
        }
    }
}
