//! Forwarding of physical interrupts to a guest: connection, forwarding, and the end of both.
//!
//! [`vm::irq`](crate::vm::irq) has the rule of their ownership.

use super::Vgic;
use crate::delivery::inject::Injected;
use crate::delivery::{inject, physical};
use crate::epoch::CpuPin;
use crate::error::InjectError;
use crate::host::Host;
#[cfg(doc)]
use crate::host::PhysicalInterrupt;
use crate::intid::{IntId, VcpuId};

/// Forwarding physical interrupts.
impl<H: Host> Vgic<H> {
    /// Forwards a physical interrupt, which is active, as the SPI `intid`, 32-1019 or 4096-5119.
    ///
    /// The VM owns the active physical interrupt from here on. The guest's deactivation, or the
    /// library by [`Host::deactivate`], makes it inactive. After an error the caller owns it still.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if `intid` is not an SPI of the VM,
    /// [`InjectError::NotConnected`] without [`Vgic::connect_spi`] and after [`Vgic::teardown`].
    pub fn forward_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        self.vm.admit(pin)?;
        let irq = self.vm.spi(intid)?;
        let raised = irq.forward().ok_or(InjectError::NotConnected)?;
        Ok(inject::raised(&self.vm, pin, irq, raised))
    }

    /// Forwards a physical interrupt, which is active, as the PPI `intid`, 16-31 or 1056-1119, of
    /// `vcpu`.
    ///
    /// A physical PPI is active on the calling CPU, which has the vCPU. The VM owns the active
    /// physical interrupt from here on, a PPI until the vCPU leaves the CPU ([`Vgic::vcpu_put`]).
    /// The guest's deactivation, or the library by [`Host::deactivate`], makes it inactive. After
    /// an error the caller owns it still. The virtual timer's interrupt is forwarded by this call.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], [`InjectError::UnknownInterrupt`] if `intid` is not a PPI,
    /// [`InjectError::NotConnected`] without [`Vgic::connect_ppi`] and after [`Vgic::teardown`],
    /// [`InjectError::NotLoaded`] for a physical PPI if the calling CPU does not have the vCPU.
    pub fn forward_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        physical::forward_ppi(&self.vm, pin, vcpu, intid)
    }

    /// Connects the SPI `intid` to the physical SPI `pintid`, for [`Vgic::forward_spi`]. Either may
    /// be extended.
    ///
    /// The same connection may be made again. Extended physical interrupts come only on a machine
    /// with the range in every CPU (`ICC_CTLR_EL1.ExtRange`), and list registers hold the INTIDs
    /// there: `ICH_LR<n>_EL2.pINTID` has 13 bits, and 10 elsewhere.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if either INTID is out of range,
    /// [`InjectError::AlreadyConnected`] if one of the two is connected to another in this VM, or
    /// has been, and the CPU that is to deactivate the physical interrupt has not read its number
    /// ([`Vgic::disconnect_spi`]). The library cannot know the connections of other VMs.
    /// [`InjectError::TornDown`].
    pub fn connect_spi(
        &self,
        pin: &CpuPin<'_>,
        intid: IntId,
        pintid: IntId,
    ) -> Result<(), InjectError> {
        self.vm.admit(pin)?;
        physical::connect(&self.vm, pin, self.vm.spi(intid)?, None, pintid)
    }

    /// Connects the PPI `intid` of `vcpu` to the physical PPI or SPI `pintid`, for
    /// [`Vgic::forward_ppi`]. Either may be extended, as for [`Vgic::connect_spi`].
    ///
    /// A physical PPI is the one of whichever CPU has the vCPU. The same connection may be made
    /// again.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI
    /// or `pintid` is out of range. [`InjectError::AlreadyConnected`] if one of the two is
    /// connected to another: a physical PPI to a PPI of the same vCPU, a physical SPI to any
    /// interrupt of the VM. [`InjectError::TornDown`].
    pub fn connect_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
        pintid: IntId,
    ) -> Result<(), InjectError> {
        self.vm.admit(pin)?;
        let (owner, irq) = self.vm.ppi(vcpu, intid)?;
        physical::connect(&self.vm, pin, irq, Some(owner), pintid)
    }

    /// Ends the connection of the SPI `intid`, and gives the physical interrupt back.
    ///
    /// If the VM owns the physical interrupt, [`Host::deactivate`] is called by this call. With the
    /// interrupt in a list register, [`Host::deactivate`] is called by the CPU that has the list
    /// register: at the vCPU's next entry, [`Vgic::block`] or [`Vgic::vcpu_put`], after a kick.
    /// Neither interrupt can be connected again ([`InjectError::AlreadyConnected`]) until that CPU
    /// has read the physical number. The call of [`Host::deactivate`] may still follow.
    ///
    /// A level that was pending because of the physical interrupt is pending no more. An edge stays
    /// pending, and an active state active.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if `intid` is not an SPI of the VM,
    /// [`InjectError::NotConnected`].
    pub fn disconnect_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<(), InjectError> {
        self.vm.admit(pin)?;
        physical::disconnect(&self.vm, pin, self.vm.spi(intid)?)
    }

    /// Ends the connection of the PPI `intid` of `vcpu`, and gives the physical interrupt back, as
    /// [`Vgic::disconnect_spi`] does.
    ///
    /// If the VM owns a physical PPI of another CPU, that CPU is kicked, and calls
    /// [`Host::deactivate`] at the vCPU's next entry, [`Vgic::block`] or [`Vgic::vcpu_put`].
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], [`InjectError::UnknownInterrupt`] if `intid` is not a PPI,
    /// [`InjectError::NotConnected`].
    pub fn disconnect_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<(), InjectError> {
        self.vm.admit(pin)?;
        physical::disconnect(&self.vm, pin, self.vm.ppi(vcpu, intid)?.1)
    }
}
