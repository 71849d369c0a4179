//! Calls that look at a VM and change nothing: a getter for each state that an embedder sets, and
//! the dump.

use core::fmt;

use super::Vgic;
use crate::dump::Dump;
use crate::epoch::CpuPin;
use crate::error::InjectError;
use crate::host::Host;
use crate::intid::{CpuId, IntId, VcpuId};
use crate::vm::irq::Irq;

/// Looking at the VM: nothing changes.
impl<H: Host> Vgic<H> {
    /// Returns the vCPUs, added ones included, and without those that have been removed.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> {
        let added = self.vm.added_vcpus().iter();
        added.filter(|vcpu| vcpu.is_present()).map(|vcpu| vcpu.id)
    }

    /// Returns true if the vCPU is powered on; false too if the VM does not have the vCPU.
    #[must_use]
    pub fn is_powered_on(&self, vcpu: VcpuId) -> bool {
        self.vm
            .vcpu(vcpu)
            .is_some_and(|vcpu| vcpu.residency.get().is_on())
    }

    /// Returns the CPU that has the vCPU, since the first [`Vgic::enter`] there and until
    /// [`Vgic::vcpu_put`] or [`Vgic::power_off`]. Returns `None` if the vCPU is on no CPU, or the
    /// VM does not have the vCPU.
    #[must_use]
    pub fn vcpu_cpu(&self, vcpu: VcpuId) -> Option<CpuId> {
        self.vm.vcpu(vcpu)?.residency.get().cpu()
    }

    /// Returns the level of the input line of SPI `intid`, as last set by [`Vgic::set_spi_line`].
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if `intid` is not an SPI of the VM.
    pub fn spi_line(&self, intid: IntId) -> Result<bool, InjectError> {
        Ok(self.vm.spi(intid)?.state().line())
    }

    /// Returns the level of the input line of PPI `intid` of `vcpu`, as last set by
    /// [`Vgic::set_ppi_line`].
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI.
    pub fn ppi_line(&self, vcpu: VcpuId, intid: IntId) -> Result<bool, InjectError> {
        Ok(self.vm.ppi(vcpu, intid)?.1.state().line())
    }

    /// Returns the physical interrupt that SPI `intid` is connected to ([`Vgic::connect_spi`]).
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if `intid` is not an SPI of the VM.
    pub fn spi_connection(&self, intid: IntId) -> Result<Option<IntId>, InjectError> {
        Ok(connection(self.vm.spi(intid)?))
    }

    /// Returns the physical interrupt that PPI `intid` of `vcpu` is connected to
    /// ([`Vgic::connect_ppi`]).
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI.
    pub fn ppi_connection(&self, vcpu: VcpuId, intid: IntId) -> Result<Option<IntId>, InjectError> {
        Ok(connection(self.vm.ppi(vcpu, intid)?.1))
    }

    /// Returns the state of the VM as a page of text, for a developer.
    ///
    /// For each vCPU the page says whether it is on, and on which CPU; which interrupts are queued
    /// on it, pending or active, in which list registers they are as last known, or else why they
    /// wait. For each ITS it says how far the command queue is, and which devices are mapped. A
    /// list ends after 64 lines, with the number of the others. The text may change with any
    /// version.
    ///
    /// Any CPU may call at any time, from a callback of [`Host`] too. The text is made when it is
    /// formatted, without a lock, while other CPUs go on: each line is of one moment. The time
    /// depends on the number of SPIs and mapped LPIs, once for each vCPU with an SPI or LPI. Memory
    /// that the domain's VMs unlink meanwhile waits for the pin.
    pub fn dump<'a>(&'a self, pin: &'a CpuPin<'_>) -> impl fmt::Display {
        Dump { vm: &self.vm, pin }
    }
}

/// Returns the physical interrupt that an interrupt is connected to.
fn connection(irq: &Irq) -> Option<IntId> {
    let is_connected = irq.state().connected();
    is_connected
        .then(|| IntId::new(irq.pintid().into()))
        .flatten()
}

impl<H: Host> fmt::Debug for Vgic<H> {
    /// Prints the size of the VM, and whether work is deferred. [`Vgic::dump`] has the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vgic")
            .field("vcpus", &self.vcpu_count())
            .field("spis", &self.vm.config.spis)
            .field("extended_spis", &self.vm.config.extended_spis)
            .field("extended_ppis", &self.vm.config.extended_ppis)
            .field("lpis", &self.vm.config.lpis)
            .field("its", &self.vm.its.len())
            .field("has_deferred", &self.has_deferred())
            .finish_non_exhaustive()
    }
}
