//! Writing the state: [`Vgic::restore`](crate::Vgic::restore).
#![expect(unsafe_code)]
// UNSAFETY: writes the shadows of vCPUs that are claimed.

use crate::advance;
use crate::delivery::{change, lpi_lifetime, routing};
use crate::epoch::CpuPin;
use crate::error::RestoreError;
use crate::host::Host;
use crate::intid::{Affinity, DeviceId, EventId, IntId, VcpuId};
use crate::its::execute::Execution;
use crate::reset;
use crate::state::check::check;
use crate::state::save::{SAVED, flags_of};
use crate::state::{DeviceState, InterruptState, ItsState, LpiState, VcpuState, VmState};
use crate::sync::Ordering::Relaxed;
use crate::teardown::{claim, release};
use crate::vm::Vm;
use crate::vm::ich_shadow::IchShadow;
use crate::vm::irq::{Irq, PENDING};
use crate::vm::its::device::Itt;
use crate::vm::its::{CTLR_ENABLED, Its};
use crate::vm::redistributor::{CTLR_ENABLE_LPIS, WAKER_PROCESSOR_SLEEP};
use crate::vm::vcpu::Vcpu;

/// Restores a VM: [`Vgic::restore`](crate::Vgic::restore).
///
/// The vCPUs are claimed meanwhile. The VM is reset, and then given the state, which has been
/// checked: nothing fails half-way.
pub(crate) fn restore<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    state: &VmState,
) -> Result<(), RestoreError> {
    vm.admit(pin)?;
    reset::refuse_garbage(vm, pin)?;
    claim(vm, pin)?;
    // Under the claim: no vCPU is added or removed.
    if let Err(error) = check(vm, pin, state) {
        release(&vm.vcpus);
        return Err(error);
    }
    for vcpu in &vm.vcpus {
        // A vCPU that was put while blocked is not woken by what follows: no CPU can enter it.
        let _ = vcpu.residency.take_work();
    }
    reset::clear(vm, pin);
    apply(vm, pin, state);

    // vCPU 0 last, as after a reset.
    let vcpus = vm.added_vcpus().iter().zip(&state.vcpus).rev();
    for (vcpu, saved) in vcpus.filter(|(vcpu, _)| vcpu.is_present()) {
        vcpu.residency.reset(saved.is_on);
    }
    Ok(())
}

/// Gives a VM that has just been reset a state that has been checked.
fn apply<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, state: &VmState) {
    // Relaxed: the vCPUs are claimed, and the end of the claim publishes the state.
    vm.distributor.propbaser.store(state.propbaser, Relaxed);
    let _ = vm.distributor.control.write(state.group_enables);
    for ((irq, router), saved) in vm.distributor.routed().zip(&state.spis) {
        let affinity = Affinity::from_mpidr(saved.router);
        if let Some(taker) = saved.active_on {
            // Active where it was taken; a new route leaves it there.
            routing::route(vm, pin, irq, Some(VcpuId(taker)));
            set(vm, pin, irq, saved.interrupt);
            routing::write_router(vm, pin, irq, router, affinity);
        } else {
            routing::write_router(vm, pin, irq, router, affinity);
            set(vm, pin, irq, saved.interrupt);
        }
    }
    for (vcpu, saved) in vm.added_vcpus().iter().zip(&state.vcpus) {
        if vcpu.is_present() {
            set_vcpu(vm, pin, vcpu, saved);
        }
    }

    for (its, saved) in vm.its.iter().zip(&state.its) {
        set_its(vm, pin, its, saved, &state.lpis);
    }
    for lpi in &state.lpis {
        if let Some(irq) = IntId::lpi(lpi.intid).and_then(|intid| vm.lpi(pin, intid)) {
            set(vm, pin, irq, lpi.interrupt);
        }
    }
    for (its, saved) in vm.its.iter().zip(&state.its) {
        its.set_control(CTLR_ENABLED, saved.is_enabled);
    }
    advance::defer_commands(vm);
}

/// Gives an interrupt its state, and inserts it where it is deliverable.
fn set<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, saved: InterruptState) {
    let flags = flags_of(saved);
    // A latch that is set by now is a raise of another CPU's, after the reset.
    change::replace(vm, pin, irq, |state| {
        (state.with(flags, SAVED & !PENDING)).with_priority(saved.priority)
    });
}

/// Gives a vCPU that is claimed its state.
fn set_vcpu<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, saved: &VcpuState) {
    let redistributor = &vcpu.redistributor;
    let waker = if saved.processor_sleep {
        WAKER_PROCESSOR_SLEEP
    } else {
        0
    };
    // Relaxed, both: as in `apply`.
    redistributor.waker.store(waker, Relaxed);
    redistributor.pendbaser.store(saved.pendbaser, Relaxed);
    let enables = if saved.enable_lpis {
        CTLR_ENABLE_LPIS
    } else {
        0
    };
    // The pending table was read by the VM that was saved.
    let _ = redistributor.control.write(enables);
    let shadow = IchShadow::with_interface(saved.vmcr, saved.active_priorities);
    // SAFETY: the vCPU is claimed: no CPU has it.
    unsafe { vcpu.replace_shadow(shadow) };
    for (irq, saved) in vcpu.privates().iter().zip(saved.private) {
        set(vm, pin, irq, saved);
    }
}

/// Gives an ITS without mappings its registers and mappings, but for Enabled. Takes the command
/// lock.
fn set_its<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, its: &Its, saved: &ItsState, lpis: &[LpiState]) {
    let mut engine = its.commands.engine.lock(pin.locks());
    // Whatever another CPU, against the rules, has mapped since the reset.
    Execution::new(vm, pin, its, &mut engine).unmap_everything();
    engine.collections.fill(None);
    engine.queue.set(saved.cbaser);
    let _ = engine.device_table.set(saved.device_table);
    let _ = engine.collection_table.set(saved.collection_table);
    for collection in &saved.collections {
        if let Some(target) = engine.collections.get_mut(usize::from(collection.icid)) {
            *target = Some(VcpuId(collection.vcpu));
        }
    }
    // Relaxed: the command lock orders it for a CPU that executes commands.
    its.commands.creadr.store(saved.creadr as u32, Relaxed);
    its.set_cwriter(saved.cwriter);

    let mut execution = Execution::new(vm, pin, its, &mut engine);
    for device in &saved.devices {
        let itt = Itt {
            address: device.itt,
            event_bits: device.event_bits,
        };
        execution.map_device(DeviceId(device.device), itt);
        map_events(vm, pin, its, device, lpis);
    }
}

/// Maps the events of a device that has been mapped. Under the command lock.
fn map_events<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: &Its,
    saved: &DeviceState,
    lpis: &[LpiState],
) {
    let id = DeviceId(saved.device);
    let Some(device) = its.devices.get(id, pin.guard()) else {
        return;
    };
    for event in &saved.events {
        let lpi = lpis.binary_search_by_key(&event.intid, |lpi| lpi.intid);
        let lpi = lpi.ok().and_then(|place| lpis.get(place));
        let intid = IntId::lpi(event.intid);
        let event = EventId(event.event);
        if let (Some(lpi), Some(intid)) = (lpi, intid) {
            let target = lpi.target.map(VcpuId);
            if let Some(irq) = lpi_lifetime::map(vm, pin, intid, target) {
                irq.set_icid(lpi.icid);
                device.map(event, irq, pin.guard(), &vm.garbage);
                vm.host.event_mapped(its.id, id, event, intid, target);
            }
        }
    }
}
