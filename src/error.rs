//! Why the library refuses what its embedder asks, or what a guest's ITS command asks.

use crate::intid::VcpuId;

/// Why a physical CPU cannot run vCPUs: what its `ICH_VTR_EL2` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CpuError {
    /// Not 1-16 list registers.
    ListRegisters(u8),
    /// Not 5-7 bits of preemption.
    PreemptionBits(u8),
    /// `ICH_HCR_EL2.TDIR` does not exist.
    NoDirTrap,
}

impl core::fmt::Display for CpuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ListRegisters(n) => write!(f, "{n} list registers; the architecture has 1 to 16"),
            Self::PreemptionBits(n) => write!(f, "{n} bits of preemption; supported are 5 to 7"),
            Self::NoDirTrap => write!(f, "ICC_DIR_EL1 cannot be trapped (ICH_VTR_EL2.TDS is 0)"),
        }
    }
}

impl core::error::Error for CpuError {}

/// Why a vCPU cannot enter, leave or block here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EntryError {
    /// The VM has no such vCPU.
    UnknownVcpu(VcpuId),
    /// The vCPU is powered off ([`Vgic::power_on`]).
    PoweredOff(VcpuId),
    /// The vCPU is in the guest already.
    AlreadyEntered(VcpuId),
    /// The vCPU is not in the guest on this CPU.
    NotEntered(VcpuId),
    /// The registers of this vCPU are on another CPU, which has to [`Vgic::vcpu_put`] it first.
    OnAnotherCpu(VcpuId),
    /// This CPU's registers hold another vCPU, which has to be [`Vgic::vcpu_put`] first.
    CpuInUse,
}

impl core::fmt::Display for EntryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownVcpu(v) => write!(f, "the VM has no vCPU {}", v.index()),
            Self::PoweredOff(v) => write!(f, "vCPU {} is powered off", v.index()),
            Self::AlreadyEntered(v) => write!(f, "vCPU {} is in the guest already", v.index()),
            Self::NotEntered(v) => write!(f, "vCPU {} is not in the guest on this CPU", v.index()),
            Self::OnAnotherCpu(v) => {
                write!(f, "the registers of vCPU {} are on another CPU", v.index())
            }
            Self::CpuInUse => write!(f, "this CPU's registers hold another vCPU"),
        }
    }
}

impl core::error::Error for EntryError {}

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
    /// The guest has not mapped the event's collection.
    UnmappedCollection,
}

impl core::fmt::Display for InjectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownVcpu => "the VM has no such vCPU",
            Self::UnknownInterrupt => "the VM has no such interrupt of this kind",
            Self::ItsDisabled => "the ITS does not exist or is disabled",
            Self::UnmappedDevice => "the guest has not mapped the device",
            Self::UnmappedEvent => "the guest has not mapped the event",
            Self::UnmappedCollection => "the guest has not mapped the event's collection",
        })
    }
}

impl core::error::Error for InjectError {}

/// Why an ITS command failed (IHI 0069, 5.5, ITS command error encodings; the name there is given for
/// each). A command that fails has no effect, and the queue goes on with the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum CommandError {
    /// No such command in GICv3.
    Unknown,
    /// The command's place in the queue is not RAM of the guest.
    Unreadable,
    /// `DEVICE_OOR`: more bits than `GITS_TYPER.Devbits`, an ID that the guest's device table does not
    /// cover, or more devices than [`ItsConfig::max_devices`](crate::config::ItsConfig::max_devices).
    DeviceOutOfRange,
    /// `ITTSIZE_OOR`: more bits than `GITS_TYPER.ID_bits`, or beyond
    /// [`ItsConfig::max_events`](crate::config::ItsConfig::max_events).
    IttSizeOutOfRange,
    /// `PROCNUM_OOR`: no vCPU has this processor number.
    ProcessorOutOfRange,
    /// `COLLECTION_OOR`: the ITS has no such collection, or the guest's collection table does not cover
    /// it.
    CollectionOutOfRange,
    /// `UNMAPPED_DEVICE`: the device is not mapped.
    UnmappedDevice,
    /// `ID_OOR`: the EventID has more bits than the device was mapped with.
    EventOutOfRange,
    /// `PHYSICALID_OOR`: the INTID is no LPI of this VM, or has been mapped too many times.
    IntidOutOfRange,
    /// `UNMAPPED_INTERRUPT`: the event is not mapped.
    UnmappedInterrupt,
    /// `UNMAPPED_COLLECTION`: the collection is not mapped.
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
