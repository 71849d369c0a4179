//! The physical GICv4 of the embedder, as direct injection uses it (IHI 0069, chapters 5 and 6).
//!
//! On a machine with GICv4, an ITS makes an MSI of a device pending as a *virtual LPI* of a
//! *virtual PE*, and a redistributor signals it to the guest, without an exit. The library owns the
//! protocol. The embedder owns the hardware, and lends it to the library by [`Gicv4`]: commands,
//! tables in memory, vPEIDs, and two registers of the calling CPU's redistributor.
//!
//! | file | content |
//! |---|---|
//! | this file | [`Gicv4`], [`Gicv41`] |
//! | [`command`] | the ITS commands for virtual LPIs and virtual SGIs |
//! | [`registers`] | `GICR_VPENDBASER`, `GICR_VPROPBASER`, and the registers of GICv4.1 |
//! | [`vpe_table`] | the table of virtual PEs that redistributors of GICv4.1 share |

pub mod command;
pub(crate) mod registers;
pub mod vpe_table;

use crate::intid::{CpuId, DeviceId, EventId, ItsId, VcpuId};
use command::Command;

/// A physical ITS, by the embedder's numbering from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PhysicalIts(pub u8);

/// A device at a physical ITS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysicalDevice {
    /// ITS that translates the device's MSIs.
    pub its: PhysicalIts,
    /// DeviceID at that ITS.
    pub device: u32,
}

/// A vPEID with its doorbell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpeId {
    /// vPEID, unique on the machine.
    pub number: u16,
    /// Physical LPI that reports a virtual interrupt of the virtual PE, while it is not resident.
    pub doorbell: u32,
}

impl VpeId {
    /// INTID that stands for no doorbell.
    pub const NO_DOORBELL: u32 = 1023;
}

/// Reason why the hardware has not done as told: an ITS or a redistributor was not done within a
/// bound, or has stalled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItsFault;

/// The machine's GICv4, as one VM uses it.
///
/// Each VM has a value of its own, since devices and vCPUs are named by the VM's numbers. ITSes,
/// redistributors, vPEIDs and memory behind the values are the machine's, which all VMs share.
/// Several CPUs call at the same time.
///
/// A method must not block, and must not call back into a vGIC. The library calls with interrupts
/// masked, perhaps with the command lock of a virtual ITS held, or the lock of
/// [`Vgic::add_vcpu`](crate::Vgic::add_vcpu), and with the locks of virtual PEs.
pub trait Gicv4: Send + Sync {
    /// Returns the rest of a GICv4.1, or `None` if the ITSes and redistributors are of GICv4.0. The
    /// answer is the same for ever.
    fn v4_1(&self) -> Option<&dyn Gicv41> {
        None
    }

    /// Returns the number of physical ITSes, 1-16. Each virtual PE is mapped on all of them.
    fn its_count(&self) -> usize;

    /// Returns true if one `VMOVP` on one ITS is enough for all of them (`GITS_TYPER.VMOVP`), as on
    /// any machine with one ITS. Otherwise no vCPU has a virtual PE.
    fn vmovp_is_shared(&self) -> bool;

    /// Executes at most 17 commands on an ITS, and returns when they are done. The longest run is a
    /// `VSGI` for each SGI of a vCPU, and a `VSYNC`.
    ///
    /// [`Command::words`] are the double words of the queue. Commands of several callers may follow
    /// each other in any order, but those of one call stay in order.
    ///
    /// # Errors
    /// [`ItsFault`] if the ITS has not executed the commands within a bound of the embedder's
    /// choice. Direct injection then ends for what the commands were about. The ITS executes them
    /// later, before any later command, or executes no command any more: `VMAPP` with V = 0 follows
    /// a `DISCARD` that has failed.
    fn execute(&self, its: PhysicalIts, commands: &[Command]) -> Result<(), ItsFault>;

    /// Returns the RDbase field of a CPU in commands to `its`: bits 50:16, as in a `MAPC` of the
    /// embedder's (`GITS_TYPER.PTA`).
    fn rdbase(&self, its: PhysicalIts, cpu: CpuId) -> u64;

    /// Allocates a vPEID and its doorbell for `vcpu`, or for the library's own use with
    /// [`VpeId::NO_DOORBELL`]. Returns `None` if none is left. The doorbell is disabled with
    /// GICv4.0, and enabled with GICv4.1.
    fn allocate_vpe(&self, vcpu: Option<VcpuId>) -> Option<VpeId>;

    /// Takes back a vPEID that no ITS has mapped any more.
    fn free_vpe(&self, vpe: VpeId);

    /// Allocates physically contiguous memory, aligned to 64 KiB and all zeros, that the
    /// redistributors reach. Returns its physical address, or `None` without memory.
    ///
    /// A VM with 16 bits of INTID has two configuration tables of 56 KiB, and a pending table of
    /// 8 KiB for each vCPU with a virtual PE and for one virtual PE of the library's own.
    fn allocate_table(&self, bytes: usize) -> Option<u64>;

    /// Frees a table that no redistributor uses any more.
    fn free_table(&self, table: u64, bytes: usize);

    /// Fills `bytes` bytes from `offset` on of a table with `value`. The redistributors see the
    /// bytes when the call returns.
    fn fill_table(&self, table: u64, offset: usize, bytes: usize, value: u8);

    /// Reads `GICR_VPENDBASER` of `cpu`, the calling CPU. The library reads until Dirty is 0.
    fn vpendbaser(&self, cpu: CpuId) -> u64;

    /// Writes `GICR_VPENDBASER` of `cpu`, the calling CPU, after an earlier
    /// [`Gicv4::set_vpropbaser`] has had its effect.
    fn set_vpendbaser(&self, cpu: CpuId, value: u64);

    /// Reads `GICR_VPROPBASER` of `cpu`, the calling CPU. GICv4.0 only.
    fn vpropbaser(&self, cpu: CpuId) -> u64;

    /// Writes `GICR_VPROPBASER` of `cpu`, the calling CPU. GICv4.0 only.
    fn set_vpropbaser(&self, cpu: CpuId, value: u64);

    /// Enables or disables the doorbell of a virtual PE that is mapped to `cpu`. A doorbell that is
    /// pending when it is enabled is taken. The interrupt's handler calls
    /// [`Vgic::doorbell`](crate::Vgic::doorbell). GICv4.0 only.
    fn set_doorbell(&self, vpe: VpeId, cpu: CpuId, on: bool);

    /// Returns the physical device behind a device of a virtual ITS, if its MSIs are to reach
    /// direct vCPUs directly. The embedder has mapped the physical device, with as many events
    /// ([`Host::device_mapped`](crate::Host::device_mapped)).
    ///
    /// The library asks when it maps or moves an event, and after
    /// [`Vgic::settle_direct`](crate::Vgic::settle_direct).
    fn device(&self, its: ItsId, device: DeviceId) -> Option<PhysicalDevice>;

    /// Holds the MSIs of a device of a virtual ITS back, so that none is lost while its events are
    /// mapped anew: by the Function Mask of MSI-X, for example. On return, each earlier MSI has
    /// reached the physical ITS.
    fn hold(&self, its: ItsId, device: DeviceId);

    /// Ends the last [`Gicv4::hold`] of the device: MSIs that have waited are sent.
    fn release(&self, its: ItsId, device: DeviceId);

    /// Unmaps an event, whose MSIs are held, from the physical LPI to which the embedder has mapped
    /// it ([`Host::event_mapped`](crate::Host::event_mapped)). Returns true if that LPI was
    /// pending, and no CPU has taken it. The library maps the event to a virtual LPI next
    /// (`VMAPTI`), and does not call [`Host::event_unmapped`](crate::Host::event_unmapped).
    ///
    /// A CPU that has taken the LPI still injects the MSI after the call: the embedder keeps what
    /// the LPI stands for until the LPI is mapped again.
    fn unmap_event(&self, its: ItsId, device: DeviceId, event: EventId) -> bool;
}

/// The part of a GICv4.1 that is not in [`Gicv4`] (IHI 0069, chapter 6).
///
/// The embedder has set `GICR_VPROPBASER` of every redistributor up before a vCPU has a virtual PE:
/// [`vpe_table`].
pub trait Gicv41: Send + Sync {
    /// Returns true if the ITSes have virtual SGIs (`GITS_TYPER.VSGI`).
    fn has_virtual_sgis(&self) -> bool;

    /// Writes `GICR_INVALLR` of `cpu`, any CPU, and returns when `GICR_SYNCR.Busy` reads 0. Calls
    /// for one CPU exclude each other.
    ///
    /// # Errors
    /// [`ItsFault`] if the redistributor is not done within a bound of the embedder's choice.
    fn write_invallr(&self, cpu: CpuId, value: u64) -> Result<(), ItsFault>;

    /// Writes `GICR_VSGIR` of `cpu`, any CPU, and returns `GICR_VSGIPENDR` when its Busy bit reads
    /// 0. Calls for one CPU exclude each other.
    ///
    /// # Errors
    /// [`ItsFault`] if the redistributor is not done within a bound of the embedder's choice.
    fn read_vsgipendr(&self, cpu: CpuId, vsgir: u32) -> Result<u32, ItsFault>;

    /// Writes `GITS_SGIR` of an ITS.
    fn write_sgir(&self, its: PhysicalIts, value: u64);
}
