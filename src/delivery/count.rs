//! The counters of pending states: every injection is delivered, coalesced, withdrawn, or still
//! pending.

use crate::epoch::CpuPin;
use crate::vm::irq::{Changed, Folded, Irq};

/// Counts the result of a fold.
#[inline]
pub(crate) fn on_fold(pin: &CpuPin<'_>, irq: &Irq, folded: Folded) {
    let kind = irq.kind();
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

/// Counts the pending states made or withdrawn by a change.
#[inline]
pub(crate) fn on_change(pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
    // Saves 35 of the 220 instructions of mmio/GICD_ICACTIVER_write.
    if !changed.old.may_be_counted() && !changed.new.may_be_counted() {
        return;
    }

    let kind = irq.kind();
    let (before, after) = (changed.old.pending_count(), changed.new.pending_count());
    if after > before {
        pin.counters().injections[kind].add(after.saturating_sub(before));
    } else if before > after {
        pin.counters().withdrawn[kind].add(before.saturating_sub(after));
    }
}
