//! Direct injection by a GICv4.

use super::Vgic;
use crate::delivery::doorbell;
use crate::direct;
use crate::epoch::CpuPin;
use crate::error::{DirectError, InjectError};
use crate::host::Host;
use crate::intid::{ItsId, VcpuId};
use crate::its;

/// Direct injection, for an embedder with a GICv4 ([`Host::gicv4`]).
///
/// An event is direct if its device and its vCPU are. A change takes effect in slices of deferred
/// work ([`Vgic::advance`]), and neither loses nor doubles an interrupt.
impl<H: Host> Vgic<H> {
    /// Makes the MSIs of passed-through devices reach `vcpu` directly, or ends that. Allocates a
    /// virtual PE the first time; the VM keeps it until its end. Any CPU may call, wherever the
    /// vCPU is: in the guest, blocked or put.
    ///
    /// # Errors
    /// [`DirectError`] if the vCPU has no virtual PE, or is of a VM that lets no vCPU in. The
    /// vCPU's MSIs go through list registers then. A later call tries again.
    pub fn set_direct_vcpu(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        on: bool,
    ) -> Result<(), DirectError> {
        its::direct::set_vcpu(&self.vm, pin, vcpu, on)
    }

    /// Looks at every event of an ITS again, after a change of what
    /// [`Gicv4::device`](crate::gicv4::Gicv4::device) answers.
    ///
    /// For a direct event the library calls neither [`Host::event_mapped`] nor
    /// [`Host::event_unmapped`], and commands the physical ITS by
    /// [`Gicv4::execute`](crate::gicv4::Gicv4::execute).
    ///
    /// # Errors
    /// [`DirectError::UnknownIts`], [`DirectError::NoGicv4`], [`DirectError::ForeignDomain`].
    pub fn settle_direct(&self, pin: &CpuPin<'_>, its: ItsId) -> Result<(), DirectError> {
        its::direct::settle_again(&self.vm, pin, its)
    }

    /// Returns the number of events that are direct to `vcpu`: 0 until deferred work has made the
    /// first one direct. The events are those that the guest has mapped, pending or not.
    ///
    /// # Errors
    /// The [`DirectError`] for which the vCPU has no virtual PE, [`DirectError::NotWanted`] before
    /// the first call of [`Vgic::set_direct_vcpu`].
    pub fn direct_events(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Result<u32, DirectError> {
        self.vm.admit(pin)?;
        let (direct, _) = direct::of(&self.vm).ok_or(DirectError::NoGicv4)?;
        let slot = direct.slot(vcpu).ok_or(DirectError::UnknownVcpu(vcpu))?;
        let vpe = *slot.vpe.lock(pin.locks());
        vpe.map(|_| slot.events())
    }

    /// Handles the doorbell of `vcpu`'s virtual PE, which the embedder has acknowledged: wakes the
    /// vCPU if it is blocked ([`Host::wake`]). Otherwise a doorbell of GICv4.0 is disabled
    /// ([`Gicv4::set_doorbell`](crate::gicv4::Gicv4::set_doorbell)) until the next block. The
    /// doorbell may have rung in vain. Any CPU may call.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], [`InjectError::ForeignDomain`].
    pub fn doorbell(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Result<(), InjectError> {
        self.vm.admit(pin)?;
        let vcpu = self.vm.vcpu(vcpu).ok_or(InjectError::UnknownVcpu)?;
        doorbell::ring(&self.vm, pin, vcpu);
        Ok(())
    }
}
