//! Public API of a VM's interrupt controller, on one page. Each method delegates to a module.
//!
//! [`forward`] has the calls for physical interrupts, [`direct`] those for direct injection,
//! [`inspect`] those that only look at the VM, [`migrate`] those for a save, a restore and a move
//! of a VM.

mod direct;
mod forward;
mod inspect;
mod migrate;

use crate::config::{Config, ConfigError, GITS_TRANSLATER};
use crate::cpu::PinnedCpu;
use crate::cpu_interface::CpuInterface;
use crate::delivery::inject::Injected;
use crate::delivery::{change, hotplug, inject};
use crate::entry::block::Blocked;
use crate::entry::gicc::VirtualLines;
use crate::entry::{block, enter, exit, gicc, load_put};
use crate::epoch::{CpuPin, Domain};
use crate::error::{AccessError, EntryError, InjectError, RemoveError, TeardownError};
use crate::host::Host;
use crate::intid::{Affinity, DeviceId, EventId, IntId, ItsId, VcpuId};
use crate::mmio::{MmioOutcome, Width};
use crate::sysreg::SysReg;
use crate::teardown::TeardownReport;
use crate::vm::Vm;
use crate::{advance, mmio, reset, sysreg, teardown};

/// A virtual GICv3 for one VM.
///
/// * `cpu` is the calling CPU, pinned ([`Cpu::pin`](crate::Cpu::pin)).
/// * `pin` is a pin of the calling CPU: a pinned CPU derefs to one, and
///   [`CpuLocal::pin`](crate::epoch::CpuLocal::pin) makes one for a CPU that runs no vCPUs.
/// * `vcpu` is an index from 0 to [`Vgic::vcpu_count`] - 1, of a vCPU that has not been removed.
///
/// Callers mask interrupts and need no lock. Several CPUs may call methods at the same time.
///
/// A pin of another [`Domain`] than the VM's reaches nothing: the call returns an error, or `None`,
/// and has no effect.
pub struct Vgic<H: Host> {
    pub(crate) vm: Vm<H>,
}

/// Building the VM, and its vCPUs.
impl<H: Host> Vgic<H> {
    /// Builds the controller of a VM and allocates the state of `config.max_vcpus` vCPUs.
    ///
    /// CPUs of `domain` may run the VM and raise interrupts; the VM keeps the domain allocated.
    ///
    /// vCPU 0 is powered on. The other vCPUs wait for [`Vgic::power_on`].
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration is not valid.
    pub fn new(domain: &Domain, config: Config, host: H) -> Result<Self, ConfigError> {
        Vm::new(domain.share(), config, host).map(|vm| Self { vm })
    }

    /// Returns the embedder's callbacks, as given to [`Vgic::new`].
    pub fn host(&self) -> &H {
        &self.vm.host
    }

    /// Returns the configuration of the VM. `vcpus` lists only the vCPUs present from the start.
    pub fn config(&self) -> &Config {
        &self.vm.config
    }

    /// Returns the number of vCPUs that the VM has had so far, 1-4,095: those of the configuration
    /// and those added, removed ones included. The indices of all vCPUs are below.
    pub fn vcpu_count(&self) -> usize {
        self.vm.vcpu_count()
    }

    /// Returns the affinity of a vCPU, or `None` if the VM does not have the vCPU.
    #[must_use]
    pub fn affinity(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Option<Affinity> {
        self.vm.admit(pin).ok()?;
        self.vm.affinity(pin, vcpu)
    }

    /// Finds the vCPU with an affinity, in constant time. Returns `None` if no vCPU has the
    /// affinity.
    #[must_use]
    pub fn find_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Option<VcpuId> {
        self.vm.admit(pin).ok()?;
        self.vm.find_vcpu(pin, affinity)
    }

    /// Adds a vCPU, powered off and as after a reset, and returns the index. An affinity that was
    /// removed has its old index again, unless another vCPU has been given that index since.
    ///
    /// An SPI with the vCPU's affinity in `GICD_IROUTER<n>` (IHI 0069, 12.9) is routed to the vCPU.
    /// Allocates.
    ///
    /// # Errors
    /// [`ConfigError::MaxVcpus`] if the VM is full, [`ConfigError::DuplicateAffinity`] if another
    /// vCPU has the affinity, [`ConfigError::ForeignDomain`], and [`ConfigError::TornDown`] during
    /// [`Vgic::reset`], after [`Vgic::freeze`] and after [`Vgic::teardown`].
    pub fn add_vcpu(&self, pin: &CpuPin<'_>, affinity: Affinity) -> Result<VcpuId, ConfigError> {
        self.vm.admit(pin)?;
        let added = hotplug::add_vcpu(&self.vm, pin, affinity)?;
        self.vm.topology_replaced(pin);
        Ok(added)
    }

    /// Removes a vCPU, powered off and on no CPU.
    ///
    /// * SPIs routed to the vCPU stay pending, and are delivered to no vCPU until the guest routes
    ///   them elsewhere, or a vCPU with the affinity is added.
    /// * SGIs and PPIs are reset, their lines are low, and their connections end.
    /// * Collections mapped to the vCPU are unmapped. Their LPIs stay pending, and are moved by
    ///   `MAPC` and `MOVI`. The LPIs lose the vCPU in slices of deferred work.
    /// * The redistributor identifies itself as before. All else reads as zero, and ignores writes.
    ///   Pending states in a table in guest memory stay there.
    ///
    /// An interrupt that another CPU raises meanwhile comes before the removal or after it.
    ///
    /// # Errors
    /// [`RemoveError`] if the vCPU is unknown, vCPU 0, powered on or on a CPU, in a VM with a
    /// GICv2, and during [`Vgic::reset`], after [`Vgic::freeze`] and after [`Vgic::teardown`].
    pub fn remove_vcpu(&self, pin: &CpuPin<'_>, vcpu: VcpuId) -> Result<(), RemoveError> {
        self.vm.admit(pin)?;
        hotplug::remove_vcpu(&self.vm, pin, vcpu)?;
        self.vm.topology_replaced(pin);
        Ok(())
    }

    /// Powers a vCPU on, which [`Vgic::enter`] requires. Returns false if the vCPU was on already,
    /// or if the VM does not have the vCPU.
    ///
    /// A CPU that enters the vCPU sees what the caller has written before, such as the vCPU's entry
    /// point. A caller that gets true sees what was written before the last [`Vgic::power_off`].
    pub fn power_on(&self, vcpu: VcpuId) -> bool {
        self.vm
            .vcpu(vcpu)
            .is_some_and(|vcpu| vcpu.residency.set_power(true))
    }

    /// Powers a vCPU off, takes the vCPU off `cpu` like [`Vgic::vcpu_put`], and resets the vCPU's
    /// CPU interface.
    ///
    /// Interrupts routed to the vCPU stay routed and pending. The vCPU takes the interrupts after
    /// [`Vgic::power_on`], unless the guest routes them elsewhere first.
    ///
    /// # Errors
    /// [`EntryError::UnknownVcpu`] if the VM does not have the vCPU, [`EntryError::NotEntered`] if
    /// `cpu` does not have the vCPU, [`EntryError::AlreadyEntered`] if the vCPU is in the guest.
    pub fn power_off<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        load_put::power_off(&self.vm, cpu.cpu(), cpu, vcpu)
    }
}

/// Running a vCPU.
impl<H: Host> Vgic<H> {
    /// Prepares `cpu`'s list registers for `vcpu` and marks the vCPU as in the guest.
    ///
    /// Afterwards the caller drops all pins and enters the guest, with interrupts masked until the
    /// exception return. Without new work, the call makes no atomic operation but a load, and no
    /// register access.
    ///
    /// # Errors
    /// [`EntryError`] if the vCPU is unknown, powered off, in the guest already or loaded on
    /// another CPU, if `cpu` has another vCPU, is of another domain or holds fewer bits of INTID
    /// than the VM has, or during [`Vgic::reset`], after [`Vgic::freeze`] and after
    /// [`Vgic::teardown`]. An error changes nothing.
    #[inline]
    pub fn enter<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        enter::enter(&self.vm, cpu.cpu(), cpu, vcpu)
    }

    /// Returns the IRQ and the FIQ that `vcpu`'s CPU interface asserts, in a VM with a GICv2
    /// ([`Config::gicv2`]). Call after each [`Vgic::enter`], and write `irq` to `HCR_EL2.VI` and
    /// `fiq` to `VF` before the exception return. Both are false in a VM with a GICv3, whose IRQ
    /// and FIQ the hardware drives, and for a vCPU that is not in the guest on `cpu`.
    #[inline]
    pub fn virtual_lines<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> VirtualLines {
        gicc::lines(&self.vm, cpu.cpu(), vcpu)
    }

    /// Folds the guest's changes of the list registers since [`Vgic::enter`].
    ///
    /// Call first after an exit. Without a list register in use, the call makes no atomic operation
    /// and no register access. Otherwise the call reads `ICH_ELRSR_EL2`, perhaps `ICH_EISR_EL2`,
    /// and more registers only for an enabled maintenance condition.
    ///
    /// Afterwards no maintenance condition holds until the next `enter`: the line of the
    /// maintenance interrupt is low, and a handler may acknowledge physical interrupts until there
    /// are none. A handler that does so before the call never ends.
    ///
    /// The guest need not have run. An entry may be cancelled: `enter`, then `exit`.
    ///
    /// # Errors
    /// [`EntryError::UnknownVcpu`] if the VM does not have the vCPU, [`EntryError::NotEntered`] if
    /// the vCPU was not in the guest on `cpu`.
    #[inline]
    pub fn exit<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        exit::exit(&self.vm, cpu.cpu(), cpu, vcpu)
    }

    /// Marks a vCPU as blocked, unless an interrupt is signalled to the vCPU, or asks for its
    /// wake-up: see [`Vgic::has_pending`]. For a WFI, and for a suspend by PSCI.
    ///
    /// After [`Host::wake`], call `block` again or enter the vCPU. A blocked vCPU stays on `cpu`.
    /// After [`Vgic::vcpu_put`], another CPU may enter the vCPU. A put does not end the blocking:
    /// [`Host::wake`] is called if the vCPU gets work while off its CPU.
    ///
    /// # Errors
    /// [`EntryError::UnknownVcpu`] if the VM does not have the vCPU, [`EntryError::NotEntered`] if
    /// `cpu` does not have the vCPU, [`EntryError::AlreadyEntered`] if the vCPU is in the guest.
    pub fn block<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> Result<Blocked, EntryError> {
        block::block(&self.vm, cpu.cpu(), cpu, vcpu)
    }

    /// Returns true if the vCPU's virtual IRQ or FIQ is asserted, or its redistributor's wake
    /// request. Call only for a vCPU loaded on `cpu`.
    ///
    /// IRQ and FIQ honour enables, groups, the priority mask and the running priority (IHI 0069,
    /// 4.8). A redistributor with `GICR_WAKER.ProcessorSleep` asks for wake-up for every pending
    /// interrupt that is enabled and of a group that `GICD_CTLR` enables (11.1): the CPU interface
    /// counts for nothing, because software disables its groups before a suspend.
    ///
    /// For a blocked vCPU, true ends the blocking, as [`Blocked::No`] does, and false leaves the
    /// vCPU blocked.
    ///
    /// # Errors
    /// [`EntryError::UnknownVcpu`] if the VM does not have the vCPU, [`EntryError::NotEntered`] if
    /// `cpu` does not have the vCPU, [`EntryError::AlreadyEntered`] if the vCPU is in the guest.
    pub fn has_pending<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> Result<bool, EntryError> {
        block::has_pending(&self.vm, cpu.cpu(), cpu, vcpu)
    }

    /// Takes `vcpu` off `cpu`: folds all list registers and saves the other `ICH_*` state.
    ///
    /// Afterwards another CPU may enter the vCPU. A vCPU put without [`Vgic::block`] gets no
    /// [`Host::wake`].
    ///
    /// # Errors
    /// [`EntryError::UnknownVcpu`] if the VM does not have the vCPU, [`EntryError::NotEntered`] if
    /// `cpu` does not have the vCPU, [`EntryError::AlreadyEntered`] if the vCPU is in the guest.
    pub fn vcpu_put<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        load_put::vcpu_put(&self.vm, cpu.cpu(), cpu, vcpu)
    }
}

/// Raising interrupts: from any CPU, from interrupt context too.
impl<H: Host> Vgic<H> {
    /// Makes an LPI pending by an MSI: `device` writes `event` to `GITS_TRANSLATER` of ITS `its`.
    ///
    /// The translation takes no lock and reads no guest memory.
    ///
    /// # Errors
    /// [`InjectError`] if the ITS is unknown or disabled, or if the guest has not mapped the
    /// device, the event or the event's collection. An error makes nothing pending.
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

    /// Makes an LPI pending by an MSI on the bus: `device` writes `data`, an EventID, to
    /// `translater`.
    ///
    /// `translater` is the guest-physical address of an ITS's `GITS_TRANSLATER`.
    ///
    /// # Errors
    /// [`InjectError::ItsDisabled`] if `translater` is not the `GITS_TRANSLATER` of any ITS of the
    /// VM; otherwise the errors of [`Vgic::inject_msi`].
    pub fn signal_msi(
        &self,
        pin: &CpuPin<'_>,
        translater: u64,
        device: DeviceId,
        data: u32,
    ) -> Result<Injected, InjectError> {
        let its = self
            .vm
            .its
            .iter()
            .find(|its| translater.checked_sub(its.config.base) == Some(GITS_TRANSLATER))
            .ok_or(InjectError::ItsDisabled)?;
        self.inject_msi(pin, its.id, device, EventId(data))
    }

    /// Makes the SPI `intid`, 32-1019 or an extended one, 4096-5119, pending by an edge.
    ///
    /// An SPI that the guest has configured as level-sensitive is latched as pending too, at either
    /// level of the line, like by a write of `GICD_ISPENDR<n>`.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if `intid` is not an SPI of the VM.
    pub fn inject_spi(&self, pin: &CpuPin<'_>, intid: IntId) -> Result<Injected, InjectError> {
        let irq = self.vm.spi(intid)?;
        self.vm.admit(pin)?;
        Ok(inject::raised(&self.vm, pin, irq, irq.raise()))
    }

    /// Makes the PPI `intid`, 16-31 or an extended one, 1056-1119, of `vcpu` pending by an edge.
    ///
    /// A PPI that the guest has configured as level-sensitive is latched as pending too, at either
    /// level of the line, like by a write of `GICR_ISPENDR0`.
    ///
    /// # Errors
    /// [`InjectError::UnknownVcpu`], or [`InjectError::UnknownInterrupt`] if `intid` is not a PPI.
    pub fn inject_ppi(
        &self,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        intid: IntId,
    ) -> Result<Injected, InjectError> {
        self.vm.admit(pin)?;
        let (owner, irq) = self.vm.ppi(vcpu, intid)?;
        Ok(inject::raised_for(
            &self.vm,
            pin,
            irq,
            irq.raise(),
            Some(owner),
        ))
    }

    /// Sets the level of the input line of SPI `intid`, 32-1019 or 4096-5119. For an edge-triggered
    /// SPI (`GICD_ICFGR<n>`, `GICD_ICFGR<n>E`), a rise is an edge, as [`Vgic::inject_spi`] is, and
    /// a fall is nothing.
    ///
    /// # Errors
    /// [`InjectError::UnknownInterrupt`] if `intid` is not an SPI of the VM.
    pub fn set_spi_line(
        &self,
        pin: &CpuPin<'_>,
        intid: IntId,
        high: bool,
    ) -> Result<(), InjectError> {
        self.vm.admit(pin)?;
        change::set_line(&self.vm, pin, self.vm.spi(intid)?, high);
        Ok(())
    }

    /// Sets the level of the input line of PPI `intid`, 16-31 or 1056-1119, of `vcpu`. For an
    /// edge-triggered PPI (`GICR_ICFGR1`, `GICR_ICFGR<n>E`), a rise is an edge, as
    /// [`Vgic::inject_ppi`] is, and a fall is nothing.
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
        self.vm.admit(pin)?;
        change::set_line(&self.vm, pin, self.vm.ppi(vcpu, intid)?.1, high);
        Ok(())
    }
}

/// Emulating the guest's accesses.
impl<H: Host> Vgic<H> {
    /// Returns true if the guest-physical address `gpa` is in a register frame of the vGIC.
    #[must_use]
    pub fn claims(&self, gpa: u64) -> bool {
        mmio::claims(&self.vm, gpa)
    }

    /// Reads the register at guest-physical address `gpa` for `vcpu`, after a trapped access on
    /// `cpu`.
    ///
    /// Call after [`Vgic::exit`]. An address outside the frames answers
    /// [`MmioOutcome::Unclaimed`].
    ///
    /// # Errors
    /// [`AccessError`]; an access that fails has no effect.
    pub fn mmio_read<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
        gpa: u64,
        width: Width,
    ) -> Result<MmioOutcome, AccessError> {
        mmio::mmio_read(&self.vm, cpu.cpu(), cpu, vcpu, gpa, width)
    }

    /// Writes the register at guest-physical address `gpa`, after a trapped access of any vCPU.
    ///
    /// Call after [`Vgic::exit`]. Every vCPU's write has the same effect, but in a VM with a GICv2
    /// ([`Vgic::mmio_write_of`]). An address outside the frames answers [`MmioOutcome::Unclaimed`].
    /// A write never answers [`MmioOutcome::Retry`].
    ///
    /// # Errors
    /// [`AccessError::ForeignDomain`].
    pub fn mmio_write(
        &self,
        pin: &CpuPin<'_>,
        gpa: u64,
        width: Width,
        value: u64,
    ) -> Result<MmioOutcome, AccessError> {
        mmio::mmio_write(&self.vm, pin, gpa, width, value)
    }

    /// Writes the register at guest-physical address `gpa` for `vcpu`, after a trapped access on
    /// `cpu`. In a VM with a GICv2 the call takes the place of [`Vgic::mmio_write`], which ignores
    /// writes of registers that each vCPU has for itself: those of SGIs and PPIs, `GICD_SGIR`, and
    /// all of the CPU interface. In another VM the two are the same.
    ///
    /// Call after [`Vgic::exit`]: before it, a write of the CPU interface is ignored. An address
    /// outside the frames answers [`MmioOutcome::Unclaimed`]. A write never answers
    /// [`MmioOutcome::Retry`].
    ///
    /// # Errors
    /// [`AccessError`]; an access that fails has no effect.
    pub fn mmio_write_of<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
        gpa: u64,
        width: Width,
        value: u64,
    ) -> Result<MmioOutcome, AccessError> {
        mmio::mmio_write_of(&self.vm, cpu.cpu(), cpu, vcpu, gpa, width, value)
    }

    /// Reads the register at `gpa` from any thread, into as many bytes as `data` has: 1, 2, 4 or 8;
    /// any other number reads as zero. Returns false if `gpa` is outside the vGIC's frames.
    ///
    /// For a bus of an embedder whose reads cannot be tried again. The state of an interrupt in a
    /// list register shows as last known; [`Vgic::mmio_read`] shows the state of the moment.
    ///
    /// # Errors
    /// [`AccessError::ForeignDomain`].
    pub fn bus_read(
        &self,
        pin: &CpuPin<'_>,
        gpa: u64,
        data: &mut [u8],
    ) -> Result<bool, AccessError> {
        mmio::bus_read(&self.vm, pin, gpa, data)
    }

    /// Writes the little-endian bytes of `data` to the register at `gpa` from any thread: 1, 2, 4
    /// or 8 bytes; ignores any other number. Returns false if `gpa` is outside the vGIC's frames.
    ///
    /// # Errors
    /// [`AccessError::ForeignDomain`].
    pub fn bus_write(&self, pin: &CpuPin<'_>, gpa: u64, data: &[u8]) -> Result<bool, AccessError> {
        mmio::bus_write(&self.vm, pin, gpa, data)
    }

    /// Returns the view of `register` that `vcpu` has, after a trapped access on `cpu`. Call after
    /// [`Vgic::exit`].
    ///
    /// Returns `None` if a read is UNDEFINED, because the register is write-only, or if `cpu` does
    /// not have the vCPU, or is of another domain.
    #[must_use]
    pub fn sysreg_read<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
        register: SysReg,
    ) -> Option<u64> {
        sysreg::sysreg_read(&self.vm, cpu.cpu(), cpu, vcpu, register)
    }

    /// Writes `register` for `vcpu`, after a trapped access on `cpu`. Call after [`Vgic::exit`].
    ///
    /// A write of `ICC_PMR_EL1` or `ICC_CTLR_EL1` is ignored if `cpu` does not have the vCPU.
    ///
    /// # Errors
    /// [`AccessError`]; an access that fails has no effect.
    #[inline]
    pub fn sysreg_write<I: CpuInterface>(
        &self,
        cpu: &PinnedCpu<'_, I>,
        vcpu: VcpuId,
        register: SysReg,
        value: u64,
    ) -> Result<(), AccessError> {
        sysreg::sysreg_write(&self.vm, cpu.cpu(), cpu, vcpu, register, value)
    }
}

/// Deferred work, and the end.
impl<H: Host> Vgic<H> {
    /// Returns true if [`Vgic::advance`] has work; one load.
    #[inline]
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.vm.deferred.get() != 0
    }

    /// Does one bounded slice of the work deferred by guests' register writes.
    ///
    /// The work is ITS commands, vCPUs to notify of a change of `GICD_CTLR`, pending tables and LPI
    /// configurations to read, and LPIs to free. May allocate.
    ///
    /// The embedder calls `advance` on exits while [`Vgic::has_deferred`] returns true. Any CPU may
    /// call, also several at once. The embedder has to cause an exit, by a timer for example: a
    /// guest may wait for the interrupt of a command without any access.
    ///
    /// Commands that may unmap wait while [`Garbage::LIMIT`](crate::epoch::Garbage::LIMIT)
    /// pieces of the VM's memory are not freed, because a CPU stays in the epoch. The call then
    /// returns, and work stays deferred. A loop has to make a new pin for each call, or renew
    /// the pin: memory is not freed under a pin that stays.
    ///
    /// # Errors
    /// [`AccessError::ForeignDomain`].
    pub fn advance(&self, pin: &CpuPin<'_>) -> Result<(), AccessError> {
        self.vm.admit(pin)?;
        advance::advance(&self.vm, pin);
        Ok(())
    }

    /// Resets the controller as at the guest's power-on: registers, ITSes and their mappings,
    /// pending and active states, CPU interfaces. Only vCPU 0 is powered on afterwards.
    ///
    /// Every vCPU must be off its CPU ([`Vgic::vcpu_put`]). During the reset, [`Vgic::enter`] fails
    /// with [`EntryError::TornDown`]. The embedder's settings stay: vCPUs that were added, the
    /// levels of lines, connections. Physical interrupts that the VM owns are deactivated
    /// ([`Host::deactivate`]). A changed enable, trigger or route is reported ([`Host::enabled`],
    /// [`Host::configured`], [`Host::routed`]). An interrupt raised meanwhile is raised before the
    /// reset or after it. Unbounded, as the teardown is.
    ///
    /// # Errors
    /// [`TeardownError`]; the VM is as before.
    pub fn reset(&self, pin: &CpuPin<'_>) -> Result<(), TeardownError> {
        reset::reset(&self.vm, pin)
    }

    /// Takes the VM apart: empties every list, ends every mapping, checks every count.
    ///
    /// Every vCPU must be off its CPU ([`Vgic::vcpu_put`]). Afterwards no vCPU can be entered. The
    /// report is of a VM that other CPUs leave alone meanwhile; an interrupt raised meanwhile or
    /// later is delivered to no vCPU, and goes with the VM.
    ///
    /// A VM that is dropped is taken apart too, whether its vCPUs are on CPUs or not; see
    /// [`Cpu::release`](crate::Cpu::release).
    ///
    /// # Errors
    /// [`TeardownError`]; the VM is as before.
    pub fn teardown(&self, pin: &CpuPin<'_>) -> Result<TeardownReport, TeardownError> {
        teardown::teardown(&self.vm, pin)
    }

    /// Returns the state behind the API.
    #[cfg(test)]
    pub(crate) fn vm(&self) -> &Vm<H> {
        &self.vm
    }
}

impl<H: Host> Drop for Vgic<H> {
    /// Takes apart the VM if [`Vgic::teardown`] has not; otherwise finds nothing left.
    fn drop(&mut self) {
        teardown::abandon(&self.vm);
    }
}
