//! `GICD_IROUTER<n>`, and vCPUs that are added.

use alloc::vec::Vec;

use crate::config::ConfigError;
use crate::delivery::queue;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, VcpuId};
use crate::sync::Ordering::{Relaxed, Release, SeqCst};
use crate::sync::{AtomicU64, fence};
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::topology::Topology;

/// Adds a vCPU, powered off, and returns its index. Readers of the topology go on undisturbed.
///
/// # Errors
/// [`ConfigError::MaxVcpus`] when the VM is full, [`ConfigError::DuplicateAffinity`].
pub(crate) fn add_vcpu<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    affinity: Affinity,
) -> Result<VcpuId, ConfigError> {
    let _growth = vm.growth.lock(pin.ledger());
    let topology = vm.topology.load(pin.guard());
    if topology.find(affinity).is_some() {
        return Err(ConfigError::DuplicateAffinity(affinity));
    }
    let index = topology.len();
    let id = VcpuId::new(index)
        .filter(|_| index < vm.vcpus.len())
        .ok_or(ConfigError::MaxVcpus(vm.vcpus.len()))?;
    let mut affinities: Vec<Affinity> = topology.affinities().to_vec();
    affinities.push(affinity);
    vm.vcpus[index].set_affinity(affinity);
    // Release: pairs with the Acquire in `vcpu_count`. Before the topology: whoever finds the vCPU there
    // can insert into its list.
    vm.present.store(index as u16 + 1, Release);
    vm.topology.store(Topology::new(affinities), pin.guard());
    // SeqCst: pairs with the fence in `write_router`: if that did not see the topology, we see what it
    // wrote.
    fence(SeqCst);
    route_to_new(vm, pin, affinity, id);
    Ok(id)
}

pub(crate) fn write_router<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    router: &AtomicU64,
    affinity: Affinity,
) {
    // Relaxed: concurrent writers of one register are the guest's race; the fence orders it.
    router.store(affinity.mpidr(), Relaxed);
    // SeqCst: pairs with the fence in `Vgic::add_vcpu`: if we do not see a vCPU that is being added,
    // whoever adds it sees what we wrote.
    fence(SeqCst);
    let mut target = vm.find_vcpu(pin, affinity);
    loop {
        route(vm, pin, irq, target);
        // Whoever adds the vCPU may have routed the SPI to it before we did to nobody; then our
        // transition, which followed, lets us see the new topology.
        let now = vm.find_vcpu(pin, affinity);
        if now == target {
            return;
        }
        target = now;
    }
}

fn route<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, target: Option<VcpuId>) {
    let changed = irq.update(|state| state.with_target(target));
    queue::follow_up(vm, pin, irq, changed.follow_up);
    if changed.old.target() != target {
        vm.host.routed(irq.intid(), target);
    }
}

/// Routes the SPIs that name `affinity` to its new vCPU.
fn route_to_new<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, affinity: Affinity, vcpu: VcpuId) {
    let distributor = &vm.distributor;
    for (irq, router) in distributor.spis.iter().zip(&distributor.routers) {
        // Relaxed: as in `write_router`; the fence in `Vgic::add_vcpu` orders it.
        if router.load(Relaxed) == affinity.mpidr() {
            route(vm, pin, irq, Some(vcpu));
        }
    }
}
