//! The public API of one VM's interrupt controller, on one page. Each method delegates to the room
//! that does the work.

use crate::config::{Config, ConfigError, GITS_TRANSLATER};
use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::delivery::inject::Injected;
use crate::delivery::{change, inject, routing};
use crate::entry::block::Blocked;
use crate::entry::{block, enter, exit, load};
use crate::epoch::CpuPin;
use crate::error::{EntryError, InjectError};
use crate::host::Host;
use crate::intid::{Affinity, DeviceId, EventId, IntId, ItsId, Kind, VcpuId};
use crate::mmio::{MmioOutcome, Width};
use crate::sysreg::SysReg;
use crate::teardown::TeardownReport;
use crate::vm::Vm;
use crate::{advance, mmio, sysreg, teardown};

/// A virtual GICv3 for one VM.
pub struct Vgic<H: Host> {
    vm: Vm<H>,
}

/// Building the VM, and its vCPUs.
impl<H: Host> Vgic<H> {
    /// Builds the controller of a VM. vCPU 0 is powered on; the others wait for [`Vgic::power_on`].
    /// Allocates the state of `config.max_vcpus` vCPUs.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration is not valid.
    pub fn new(config: Config, host: H) -> Result<Self, ConfigError> {
        Vm::new(config, host).map(|vm| Self { vm })
    }

    /// Returns the embedder's side.
    pub fn host(&self) -> &H {
        &self.vm.host
    }

    /// Returns the configuration that the VM was built from. Its `vcpus` are those present from the
    /// start.
    pub fn config(&self) -> &Config {
        &self.vm.config
    }

    /// Returns the number of vCPUs, added ones included.
    pub fn vcpu_count(&self) -> usize {
        self.vm.vcpu_count()
    }

    /// Returns the affinity of a vCPU.
    #[must_use]
    pub fn affinity(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Option<Affinity> {
        self.vm.affinity(pin, vcpu)
    }

    /// Finds the vCPU with an affinity, in constant time.
    #[must_use]
    pub fn find_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Option<VcpuId> {
        self.vm.find_vcpu(pin, affinity)
    }

    /// Adds a vCPU, powered off, and returns its index. SPIs whose `GICD_IROUTER<n>` names its
    /// affinity are routed to it. Allocates.
    ///
    /// # Errors
    /// [`ConfigError::MaxVcpus`] if the VM is full, [`ConfigError::DuplicateAffinity`] if another
    /// vCPU has this affinity.
    pub fn add_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Result<VcpuId, ConfigError> {
        routing::add_vcpu(&self.vm, pin, affinity)
    }

    /// Powers a vCPU on, so that it may be entered. Returns false if it was on already or does not
    /// exist.
    pub fn power_on(&self, vcpu: VcpuId) -> bool {
        self.vm
            .vcpu(vcpu)
            .is_some_and(|vcpu| vcpu.residency.set_power(true))
    }

    /// Powers a vCPU off and takes it off `cpu`, as [`Vgic::vcpu_put`] does. Resets its CPU
    /// interface. Interrupts that are routed to it stay where they are until it is on again
    /// ([`Vgic::power_on`]) or the guest routes them elsewhere.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if this CPU does not have the vCPU,
    /// [`EntryError::AlreadyEntered`] if the vCPU is in the guest.
    pub fn power_off<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        load::power_off(&self.vm, cpu, pin, vcpu)
    }
}

/// Running a vCPU.
impl<H: Host> Vgic<H> {
    /// Prepares `cpu`'s list registers for `vcpu` and marks the vCPU as in the guest. The caller
    /// drops its pins and enters the guest with interrupts masked until the exception return.
    ///
    /// Costs one atomic operation and no register access if nothing is new.
    ///
    /// # Errors
    /// [`EntryError`] if the vCPU cannot run here; nothing has changed then.
    #[inline]
    pub fn enter<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        enter::enter(&self.vm, cpu, pin, vcpu)
    }

    /// Folds what the guest has done since [`Vgic::enter`]. Called first thing after an exit.
    ///
    /// Costs one atomic operation and no register access if no list register is in use; else reads
    /// one or two registers.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if the vCPU was not in the guest on this CPU.
    #[inline]
    pub fn exit<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        exit::exit(&self.vm, cpu, pin, vcpu)
    }

    /// Marks a vCPU that executed WFI as blocked, unless an interrupt is signalled to it. Call it
    /// again after [`Host::wake`], or enter. A blocked vCPU stays on this CPU; [`Vgic::vcpu_put`]
    /// lets it be entered elsewhere.
    ///
    /// # Errors
    /// [`EntryError`] if this CPU does not have the vCPU, or the vCPU is in the guest.
    pub fn block<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<Blocked, EntryError> {
        block::block(&self.vm, cpu, pin, vcpu)
    }

    /// Returns whether the vCPU's virtual IRQ or FIQ is asserted. Honours enables, groups, the
    /// priority mask and the running priority (IHI 0069, 4.8). Only for a vCPU that this CPU has.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if this CPU does not have the vCPU.
    pub fn has_pending<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<bool, EntryError> {
        block::has_pending(&self.vm, cpu, pin, vcpu)
    }

    /// Takes `vcpu` off `cpu`: folds all its list registers and saves the rest of its state.
    /// Another CPU may enter it afterwards.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if this CPU does not have the vCPU,
    /// [`EntryError::AlreadyEntered`] if the vCPU is in the guest.
    pub fn vcpu_put<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        load::vcpu_put(&self.vm, cpu, pin, vcpu)
    }
}

/// Raising interrupts: from any CPU, from interrupt context too.
impl<H: Host> Vgic<H> {
    /// Makes an LPI pending by an MSI: `device` writes `event` to the translation register of ITS
    /// `its`. Translates without a lock and without guest memory.
    ///
    /// # Errors
    /// [`InjectError`] if the guest has not mapped the event; nothing has happened then.
    #[inline]
    pub fn inject_msi(
        &self,
        pin: &CpuPin<'_>,
        its: ItsId,
        device: DeviceId,
        event: EventId,
    ) -> Result<Injected, InjectError> {
        inject::inject_msi(&self.vm, pin, its, device, event)
    }

    /// Makes an LPI pending by an MSI as a device puts it on the bus: `device` writes `data`, an
    /// EventID, to the guest-physical address `doorbell`, which has to be an ITS's
    /// `GITS_TRANSLATER`.
    ///
    /// # Errors
    /// [`InjectError::ItsDisabled`] if no ITS has its `GITS_TRANSLATER` there; else as for
    /// [`Vgic::inject_msi`].
    pub fn signal_msi(
        &self,
        pin: &CpuPin<'_>,
        doorbell: u64,
        device: DeviceId,
        data: u32,
    ) -> Result<Injected, InjectError> {
        let its = self
            .vm
            .its
            .iter()
            .find(|its| doorbell.checked_sub(its.config.base) == Some(GITS_TRANSLATER))
            .ok_or(InjectError::ItsDisabled)?;
        self.inject_msi(pin, its.id, device, EventId(data))
    }

    /// Makes the SPI `intid` pending by an edge.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn inject_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.vm.spi(intid)?;
        Ok(inject::raised(&self.vm, pin, irq, irq.raise()))
    }

    /// Makes the PPI `intid` of `vcpu` pending by an edge.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI.
    pub fn inject_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        let (owner, irq) = self.vm.ppi(vcpu, intid)?;
        Ok(inject::raised_for(
            &self.vm,
            pin,
            irq,
            irq.raise(),
            Some(owner),
        ))
    }

    /// Sets the level of the line of SPI `intid`. An SPI that is configured as edge-triggered
    /// ignores its line.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn set_spi_line(
        &self,
        pin: &CpuPin<'_>,
        intid: IntId,
        high: bool,
    ) -> Result<(), InjectError> {
        change::set_line(&self.vm, pin, self.vm.spi(intid)?, high);
        Ok(())
    }

    /// Sets the level of the line of PPI `intid` of `vcpu`.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI.
    pub fn set_ppi_line(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
        high: bool,
    ) -> Result<(), InjectError> {
        change::set_line(&self.vm, pin, self.vm.ppi(vcpu, intid)?.1, high);
        Ok(())
    }

    /// Forwards a physical interrupt, active on this or another CPU, as the SPI `intid`. The
    /// guest's deactivation will deactivate the physical interrupt that [`Vgic::connect_spi`] has
    /// named.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if the VM has no such SPI.
    pub fn forward_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.vm.spi(intid)?;
        Ok(inject::raised(&self.vm, pin, irq, irq.raise_hw()))
    }

    /// Forwards a physical PPI, active on the CPU that has `vcpu`, as the PPI `intid` of `vcpu`.
    /// The guest's deactivation will deactivate the physical PPI. The virtual timer comes this way.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI.
    pub fn forward_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        let (owner, irq) = self.vm.ppi(vcpu, intid)?;
        Ok(inject::raised_for(
            &self.vm,
            pin,
            irq,
            irq.raise_hw(),
            Some(owner),
        ))
    }

    /// Names the physical interrupt, 16-1019, that [`Vgic::forward_spi`] of `intid` stands for.
    /// Call it before the first one is forwarded.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if either INTID is out of range.
    pub fn connect_spi(&self, intid: IntId, pintid: IntId) -> Result<(), InjectError> {
        self.vm.spi(intid)?.set_pintid(physical(pintid)?);
        Ok(())
    }

    /// Names the physical interrupt, 16-1019, that [`Vgic::forward_ppi`] of `intid` stands for.
    /// Call it before the first one is forwarded.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI
    /// or `pintid` is out of range.
    pub fn connect_ppi(
        &self,
        vcpu: VcpuId,
        intid: IntId,
        pintid: IntId,
    ) -> Result<(), InjectError> {
        self.vm.ppi(vcpu, intid)?.1.set_pintid(physical(pintid)?);
        Ok(())
    }
}

/// Emulating the guest's accesses.
impl<H: Host> Vgic<H> {
    /// Returns whether the guest-physical address `gpa` is in one of the vGIC's frames.
    #[must_use]
    pub fn claims(&self, gpa: u64) -> bool {
        mmio::claims(&self.vm, gpa)
    }

    /// Reads a register for `vcpu`, whose access trapped on `cpu`; after [`Vgic::exit`]. `gpa` is
    /// the guest-physical address.
    pub fn mmio_read<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        gpa: u64,
        width: Width,
    ) -> MmioOutcome {
        mmio::mmio_read(&self.vm, cpu, pin, vcpu, gpa, width)
    }

    /// Writes a register for a vCPU whose access trapped; after [`Vgic::exit`]. A write has the
    /// same effect from every vCPU. Never answers [`MmioOutcome::Retry`].
    pub fn mmio_write(&self, pin: &CpuPin<'_>, gpa: u64, width: Width, value: u64) -> MmioOutcome {
        mmio::mmio_write(&self.vm, pin, gpa, width, value)
    }

    /// Returns the value that a guest reads from `register`; `None` for a write-only register,
    /// whose read is UNDEFINED.
    #[must_use]
    pub fn sysreg_read(&self, register: SysReg) -> Option<u64> {
        sysreg::sysreg_read(register)
    }

    /// Writes `register` for `vcpu`, whose access trapped on `cpu`; after [`Vgic::exit`]. Ignores a
    /// vCPU that the VM does not have.
    #[inline]
    pub fn sysreg_write<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        register: SysReg,
        value: u64,
    ) {
        sysreg::sysreg_write(&self.vm, cpu, pin, vcpu, register, value);
    }
}

/// Deferred work, and the end.
impl<H: Host> Vgic<H> {
    /// Returns whether [`Vgic::advance`] has something to do; one load.
    #[inline]
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.vm.has_deferred()
    }

    /// Does one bounded slice of the work that guests' register writes have left over: ITS
    /// commands, vCPUs to tell of a change of `GICD_CTLR`, pending tables to read, LPIs to free.
    /// May allocate.
    ///
    /// The embedder calls it on exits while [`Vgic::has_deferred`]; any CPU may, several at once.
    /// The embedder has to cause such an exit, by a timer for one: a guest may wait for the
    /// interrupt of a command without any access.
    pub fn advance(&self, pin: &CpuPin<'_>) {
        advance::advance(&self.vm, pin);
    }

    /// Takes the VM apart: empties every list, ends every mapping, checks every count. Every vCPU
    /// has to be off its CPU ([`Vgic::vcpu_put`]).
    ///
    /// # Errors
    /// The first vCPU that is still on a CPU.
    pub fn teardown(self, pin: &CpuPin<'_>) -> Result<TeardownReport, VcpuId> {
        teardown::teardown(&self.vm, pin)
    }

    /// Returns the state behind the API.
    #[cfg(test)]
    pub(crate) fn vm(&self) -> &Vm<H> {
        &self.vm
    }
}

impl<H: Host> Drop for Vgic<H> {
    /// Takes apart what is left of the VM; after [`Vgic::teardown`] that is nothing.
    fn drop(&mut self) {
        teardown::abandon(&self.vm);
    }
}

/// Checks that an INTID is a physical PPI's or SPI's.
fn physical(pintid: IntId) -> Result<u16, InjectError> {
    if matches!(pintid.kind(), Kind::Ppi | Kind::Spi) {
        Ok(pintid.raw() as u16)
    } else {
        Err(InjectError::UnknownInterrupt)
    }
}
