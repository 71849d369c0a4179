//! Changes of one interrupt by a line, a register or a system register.

use crate::delivery::queue;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::vm::Vm;
use crate::vm::irq::Irq;

pub(crate) fn set_line<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, high: bool) {
    queue::complete(vm, pin, irq, irq.set_line(high));
}

/// `ICPENDR` and its kin for one interrupt.
pub(crate) fn clear_pending<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let (deactivate, changed) = irq.clear_pending();
    if deactivate {
        vm.host.deactivate(irq.owner(), irq.pintid());
    }
    queue::complete(vm, pin, irq, changed);
}

/// Ends the active state of an interrupt wherever it is: `ICACTIVER`, and `ICC_DIR_EL1`.
pub(crate) fn deactivate<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    let (deactivate, changed) = irq.clear_active();
    let old = changed.old;
    if deactivate {
        vm.host.deactivate(irq.owner(), irq.pintid());
    }
    queue::complete(vm, pin, irq, changed);
    // In another vCPU's list register it may be active without our knowing; one sample too many does
    // no harm.
    if (old.shows_active() || old.in_lr())
        && old.level()
        && !old.hw()
        && !old.lr_hw()
        && let Some(vcpu) = old.queued_on().or(old.target())
    {
        vm.host.resample(vcpu, irq.intid());
    }
}
