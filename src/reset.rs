//! The reset of a VM's interrupt controller, for a guest that reboots.
#![expect(unsafe_code)]
// UNSAFETY: resets the shadows of vCPUs that are claimed.

use crate::delivery::{change, lpi_lifetime, routing};
use crate::direct;
use crate::epoch::CpuPin;
use crate::error::TeardownError;
use crate::host::Host;
use crate::its::walks;
use crate::teardown::{claim, empty_list, end_deferred};
use crate::vm::Vm;
use crate::vm::ich_shadow::IchShadow;
use crate::vm::its::CTLR_ENABLED;
use crate::vm::vcpu::Vcpu;

/// Resets a VM: [`Vgic::reset`](crate::Vgic::reset).
///
/// The vCPUs are claimed meanwhile, so that none is entered. Other CPUs may raise interrupts: a
/// raise falls before the reset or after it, for each interrupt alone.
pub(crate) fn reset<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> Result<(), TeardownError> {
    vm.admit(pin)?;
    refuse_garbage(vm, pin)?;
    claim(vm, pin)?;
    clear(vm, pin);

    // vCPU 0 last: the CPU that enters it boots the guest, which powers on and programs the others.
    for vcpu in vm.vcpus.iter().rev().filter(|vcpu| vcpu.is_present()) {
        vcpu.residency.reset(vcpu.id.index() == 0);
    }

    pin.collect();
    Ok(())
}

/// Returns an error if too much of the VM's memory is not freed to unmap everything.
pub(crate) fn refuse_garbage<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> Result<(), TeardownError> {
    if vm.is_full_of_garbage(pin) {
        pin.collect();
        return Err(TeardownError::Unreclaimed);
    }
    Ok(())
}

/// Makes a VM whose vCPUs are claimed as it was made, but for the vCPUs' residency.
pub(crate) fn clear<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    end_deferred(vm);
    for its in &vm.its {
        its.set_control(CTLR_ENABLED, false);
        walks::unmap_all(vm, pin, its);
        its.reset(pin);
    }

    // Most interrupts of a large VM are not in use.
    let used = || vm.wired().filter(|irq| change::needs_reset(irq));
    // Nothing is queued from here on. A level that is active and high is counted as pending again.
    for irq in used() {
        change::disable(vm, pin, irq);
        change::deactivate(vm, pin, irq);
    }
    for vcpu in &vm.vcpus {
        empty_list(vm, pin, vcpu);
        let _dropped = direct::sgi::take(vm, pin, vcpu);
    }
    lpi_lifetime::free_all(vm, pin);

    for irq in used() {
        change::reset(vm, pin, irq);
    }
    let router = vm.config.first_router();
    vm.distributor.reset(router);
    if router.is_none() {
        for irq in vm.distributor.spis() {
            routing::route(vm, pin, irq, None);
        }
    }

    for vcpu in vm.vcpus.iter().filter(|vcpu| vcpu.is_present()) {
        vcpu.redistributor.reset();
        // SAFETY: the vCPU is claimed: no CPU has it, or gets it before the loop below.
        unsafe { vcpu.replace_shadow(IchShadow::after_reset()) };
    }
    if let Some(gicv2) = &vm.gicv2 {
        gicv2.reset();
        vm.vcpus.iter().for_each(Vcpu::reset_gicv2);
    }
}
