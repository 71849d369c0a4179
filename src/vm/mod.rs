//! State of one VM's interrupt controller, and lookups in the state.
//!
//! | file | state |
//! |---|---|
//! | [`irq`] | an interrupt: state word and transitions |
//! | [`ap_list`] | the interrupts waiting for a vCPU |
//! | [`vcpu`] | a vCPU: SGIs, PPIs, ap_list, redistributor |
//! | [`residency`] | a vCPU's place, and the work given to the vCPU |
//! | [`ich_shadow`] | the contents of a vCPU's `ICH_*` registers |
//! | [`staging`] | an interrupt on the way straight into a free list register |
//! | [`rwp`] | register writes waiting for a vCPU to fold its list registers |
//! | [`direct`] | direct injection: virtual PEs, direct events |
//! | [`deferred`] | the kinds of work left to [`Vgic::advance`](crate::Vgic::advance) |
//! | [`broadcasts`] | SGIs to all other vCPUs that have vCPUs left to reach |
//! | [`gicv2`] | a GICv2 in place of the GICv3: sources of SGIs |
//! | [`distributor`], [`redistributor`] | the guest's writes to GICD and GICR |
//! | [`topology`] | the affinities of the vCPUs |
//! | [`sgi_targets`] | guesses: the vCPU that an SGI to one vCPU is for |
//! | [`its`] | ITSes: devices, events, collections, command queues |
//! | [`free_list`] | LPIs waiting to be freed |

#![expect(unsafe_code)]
// UNSAFETY: borrows the vCPU at the address that the CPU has recorded.

pub(crate) mod ap_list;
pub(crate) mod broadcasts;
pub(crate) mod deferred;
pub(crate) mod direct;
pub(crate) mod distributor;
pub(crate) mod free_list;
pub(crate) mod gicv2;
pub(crate) mod ich_shadow;
pub(crate) mod irq;
pub(crate) mod its;
pub(crate) mod redistributor;
pub(crate) mod residency;
pub(crate) mod rwp;
pub(crate) mod sgi_targets;
pub(crate) mod staging;
pub(crate) mod topology;
pub(crate) mod vcpu;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use deferred::Deferred;
use direct::Direct;
use distributor::Distributor;
use free_list::FreeList;
use gicv2::{Gicv2, Interface};
use irq::Irq;
use its::Its;
use sgi_targets::SgiTargets;
use topology::Topology;
use vcpu::Vcpu;

use crate::config::{Config, ConfigError};
use crate::epoch::{CpuLocal, CpuPin, Garbage, Shared, VcpuKey};
use crate::error::{AccessError, ForeignDomain, InjectError};
use crate::fixed::FixedSlice;
use crate::host::Host;
use crate::intid::{Affinity, IntId, ItsId, Kind, VcpuId};
use crate::radix::Radix;
use crate::sync::Ordering::Acquire;
use crate::sync::{AtomicU16, Mutant, Rank, Snapshot, SpinLock, mutant, unique_number};

/// State of a VM.
pub(crate) struct Vm<H: Host> {
    /// A number, not 0, that no other VM has had.
    number: u64,
    /// The domain whose pins reach the VM's objects.
    domain: Arc<Shared>,
    pub(crate) host: H,
    pub(crate) config: Config,
    pub(crate) distributor: Distributor,
    /// Room for `max_vcpus`.
    pub(crate) vcpus: FixedSlice<Vcpu>,
    /// Number of the first of `vcpus` that have been added so far. Some may have been removed.
    pub(crate) added: AtomicU16,
    pub(crate) topology: Snapshot<Topology>,
    pub(crate) sgi_targets: SgiTargets,
    /// Held while a vCPU is added or removed, an interrupt connected or disconnected, or the VM
    /// claimed for its teardown, a reset, a save or a freeze. True while the VM is frozen: its
    /// vCPUs stay claimed.
    pub(crate) growth: SpinLock<bool, { Rank::Topology as u8 }>,
    pub(crate) lpis: Radix<Irq>,
    pub(crate) free_list: FreeList,
    /// Memory of LPIs, devices and tables that waits for the epoch.
    pub(crate) garbage: Garbage,
    pub(crate) its: Box<[Its]>,
    /// `None` for an embedder without a GICv4.
    pub(crate) direct: Option<Box<Direct>>,
    /// `None` in a VM with a GICv3.
    pub(crate) gicv2: Option<Box<Gicv2>>,
    /// Guest-physical address of a GICv3's distributor; all ones in a VM with a GICv2, so that no
    /// access to a GICv3 looks twice.
    pub(crate) gicd: u64,
    /// Work for [`Vgic::advance`](crate::Vgic::advance).
    pub(crate) deferred: Deferred,
}

impl<H: Host> Vm<H> {
    /// Builds a VM; vCPU 0 is powered on. Allocates the state of `config.max_vcpus` vCPUs.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration is not valid.
    pub(crate) fn new(domain: Arc<Shared>, config: Config, host: H) -> Result<Self, ConfigError> {
        config.validate()?;

        let number = unique_number();
        let vcpus: FixedSlice<Vcpu> = (0..config.max_vcpus)
            .filter_map(VcpuId::new)
            .map(|id| Vcpu::new(VcpuKey::new(number, id.index()), id, config.extended_ppis))
            .collect();
        let gicv2 = config.gicv2.is_some();
        let sgi_targets = SgiTargets::new(config.max_vcpus);
        for (vcpu, affinity) in vcpus.iter().zip(&config.vcpus) {
            vcpu.add(*affinity);
            sgi_targets.add(&vcpus, vcpu.id);
        }
        if let Some(first) = vcpus.first() {
            first.residency.set_power(true);
        }
        if gicv2 {
            vcpus.iter().for_each(Vcpu::reset_gicv2);
        }

        Ok(Self {
            number,
            domain,
            distributor: Distributor::new(&config, config.first_router()),
            vcpus,
            added: AtomicU16::new(config.vcpus.len() as u16),
            topology: Snapshot::new(Topology::new(config.vcpus.clone())),
            sgi_targets,
            growth: SpinLock::new(false),
            lpis: Radix::new(config.lpis.next_power_of_two().trailing_zeros()),
            free_list: FreeList::new(),
            garbage: Garbage::default(),
            its: (0..)
                .zip(&config.its)
                .map(|(id, its)| Its::new(ItsId(id), its))
                .collect(),
            deferred: Deferred::default(),
            direct: (host.gicv4().is_some()).then(|| Box::new(Direct::new(config.max_vcpus))),
            gicd: if gicv2 { u64::MAX } else { config.distributor },
            gicv2: gicv2.then(|| Box::new(Gicv2::new())),
            host,
            config,
        })
    }

    /// Returns the domain whose pins reach the VM's objects.
    pub(crate) fn domain(&self) -> &Arc<Shared> {
        &self.domain
    }

    /// Checks that the pin of a caller is of the VM's domain.
    #[inline]
    pub(crate) fn admit(&self, pin: &CpuPin<'_>) -> Result<(), ForeignDomain> {
        pin.is_of(&self.domain)
    }

    /// Returns how many vCPUs have been added so far, those included that have been removed.
    pub(crate) fn vcpu_count(&self) -> usize {
        // Acquire: pairs with the Release in `add_vcpu`.
        usize::from(self.added.load(Acquire))
    }

    /// Returns the vCPU `id`, or `None` unless the VM has the vCPU.
    #[inline]
    pub(crate) fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(id.index()).filter(|vcpu| vcpu.is_present())
    }

    /// Returns the vCPU `id` if the calling CPU has the vCPU in the guest, by the CPU's own record.
    #[inline]
    pub(crate) fn in_guest(&self, local: &CpuLocal, id: VcpuId) -> Option<&Vcpu> {
        let vcpu = local.loaded().in_guest(self.key(id))?;
        // SAFETY: `Loaded` has returned this address for a key of this VM.
        Some(unsafe { self.recorded(vcpu) })
    }

    /// Returns the vCPU `id` if the calling CPU has the vCPU out of the guest, not blocked, by the
    /// CPU's own record.
    #[inline]
    pub(crate) fn out_of_guest(&self, local: &CpuLocal, id: VcpuId) -> Option<&Vcpu> {
        let vcpu = local.loaded().out(self.key(id))?;
        // SAFETY: `Loaded` has returned this address for a key of this VM.
        Some(unsafe { self.recorded(vcpu) })
    }

    /// Returns the vCPU `id` if the calling CPU has the vCPU blocked, by the CPU's own record.
    #[inline]
    pub(crate) fn blocked(&self, local: &CpuLocal, id: VcpuId) -> Option<&Vcpu> {
        let vcpu = local.loaded().blocked(self.key(id))?;
        // SAFETY: `Loaded` has returned this address for a key of this VM.
        Some(unsafe { self.recorded(vcpu) })
    }

    /// Borrows a vCPU of the VM by the address that a CPU has recorded.
    ///
    /// # Safety
    /// `Loaded` has returned the address for a key of this VM.
    #[inline]
    unsafe fn recorded(&self, vcpu: NonNull<()>) -> &Vcpu {
        // SAFETY: a key names one vCPU for ever. The VM has not been dropped, so its vCPU is where
        // it was when the CPU loaded it.
        unsafe { vcpu.cast().as_ref() }
    }

    /// Returns the vCPU `id`, for an access trapped on the calling CPU, and checks the pin.
    /// Searches only for a vCPU not loaded on the CPU: a CPU loads present vCPUs of the same domain
    /// only.
    #[inline]
    pub(crate) fn accessor(&self, pin: &CpuPin<'_>, id: VcpuId) -> Result<&Vcpu, AccessError> {
        match self.out_of_guest(pin.local(), id) {
            Some(vcpu) => Ok(vcpu),
            None => self.find_accessor(pin, id),
        }
    }

    /// Finds the vCPU `id` for an access on a CPU without the vCPU.
    #[cold]
    fn find_accessor(&self, pin: &CpuPin<'_>, id: VcpuId) -> Result<&Vcpu, AccessError> {
        self.admit(pin)?;
        self.vcpu(id).ok_or(AccessError::UnknownVcpu(id))
    }

    /// Returns the key of the vCPU `id`, which the VM may not have.
    #[inline]
    pub(crate) fn key(&self, id: VcpuId) -> VcpuKey {
        VcpuKey::new(self.number, id.index())
    }

    /// Returns the vCPUs added so far, those included that have been removed.
    pub(crate) fn added_vcpus(&self) -> &[Vcpu] {
        &self.vcpus[..self.vcpu_count()]
    }

    /// Returns the affinity of a vCPU.
    pub(crate) fn affinity(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Option<Affinity> {
        self.vcpu(vcpu)?;
        self.topology.load(pin.guard()).affinity(vcpu)
    }

    /// Finds the vCPU with an affinity, in constant time.
    pub(crate) fn find_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Option<VcpuId> {
        self.topology.load(pin.guard()).find(affinity)
    }

    /// Counts an old topology as left to the epoch, and collects. No lock is held.
    pub(crate) fn topology_replaced(&self, pin: &CpuPin<'_>) {
        pin.leaves_garbage();
        pin.collect();
    }

    /// Returns the CPU interface of a vCPU; `None` in a VM with a GICv3.
    pub(crate) fn gicv2_interface(&self, vcpu: VcpuId) -> Option<&Interface> {
        self.gicv2.as_ref()?.interface(vcpu)
    }

    /// Returns the ITS `id`, or `None` if the VM does not have the ITS.
    pub(crate) fn its(&self, id: ItsId) -> Option<&Its> {
        self.its.get(usize::from(id.0))
    }

    /// Finds the interrupt `intid`: an SGI or PPI of `vcpu`, an SPI or an LPI. Takes no lock.
    ///
    /// An LPI is found only while a reference to the LPI is left.
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

    /// Finds the LPI `intid`, if the LPI is mapped or still on a list. Takes no lock.
    pub(crate) fn lpi<'g>(&'g self, pin: &'g CpuPin<'_>, intid: IntId) -> Option<&'g Irq> {
        let key = intid.raw().checked_sub(IntId::FIRST_LPI)?;
        let irq = pin.lookup(|| self.lpis.get(key, pin.guard()))?;
        // The table may still hold an LPI without references.
        (irq.state().refs() != 0).then_some(irq)
    }

    /// Finds the SPI `intid`, for an injection.
    pub(crate) fn spi(&self, intid: IntId) -> Result<&Irq, InjectError> {
        self.distributor
            .spi(intid)
            .ok_or(InjectError::UnknownInterrupt)
    }

    /// Finds the PPI `intid` of a vCPU, for an injection.
    pub(crate) fn ppi(&self, vcpu: VcpuId, intid: IntId) -> Result<(&Vcpu, &Irq), InjectError> {
        let vcpu = self.vcpu(vcpu).ok_or(InjectError::UnknownVcpu)?;
        if intid.kind() != Kind::Ppi {
            return Err(InjectError::UnknownInterrupt);
        }
        let irq = vcpu.private(intid).ok_or(InjectError::UnknownInterrupt)?;
        Ok((vcpu, irq))
    }

    /// Returns every SPI, and every SGI and PPI of every vCPU.
    pub(crate) fn wired(&self) -> impl Iterator<Item = &Irq> {
        let private = self.vcpus.iter().flat_map(Vcpu::all_privates);
        self.distributor.all_spis().chain(private)
    }

    /// Returns true if the VM is being taken apart, or has been. Under the lock `Vm::growth`.
    pub(crate) fn is_torn_down(&self) -> bool {
        let first = self.vcpus.first();
        first.is_some_and(|vcpu| vcpu.residency.get().is_torn_down())
    }

    /// Returns the groups, a bit each, open to signal `irq` to `vcpu`. A CPU that closes a group
    /// after the load recalls the vCPU.
    #[inline]
    pub(crate) fn groups_enabled_for(&self, vcpu: &Vcpu, irq: &Irq) -> u32 {
        if irq.kind() == Kind::Lpi
            && !vcpu.redistributor.lpis_enabled()
            && !mutant(Mutant::DisabledLpiStaged)
        {
            0
        } else {
            self.distributor.group_enables()
        }
    }

    /// Returns true if so much of the VM's memory is not freed that a guest's work that leaves more
    /// has to wait. The CPU's next collection step then runs soon.
    #[inline]
    pub(crate) fn is_full_of_garbage(&self, pin: &CpuPin<'_>) -> bool {
        let pieces = self.garbage.pieces().wrapping_add(self.free_list.len());
        if pieces < Garbage::LIMIT / 2 {
            return false;
        }

        pin.hurry();
        pieces >= Garbage::LIMIT
    }
}
