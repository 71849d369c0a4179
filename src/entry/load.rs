//! A vCPU onto a CPU and off it.

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::delivery::queue;
use crate::delivery::queue::Leaving;
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};
use crate::vm::ich_shadow::Registers;
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Loads a vCPU onto a CPU that does not have it.
#[cold]
pub(crate) fn take<H: Host, I: CpuInterface>(
    _vm: &Vm<H>,
    cpu: &Cpu<I>,
    vcpu: &Vcpu,
) -> Result<(), EntryError> {
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

/// Takes `vcpu` off `cpu`: all its list registers back, the rest of its state saved. Another CPU
/// may enter it afterwards.
///
/// # Errors
/// [`EntryError::NotEntered`] if this CPU does not have it, [`EntryError::AlreadyEntered`] if it is
/// in the guest.
pub(crate) fn vcpu_put<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    unload(vm, cpu, pin, vcpu, |_, _| ())
}

/// Powers a vCPU off and takes it off `cpu`, as [`Vgic::vcpu_put`] does. Its CPU interface is reset;
/// interrupts routed to it stay where they are until it is on again ([`Vgic::power_on`]) or the
/// guest routes them elsewhere.
///
/// # Errors
/// As for [`Vgic::vcpu_put`].
pub(crate) fn power_off<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    unload(vm, cpu, pin, vcpu, |this, registers| {
        *registers = Registers::new(vmcr::reset(cpu.vtr().preemption_bits));
        this.residency.set_power(false);
    })
}

fn unload<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    last: impl FnOnce(&Vcpu, &mut Registers),
) -> Result<(), EntryError> {
    let this = vm.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
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
            fold::take_back(vm, cpu, pin, this, &mut registers, &mut list, &mut leaving);
        }
        registers.clean(cpu.interface(), pin.counters());
        list.check();
    }
    registers.save(cpu.interface());
    rwp::recalled(vm, this, this.residency.get());
    last(this, &mut registers);
    drop(registers);
    this.release(cpu);
    queue::dispatch(vm, pin, &mut leaving);
    Ok(())
}

/// Powers a vCPU on, so that it may be entered; false if it was on already or does not exist.
pub(crate) fn power_on<H: Host>(vm: &Vm<H>, vcpu: VcpuId) -> bool {
    vm.vcpu(vcpu)
        .is_some_and(|vcpu| vcpu.residency.set_power(true))
}
