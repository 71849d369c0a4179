//! Changes of an interrupt by a register, a line, or an ITS command, with the follow-up.

use crate::delivery::{inject, physical, queue, report};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Kind, VcpuId};
use crate::vm::Vm;
use crate::vm::irq::{Changed, ENABLED, GROUP1, Irq, LEVEL, MESSAGE, State};

/// Sets the level of the input line. For an edge-triggered interrupt, a rise is an edge.
pub(crate) fn set_line<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, high: bool) {
    let changed = irq.set_line(high);
    if changed.is_rising_edge() {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    } else {
        queue::complete(vm, pin, irq, changed);
    }
}

/// Makes an SPI pending by a message: `GICD_SETSPI_NSR`. A level stays asserted until
/// [`clear_message`], whatever the line does.
pub(crate) fn set_message<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    if irq.state().level() {
        queue::complete(vm, pin, irq, irq.set_message(true));
    } else {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    }
}

/// Takes a message back, and withdraws the pending state: `GICD_CLRSPI_NSR`. A high line stays.
pub(crate) fn clear_message<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    withdrawn(vm, pin, irq, irq.clear_message());
}

/// Withdraws the pending state, in a list register too: `ICPENDR`, `CLEAR`.
pub(crate) fn clear_pending<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    withdrawn(vm, pin, irq, irq.clear_pending());
}

/// Does the follow-up of a withdrawal, which may leave a physical interrupt to deactivate.
// Inlined: saves some of the 395 instructions of its_commands/clear.
#[inline(always)]
fn withdrawn<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
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
        // The level may have waited for long behind the active state.
        physical::sample(vm, pin, irq);
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

/// Disables an SPI, PPI or SGI.
pub(crate) fn disable<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    replace(vm, pin, irq, |state| state.with(0, ENABLED));
}

/// Resets an SPI, PPI or SGI, in no list register. The line and the connection stay, and a physical
/// interrupt that the VM owns is deactivated.
pub(crate) fn reset<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq) {
    deactivate(vm, pin, irq);
    clear_pending(vm, pin, irq);
    replace(vm, pin, irq, |state| after_reset(irq, state));
}

/// Returns false if a reset, or a [`disable`], would change nothing. A change by another CPU that
/// the look does not see comes after the reset.
pub(crate) fn needs_reset(irq: &Irq) -> bool {
    let state = irq.state();
    !state.is_quiet() || after_reset(irq, state) != state
}

/// Returns the state in which a reset leaves an SPI, PPI or SGI that is neither active nor pending.
fn after_reset(irq: &Irq, state: State) -> State {
    let plain = state
        .with(0, ENABLED | GROUP1 | MESSAGE)
        .with_flag(LEVEL, irq.kind() != Kind::Sgi)
        .with_priority(0);
    if irq.kind() == Kind::Spi {
        plain.with_target(VcpuId::new(0))
    } else {
        plain
    }
}

/// Changes an interrupt, and reports to the host each field that is reported when the guest changes
/// it.
pub(crate) fn replace<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    irq: &Irq,
    change: impl Fn(State) -> State,
) {
    let changed = irq.update(change);
    queue::complete(vm, pin, irq, changed);

    report::enable(vm, irq, changed);
    report::trigger(vm, irq, changed);
    report::route(vm, irq, changed);
}
