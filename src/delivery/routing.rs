//! `GICD_IROUTER<n>`, and the addition of vCPUs.
//!
//! A write of `GICD_IROUTER<n>` may race with the addition of the vCPU named by the write. The
//! write stores the router and then reads the topology; the addition stores the topology and then
//! reads the routers. With a full fence between the two steps on both sides, the write sees the new
//! topology or the addition sees the new router.

use alloc::vec::Vec;

use crate::config::ConfigError;
use crate::delivery::{physical, queue, report};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, VcpuId};
use crate::sync::Ordering::{Relaxed, Release, SeqCst};
use crate::sync::{AtomicU64, fence};
use crate::vm::Vm;
use crate::vm::irq::{Changed, FollowUp, Irq};
use crate::vm::topology::Topology;

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

    let index = topology.len();
    let (Some(id), Some(vcpu)) = (VcpuId::new(index), vm.vcpus.get(index)) else {
        return Err(ConfigError::MaxVcpus(vm.vcpus.len()));
    };

    let mut affinities: Vec<Affinity> = topology.affinities().to_vec();
    affinities.push(affinity);
    vcpu.set_affinity(affinity);

    // Release: pairs with the Acquire in `vcpu_count`. Before the topology: a CPU that finds the
    // vCPU in the topology may insert into the vCPU's list.
    vm.present.store(affinities.len() as u16, Release);
    vm.topology.store(Topology::new(affinities), pin.guard());

    // SeqCst: pairs with the fence in `write_router`: if the write did not see the topology, the
    // loads below see the router.
    fence(SeqCst);
    for (irq, router) in vm.distributor.routed() {
        // Relaxed: ordered by the fence above.
        if router.load(Relaxed) == affinity.mpidr() {
            route(vm, pin, irq, Some(id));
        }
    }

    Ok(id)
}

/// Writes `GICD_IROUTER<n>` of `irq`, and routes the SPI to the vCPU with `affinity`, or to none.
pub(crate) fn write_router<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    router: &AtomicU64,
    affinity: Affinity,
) {
    // Relaxed: concurrent writes of a register are the guest's race; the fence below gives the
    // order.
    router.store(affinity.mpidr(), Relaxed);
    // SeqCst: pairs with the fence in `add_vcpu`: if the lookup below does not see the added vCPU,
    // the CPU in `add_vcpu` sees the router.
    fence(SeqCst);

    let mut target = vm.find_vcpu(pin, affinity);
    loop {
        route(vm, pin, irq, target);
        // The CPU in `add_vcpu` may have routed the SPI to the new vCPU, and this CPU to none
        // afterwards. The second transition acquired the first: the lookup below sees the new
        // topology.
        let now = vm.find_vcpu(pin, affinity);
        if now == target {
            return;
        }
        target = now;
    }
}

/// Routes an SPI, and informs the embedder of a change of the target.
fn route<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, target: Option<VcpuId>) {
    let changed = retarget(vm, pin, irq, target);
    report::route(vm, irq, changed);
}

/// Routes the interrupt to another vCPU, or to none, with the pending state.
pub(crate) fn retarget<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    target: Option<VcpuId>,
) -> Changed {
    let changed = irq.update(|state| state.with_target(target));
    if changed.follow_up != FollowUp::Nothing {
        if changed.new.hw() {
            // The level may have waited for long, and reaches another vCPU at once.
            physical::sample(vm, pin, irq);
        }
        queue::follow_up(vm, pin, irq, changed.follow_up);
    }
    changed
}
