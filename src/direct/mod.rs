//! Direct injection: the virtual PEs of vCPUs (GICv4.0 and GICv4.1, IHI 0069, chapter 6).
//!
//! | file | content |
//! |---|---|
//! | this file | access to a VM's part |
//! | [`vpe`] | a virtual PE: made, moved to another CPU, freed |
//! | [`residency`] | a virtual PE on its CPU and off it; doorbells |
//! | [`pending`] | taking the pending state of an event out of the hardware |
//! | [`configuration`] | priorities and enables of virtual LPIs |
//! | [`sgi`] | virtual SGIs of GICv4.1 |
//!
//! `vm::direct` has the state, and the locks. `its::direct` decides which events are direct, and
//! changes their path. `vgic::direct` has the embedder's calls, and [`crate::gicv4`] the embedder's
//! hardware.
//!
//! # Places of pending states
//! The state word of an LPI knows nothing of direct injection: an event is direct, not an LPI. An
//! MSI of a direct event becomes pending in the hardware, any other injection of the LPI in the
//! state word, and each is delivered once. An event that becomes direct, or ceases to be, takes the
//! pending state along: `its::direct`. Virtual SGIs have two such places too: [`sgi`].
//!
//! # No lost wake-up
//! A virtual PE is resident while its vCPU is loaded and not blocked, if an event is direct to it,
//! or virtual SGIs are in use: the first event recalls the vCPU. A block makes it leave, reads
//! `PendingLast`, enables the doorbell, and sets BLOCKED in the residency word. A virtual LPI that
//! comes before the virtual PE has left is in `PendingLast`. A later one makes the doorbell
//! pending, which is taken at once or when the doorbell is enabled. Its handler gives the vCPU
//! work, as a producer of any other interrupt does ([`crate::vm::residency`]).
//!
//! The doorbell stays enabled when the vCPU runs again: it is not raised for a resident virtual PE.
//! If it rings for a vCPU that is not blocked, because the CPU runs another vCPU, the handler
//! disables it, and gives the vCPU work afterwards. If the vCPU is about to block, the work
//! prevents or ends the block, and the next one enables the doorbell anew.
//!
//! A virtual PE of GICv4.1 asks for its doorbell as it leaves for a block, and the doorbell rings
//! once. It may ring before BLOCKED is set: the work that the handler gives keeps the vCPU awake.
//!
//! A vCPU may be in the guest, or blocked, when its first event becomes direct. Its virtual PE is
//! not resident then, nor the doorbell enabled. A recall makes the vCPU enter again, or block
//! again.

pub(crate) mod configuration;
pub(crate) mod pending;
pub(crate) mod residency;
pub(crate) mod sgi;
pub(crate) mod vpe;

use crate::gicv4::Gicv4;
use crate::host::Host;
use crate::vm::Vm;
use crate::vm::direct::Direct;

/// Returns the VM's direct injection and the embedder's GICv4, or `None` without a GICv4.
#[inline]
pub(crate) fn of<H: Host>(vm: &Vm<H>) -> Option<(&Direct, &dyn Gicv4)> {
    let direct = vm.direct.as_deref()?;
    Some((direct, vm.host.gicv4()?))
}
