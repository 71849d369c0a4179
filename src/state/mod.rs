//! The state of a VM's interrupt controller as plain data, for snapshots and migration.
//!
//! [`Vgic::save`] returns a [`VmState`], and [`Vgic::restore`] gives it to another VM of the same
//! configuration, on CPUs with any number of list registers and the same number of preemption bits.
//! The state is all that a guest can observe later, the levels of lines, and which vCPUs are on. It
//! has no addresses of the hypervisor, no physical interrupts and no list registers. The number of
//! preemption bits is not in the state, and is for the embedder to compare.
//!
//! The embedder's part:
//! * The VM to restore to is created from the same [`Config`], which is not in the
//!   state and has no form of `serde`: the embedder sends the fields.
//! * A restore compares the numbers of SPIs, extended SPIs and PPIs, vCPUs and ITSes, the
//!   affinities and the quotas, and no address. Of LPIs, collections and bits of DeviceID and
//!   EventID the VM needs enough for the state: with another number, `GICD_TYPER` and `GITS_TYPER`
//!   change under the guest, without an error.
//! * The VM has had the same vCPUs added and removed: one for each of [`VmState::vcpus`], in order.
//!   An absent vCPU is added with an affinity of no other vCPU here, and removed after all others
//!   are added.
//! * A save completes pending tables that were being written ([`Host::write_memory`]). Guest memory
//!   may be copied before; afterwards, all is copied that has been written since, those tables
//!   among it. It is in place before the guest runs. A restore does not look at it.
//! * Physical interrupts are masked before the freeze: an edge that is forwarded to a frozen VM is
//!   neither in the state nor late.
//! * Connections to physical interrupts are made before the restore, which leaves them, or after
//!   it. Nothing is forwarded before the restore returns. A level with a physical line is forwarded
//!   anew; what was active stays active, with no physical interrupt behind it.
//! * No vCPU of the restored VM is blocked, and a restore kicks and wakes nobody: every vCPU that
//!   is powered on is entered, and blocks again if there is nothing to do. Then deferred work goes
//!   on ([`Vgic::advance`]).
//! * A VM that goes on elsewhere is frozen instead of saved ([`Vgic::freeze`]). An interrupt that
//!   comes afterwards, while MSIs and lines are led to the new VM, is taken from the old VM
//!   ([`Vgic::take_late`]) and given to the new one ([`Vgic::inject_late`]). If the move fails, the
//!   old VM is thawed ([`Vgic::thaw`]).
//!
//! ```
//! # use vgic::cpu_interface::software::SoftwareInterface;
//! # use vgic::epoch::Domain;
//! # use vgic::intid::{Affinity, CpuId, IntId};
//! # use vgic::{BadAddress, Config, Cpu, Host, PhysicalInterrupt, Vgic};
//! # use vgic::intid::VcpuId;
//! # struct Hypervisor;
//! # impl Host for Hypervisor {
//! #     fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
//! #     fn wake(&self, _vcpu: VcpuId) {}
//! #     fn read_memory(&self, _: u64, _: &mut [u8]) -> Result<(), BadAddress> { Err(BadAddress) }
//! #     fn write_memory(&self, _: u64, _: &[u8]) -> Result<(), BadAddress> { Err(BadAddress) }
//! #     fn deactivate(&self, _physical: PhysicalInterrupt) {}
//! #     fn is_pending(&self, _physical: PhysicalInterrupt) -> bool { false }
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let domain = Domain::new();
//! # let cpu = Cpu::new(domain.register(CpuId(0))?, SoftwareInterface::default());
//! let config = Config::new(vec![Affinity::new(0, 0, 0, 0)]);
//! let source = Vgic::new(&domain, config.clone(), Hypervisor)?;
//! source.inject_spi(&cpu.pin(), IntId::spi(40).unwrap())?;
//! let state = source.save(&cpu.pin())?;
//!
//! let target = Vgic::new(&domain, config, Hypervisor)?;
//! target.restore(&cpu.pin(), &state)?;
//! assert!(target.save(&cpu.pin())? == state);
//! # Ok(())
//! # }
//! ```
//!
//! [`Host::write_memory`]: crate::Host::write_memory
//! [`Vgic::save`]: crate::Vgic::save
//! [`Vgic::restore`]: crate::Vgic::restore
//! [`Vgic::advance`]: crate::Vgic::advance
//! [`Vgic::freeze`]: crate::Vgic::freeze
//! [`Vgic::take_late`]: crate::Vgic::take_late
//! [`Vgic::inject_late`]: crate::Vgic::inject_late
//! [`Vgic::thaw`]: crate::Vgic::thaw
//!
//! # Versions
//! Feature `serde` gives the types `Serialize` and `Deserialize`. The version is the first field of
//! the types of every version: a reader of a binary form reads it alone first.
//!
//! | version | VM | form |
//! |---|---|---|
//! | [`VERSION`] | any but those below | every field but [`VmState::extended`] |
//! | [`EXTENDED_VERSION`] | with extended SPIs, extended PPIs or a GICv2 | every field |
//!
//! A VM of [`VERSION`] has the form that it had before there were others, and goes to and from a
//! library that knows none. That library refuses the version of the others. [`Vgic::restore`]
//! takes no other version ([`RestoreError::Version`](crate::RestoreError::Version)), and of those
//! the one of the VM. `tests/states` keeps a state of every version, and `tests/state.rs` restores
//! all of them.
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

mod check;
#[cfg(feature = "serde")]
mod form;
pub(crate) mod freeze;
mod reset;
pub(crate) mod restore;
pub(crate) mod save;

use alloc::vec::Vec;

use crate::config::Config;
use crate::intid::{Affinity, IntId};

/// Version of the state of a VM without extended interrupts, and with a GICv3.
pub const VERSION: u16 = 1;

/// Version of the state of a VM with extended SPIs, extended PPIs or a GICv2.
pub const EXTENDED_VERSION: u16 = 2;

/// Returns the version of the state of a VM with a configuration.
pub(crate) const fn version_of(config: &Config) -> u16 {
    if config.has_extended_range() || config.gicv2.is_some() {
        EXTENDED_VERSION
    } else {
        VERSION
    }
}

/// Bits of [`InterruptState::flags`].
pub mod flags {
    /// The pending latch: an edge, an MSI, `ISPENDR`.
    pub const LATCH: u8 = 1 << 0;
    /// The input line is high.
    pub const LINE: u8 = 1 << 1;
    /// A message asserts the level-sensitive interrupt (`GICD_SETSPI_NSR`).
    pub const MESSAGE: u8 = 1 << 2;
    /// Active (`ISACTIVER`). Clear for LPIs.
    pub const ACTIVE: u8 = 1 << 3;
    /// Enabled (`ISENABLER`, or the configuration byte of an LPI).
    pub const ENABLED: u8 = 1 << 4;
    /// Of Group 1 (`IGROUPR`). Set for every LPI.
    pub const GROUP1: u8 = 1 << 5;
    /// Level-sensitive (`ICFGR`). Clear for SGIs and LPIs.
    pub const LEVEL: u8 = 1 << 6;
}

/// The state of a VM's interrupt controller.
// `form` has the `Deserialize`: the last field is there by the version.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct VmState {
    /// [`VERSION`], or [`EXTENDED_VERSION`] with extended interrupts or a GICv2.
    pub version: u16,
    /// `GICD_CTLR.EnableGrp0` in bit 0, `EnableGrp1` in bit 1.
    pub group_enables: u32,
    /// `GICR_PROPBASER`, common to all redistributors.
    pub propbaser: u64,
    /// Every SPI, from INTID 32 on.
    pub spis: Vec<SpiState>,
    /// Every vCPU that the VM has had, by index.
    pub vcpus: Vec<VcpuState>,
    /// Every mapped LPI, by rising INTID.
    pub lpis: Vec<LpiState>,
    /// Every ITS, by number.
    pub its: Vec<ItsState>,
    /// Extended SPIs and extended PPIs, and the sources of SGIs of a GICv2. In version [`VERSION`]
    /// there are none, and the form of `serde` does not have the field.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "ExtendedState::is_empty")
    )]
    pub extended: ExtendedState,
}

/// The state of the interrupts in the extended ranges of GICv3.1, and what only a GICv2 has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ExtendedState {
    /// Every extended SPI, from INTID 4096 on.
    pub spis: Vec<SpiState>,
    /// The extended PPIs of every vCPU that the VM has had, from INTID 1056 on: all of vCPU 0, then
    /// all of vCPU 1, and so on.
    pub ppis: Vec<InterruptState>,
    /// For each vCPU of a GICv2, by SGI: the vCPUs, a bit each, that the SGI is pending from
    /// (`GICD_SPENDSGIR<n>`).
    pub sgi_sources: Vec<[u8; IntId::FIRST_PPI as usize]>,
}

impl ExtendedState {
    /// Returns true without extended interrupts and without a GICv2.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spis.is_empty() && self.ppis.is_empty() && self.sgi_sources.is_empty()
    }

    /// Returns the states of the extended PPIs of a vCPU by index, of a VM with `ppis` of them in
    /// each vCPU.
    pub(crate) fn ppis_of(&self, vcpu: usize, ppis: u32) -> &[InterruptState] {
        let count = ppis as usize;
        let first = vcpu.saturating_mul(count);
        let end = first.saturating_add(count);
        self.ppis.get(first..end).unwrap_or_default()
    }
}

/// The state of an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct InterruptState {
    /// Bits of [`flags`].
    pub flags: u8,
    /// Priority, 0 the most urgent; the low three bits are 0.
    pub priority: u8,
}

/// The state of an SPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SpiState {
    /// The interrupt.
    pub interrupt: InterruptState,
    /// `GICD_IROUTER<n>`; the SPI's byte of `GICD_ITARGETSR<n>` with a GICv2.
    pub router: u64,
    /// Index of the vCPU with the active interrupt: the one that has taken it, or that the
    /// interrupt was routed to when a register made it active. The interrupt may be routed
    /// elsewhere since: an end of interrupt counts on this vCPU only.
    pub active_on: Option<u16>,
}

/// The state of a vCPU: redistributor, SGIs and PPIs, CPU interface.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VcpuState {
    /// Affinity as in `MPIDR_EL1`; `None` for a vCPU that has been removed.
    pub affinity: Option<u64>,
    /// True if the vCPU is powered on.
    pub is_on: bool,
    /// `GICR_WAKER.ProcessorSleep`; false with a GICv2.
    pub processor_sleep: bool,
    /// `GICR_CTLR.EnableLPIs`.
    pub enable_lpis: bool,
    /// `GICR_PENDBASER`.
    pub pendbaser: u64,
    /// SGIs and PPIs, by INTID.
    pub private: [InterruptState; IntId::PRIVATE as usize],
    /// `ICH_VMCR_EL2`: priority mask, binary points, group enables and `ICC_CTLR_EL1`, or
    /// `GICC_CTLR`.
    pub vmcr: u64,
    /// `ICH_AP0R<n>_EL2` and `ICH_AP1R<n>_EL2`: the active priorities.
    pub active_priorities: [[u32; 4]; 2],
}

/// The state of a mapped LPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LpiState {
    /// INTID, 8192 and up.
    pub intid: u32,
    /// The interrupt, with the configuration that the redistributor has cached.
    pub interrupt: InterruptState,
    /// Collection of the last mapping.
    pub icid: u16,
    /// Index of the vCPU that the LPI is routed to: that of its collection, or where `MOVALL` has
    /// moved the LPI. `None` for an unmapped collection.
    pub target: Option<u16>,
}

/// The state of an ITS.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ItsState {
    /// `GITS_CTLR.Enabled`.
    pub is_enabled: bool,
    /// `GITS_CBASER`.
    pub cbaser: u64,
    /// `GITS_CWRITER`.
    pub cwriter: u64,
    /// `GITS_CREADR`: the commands from here on have not been begun.
    pub creadr: u64,
    /// `GITS_BASER0`: the device table.
    pub device_table: u64,
    /// `GITS_BASER1`: the collection table.
    pub collection_table: u64,
    /// Mapped collections, by rising ICID.
    pub collections: Vec<CollectionState>,
    /// Mapped devices, by rising DeviceID.
    pub devices: Vec<DeviceState>,
}

/// An interrupt that a frozen VM has taken too late for its state
/// ([`Vgic::take_late`](crate::Vgic::take_late)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LateInterrupt {
    /// INTID.
    pub intid: u32,
    /// Index of the vCPU of an SGI or PPI; `None` for SPIs and LPIs.
    pub vcpu: Option<u16>,
    /// [`flags::LATCH`]: the interrupt has been raised, whatever its line is. Otherwise
    /// [`flags::LINE`] and [`flags::MESSAGE`] as they are by now, one of them other than in the
    /// state.
    pub flags: u8,
}

/// A mapped collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CollectionState {
    /// ICID.
    pub icid: u16,
    /// Index of the vCPU.
    pub vcpu: u16,
}

/// A mapped device.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeviceState {
    /// DeviceID.
    pub device: u32,
    /// Guest-physical address of the interrupt translation table, a multiple of 256 below 2^52.
    pub itt: u64,
    /// Number of EventID bits, 1 to 16.
    pub event_bits: u8,
    /// Mapped events, by rising EventID.
    pub events: Vec<EventState>,
}

/// A mapped event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EventState {
    /// EventID.
    pub event: u32,
    /// INTID of the LPI, which is one of [`VmState::lpis`].
    pub intid: u32,
}

impl InterruptState {
    /// Returns true if all bits of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

impl ItsState {
    /// Returns the index of the vCPU of a collection; `None` if the collection is not mapped.
    #[must_use]
    pub fn vcpu(&self, icid: u16) -> Option<u16> {
        let place = (self.collections).binary_search_by_key(&icid, |collection| collection.icid);
        let collection = place.ok().and_then(|place| self.collections.get(place))?;
        Some(collection.vcpu)
    }
}

impl VcpuState {
    /// Returns the affinity of a vCPU that the VM has.
    #[must_use]
    pub fn affinity(&self) -> Option<Affinity> {
        self.affinity.map(Affinity::from_mpidr)
    }
}
