//! How interrupts come in: edges, lines, forwarded physical interrupts, and MSIs.

use crate::Vgic;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use crate::irq::{Irq, Raised};
use crate::vcpu::Vcpu;

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

/// What an injection came to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injected {
    /// It made the interrupt pending.
    Pending,
    /// The interrupt was pending already; the guest will see the two as one.
    Coalesced,
}

impl<H: Host> Vgic<H> {
    /// An edge on the SPI `intid`.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn inject_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.spi(intid)?;
        Ok(self.raised(pin, irq, irq.raise()))
    }

    /// Sets the level of the line of SPI `intid`. Interrupts configured as edge-triggered ignore it.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn set_spi_line(
        &self,
        pin: &CpuPin<'_>,
        intid: IntId,
        high: bool,
    ) -> Result<(), InjectError> {
        let irq = self.spi(intid)?;
        self.set_line(pin, irq, high);
        Ok(())
    }

    /// Forwards a physical interrupt, active on this or another CPU, as the SPI `intid`: the guest's
    /// deactivation will deactivate it ([`Vgic::connect_spi`] says which one).
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn forward_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.spi(intid)?;
        Ok(self.raised(pin, irq, irq.raise_hw()))
    }

    /// Says which physical interrupt, 16-1019, [`Vgic::forward_spi`] of `intid` stands for. Before the
    /// first one.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if either is out of range.
    pub fn connect_spi(&self, intid: IntId, pintid: IntId) -> Result<(), InjectError> {
        self.spi(intid)?.set_pintid(physical(pintid)?);
        Ok(())
    }

    /// An edge on the PPI `intid` of `vcpu`.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], [`InjectError::UnknownInterrupt`] if it is not a PPI.
    pub fn inject_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        let (owner, irq) = self.ppi(vcpu, intid)?;
        Ok(self.raised_on(pin, owner, irq, irq.raise()))
    }

    /// Sets the level of the line of PPI `intid` of `vcpu`.
    ///
    /// # Errors
    /// As for [`Vgic::inject_ppi`].
    pub fn set_ppi_line(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
        high: bool,
    ) -> Result<(), InjectError> {
        let (_, irq) = self.ppi(vcpu, intid)?;
        self.set_line(pin, irq, high);
        Ok(())
    }

    /// Forwards a physical PPI, active on the CPU that has `vcpu`, as the PPI `intid` of `vcpu`: the
    /// guest's deactivation will deactivate it. The virtual timer comes this way.
    ///
    /// # Errors
    /// As for [`Vgic::inject_ppi`].
    pub fn forward_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        let (owner, irq) = self.ppi(vcpu, intid)?;
        Ok(self.raised_on(pin, owner, irq, irq.raise_hw()))
    }

    /// Says which physical interrupt, 16-1019, [`Vgic::forward_ppi`] of `intid` stands for. Before the
    /// first one.
    ///
    /// # Errors
    /// As for [`Vgic::inject_ppi`], and if `pintid` is out of range.
    pub fn connect_ppi(
        &self,
        vcpu: VcpuId,
        intid: IntId,
        pintid: IntId,
    ) -> Result<(), InjectError> {
        self.ppi(vcpu, intid)?.1.set_pintid(physical(pintid)?);
        Ok(())
    }

    /// An MSI: `device` writes `event` to the translation register of ITS `its`. Looks the interrupt
    /// up without a lock and without guest memory; from interrupt context too.
    ///
    /// # Errors
    /// [`InjectError`] when the guest has not mapped it; nothing has happened then.
    #[inline]
    pub fn inject_msi(
        &self,
        pin: &CpuPin<'_>,
        its: ItsId,
        device: DeviceId,
        event: EventId,
    ) -> Result<Injected, InjectError> {
        // First of all: the less there is to keep meanwhile.
        let guard = pin.first_guard();
        let its = self.its(its).ok_or(InjectError::ItsDisabled)?;
        let irq = pin.lookup(|| its.translate(device, event, guard))?;
        let raised = irq.raise();
        match self.news_for(raised) {
            Some(vcpu) => Ok(self.raised_first(pin, irq, vcpu)),
            None if raised.is_merged() => Ok(self.merged(pin, irq)),
            None => self.msi_raised_again(pin, irq, raised),
        }
    }

    /// Of an MSI whose interrupt is in a list register, disabled, unmapped, or leads to no vCPU.
    #[inline(never)]
    fn msi_raised_again(
        &self,
        pin: &CpuPin<'_>,
        irq: &Irq,
        raised: Raised,
    ) -> Result<Injected, InjectError> {
        if raised.void() {
            // Unmapped since it was looked up.
            return Err(InjectError::UnmappedEvent);
        }
        let injected = self.raised_again(pin, irq, raised);
        if raised.stranded() {
            return Err(self.refuse(pin, irq, injected));
        }
        Ok(injected)
    }

    /// Takes an MSI back whose collection is not mapped: as for the `INT` command, nothing is kept, but for
    /// what was pending before.
    #[cold]
    fn refuse(&self, pin: &CpuPin<'_>, irq: &Irq, injected: Injected) -> InjectError {
        if injected == Injected::Pending {
            let (_, changed) = irq.clear_pending();
            self.settle_up(pin, irq, changed);
        }
        InjectError::UnmappedCollection
    }

    fn spi(&self, intid: IntId) -> Result<&Irq, InjectError> {
        self.distributor
            .spi(intid)
            .ok_or(InjectError::UnknownInterrupt)
    }

    fn ppi(&self, vcpu: VcpuId, intid: IntId) -> Result<(&Vcpu, &Irq), InjectError> {
        let vcpu = self.vcpu(vcpu).ok_or(InjectError::UnknownVcpu)?;
        if intid.kind() != Kind::Ppi {
            return Err(InjectError::UnknownInterrupt);
        }
        let irq = vcpu.private(intid).ok_or(InjectError::UnknownInterrupt)?;
        Ok((vcpu, irq))
    }

    pub(crate) fn set_line(&self, pin: &CpuPin<'_>, irq: &Irq, high: bool) {
        self.settle_up(pin, irq, irq.set_line(high));
    }

    /// Books a raise, and pays what it owes.
    #[inline(always)]
    pub(crate) fn raised(&self, pin: &CpuPin<'_>, irq: &Irq, raised: Raised) -> Injected {
        match self.news_for(raised) {
            Some(vcpu) => self.raised_first(pin, irq, vcpu),
            None => self.raised_again(pin, irq, raised),
        }
    }

    /// As [`Vgic::raised`], for an SGI or PPI of `owner`.
    #[inline(always)]
    pub(crate) fn raised_on(
        &self,
        pin: &CpuPin<'_>,
        owner: &Vcpu,
        irq: &Irq,
        raised: Raised,
    ) -> Injected {
        if raised.is_news() {
            self.raised_first(pin, irq, owner)
        } else {
            self.raised_again(pin, irq, raised)
        }
    }

    /// Whom a raise that is news is for.
    #[inline(always)]
    fn news_for(&self, raised: Raised) -> Option<&Vcpu> {
        // A target is a vCPU that is, or was when it was found, present.
        let target = self.vcpus().get(raised.target_index());
        target.filter(|_| raised.is_news())
    }

    /// Books a raise that is news for `vcpu`, and inserts the interrupt there.
    #[inline(always)]
    fn raised_first(&self, pin: &CpuPin<'_>, irq: &Irq, vcpu: &Vcpu) -> Injected {
        pin.counters().injections[irq.kind() as usize].add(1);
        self.insert_first(pin, irq, vcpu);
        Injected::Pending
    }

    /// Books a raise that merged with an earlier one, and that is all.
    #[inline(always)]
    fn merged(&self, pin: &CpuPin<'_>, irq: &Irq) -> Injected {
        let kind = irq.kind() as usize;
        pin.counters().injections[kind].add(1);
        pin.counters().coalesced[kind].add(1);
        Injected::Coalesced
    }

    /// As [`Vgic::raised`], for an interrupt that is pending or queued, or may not be delivered.
    #[inline(never)]
    fn raised_again(&self, pin: &CpuPin<'_>, irq: &Irq, raised: Raised) -> Injected {
        let coalesced = raised.coalesced();
        if !raised.void() {
            let kind = irq.kind() as usize;
            pin.counters().injections[kind].add(1);
            if coalesced {
                pin.counters().coalesced[kind].add(1);
            }
        }
        self.pay(pin, irq, raised.owed());
        if coalesced {
            Injected::Coalesced
        } else {
            Injected::Pending
        }
    }
}

fn physical(pintid: IntId) -> Result<u16, InjectError> {
    if matches!(pintid.kind(), Kind::Ppi | Kind::Spi) {
        Ok(pintid.raw() as u16)
    } else {
        Err(InjectError::UnknownInterrupt)
    }
}
