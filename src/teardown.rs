//! The end of a VM: every list is emptied, every mapping ended, every count checked.
#![expect(unsafe_code)]

use crate::delivery::queue::AfterUnlock;
use crate::delivery::{lpi_lifetime, prune};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{CpuId, Kind, VcpuId};
use crate::its::walks;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::ap_list::Classes;
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

/// What was left of a VM when it was torn down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TeardownReport {
    /// References beyond the one of each SPI, PPI and SGI; 0 unless the library lost count.
    pub references: u64,
    /// Interrupts that were pending, by [`Kind`].
    pub pending: [u64; Kind::COUNT],
}

/// Takes a VM apart, none of whose vCPUs is on a CPU.
///
/// # Errors
/// The first vCPU that is on a CPU.
pub(crate) fn teardown<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> Result<TeardownReport, VcpuId> {
    if let Some(vcpu) = vm
        .vcpus
        .iter()
        .find(|vcpu| vcpu.residency.get().cpu().is_some())
    {
        return Err(vcpu.id);
    }
    let remains = dismantle(vm, pin);
    debug_assert_eq!(remains.references, 0, "references are left at teardown");
    Ok(remains)
}

/// Takes apart a VM that is dropped.
pub(crate) fn abandon<H: Host>(vm: &Vm<H>) {
    // After `teardown` there is nothing left, and this only looks. Without, a vCPU may still be on
    // a CPU: what its registers hold goes back to its list first.
    let domain = crate::epoch::Domain::new();
    let local = domain.register(CpuId(u16::MAX));
    let pin = local.pin();
    for vcpu in &vm.vcpus {
        // SAFETY: the VM is ours alone, so nobody runs the vCPU.
        unsafe { vcpu.abandon(&pin) };
    }
    let _ = dismantle(vm, &pin);
}

pub(crate) fn dismantle<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>) -> TeardownReport {
    let mut remains = TeardownReport::default();
    let mut from = 0;
    while let Some((key, irq)) = vm.lpis.next(from, pin.guard()) {
        remains.pending[Kind::Lpi as usize] += irq.state().pending_count();
        from = key + 1;
    }
    for its in &vm.its {
        walks::dismantle(vm, pin, its);
    }
    for vcpu in &vm.vcpus {
        for irq in vcpu.privates() {
            remains.pending[irq.intid().kind() as usize] += irq.state().pending_count();
        }
    }
    for irq in vm.distributor.spis() {
        remains.pending[Kind::Spi as usize] += irq.state().pending_count();
    }
    for vcpu in &vm.vcpus {
        empty_list(vm, pin, vcpu);
    }
    lpi_lifetime::free_all(vm, pin);
    let private = vm.vcpus.iter().flat_map(Vcpu::privates);
    for irq in private.chain(vm.distributor.spis()) {
        remains.references += u64::from(irq.state().refs()) - 1;
    }
    let mut from = 0;
    while let Some((key, irq)) = vm.lpis.next(from, pin.guard()) {
        remains.references += u64::from(irq.state().refs());
        from = key + 1;
    }
    remains
}

/// Takes every interrupt off a vCPU's list, through prune like any other.
fn empty_list<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    loop {
        let mut after = AfterUnlock::new();
        let mut list = vcpu.ap_list.lock(pin.ledger());
        let all = if mutant(Mutant::ListsForgotten) {
            0
        } else {
            0xf
        };
        let Some((irq, _)) = list.first(Classes(all)) else {
            return;
        };
        let irq: *const Irq = irq;
        // SAFETY: linked, so the list's reference keeps it alive, and we hold the list's lock.
        let irq = unsafe { &*irq };
        let _ = irq.update(|state| state.with(0, crate::vm::irq::ACTIVE | crate::vm::irq::ENABLED));
        list.unlink(irq);
        prune::prune(vm, pin, vcpu, &mut list, irq, &mut after);
        drop(list);
        after.run(vm, pin);
    }
}
