//! A vCPU onto a CPU and off it; on and off.

use crate::cpu::{BASE_HCR, Cpu, hcr_flip};
use crate::cpu_interface::CpuInterface;
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{lpi_tables, physical, routing};
use crate::direct;
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::sync::Ordering::SeqCst;
use crate::sync::{Mutant, fence, mutant};
use crate::vm::ich_shadow::IchShadow;
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Loads a vCPU onto a CPU that does not have it.
// Out of line: saves 8 of the 719 instructions of vcpu_switch/0.
#[cold]
pub(super) fn load<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    vcpu: &Vcpu,
) -> Result<(), EntryError> {
    cpu.release()?;
    let mut shadow = vcpu.load(cpu.local()).map_err(|found| {
        if found.is_torn_down() {
            EntryError::TornDown
        } else if found.is_absent() {
            EntryError::UnknownVcpu(vcpu.id)
        } else {
            EntryError::OnAnotherCpu(vcpu.id)
        }
    })?;

    // SeqCst: pairs with the fence in `group_enables`: a write that does not find this vCPU present
    // has its enables seen by the entry, whichever CPU added the vCPU.
    fence(SeqCst);
    shadow.restore(cpu.interface(), hcr_flip(cpu.vtr(), vm.gicv2.is_some()));
    shadow.set_hcr(BASE_HCR, cpu.interface());
    // Interrupts that were folded when the vCPU was put, or have arrived since, wait on the list.
    shadow.due.add_refold(true);
    Ok(())
}

/// Takes a vCPU off a CPU: [`Vgic::vcpu_put`](crate::Vgic::vcpu_put).
pub(crate) fn vcpu_put<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    put_with(vm, cpu, pin, vcpu, |_, _| ())
}

/// Powers a vCPU off: [`Vgic::power_off`](crate::Vgic::power_off).
pub(crate) fn power_off<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<(), EntryError> {
    put_with(vm, cpu, pin, vcpu, |vcpu, shadow| {
        *shadow = IchShadow::after_reset();
        if let Some(gicv2) = &vm.gicv2 {
            gicv2.power_off(vcpu.id);
        }
        vcpu.residency.set_power(false);
    })?;
    // The vCPU takes no interrupt any more.
    routing::settle_shared(vm, pin);
    Ok(())
}

/// Takes a vCPU off a CPU, and calls `last` before another CPU may load the vCPU.
fn put_with<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
    last: impl FnOnce(&Vcpu, &mut IchShadow),
) -> Result<(), EntryError> {
    let vcpu = vm.vcpu(id).ok_or(EntryError::UnknownVcpu(id))?;
    let Some(mut shadow) = vcpu.shadow(cpu.local()) else {
        return Err(EntryError::NotEntered(id));
    };

    if vm.in_guest(cpu.local(), id).is_some() {
        return Err(EntryError::AlreadyEntered(id));
    }

    // Without an interrupt in a list register nothing is unlinked that may be freed. Saves 22 of
    // the 2390 instructions of a switch between two vCPUs, a barrier among them.
    let _entered = (shadow.in_use != 0).then(|| pin.guard());
    let mut after = AfterUnlock::new();
    {
        let mut list = vcpu.ap_list.lock(pin.locks());
        if !mutant(Mutant::RegistersForgotten) {
            fold::fold_all(vm, cpu, pin, vcpu, &mut shadow, &mut list, &mut after);
        }
        if vcpu.has_physical_ppis() && !mutant(Mutant::PutKeepsThePpi) {
            physical::release_all(vm, pin, vcpu, &mut list, &mut after);
        }
        shadow.clean(cpu.interface(), pin.counters());
        list.check();
    }

    shadow.save(cpu.interface());
    let leaves_late = mutant(Mutant::PutBeforeLeave);
    let leave = |late| {
        (late == leaves_late)
            .then(|| direct::residency::leave(vm, pin, vcpu, direct::residency::Departure::Pause))
    };
    leave(false);
    rwp::done(vm, vcpu, vcpu.residency.get());
    last(vcpu, &mut shadow);
    drop(shadow);
    vcpu.put(cpu.local());
    leave(true);
    if !mutant(Mutant::StoreForgotten) {
        lpi_tables::store_if_on_no_cpu(vm, vcpu);
    }
    after.run(vm, pin);
    Ok(())
}
