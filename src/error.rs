//! Reasons to refuse a request of the embedder, or an ITS command of the guest.

use crate::erratum::Erratum;
use crate::intid::{CpuId, ItsId, VcpuId};

/// The text of `TornDown`: a VM lets no vCPU in, and does not grow.
pub(crate) const TORN_DOWN: &str =
    "the VM is frozen, has been taken apart, or is being saved, restored or reset";

/// A pin of another [`Domain`](crate::epoch::Domain) than the VM's. Nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForeignDomain;

impl core::fmt::Display for ForeignDomain {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the pin is of another domain than the VM")
    }
}

impl core::error::Error for ForeignDomain {}

/// Reason against registering a physical CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RegisterError {
    /// A number, 65534 or 65535, that names no CPU.
    Reserved(CpuId),
    /// An identifier of a CPU that is registered already.
    InUse(CpuId),
    /// More than 2^32 registrations since the hypervisor has started.
    Exhausted,
}

impl core::fmt::Display for RegisterError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Reserved(cpu) => write!(f, "{} is reserved, and names no CPU", cpu.0),
            Self::InUse(cpu) => write!(f, "CPU {} is registered already", cpu.0),
            Self::Exhausted => f.write_str("2^32 CPUs have been registered"),
        }
    }
}

impl core::error::Error for RegisterError {}

/// Reason against an access to a register, or deferred work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AccessError {
    /// A pin of another domain than the VM's.
    ForeignDomain,
    /// A vCPU unknown to the VM.
    UnknownVcpu(VcpuId),
}

impl core::fmt::Display for AccessError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ForeignDomain => ForeignDomain.fmt(f),
            Self::UnknownVcpu(v) => write!(f, "the VM has no vCPU {}", v.index()),
        }
    }
}

impl core::error::Error for AccessError {}

impl From<ForeignDomain> for AccessError {
    #[inline]
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}

/// Reason against taking a VM apart, resetting, saving or freezing it. The VM is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TeardownError {
    /// A pin of another domain than the VM's.
    ForeignDomain,
    /// A vCPU loaded on a CPU, to be put first by [`Vgic::vcpu_put`](crate::Vgic::vcpu_put). If the
    /// [`Cpu`](crate::Cpu) has been dropped, only the drop of the VM ends this.
    Loaded(VcpuId),
    /// A VM taken apart already, or which another CPU is taking apart, resetting, saving or
    /// restoring.
    TornDown,
    /// A VM that is frozen ([`Vgic::freeze`](crate::Vgic::freeze)), and is to be thawed first
    /// ([`Vgic::thaw`](crate::Vgic::thaw)), or taken apart.
    Frozen,
    /// A VM that is not frozen, for a call that is for frozen ones.
    NotFrozen,
    /// A reset of a VM with [`Garbage::LIMIT`](crate::epoch::Garbage::LIMIT) pieces of memory
    /// unmapped and not freed, because a CPU stays in the epoch. A call succeeds after every CPU
    /// has left the epoch, or has renewed its pin.
    Unreclaimed,
}

impl core::fmt::Display for TeardownError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ForeignDomain => ForeignDomain.fmt(f),
            Self::Loaded(v) => write!(f, "vCPU {} is loaded on a CPU", v.index()),
            Self::TornDown => {
                f.write_str("the VM has been taken apart, or is being saved, restored or reset")
            }
            Self::Frozen => f.write_str("the VM is frozen"),
            Self::NotFrozen => f.write_str("the VM is not frozen"),
            Self::Unreclaimed => f.write_str("memory that the VM has unmapped is not freed yet"),
        }
    }
}

impl core::error::Error for TeardownError {}

impl From<ForeignDomain> for TeardownError {
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}

/// Reason against removing a vCPU. The VM is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RemoveError {
    /// A pin of another domain than the VM's.
    ForeignDomain,
    /// A vCPU unknown to the VM.
    UnknownVcpu(VcpuId),
    /// vCPU 0, which a reset powers on.
    FirstVcpu,
    /// A vCPU of a VM with a GICv2, whose CPUs are all there from the start.
    Gicv2,
    /// A vCPU that is powered on ([`Vgic::power_off`](crate::Vgic::power_off)).
    PoweredOn(VcpuId),
    /// A vCPU loaded on a CPU ([`Vgic::power_off`](crate::Vgic::power_off)).
    Loaded(VcpuId),
    /// A VM being reset ([`Vgic::reset`](crate::Vgic::reset)), saved or restored, frozen
    /// ([`Vgic::freeze`](crate::Vgic::freeze)), or taken apart
    /// ([`Vgic::teardown`](crate::Vgic::teardown)).
    TornDown,
}

impl core::fmt::Display for RemoveError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ForeignDomain => ForeignDomain.fmt(f),
            Self::UnknownVcpu(v) => write!(f, "the VM has no vCPU {}", v.index()),
            Self::FirstVcpu => f.write_str("vCPU 0 stays"),
            Self::Gicv2 => f.write_str("a GICv2 keeps all vCPUs"),
            Self::PoweredOn(v) => write!(f, "vCPU {} is powered on", v.index()),
            Self::Loaded(v) => write!(f, "vCPU {} is loaded on a CPU", v.index()),
            Self::TornDown => f.write_str(TORN_DOWN),
        }
    }
}

impl core::error::Error for RemoveError {}

impl From<ForeignDomain> for RemoveError {
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}

/// Reason against running vCPUs on a physical CPU, from `ICH_VTR_EL2` (IHI 0069, 12.4.10) or
/// `MIDR_EL1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CpuError {
    /// A number of list registers outside 1-16.
    ListRegisters(u8),
    /// A number of preemption bits outside 5-7.
    PreemptionBits(u8),
    /// A number of priority bits outside 5-8, or below the number of preemption bits.
    PriorityBits(u8),
    /// An implementation that signals mistakes of the guest by SErrors of the CPU (`SEIS`): a guest
    /// could stop the hypervisor.
    LocalSErrors,
    /// A CPU with an erratum by which a guest reaches the hypervisor.
    Erratum(Erratum),
}

impl core::fmt::Display for CpuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ListRegisters(n) => write!(f, "{n} list registers; the architecture has 1 to 16"),
            Self::PreemptionBits(n) => write!(f, "{n} bits of preemption; supported are 5 to 7"),
            Self::PriorityBits(n) => {
                write!(
                    f,
                    "{n} bits of priority; supported are 5 to 8, no fewer than of preemption"
                )
            }
            Self::LocalSErrors => {
                write!(
                    f,
                    "a guest can raise SErrors of the CPU (ICH_VTR_EL2.SEIS is 1)"
                )
            }
            Self::Erratum(erratum) => write!(f, "erratum {erratum}"),
        }
    }
}

impl core::error::Error for CpuError {}

/// Reason against entering, exiting, blocking or putting a vCPU on the calling CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EntryError {
    /// A CPU of another domain than the VM's.
    ForeignDomain,
    /// A VM being reset ([`Vgic::reset`](crate::Vgic::reset)), saved or restored, frozen
    /// ([`Vgic::freeze`](crate::Vgic::freeze)), or taken apart
    /// ([`Vgic::teardown`](crate::Vgic::teardown)).
    TornDown,
    /// A vCPU unknown to the VM.
    UnknownVcpu(VcpuId),
    /// A vCPU powered off; see [`Vgic::power_on`](crate::Vgic::power_on).
    PoweredOff(VcpuId),
    /// A vCPU in the guest already.
    AlreadyEntered(VcpuId),
    /// A vCPU not in the guest ([`Vgic::exit`](crate::Vgic::exit)) or not loaded (other calls) on
    /// the calling CPU.
    NotEntered(VcpuId),
    /// A vCPU loaded on another CPU, to be put there first by
    /// [`Vgic::vcpu_put`](crate::Vgic::vcpu_put). If that [`Cpu`](crate::Cpu) has been dropped, the
    /// vCPU cannot be entered any more.
    OnAnotherCpu(VcpuId),
    /// Another vCPU loaded on the calling CPU, to be put first by
    /// [`Vgic::vcpu_put`](crate::Vgic::vcpu_put).
    CpuInUse,
    /// A VM with more bits of INTID than the calling CPU's list registers hold
    /// (`ICH_VTR_EL2.IDbits`); see [`Config::lpis`](crate::Config::lpis).
    IntidBits {
        /// Bits of the VM's INTIDs ([`Config::intid_bits`](crate::Config::intid_bits)).
        vm: u8,
        /// Bits of an INTID in the CPU's list registers, 16 or 24.
        cpu: u8,
    },
    /// A VM with extended SPIs or PPIs ([`Config::extended_spis`](crate::Config::extended_spis),
    /// [`Config::extended_ppis`](crate::Config::extended_ppis)) on a CPU that does not support
    /// INTIDs 1024-8191 (`ICC_CTLR_EL1.ExtRange` = 0).
    ExtendedRange,
}

impl core::fmt::Display for EntryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ForeignDomain => ForeignDomain.fmt(f),
            Self::TornDown => f.write_str(TORN_DOWN),
            Self::UnknownVcpu(v) => write!(f, "the VM has no vCPU {}", v.index()),
            Self::PoweredOff(v) => write!(f, "vCPU {} is powered off", v.index()),
            Self::AlreadyEntered(v) => write!(f, "vCPU {} is in the guest already", v.index()),
            Self::NotEntered(v) => write!(f, "vCPU {} is not in the guest on this CPU", v.index()),
            Self::OnAnotherCpu(v) => {
                write!(f, "the registers of vCPU {} are on another CPU", v.index())
            }
            Self::CpuInUse => write!(f, "this CPU's registers hold another vCPU"),
            Self::IntidBits { vm, cpu } => {
                write!(
                    f,
                    "the VM has INTIDs of {vm} bits, this CPU's list registers hold {cpu}"
                )
            }
            Self::ExtendedRange => f.write_str(
                "the VM has extended interrupts, this CPU does not support INTIDs 1024-8191",
            ),
        }
    }
}

impl core::error::Error for EntryError {}

impl From<ForeignDomain> for EntryError {
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}

/// Reason why a state is not restored. The VM is as before.
///
/// A VM of another configuration, with fewer LPIs, collections, ITSes or bits of DeviceID or
/// EventID, may refuse a state by an interrupt, a collection or a device without room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RestoreError {
    /// The VM cannot be reset now.
    Reset(TeardownError),
    /// A version of the state that this library does not know, or another than the VM's
    /// ([`state`](crate::state#versions)).
    Version(u16),
    /// The number of SPIs, and the VM's, which is another.
    Spis(usize, usize),
    /// The number of extended SPIs, and the VM's, which is another.
    ExtendedSpis(usize, usize),
    /// The number of extended PPIs of all vCPUs, and the VM's, which is another.
    ExtendedPpis(usize, usize),
    /// The number of vCPUs, and of those that the VM has had so far, which is another.
    Vcpus(usize, usize),
    /// The number of vCPUs with sources of SGIs, and of those of the VM's GICv2, which is another.
    SgiSources(usize, usize),
    /// A vCPU with another affinity than the VM's, removed on one side, or on although removed.
    Affinity(VcpuId),
    /// The number of ITSes, and the VM's, which is another.
    ItsCount(usize, usize),
    /// A value that the register cannot have.
    Register(&'static str),
    /// An interrupt, by INTID, with a state that the interrupt cannot have; an LPI out of range,
    /// out of order, routed to no vCPU of the VM, mapped nowhere or too many times.
    Interrupt(u32),
    /// A collection out of range, out of order, or of no vCPU of the VM.
    Collection(ItsId, u16),
    /// A device out of range or out of order, or with a number of events out of range.
    Device(ItsId, u32),
    /// An event, of a device, out of range, out of order, or of no LPI of the state.
    Event(ItsId, u32, u32),
    /// More devices or events than [`ItsConfig`](crate::config::ItsConfig) allows.
    Quota(ItsId),
}

impl core::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Reset(reason) => reason.fmt(f),
            Self::Version(version) => write!(f, "the state has the unknown version {version}"),
            Self::Spis(state, vm) => write!(f, "the state has {state} SPIs, the VM {vm}"),
            Self::ExtendedSpis(state, vm) => {
                write!(f, "the state has {state} extended SPIs, the VM {vm}")
            }
            Self::ExtendedPpis(state, vm) => {
                write!(f, "the state has {state} extended PPIs, the VM {vm}")
            }
            Self::Vcpus(state, vm) => write!(f, "the state has {state} vCPUs, the VM {vm}"),
            Self::SgiSources(state, vm) => write!(
                f,
                "the state has sources of SGIs for {state} vCPUs, the VM for {vm}"
            ),
            Self::Affinity(vcpu) => {
                write!(f, "vCPU {} has another affinity in the VM", vcpu.index())
            }
            Self::ItsCount(state, vm) => write!(f, "the state has {state} ITSes, the VM {vm}"),
            Self::Register(name) => write!(f, "{name} cannot have the value"),
            Self::Interrupt(intid) => {
                write!(
                    f,
                    "interrupt {intid} cannot have its flags, priority, vCPU or mappings"
                )
            }
            Self::Collection(its, icid) => {
                write!(
                    f,
                    "collection {icid} of ITS {} is out of range or of order, or of no vCPU",
                    its.0
                )
            }
            Self::Device(its, device) => {
                write!(
                    f,
                    "device {device} of ITS {}, or its table, is out of range or of order",
                    its.0
                )
            }
            Self::Event(its, device, event) => {
                write!(
                    f,
                    "event {event} of device {device} of ITS {} is out of range or of order, \
                     or of no LPI of the state",
                    its.0
                )
            }
            Self::Quota(its) => write!(f, "ITS {} has more than its quotas allow", its.0),
        }
    }
}

impl core::error::Error for RestoreError {}

impl From<TeardownError> for RestoreError {
    fn from(reason: TeardownError) -> Self {
        Self::Reset(reason)
    }
}

impl From<ForeignDomain> for RestoreError {
    fn from(_: ForeignDomain) -> Self {
        Self::Reset(TeardownError::ForeignDomain)
    }
}

/// Reason for a failed injection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InjectError {
    /// A pin of another domain than the VM's.
    ForeignDomain,
    /// A vCPU unknown to the VM.
    UnknownVcpu,
    /// An interrupt unknown to the VM, or of a kind not accepted by the call.
    UnknownInterrupt,
    /// An ITS unknown to the VM, or disabled by the guest.
    ItsDisabled,
    /// A device not mapped by the guest.
    UnmappedDevice,
    /// An event not mapped by the guest.
    UnmappedEvent,
    /// An event of a collection not mapped by the guest.
    UnmappedCollection,
    /// An interrupt without a physical interrupt ([`Vgic::connect_spi`](crate::Vgic::connect_spi),
    /// [`Vgic::connect_ppi`](crate::Vgic::connect_ppi)).
    NotConnected,
    /// An interrupt connected to another physical interrupt, or a physical interrupt connected to
    /// another interrupt. Also after the connection has ended, until the CPU that is to deactivate
    /// the physical interrupt has read its number
    /// ([`Vgic::disconnect_spi`](crate::Vgic::disconnect_spi)).
    AlreadyConnected,
    /// A physical PPI of a CPU that does not have the vCPU.
    NotLoaded,
    /// A VM being reset ([`Vgic::reset`](crate::Vgic::reset)), saved or restored, frozen
    /// ([`Vgic::freeze`](crate::Vgic::freeze)), or taken apart
    /// ([`Vgic::teardown`](crate::Vgic::teardown)).
    TornDown,
}

impl core::fmt::Display for InjectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::ForeignDomain => "the pin is of another domain than the VM",
            Self::UnknownVcpu => "the VM has no such vCPU",
            Self::UnknownInterrupt => "the VM has no such interrupt of this kind",
            Self::ItsDisabled => "the ITS does not exist or is disabled",
            Self::UnmappedDevice => "the guest has not mapped the device",
            Self::UnmappedEvent => "the guest has not mapped the event",
            Self::UnmappedCollection => "the guest has not mapped the event's collection",
            Self::NotConnected => "the interrupt is not connected to a physical interrupt",
            Self::AlreadyConnected => "one of the two interrupts is connected to another one",
            Self::NotLoaded => "the calling CPU does not have the vCPU of the PPI",
            Self::TornDown => TORN_DOWN,
        })
    }
}

impl core::error::Error for InjectError {}

impl From<ForeignDomain> for InjectError {
    #[inline]
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}

/// Reason for a failed ITS command, with the name from IHI 0069, 5.5 (ITS command error encodings).
///
/// A failed command has no effect. The queue continues with the next command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum CommandError {
    /// A command number not defined by GICv3.
    Unknown,
    /// A command at an address outside the guest's RAM.
    Unreadable,
    /// `DEVICE_OOR`: a DeviceID with more bits than `GITS_TYPER.Devbits`, or beyond the guest's
    /// device table, or more devices than
    /// [`ItsConfig::max_devices`](crate::config::ItsConfig::max_devices).
    DeviceOutOfRange,
    /// `ITTSIZE_OOR`: more EventID bits than `GITS_TYPER.ID_bits`, or more events than
    /// [`ItsConfig::max_events`](crate::config::ItsConfig::max_events).
    IttSizeOutOfRange,
    /// `PROCNUM_OOR`: a processor number of no vCPU.
    ProcessorOutOfRange,
    /// `COLLECTION_OOR`: an ICID beyond the ITS's collections, or beyond the guest's collection
    /// table.
    CollectionOutOfRange,
    /// `UNMAPPED_DEVICE`: an unmapped device.
    UnmappedDevice,
    /// `ID_OOR`: an EventID with more bits than the device was mapped with.
    EventOutOfRange,
    /// `PHYSICALID_OOR`: an INTID outside the VM's LPIs, or an LPI mapped too many times.
    IntidOutOfRange,
    /// `UNMAPPED_INTERRUPT`: an unmapped event.
    UnmappedInterrupt,
    /// `UNMAPPED_COLLECTION`: an unmapped collection.
    UnmappedCollection,
}

impl core::fmt::Display for CommandError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no such command",
            Self::Unreadable => "the command queue is not in RAM",
            Self::DeviceOutOfRange => "DeviceID out of range",
            Self::IttSizeOutOfRange => "too many EventIDs",
            Self::ProcessorOutOfRange => "no such processor number",
            Self::CollectionOutOfRange => "collection out of range",
            Self::UnmappedDevice => "device not mapped",
            Self::EventOutOfRange => "EventID out of range",
            Self::IntidOutOfRange => "INTID out of range",
            Self::UnmappedInterrupt => "event not mapped",
            Self::UnmappedCollection => "collection not mapped",
        })
    }
}

impl core::error::Error for CommandError {}

/// Reason why a vCPU or a device gets its MSIs through list registers, and not directly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirectError {
    /// A pin of another domain than the VM's.
    ForeignDomain,
    /// An embedder that has no GICv4 ([`Host::gicv4`](crate::Host::gicv4)).
    NoGicv4,
    /// Several ITSes, each of which needs a `VMOVP` of its own (`GITS_TYPER.VMOVP` is 0).
    VmovpNotShared,
    /// A vCPU unknown to the VM.
    UnknownVcpu(VcpuId),
    /// An ITS unknown to the VM.
    UnknownIts(ItsId),
    /// A vCPU for which direct injection was never asked.
    NotWanted,
    /// A VM that is frozen, is being reset, saved or restored, or has been taken apart.
    TornDown,
    /// No vPEID left on the machine.
    NoVpe,
    /// No memory for a table that the redistributors reach.
    NoMemory,
    /// A physical ITS that did not execute a command.
    ItsFault,
}

impl core::fmt::Display for DirectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ForeignDomain => ForeignDomain.fmt(f),
            Self::NoGicv4 => f.write_str("the machine has no GICv4"),
            Self::VmovpNotShared => f.write_str("every ITS needs a VMOVP of its own"),
            Self::UnknownVcpu(v) => write!(f, "the VM has no vCPU {}", v.index()),
            Self::UnknownIts(its) => write!(f, "the VM has no ITS {}", its.0),
            Self::NotWanted => f.write_str("direct injection was not asked for"),
            Self::TornDown => f.write_str(TORN_DOWN),
            Self::NoVpe => f.write_str("no vPEID is left"),
            Self::NoMemory => f.write_str("no memory for a table of virtual LPIs"),
            Self::ItsFault => f.write_str("a physical ITS did not execute a command"),
        }
    }
}

impl core::error::Error for DirectError {}

impl From<ForeignDomain> for DirectError {
    fn from(_: ForeignDomain) -> Self {
        Self::ForeignDomain
    }
}
