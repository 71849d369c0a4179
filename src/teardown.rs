//! The end of a VM: every list is emptied, every mapping ended, every count checked.
#![expect(unsafe_code)]
// UNSAFETY: keeps an interrupt alive during the unlinking, under the list's lock.

use core::mem;

use crate::delivery::queue::AfterUnlock;
use crate::delivery::{lpi_lifetime, lpi_tables, physical, prune};
use crate::direct;
use crate::epoch::{CpuLocal, CpuPin};
use crate::error::TeardownError;
use crate::host::Host;
use crate::intid::Kind;
use crate::its::walks;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::ap_list::Classes;
use crate::vm::irq::{ACTIVE, ENABLED, Irq};
use crate::vm::its::CTLR_ENABLED;
use crate::vm::vcpu::Vcpu;

/// Remaining state of a VM at the teardown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TeardownReport {
    /// References beyond the VM's own of each SPI, PPI and SGI; 0 unless other CPUs raise
    /// interrupts of the VM meanwhile.
    pub references: u64,
    /// Pending interrupts, by [`Kind`].
    pub pending: [u64; Kind::COUNT],
    /// Pending states that the teardown itself withdrew, and counted as
    /// [`Totals::withdrawn`](crate::trace::Totals::withdrawn), by [`Kind`]; 0 without the feature
    /// `counters`.
    pub withdrawn: [u64; Kind::COUNT],
}

/// Takes a VM apart: [`Vgic::teardown`](crate::Vgic::teardown).
pub(crate) fn teardown<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
) -> Result<TeardownReport, TeardownError> {
    vm.admit(pin)?;
    // The vCPUs of a frozen VM are claimed.
    if !end_freeze(vm, pin) {
        claim(vm, pin)?;
    }
    let withdrawn = || Kind::ALL.map(|kind| pin.counters().withdrawn[kind].get());
    let before = withdrawn();
    let mut report = dismantle(vm, pin);
    for ((count, after), before) in (report.withdrawn.iter_mut().zip(withdrawn())).zip(before) {
        *count = after - before;
    }
    pin.collect();
    Ok(report)
}

/// Claims every vCPU, so that none can be entered any more. On an error none stays claimed.
pub(crate) fn claim<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> Result<(), TeardownError> {
    // One claim at a time: one that fails puts back what it has claimed.
    let frozen = vm.growth.lock(pin.locks());
    if *frozen {
        return Err(TeardownError::Frozen);
    }
    for (count, vcpu) in vm.vcpus.iter().enumerate() {
        if let Err(residency) = vcpu.residency.tear_down() {
            if residency.is_absent() {
                // No CPU loads the vCPU, and none is added under the lock, or after the claim.
                continue;
            }
            release(vm.vcpus.get(..count).unwrap_or_default());
            return Err(if residency.is_torn_down() {
                TeardownError::TornDown
            } else {
                TeardownError::Loaded(vcpu.id)
            });
        }
    }

    Ok(())
}

/// Ends the freeze of a VM, whose vCPUs stay claimed. Returns false if the VM was not frozen.
pub(crate) fn end_freeze<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> bool {
    mem::take(&mut *vm.growth.lock(pin.locks()))
}

/// Ends the claims of vCPUs, the first of the VM last: it tells whether the VM is claimed
/// ([`Vm::is_torn_down`]), and no vCPU is added or claimed before.
pub(crate) fn release(claimed: &[Vcpu]) {
    // A vCPU that is absent, and was not claimed, stays as it is.
    (claimed.iter().rev()).for_each(|vcpu| vcpu.residency.put());
}

/// Takes apart a dropped VM. After [`teardown`] nothing is left. Without a teardown, a vCPU may
/// still be on a CPU, and the interrupts of the vCPU's list registers are relinked first.
pub(crate) fn abandon<H: Host>(vm: &Vm<H>) {
    // The drop has the VM to itself: no CPU refers to an object of the VM, and what is unlinked
    // here can be freed at once.
    let local = CpuLocal::anonymous(vm.domain());
    let pin = local.pin();
    for vcpu in &vm.vcpus {
        if let Some(seat) = vcpu.residency.get().seat() {
            vm.domain().vcpu_ended(seat, pin.locks());
        }
        // SAFETY: the VM is being dropped: no CPU runs the vCPU, or will.
        for physical in unsafe { vcpu.abandon(&pin) } {
            vm.host.deactivate(physical);
        }
    }
    let _ = dismantle(vm, &pin);
}

/// Ends every mapping, empties every list, and counts the remaining pending states and references.
fn dismantle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> TeardownReport {
    let mut report = TeardownReport::default();

    for vcpu in &vm.vcpus {
        // A vCPU that was put while blocked is woken no more: no CPU can enter it.
        let _ = vcpu.residency.take_work();
    }

    // Before the LPIs are counted and unmapped: a slice moves their pending states to a table, and
    // would write zeros there for unmapped ones.
    end_deferred(vm);

    let mut from = 0;
    while let Some((key, irq)) = vm.lpis.next(from, pin.guard()) {
        report.pending[Kind::Lpi as usize] += irq.state().pending_count();
        from = key + 1;
    }

    for its in &vm.its {
        its.set_control(CTLR_ENABLED, false);
        walks::unmap_all(vm, pin, its);
    }

    direct::vpe::free_all(vm, pin);

    for irq in vm.wired() {
        report.pending[irq.kind() as usize] += irq.state().pending_count();
    }

    // Before the lists are emptied: nothing is forwarded from here on.
    if !mutant(Mutant::TeardownKeepsPhysical) {
        physical::disconnect_all(vm);
    }

    for vcpu in &vm.vcpus {
        empty_list(vm, pin, vcpu);
    }

    lpi_lifetime::free_all(vm, pin);

    for irq in vm.wired() {
        report.references += u64::from(irq.state().refs()) - 1;
    }

    let mut from = 0;
    while let Some((key, irq)) = vm.lpis.next(from, pin.guard()) {
        report.references += u64::from(irq.state().refs());
        from = key + 1;
    }

    report
}

/// Ends the deferred work that the guest has started, and waits for the slices in progress on other
/// CPUs. From the return on, no CPU reads or writes an LPI table in guest memory. The caller holds
/// no lock.
pub(crate) fn end_deferred<H: Host>(vm: &Vm<H>) {
    vm.distributor.notifications.end();
    vm.distributor.broadcasts.stop();
    vm.distributor.config_reload.end();
    vm.vcpus.iter().for_each(lpi_tables::end);
    let _ = vm.deferred.take();
}

/// Prunes every interrupt from a vCPU's list.
pub(crate) fn empty_list<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    let classes = if mutant(Mutant::ListsForgotten) {
        Classes::NONE
    } else {
        Classes::ALL
    };

    loop {
        let mut after = AfterUnlock::new();
        let mut list = vcpu.ap_list.lock(pin.locks());
        let Some((irq, _)) = list.first(classes) else {
            return;
        };
        let irq: *const Irq = irq;
        // SAFETY: the interrupt is linked, and the list's reference keeps a linked interrupt alive;
        // only a holder of the list's lock can unlink, and this CPU holds the lock.
        let irq = unsafe { &*irq };

        let _ = irq.update(|state| state.with(0, ACTIVE | ENABLED));
        list.unlink(irq);
        prune::prune(vm, pin, vcpu, &mut list, irq, &mut after);
        drop(list);

        after.run(vm, pin);
    }
}
