//! Into the guest and out of it, onto a CPU and off it.
//!
//! Most entries and exits touch no register: the vCPU is on this CPU, and nothing has come or gone. What
//! else there is to do, [`super::flush`] does on the way in and [`super::fold`] on the way out.
//!
//! # Posting
//! An interrupt that a CPU raises for the vCPU that it has out of the guest, while a register is free and
//! nothing waits, is put into that register in the step that queues it ([`Vgic::insert`]). Only its image
//! is noted then; the register is written on the way into the guest.

use core::cell::RefMut;

use crate::Vgic;
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};
use crate::vgic::Leaving;

use super::registers::Registers;
use super::residency::{AGAIN, NEW, NOTE, Place, RECALL, WORK, Whereabouts};
use super::{BASE_HCR, Cpu, Vcpu};

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

impl<H: Host> Vgic<H> {
    /// Prepares `cpu`'s list registers for `vcpu` and marks it as in the guest. The caller drops its
    /// pins and enters the guest with interrupts masked until the exception return.
    ///
    /// With nothing new this is one atomic operation and no register access.
    ///
    /// # Errors
    /// [`EntryError`] when the vCPU cannot run here; nothing has changed then.
    #[inline]
    pub fn enter<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        if let Some(this) = self.vcpus().get(vcpu.index())
            && let Some((place, settled)) =
                this.glance(cpu.local(), Whereabouts::Out, Registers::is_settled)
        {
            self.recalled(this, place);
            let work = this.residency.enter(cpu.id());
            if work.has(WORK) || !settled {
                // SAFETY: by the glance.
                unsafe { self.prepare(cpu, pin, this, work) };
            }
            return Ok(());
        }
        self.enter_first(cpu, pin, vcpu)
    }

    /// Enters a vCPU that `cpu` does not have yet, or says why it cannot.
    #[cold]
    fn enter_first<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        let this = self.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
        let place = this.residency.get();
        if !place.is_on() {
            return Err(EntryError::PoweredOff(vcpu));
        }
        if place.in_guest() {
            return Err(EntryError::AlreadyEntered(vcpu));
        }
        if this.registers(cpu.local()).is_none() {
            self.take(cpu, this)?;
        }
        self.recalled(this, place);
        let work = this.residency.enter(cpu.id());
        // SAFETY: `registers` or `take` has found that this CPU has them.
        unsafe { self.prepare(cpu, pin, this, work) };
        Ok(())
    }

    /// Brings the list registers up to date on the way into the guest; `work` is what came up.
    ///
    /// # Safety
    /// `cpu` has the vCPU's registers.
    #[inline(never)]
    pub(super) unsafe fn prepare<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: &Vcpu,
        work: Place,
    ) {
        // SAFETY: by the caller's promise.
        let Some(mut registers) = (unsafe { vcpu.borrow() }) else {
            return;
        };
        if work.has(NEW | RECALL | NOTE)
            || registers.due.choose()
            || work.has(AGAIN) && vcpu.waits_behind_itself(&registers)
        {
            self.prepare_lists(cpu, pin, vcpu, registers, work);
        } else {
            registers.write_posted(cpu.interface(), pin.counters());
        }
    }

    /// As [`Vgic::prepare`], when there is more to do than to write what has been posted.
    #[inline(never)]
    fn prepare_lists<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: &Vcpu,
        mut registers: RefMut<'_, Registers>,
        work: Place,
    ) {
        let registers = &mut *registers;
        let again = work.has(AGAIN) && vcpu.waits_behind_itself(registers);
        let reload = work.has(RECALL | NOTE) || registers.due.reload() || again;
        let recall = reload && registers.in_use != 0;
        if recall || !self.add(cpu, pin, vcpu, registers) {
            self.flush(cpu, pin, vcpu, registers, reload, work.has(NEW));
        }
        registers.write_posted(cpu.interface(), pin.counters());
    }

    /// Loads a vCPU onto a CPU that does not have it.
    #[cold]
    fn take<I: CpuInterface>(&self, cpu: &Cpu<I>, vcpu: &Vcpu) -> Result<(), EntryError> {
        if cpu.local().is_loaded() {
            return Err(EntryError::CpuInUse);
        }
        let mut registers = vcpu
            .claim(cpu)
            .map_err(|_| EntryError::OnAnotherCpu(vcpu.id))?;
        registers.load(cpu.interface());
        registers.set_hcr(BASE_HCR, cpu.interface());
        // What was taken back when it was put, or arrived since, has to be chosen from.
        registers.due.add_reload(true);
        Ok(())
    }

    /// Takes back what the guest has done since [`Vgic::enter`]. Called first thing after an exit.
    ///
    /// With no list register in use this is one atomic operation and no register access; otherwise it
    /// reads one or two registers.
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
        if let Some(this) = self.vcpus().get(vcpu.index())
            && let Some((_, untouched)) =
                this.glance(cpu.local(), Whereabouts::InGuest, Registers::is_untouched)
        {
            this.residency.exit();
            if !untouched {
                // SAFETY: by the glance.
                unsafe { self.take_stock(cpu, pin, this) };
            }
            return Ok(());
        }
        Err(match self.vcpu(vcpu) {
            Some(_) => EntryError::NotEntered(vcpu),
            None => EntryError::UnknownVcpu(vcpu),
        })
    }

    /// Finds out what the guest has done with the list registers.
    ///
    /// # Safety
    /// `cpu` has the vCPU's registers.
    #[inline(never)]
    unsafe fn take_stock<I: CpuInterface>(&self, cpu: &Cpu<I>, pin: &CpuPin<'_>, this: &Vcpu) {
        // SAFETY: by the caller's promise.
        let Some(registers) = (unsafe { this.borrow() }) else {
            return;
        };
        let done = cpu.interface().read_elrsr() & registers.in_use;
        // With any other HCR there is more to look at than what is in the registers.
        if registers.wants_eoi == 0 && registers.hcr == BASE_HCR {
            self.retire_only(cpu, pin, this, registers, done);
        } else {
            self.take_stock_of(cpu, pin, this, registers, done);
        }
    }

    /// Takes `vcpu` off `cpu`: all its list registers back, the rest of its state saved. Another CPU
    /// may enter it afterwards.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if this CPU does not have it, [`EntryError::AlreadyEntered`] if it is
    /// in the guest.
    pub fn vcpu_put<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        self.unload(cpu, pin, vcpu, |_, _| ())
    }

    /// Powers a vCPU off and takes it off `cpu`, as [`Vgic::vcpu_put`] does. Its CPU interface is reset;
    /// interrupts routed to it stay where they are until it is on again ([`Vgic::power_on`]) or the
    /// guest routes them elsewhere.
    ///
    /// # Errors
    /// As for [`Vgic::vcpu_put`].
    pub fn power_off<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        self.unload(cpu, pin, vcpu, |this, registers| {
            *registers = Registers::new(vmcr::reset(cpu.vtr().preemption_bits));
            this.residency.set_power(false);
        })
    }

    fn unload<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: VcpuId,
        last: impl FnOnce(&Vcpu, &mut Registers),
    ) -> Result<(), EntryError> {
        let this = self.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
        let Some(mut registers) = this.registers(cpu.local()) else {
            return Err(EntryError::NotEntered(vcpu));
        };
        if this.residency.get().in_guest() {
            return Err(EntryError::AlreadyEntered(vcpu));
        }
        let _entered = pin.guard();
        let mut leaving = Leaving::new();
        {
            let mut list = this.ap_list.lock(pin.ledger());
            if !mutant(Mutant::RegistersForgotten) {
                self.take_back(cpu, pin, this, &mut registers, &mut list, &mut leaving);
            }
            registers.clean(cpu.interface(), pin.counters());
            list.check();
        }
        registers.save(cpu.interface());
        self.recalled(this, this.residency.get());
        last(this, &mut registers);
        drop(registers);
        this.release(cpu);
        self.dispatch(pin, &mut leaving);
        Ok(())
    }
}
