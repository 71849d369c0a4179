//! vCPUs that are added to a VM, and removed from it.
//!
//! # A place
//! A vCPU has an index, a redistributor and a state word for each SGI and PPI: its *place*. A place
//! that was given to an affinity stays that affinity's while there is room: a vCPU that is removed
//! and added again has its old index and its old redistributor. The redistributor of a removed vCPU
//! identifies itself, so that a guest that looks for a redistributor passes it by, and reads as
//! zero otherwise.
//!
//! # Who may still use a removed vCPU
//! Other CPUs may have found the vCPU before the removal, and raise or enable its interrupts
//! afterwards. The state word of an interrupt decides: an interrupt is linked on the list of its
//! target, and none has the removed vCPU for a target any more.
//! 1. The residency word says that the vCPU is absent: no CPU loads it or powers it on.
//! 2. The vCPU and its affinity are no longer found.
//! 3. The SPIs, SGIs and PPIs lose the target, and leave the list with it. An SPI keeps its pending
//!    state and its `GICD_IROUTER<n>`.
//! 4. The collections of each ITS that were mapped to the vCPU are unmapped, under the ITS's lock.
//! 5. Each ITS moves its LPIs away from the vCPU, in slices, as after a `MAPC` that unmaps a
//!    collection: an LPI keeps its pending state. Until then, LPIs may still be on the list.

use crate::config::ConfigError;
use crate::delivery::{change, physical, report, routing};
use crate::direct;
use crate::epoch::CpuPin;
use crate::error::RemoveError;
use crate::host::Host;
use crate::intid::{Affinity, VcpuId};
use crate::steps::step;
use crate::sync::Ordering::{Relaxed, Release, SeqCst};
use crate::sync::{Mutant, fence, mutant};
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;

/// Adds a vCPU: [`Vgic::add_vcpu`](crate::Vgic::add_vcpu). Readers of the topology are not
/// disturbed.
pub(crate) fn add_vcpu<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    affinity: Affinity,
) -> Result<VcpuId, ConfigError> {
    let _growth = vm.growth.lock(pin.locks());
    if vm.is_torn_down() {
        return Err(ConfigError::TornDown);
    }

    let topology = vm.topology.load(pin.guard());
    if topology.find(affinity).is_some() {
        return Err(ConfigError::DuplicateAffinity(affinity));
    }

    let room = vm.vcpus.len();
    let id = topology.index_for(affinity, room);
    let Some((id, vcpu)) = id.and_then(|id| Some((id, vm.vcpus.get(id.index())?))) else {
        return Err(ConfigError::MaxVcpus(room));
    };

    if topology.affinity(id).is_some() {
        renew(vm, pin, vcpu);
    }
    vcpu.add(affinity);
    vm.sgi_targets.add(&vm.vcpus, id);

    // Release: pairs with the Acquire in `vcpu_count`. Before the topology: a CPU that finds the
    // vCPU in the topology may insert into the vCPU's list.
    let new = topology.with(id, affinity);
    vm.added.store(new.len() as u16, Release);
    vm.topology.store(new, pin.guard());

    // SeqCst: pairs with the fence in `write_router`: if the write did not see the topology, the
    // loads below see the router.
    fence(SeqCst);
    for (irq, router) in vm.distributor.all_routed() {
        // Relaxed: ordered by the fence above.
        if router.load(Relaxed) == affinity.mpidr() {
            routing::route(vm, pin, irq, Some(id));
        }
    }

    Ok(id)
}

/// Makes the vCPU of a removed one as after a reset. The removal has done so: what is found here
/// was changed by CPUs that had found the vCPU before.
fn renew<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    for irq in vcpu.all_privates() {
        let _ = routing::retarget(vm, pin, irq, Some(vcpu.id));
        if !mutant(Mutant::AddedWithOldState) {
            change::reset(vm, pin, irq);
        }
        change::set_line(vm, pin, irq, false);
    }
    vcpu.redistributor.reset();
    let _dropped = direct::sgi::take(vm, pin, vcpu);
}

/// Removes a vCPU: [`Vgic::remove_vcpu`](crate::Vgic::remove_vcpu).
pub(crate) fn remove_vcpu<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<(), RemoveError> {
    if vm.gicv2.is_some() {
        return Err(RemoveError::Gicv2);
    }

    let _growth = vm.growth.lock(pin.locks());
    if vm.is_torn_down() {
        return Err(RemoveError::TornDown);
    }

    let vcpu = vm.vcpu(id).ok_or(RemoveError::UnknownVcpu(id))?;
    if id.index() == 0 {
        return Err(RemoveError::FirstVcpu);
    }

    vcpu.residency.remove().map_err(|found| match found.cpu() {
        Some(_) => RemoveError::Loaded(id),
        None => RemoveError::PoweredOn(id),
    })?;

    vcpu.remove();
    let topology = vm.topology.load(pin.guard());
    vm.topology.store(topology.without(id), pin.guard());
    // SeqCst: pairs with the fence in `write_router`: a write that did not see the topology makes
    // its transition before the one below, or acquires the one below and looks again.
    fence(SeqCst);

    // Every SPI, whatever its target: the transition is what a write acquires.
    for irq in vm.distributor.all_spis() {
        if !mutant(Mutant::RemovedKeepsRoutes) {
            let changed = routing::retarget_from(vm, pin, irq, id);
            report::route(vm, irq, changed);
        }
    }

    retire(vm, pin, vcpu);
    unmap_collections(vm, pin, id);
    Ok(())
}

/// Resets the state of a vCPU that has been removed, and takes its SGIs and PPIs off the list.
fn retire<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    for irq in vcpu.all_privates() {
        physical::end_connection(vm, pin, irq);
        change::set_line(vm, pin, irq, false);
        change::reset(vm, pin, irq);
        if !mutant(Mutant::RemovedKeepsPrivates) {
            let _ = routing::retarget(vm, pin, irq, None);
        }
    }

    let redistributor = &vcpu.redistributor;
    redistributor.scan.stop();
    redistributor.store.stop();
    redistributor.reset();
    if vcpu.rwp.clear() {
        vm.distributor.rwp_vcpus.sub();
    }
}

/// Unmaps the collections mapped to a vCPU that has been removed, and has each ITS move its LPIs.
fn unmap_collections<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, id: VcpuId) {
    for its in &vm.its {
        let mut engine = its.commands.engine.lock(pin.locks());
        for collection in &mut engine.collections {
            step();
            if *collection == Some(id) && !mutant(Mutant::RemovedKeepsCollections) {
                *collection = None;
            }
        }
    }

    // After all of the above: a command of any ITS that has found the vCPU before is over.
    for its in &vm.its {
        if !mutant(Mutant::RemovedKeepsLpis) {
            its.commands.engine.lock(pin.locks()).vcpu_removed();
            vm.deferred.add(1 << its.id.0);
        }
    }
}
