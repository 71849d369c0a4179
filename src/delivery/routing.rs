//! `GICD_IROUTER<n>`, and the routes of interrupts.
//!
//! A write of `GICD_IROUTER<n>` may race with the addition or the removal of the vCPU named by the
//! write. The write stores the router and then reads the topology; [`hotplug`](super::hotplug)
//! stores the topology and then routes the SPIs. With a full fence between the two steps on both
//! sides, the write sees the new topology or `hotplug` sees the new router.

use crate::delivery::{physical, queue, report};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Affinity, VcpuId};
use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::sync::{AtomicU64, Mutant, fence, mutant};
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

/// Routes an LPI to the vCPU that its collection is mapped to, or to none, with the pending state
/// of the collection's redistributor. The pending state of another vCPU's redistributor stays there
/// (IHI 0069, 5.3: `MOVI`), as long as the VM has the vCPU. Under the ITS's command lock.
pub(crate) fn retarget_lpi<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    collection: Option<VcpuId>,
) {
    irq.set_collection(collection);
    let _ = retarget_by(vm, pin, irq, |state| {
        let is_there = || state.target().is_some_and(|at| vm.vcpu(at).is_some());
        let is_elsewhere = state.is_away() && state.target() != collection;
        if is_elsewhere && state.shows_pending() && is_there() {
            state
        } else {
            state.at_home(collection)
        }
    });
}

/// Routes an LPI to the vCPU that its collection is mapped to, if another redistributor has had the
/// pending state last: a new MSI is for the collection's.
pub(crate) fn bring_home<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let mut collection = irq.collection();
    let mut routed = false;
    loop {
        let _ = retarget_by(vm, pin, irq, |state| {
            if state.is_away() || routed {
                state.at_home(collection)
            } else {
                state
            }
        });
        // An ITS may have stored another vCPU, made its transition and moved the LPI away again,
        // all before the transition above, which has acquired the ITS's.
        let now = irq.collection();
        if now == collection || mutant(Mutant::CollectionReadOnce) {
            return;
        }
        (collection, routed) = (now, true);
    }
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
