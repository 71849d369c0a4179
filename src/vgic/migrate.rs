//! Calls that save a VM, and give a VM the state of another.

use alloc::vec::Vec;

use crate::Vgic;
use crate::epoch::CpuPin;
use crate::error::{InjectError, RestoreError, TeardownError};
use crate::host::Host;
use crate::state::{LateInterrupt, VmState, freeze, restore, save};

impl<H: Host> Vgic<H> {
    /// Returns the state of the controller, for [`Vgic::restore`]. The VM stays as it is.
    ///
    /// For snapshots of a VM that goes on here; a VM that goes on elsewhere is frozen
    /// ([`Vgic::freeze`]). Every vCPU must be off its CPU ([`Vgic::vcpu_put`]), and no CPU is in
    /// another call for the VM but those that raise interrupts. An interrupt raised meanwhile is
    /// saved, or is pending only in this VM. A command of an ITS that has been begun is completed;
    /// commands that wait are saved with their queue. Pending tables that are due are written:
    /// guest memory is copied afterwards. [`Vgic::enter`], [`Vgic::add_vcpu`],
    /// [`Vgic::remove_vcpu`] and connections fail meanwhile, as during [`Vgic::reset`].
    /// Unbounded: grows with what the guest has mapped. Allocates the state.
    ///
    /// # Errors
    /// [`TeardownError::Loaded`] if a vCPU is on a CPU, [`TeardownError::Frozen`],
    /// [`TeardownError::ForeignDomain`], and [`TeardownError::TornDown`] during [`Vgic::reset`] and
    /// after [`Vgic::teardown`].
    pub fn save(&self, pin: &CpuPin<'_>) -> Result<VmState, TeardownError> {
        save::save(&self.vm, pin)
    }

    /// Resets the controller as [`Vgic::reset`] does, and gives it a state of [`Vgic::save`],
    /// [`Vgic::freeze`] or [`Devices::finish`](crate::kvm::Devices::finish). The state is of this
    /// VM, or of another one with the same configuration and the same vCPUs. The vCPUs that were
    /// powered on are on.
    ///
    /// The embedder is told of what the guest has enabled, routed and mapped
    /// ([`Host::enabled`], [`Host::configured`], [`Host::routed`], [`Host::device_mapped`],
    /// [`Host::event_mapped`]), as if the guest had done it now. Lines have the levels of the
    /// state; connections to physical interrupts stay as they are. Guest memory is not looked at.
    /// No vCPU is kicked or woken. Unbounded, and allocates.
    ///
    /// # Errors
    /// [`RestoreError`]: the state is wrong, or the VM cannot be reset. Nothing has been changed.
    pub fn restore(&self, pin: &CpuPin<'_>, state: &VmState) -> Result<(), RestoreError> {
        restore::restore(&self.vm, pin, state)
    }

    /// Stops the VM, and returns its state as [`Vgic::save`] does, for a VM that goes on elsewhere.
    ///
    /// No vCPU can be entered afterwards: [`Vgic::enter`] fails with [`EntryError::TornDown`].
    /// Interrupts can still be raised, and wait for [`Vgic::take_late`]. An interrupt raised
    /// meanwhile is in the state or waits, and never both. The embedder masks physical interrupts
    /// that it forwards ([`Vgic::forward_spi`], [`Vgic::forward_ppi`]) before the call: an edge
    /// that is forwarded to a frozen VM stays with it. No register of the VM is written after the
    /// call: the state would lack the write. The freeze ends with [`Vgic::thaw`] or
    /// [`Vgic::teardown`].
    ///
    /// # Errors
    /// Those of [`Vgic::save`].
    ///
    /// [`EntryError::TornDown`]: crate::EntryError::TornDown
    pub fn freeze(&self, pin: &CpuPin<'_>) -> Result<VmState, TeardownError> {
        freeze::freeze(&self.vm, pin)
    }

    /// Returns the interrupts that a frozen VM has taken since the freeze, or since the last call:
    /// those that are not in `state`, which the freeze has returned. Each is given to the VM that
    /// has been restored ([`Vgic::inject_late`]), in any order. An edge or MSI is returned also if
    /// the interrupt is pending in `state`: the guest may have taken the first meanwhile.
    ///
    /// The last call comes after nothing can raise an interrupt here any more. A latch is returned
    /// once. Lines and messages are returned if they differ from the state, by every call, and
    /// those of the last call count: a line that was returned, and is back at the level in the
    /// state, is not returned again. Unbounded: grows with what the guest has mapped. Allocates.
    ///
    /// # Errors
    /// [`TeardownError::NotFrozen`], [`TeardownError::ForeignDomain`].
    pub fn take_late(
        &self,
        pin: &CpuPin<'_>,
        state: &VmState,
    ) -> Result<Vec<LateInterrupt>, TeardownError> {
        freeze::take_late(&self.vm, pin, state)
    }

    /// Injects an interrupt that came too late for the VM's state. An LPI that the guest has
    /// unmapped since is dropped. A line gets the level of the old VM: devices set lines here
    /// after the last late interrupt.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`], [`InjectError::UnknownVcpu`],
    /// [`InjectError::ForeignDomain`].
    pub fn inject_late(&self, pin: &CpuPin<'_>, late: LateInterrupt) -> Result<(), InjectError> {
        freeze::inject_late(&self.vm, pin, late)
    }

    /// Ends a freeze: the VM goes on here with `state`, which the freeze has returned, and with the
    /// interrupts that came since. The embedder injects here what [`Vgic::take_late`] has returned
    /// ([`Vgic::inject_late`]). Devices set lines afterwards: a late line has the level of the time
    /// when it was taken. A `state` of another VM loses interrupts, without an error.
    ///
    /// Every vCPU that is powered on is entered afterwards, as after [`Vgic::restore`]: a wake-up
    /// of a frozen VM led nowhere.
    ///
    /// # Errors
    /// [`TeardownError::NotFrozen`], [`TeardownError::ForeignDomain`].
    pub fn thaw(&self, pin: &CpuPin<'_>, state: &VmState) -> Result<(), TeardownError> {
        freeze::thaw(&self.vm, pin, state)
    }
}
