//! Prune: unlinking interrupts that no longer belong on a list.

use crate::delivery::queue::AfterUnlock;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::trace::TracePoint;
use crate::vm::Vm;
use crate::vm::ap_list::ApList;
use crate::vm::irq::{Irq, Pruned};
use crate::vm::vcpu::Vcpu;

/// Prunes an interrupt that is queued on `vcpu`, in no bucket and in no list register: links it in
/// a bucket again, or unlinks it. The caller holds the list's lock, and is in the epoch if the
/// interrupt can be an LPI, which may be freed once it is unlinked.
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

/// Applies the result of a prune to the list, the trace and the work after the lock.
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
            trace_list_put(vm, pin, irq.intid(), vcpu.id);
            if last {
                after.add_free(irq);
            }
        }
        Pruned::Migrating => {
            trace_list_put(vm, pin, irq.intid(), vcpu.id);
            pin.counters().migration_gets.add(1);
            vm.host.trace(TracePoint::MigrationGet(irq.intid()));
            after.add_migration(irq);
        }
    }
}

/// Traces and counts the put of a list's reference. Takes the INTID, because an unlinked interrupt
/// may have been freed.
#[inline]
pub(crate) fn trace_list_put<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, intid: IntId, vcpu: VcpuId) {
    pin.counters().list_puts.add(1);
    vm.host.trace(TracePoint::ListPut(intid, vcpu));
}
