//! Changes of an interrupt by a register, a line, or an ITS command, with the follow-up.

use crate::delivery::{physical, queue};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::vm::Vm;
use crate::vm::irq::Irq;

/// Sets the level of the input line.
pub(crate) fn set_line<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, high: bool) {
    queue::complete(vm, pin, irq, irq.set_line(high));
}

/// Withdraws the pending state, in a list register too: `ICPENDR`, `GICD_CLRSPI_NSR`, `CLEAR`.
pub(crate) fn clear_pending<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let changed = irq.clear_pending();
    if changed.old.hw() {
        physical::settle(vm, pin, irq, changed);
    }
    queue::complete(vm, pin, irq, changed);
}

/// Ends the active state, in a list register too: `ICACTIVER`, `ICC_DIR_EL1`.
pub(crate) fn deactivate<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let changed = irq.clear_active();
    let old = changed.old;
    if old.hw() {
        physical::settle(vm, pin, irq, changed);
    }

    queue::complete(vm, pin, irq, changed);

    // In another vCPU's list register the interrupt may have become active unnoticed. A sample too
    // many does no harm.
    if (old.shows_active() || old.in_lr())
        && old.level()
        && !old.hw()
        && !old.lr_hw()
        && let Some(vcpu) = old.queued_on().or(old.target())
    {
        vm.host.resample(vcpu, irq.intid());
    }
}
