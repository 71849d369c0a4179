//! Counting what transitions have done.

use crate::epoch::CpuPin;
use crate::host::Host;
use crate::vm::Vm;
use crate::vm::irq::{Changed, Folded, Irq};

/// Books what a fold found.
#[inline]
pub(crate) fn fold<H: Host>(_vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, folded: Folded) {
    let kind = irq.kind() as usize;
    let counters = pin.counters();
    for (happened, counter) in [
        (folded.delivered, &counters.deliveries),
        (folded.coalesced, &counters.coalesced),
        (folded.withdrawn, &counters.withdrawn),
        (folded.repended, &counters.injections),
    ] {
        if happened {
            counter[kind].add(1);
        }
    }
}

/// Books what a change made pending, or no longer pending.
#[inline]
pub(crate) fn change<H: Host>(_vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
    let kind = irq.kind() as usize;
    let (before, after) = (changed.old.pending_count(), changed.new.pending_count());
    if after > before {
        pin.counters().injections[kind].add(after - before);
    } else if before > after {
        pin.counters().withdrawn[kind].add(before - after);
    }
}
