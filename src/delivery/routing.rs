//! `GICD_IROUTER<n>`, and vCPUs that are added.
//!
//! A write of `GICD_IROUTER<n>` and an addition of the vCPU that it names may race. The write
//! stores the router and then reads the topology; the addition stores the topology and then reads
//! the routers. With a full fence between the two steps of each, one of them sees the other.

use alloc::vec::Vec;

use crate::config::ConfigError;
use crate::delivery::change;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, VcpuId};
use crate::sync::Ordering::{Relaxed, Release, SeqCst};
use crate::sync::{AtomicU64, fence};
use crate::vm::Vm;
use crate::vm::irq::Irq;
use crate::vm::topology::Topology;

/// Adds a vCPU: [`Vgic::add_vcpu`](crate::Vgic::add_vcpu). Readers of the topology are not
/// disturbed.
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
    // Release: pairs with the Acquire in `vcpu_count`. Before the topology: a CPU that finds the
    // vCPU there may insert into its list.
    vm.present.store(index as u16 + 1, Release);
    vm.topology.store(Topology::new(affinities), pin.guard());

    // SeqCst: pairs with the fence in `write_router`: if that write did not see the topology, the
    // loads below see the router.
    fence(SeqCst);
    for (irq, router) in vm.distributor.routed() {
        // Relaxed: the fence above orders it.
        if router.load(Relaxed) == affinity.mpidr() {
            route(vm, pin, irq, Some(id));
        }
    }
    Ok(id)
}

/// Writes `GICD_IROUTER<n>` of `irq`, and routes the SPI to the vCPU with this affinity, or to
/// none.
pub(crate) fn write_router<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    router: &AtomicU64,
    affinity: Affinity,
) {
    // Relaxed: concurrent writes of one register are the guest's race; the fence below orders it.
    router.store(affinity.mpidr(), Relaxed);
    // SeqCst: pairs with the fence in `add_vcpu`: if the lookup below does not see a vCPU that is
    // being added, the CPU that adds it sees the router.
    fence(SeqCst);

    let mut target = vm.find_vcpu(pin, affinity);
    loop {
        route(vm, pin, irq, target);
        // The CPU that adds the vCPU may have routed the SPI to it before this CPU routed it to
        // none. The transition just made followed that one, so this lookup sees the new topology.
        let now = vm.find_vcpu(pin, affinity);
        if now == target {
            return;
        }
        target = now;
    }
}

/// Routes an SPI, and informs the embedder if its target has changed.
fn route<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, target: Option<VcpuId>) {
    if change::retarget(vm, pin, irq, target) != target {
        vm.host.routed(irq.intid(), target);
    }
}
