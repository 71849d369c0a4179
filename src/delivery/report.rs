//! Reports to the host of what the guest, or a reset, has made of an enable, a trigger or a route.

use crate::host::Host;
use crate::intid::{Kind, VcpuId};
use crate::sync::Ordering::SeqCst;
use crate::sync::{Mutant, fence, mutant};
use crate::vm::Vm;
use crate::vm::irq::{Changed, ENABLED, Irq, LEVEL, State, TARGET};

/// Reports a changed enable of an SPI or a PPI. No physical interrupt stands behind an SGI.
#[inline]
pub(crate) fn enable<H: Host>(vm: &Vm<H>, irq: &Irq, changed: Changed) {
    if changed.old.enabled() != changed.new.enabled() && irq.kind() != Kind::Sgi {
        report(irq, changed.new, ENABLED, |state| {
            for_owner(irq, |owner| {
                vm.host.enabled(owner, irq.intid(), state.enabled())
            });
        });
    }
}

/// Reports a changed trigger.
#[inline]
pub(crate) fn trigger<H: Host>(vm: &Vm<H>, irq: &Irq, changed: Changed) {
    if changed.old.level() != changed.new.level() {
        report(irq, changed.new, LEVEL, |state| {
            for_owner(irq, |owner| {
                vm.host.configured(owner, irq.intid(), !state.level())
            });
        });
    }
}

/// Calls `tell` with the vCPU of a PPI, or `None` for an SPI. A PPI without a vCPU is of a removed
/// one: its changes are not reported.
#[inline]
fn for_owner(irq: &Irq, tell: impl FnOnce(Option<VcpuId>)) {
    let owner = irq.owner();
    if owner.is_some() || irq.kind() == Kind::Spi {
        tell(owner);
    }
}

/// Reports a changed route of an SPI.
#[inline]
pub(crate) fn route<H: Host>(vm: &Vm<H>, irq: &Irq, changed: Changed) {
    if changed.old.target() != changed.new.target() {
        report(irq, changed.new, TARGET, |state| {
            vm.host.routed(irq.intid(), state.target());
        });
    }
}

/// Reports to the host, by `tell`, the fields in `mask` of a state word that this CPU has changed
/// to `new`. Reports once more if the fields have been changed since: the last report agrees with
/// the register.
///
/// Each repetition is for another CPU's change. A CPU that repeats makes no change, so that CPUs
/// that change one field hold each other up no more than by a report each.
#[inline]
fn report(irq: &Irq, new: State, mask: u64, tell: impl Fn(State)) {
    let mut told = new;
    loop {
        // SeqCst: pairs with the fence below: a CPU that changes the field and reports earlier than
        // this CPU has its change seen by the load below.
        fence(SeqCst);
        tell(told);
        if mutant(Mutant::ReportedOnce) {
            return;
        }

        // SeqCst: pairs with the fence above.
        fence(SeqCst);
        let now = irq.state();
        if (now.0 ^ told.0) & mask == 0 {
            return;
        }
        told = now;
    }
}
