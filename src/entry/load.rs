//! A vCPU onto a CPU and off it.

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::delivery::queue;
use crate::delivery::queue::AfterUnlock;
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::{Mutant, mutant};
use crate::vm::ich_shadow::IchShadow;
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Loads a vCPU onto a CPU that does not have it.
#[cold]
pub(crate) fn load<H: Host, I: CpuInterface>(
    _vm: &Vm<H>,
    cpu: &Cpu<I>,
    vcpu: &Vcpu,
) -> Result<(), EntryError> {
    if cpu.local().is_loaded() {
        return Err(EntryError::CpuInUse);
    }
    let mut shadow = vcpu
        .load(cpu)
        .map_err(|_| EntryError::OnAnotherCpu(vcpu.id))?;
    shadow.restore(cpu.interface());
    shadow.set_hcr(BASE_HCR, cpu.interface());
    // What was taken back when it was put, or arrived since, has to be chosen from.
    shadow.due.add_reload(true);
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
    put(vm, cpu, pin, vcpu, |_, _| ())
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
    put(vm, cpu, pin, vcpu, |this, shadow| {
        *shadow = IchShadow::new(vmcr::reset(cpu.vtr().preemption_bits));
        this.residency.set_power(false);
    })
}

fn put<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    last: impl FnOnce(&Vcpu, &mut IchShadow),
) -> Result<(), EntryError> {
    let this = vm.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
    let Some(mut shadow) = this.shadow(cpu.local()) else {
        return Err(EntryError::NotEntered(vcpu));
    };
    if this.residency.get().in_guest() {
        return Err(EntryError::AlreadyEntered(vcpu));
    }
    let _entered = pin.guard();
    let mut after = AfterUnlock::new();
    {
        let mut list = this.ap_list.lock(pin.ledger());
        if !mutant(Mutant::RegistersForgotten) {
            fold::fold_all(vm, cpu, pin, this, &mut shadow, &mut list, &mut after);
        }
        shadow.clean(cpu.interface(), pin.counters());
        list.check();
    }
    shadow.save(cpu.interface());
    rwp::done(vm, this, this.residency.get());
    last(this, &mut shadow);
    drop(shadow);
    this.put(cpu);
    queue::run_after_unlock(vm, pin, &mut after);
    Ok(())
}

/// Powers a vCPU on, so that it may be entered; false if it was on already or does not exist.
pub(crate) fn power_on<H: Host>(vm: &Vm<H>, vcpu: VcpuId) -> bool {
    vm.vcpu(vcpu)
        .is_some_and(|vcpu| vcpu.residency.set_power(true))
}
