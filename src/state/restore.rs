//! Writing the state: [`Vgic::restore`](crate::Vgic::restore).
#![expect(unsafe_code)]
// UNSAFETY: writes the shadows of vCPUs that are claimed.

use crate::advance;
use crate::cpu_interface::priority::ActivePriorities;
use crate::delivery::{change, lpi_lifetime, routing};
use crate::epoch::CpuPin;
use crate::error::RestoreError;
use crate::host::Host;
use crate::intid::{DeviceId, EventId, IntId, VcpuId};
use crate::its;
use crate::its::execute::Execution;
use crate::reset;
use crate::state::check::{Mappings, check};
use crate::state::save::{SAVED, flags_of};
use crate::state::{InterruptState, ItsState, LpiState, VcpuState, VmState};
use crate::sync::Ordering::Relaxed;
use crate::teardown::{claim, release};
use crate::vm::Vm;
use crate::vm::ich_shadow::IchShadow;
use crate::vm::irq::{Irq, PENDING, State};
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
    let mappings = match check(vm, pin, state) {
        Ok(mappings) => mappings,
        Err(error) => {
            release(&vm.vcpus);
            return Err(error);
        }
    };
    for vcpu in &vm.vcpus {
        // A vCPU that was put while blocked is not woken by what follows: no CPU can enter it.
        let _ = vcpu.residency.take_work();
    }
    reset::clear(vm, pin);
    apply(vm, pin, state, mappings);

    // vCPU 0 last, as in a reset: the guest on it may power on and program the others.
    let vcpus = vm.added_vcpus().iter().zip(&state.vcpus).rev();
    for (vcpu, saved) in vcpus.filter(|(vcpu, _)| vcpu.is_present()) {
        vcpu.residency.reset(saved.is_on);
    }
    pin.collect();
    Ok(())
}

/// Gives a VM that has just been reset a state that has been checked, and its LPIs.
fn apply<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, state: &VmState, mut lpis: Mappings<'_>) {
    // Relaxed: the vCPUs are claimed, and the end of the claim publishes the state.
    vm.distributor.propbaser.store(state.propbaser, Relaxed);
    let _ = vm.distributor.control.write(state.group_enables);
    // Before the SPIs: those with several targets are routed by what the interfaces would take.
    if let Some(gicv2) = &vm.gicv2 {
        let interfaces = gicv2.interfaces(vm.vcpu_count());
        let saved = state.vcpus.iter().zip(&state.extended.sgi_sources);
        for (interface, (vcpu, sources)) in interfaces.zip(saved) {
            interface.set_control(vcpu.vmcr as u32);
            interface.publish(vcpu.vmcr, running_priority(vcpu));
            for (sgi, sources) in sources.iter().enumerate() {
                interface.add(sgi, *sources);
            }
        }
    }
    let saved = state.spis.iter().chain(&state.extended.spis);
    for ((irq, router), saved) in vm.distributor.all_routed().zip(saved) {
        if let Some(taker) = saved.active_on {
            // Active where it was taken; a new route leaves it there.
            routing::route(vm, pin, irq, Some(VcpuId(taker)));
            set(vm, pin, irq, saved.interrupt);
            routing::restore(vm, pin, irq, router, saved.router);
        } else {
            routing::restore(vm, pin, irq, router, saved.router);
            set(vm, pin, irq, saved.interrupt);
        }
    }
    for (vcpu, saved) in vm.added_vcpus().iter().zip(&state.vcpus) {
        if vcpu.is_present() {
            set_vcpu(vm, pin, vcpu, saved);
            let ppis = (state.extended).ppis_of(vcpu.id.index(), vm.config.extended_ppis);
            for (irq, saved) in vcpu.extended_ppis().iter().zip(ppis) {
                set(vm, pin, irq, *saved);
            }
        }
    }

    let at_once =
        |one: &LpiState, other: &LpiState| lpi_lifetime::are_made_at_once(one.intid, other.intid);
    let mut refs = lpis.refs();
    for lpis in state.lpis.chunk_by(at_once) {
        let refs = refs.split_off_mut(..lpis.len()).unwrap_or_default();
        lpi_lifetime::make(vm, pin, lpis.iter().filter_map(self::lpi), refs);
    }
    for (its, saved) in vm.its.iter().zip(&state.its) {
        set_its(vm, pin, its, saved, &mut lpis);
    }
    for (its, saved) in vm.its.iter().zip(&state.its) {
        its.set_control(CTLR_ENABLED, saved.is_enabled);
    }
    its::direct::settle_all(vm, pin);
    advance::defer_commands(vm);
}

/// Returns the running priority of a saved vCPU, with five bits of preemption. On a CPU with more,
/// the vCPU publishes the right one at its first acknowledge or write.
fn running_priority(saved: &VcpuState) -> u8 {
    let mut active = ActivePriorities::new(5);
    for (group1, registers) in [false, true].into_iter().zip(saved.active_priorities) {
        for (index, bits) in registers.into_iter().enumerate() {
            active.set_register(group1, index, bits);
        }
    }
    active.running_priority()
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
fn set_its<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    its: &Its,
    saved: &ItsState,
    lpis: &mut Mappings<'_>,
) {
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
        let itt = Itt::new(device.itt, device.event_bits);
        let id = DeviceId(device.device);

        let events = device.events.iter().filter_map(|saved| {
            let (event, intid) = (EventId(saved.event), IntId::lpi(saved.intid)?);
            // The reference, which the device takes over, keeps the LPI in the table.
            let target = lpis.take(saved.intid)?.target.map(VcpuId);
            let key = saved.intid.checked_sub(IntId::FIRST_LPI)?;
            let irq = vm.lpis.get(key, pin.guard())?;
            vm.host.event_mapped(its.id, id, event, intid, target);
            Some((event, irq))
        });
        execution.map_device(id, itt, events);
    }
}

/// Returns the INTID, the state and the collection of a saved LPI.
fn lpi(saved: &LpiState) -> Option<(IntId, State, u16)> {
    let state = State::new(flags_of(saved.interrupt), saved.target.map(VcpuId));
    let state = state.with_priority(saved.interrupt.priority);
    Some((IntId::lpi(saved.intid)?, state, saved.icid))
}
