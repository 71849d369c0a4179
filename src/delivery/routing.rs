//! `GICD_IROUTER<n>`, and the routes of interrupts.
//!
//! A write of `GICD_IROUTER<n>` may race with the addition or the removal of the vCPU named by the
//! write. The write stores the router and then reads the topology; [`hotplug`](super::hotplug)
//! stores the topology and then routes the SPIs. With a full fence between the two steps on both
//! sides, the write sees the new topology or `hotplug` sees the new router.

use crate::config::MAX_GICV2_VCPUS;
use crate::delivery::{physical, queue, report};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, VcpuId};
use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::sync::{AtomicU64, fence};
use crate::vm::Vm;
use crate::vm::irq::{Changed, FollowUp, Irq, State};

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
    // SeqCst: pairs with the fences in `hotplug`: if the lookup below does not see the addition or
    // the removal, the CPU there sees the router, or makes its transition after the one below.
    fence(SeqCst);

    let mut target = vm.find_vcpu(pin, affinity);
    loop {
        route(vm, pin, irq, target);
        // Another CPU may have routed the SPI to a new vCPU, or away from a removed one, and this
        // CPU by the old topology afterwards. The second transition acquired the first: the lookup
        // below sees the new topology.
        let now = vm.find_vcpu(pin, affinity);
        if now == target {
            return;
        }
        target = now;
    }
}

/// Writes an SPI's byte of `GICD_ITARGETSR<n>` of a GICv2: `targets` has a bit for each vCPU.
pub(crate) fn write_targets<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    router: &AtomicU64,
    targets: u8,
) {
    // Relaxed: concurrent writes of a register are the guest's race.
    router.store(targets.into(), Relaxed);

    let several = targets.count_ones() > 1;
    if (vm.gicv2.as_ref()).is_some_and(|gicv2| gicv2.set_shared(irq.intid(), several)) {
        settle(vm, pin, irq, router);
    } else {
        route(vm, pin, irq, lowest(targets));
    }
}

/// Routes the SPIs of a GICv2 that have several targets anew, after a change of a CPU interface, or
/// of priorities and groups.
pub(crate) fn settle_shared<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) {
    let Some(gicv2) = &vm.gicv2 else {
        return;
    };

    for intid in gicv2.shared() {
        if let Some((irq, router)) = vm.distributor.router(intid) {
            settle(vm, pin, irq, router);
        }
    }
}

/// Routes an SPI of a GICv2 by its targets (IHI 0048, 1.4.2). While the CPU that it is routed to is
/// one of them and would take it, it stays there. Otherwise it goes to the lowest that would take
/// it; if none would, it stays where it may, or goes to the lowest.
fn settle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, router: &AtomicU64) {
    // Another CPU's interface may change meanwhile. That CPU settles too: the last of a few that
    // race sees what the others have published.
    for _ in 0..TRIES {
        let target = choose(vm, irq.state(), router);
        if irq.state().target() == target {
            return;
        }
        route(vm, pin, irq, target);
    }
}

/// Tries of [`settle`]: one for each vCPU of a GICv2 that may change its interface at once.
const TRIES: usize = MAX_GICV2_VCPUS;

/// Returns the vCPU of a GICv2 to route an SPI to.
fn choose<H: Host>(vm: &Vm<H>, state: State, router: &AtomicU64) -> Option<VcpuId> {
    // Relaxed: concurrent writes of a register are the guest's race.
    let targets = router.load(Relaxed) as u8;

    let is_target = |vcpu: VcpuId| targets.checked_shr(vcpu.0.into()).unwrap_or(0) & 1 != 0;
    let would_take = |vcpu: VcpuId| {
        let interface = vm.gicv2_interface(vcpu);
        interface.is_some_and(|it| it.would_take(state.priority(), state.group1()))
    };

    let now = state.target().filter(|vcpu| is_target(*vcpu));
    if now.is_some_and(would_take) {
        return now;
    }

    let mut all = (0..MAX_GICV2_VCPUS)
        .filter_map(VcpuId::new)
        .filter(|vcpu| is_target(*vcpu));
    (all.find(|vcpu| would_take(*vcpu)))
        .or(now)
        .or(lowest(targets))
}

/// Returns the lowest vCPU of `targets`, a bit for each.
fn lowest(targets: u8) -> Option<VcpuId> {
    let lowest = VcpuId::new(targets.trailing_zeros() as usize);
    lowest.filter(|_| targets != 0)
}

/// Restores the router of `irq` from its saved value, and routes the SPI.
pub(crate) fn restore<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    router: &AtomicU64,
    saved: u64,
) {
    match vm.config.vcpus.len() {
        _ if vm.gicv2.is_none() => {
            write_router(vm, pin, irq, router, Affinity::from_mpidr(saved));
        }
        1 => route(vm, pin, irq, VcpuId::new(0)),
        _ => write_targets(vm, pin, irq, router, saved as u8),
    }
}

/// Routes an SPI, and informs the embedder of a change of the target.
pub(crate) fn route<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, target: Option<VcpuId>) {
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
    retarget_by(vm, pin, irq, |state| state.with_target(target))
}

/// Routes the interrupt to no vCPU, if the interrupt is routed to `vcpu`.
pub(crate) fn retarget_from<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    vcpu: VcpuId,
) -> Changed {
    retarget_by(vm, pin, irq, |state| {
        if state.target() == Some(vcpu) {
            state.with_target(None)
        } else {
            state
        }
    })
}

/// Changes the target of the interrupt, and does the follow-up.
#[inline]
fn retarget_by<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    change: impl Fn(State) -> State,
) -> Changed {
    let changed = irq.update(change);
    if changed.follow_up != FollowUp::Nothing {
        if changed.new.hw() {
            // The level may have waited for long, and reaches another vCPU at once.
            physical::sample(vm, pin, irq);
        }
        queue::follow_up(vm, pin, irq, changed.follow_up);
    }
    changed
}
