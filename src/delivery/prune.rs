//! Prune.

use crate::delivery::queue;
use crate::delivery::queue::AfterUnlock;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::trace::TracePoint;
use crate::vm::Vm;
use crate::vm::ap_list::ApList;
use crate::vm::irq::{Irq, Pruned};
use crate::vm::vcpu::Vcpu;

/// Settles an interrupt that is queued on `vcpu`, in no bucket and in no register: back into a
/// bucket, or off the list. The caller is in the epoch, if it can be an LPI: off the list it may be gone.
pub(crate) fn prune<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    list: &mut ApList,
    irq: &Irq,
    after: &mut AfterUnlock,
) {
    apply(vm, pin, vcpu, list, irq, irq.unlink(vcpu.id), after);
}

/// Carries out what was decided about an interrupt that was queued on `vcpu`.
#[inline]
pub(crate) fn apply<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    list: &mut ApList,
    irq: &Irq,
    pruned: Pruned,
    after: &mut AfterUnlock,
) {
    match pruned {
        Pruned::Kept(state) => list.link(irq, state),
        Pruned::Removed { last } => {
            queue::trace_list_put(vm, pin, irq.intid(), vcpu.id);
            if last {
                after.dying(irq);
            }
        }
        Pruned::Migrating => {
            queue::trace_list_put(vm, pin, irq.intid(), vcpu.id);
            trace_migration_get(vm, pin, irq);
            after.migrating(irq);
        }
    }
}

pub(crate) fn trace_migration_get<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    pin.counters().migration_gets.add(1);
    vm.host.trace(TracePoint::MigrationGet(irq.intid()));
}
