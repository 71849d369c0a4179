//! The end of a VM: every list is emptied, every mapping ended, every count checked.
#![expect(unsafe_code)]
// UNSAFETY: keeps an interrupt across its unlinking, under the list's lock.

use crate::Vgic;
use crate::ap_list::Classes;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Kind, VcpuId};
use crate::irq::Irq;
use crate::sync::{Mutant, mutant};
use crate::vcpu::Vcpu;

use super::Leaving;

/// What was left of a VM when it was torn down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TeardownReport {
    /// References beyond the one of each SPI, PPI and SGI; 0 unless the library lost count.
    pub references: u64,
    /// Interrupts that were pending, by [`Kind`].
    pub pending: [u64; Kind::COUNT],
}

impl<H: Host> Vgic<H> {
    /// Takes the VM apart: every list is emptied, every mapping ended, every count checked. No vCPU's
    /// registers may be on a CPU.
    ///
    /// # Errors
    /// The first vCPU that has not been [`Vgic::vcpu_put`].
    pub fn teardown(self, pin: &CpuPin<'_>) -> Result<TeardownReport, VcpuId> {
        if let Some(vcpu) = self
            .vcpus
            .iter()
            .find(|vcpu| vcpu.residency.get().cpu().is_some())
        {
            return Err(vcpu.id);
        }
        let remains = self.dismantle(pin);
        debug_assert_eq!(remains.references, 0, "references are left at teardown");
        Ok(remains)
    }

    fn dismantle(&self, pin: &CpuPin<'_>) -> TeardownReport {
        let mut remains = TeardownReport::default();
        let mut from = 0;
        while let Some((key, irq)) = self.lpis.next(from, pin.guard()) {
            remains.pending[Kind::Lpi as usize] += irq.state().booked();
            from = key + 1;
        }
        for its in &self.its {
            its.dismantle(self, pin);
        }
        for vcpu in &self.vcpus {
            for irq in vcpu.privates() {
                remains.pending[irq.intid().kind() as usize] += irq.state().booked();
            }
        }
        for irq in self.distributor.spis() {
            remains.pending[Kind::Spi as usize] += irq.state().booked();
        }
        for vcpu in &self.vcpus {
            self.empty_list(pin, vcpu);
        }
        self.release_dying(pin);
        let private = self.vcpus.iter().flat_map(Vcpu::privates);
        for irq in private.chain(self.distributor.spis()) {
            remains.references += u64::from(irq.state().refs()) - 1;
        }
        let mut from = 0;
        while let Some((key, irq)) = self.lpis.next(from, pin.guard()) {
            remains.references += u64::from(irq.state().refs());
            from = key + 1;
        }
        remains
    }

    /// Takes every interrupt off a vCPU's list, through prune like any other.
    fn empty_list(&self, pin: &CpuPin<'_>, vcpu: &Vcpu) {
        loop {
            let mut leaving = Leaving::new();
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
            let _ = irq.update(|state| state.with(0, crate::irq::ACTIVE | crate::irq::ENABLED));
            list.unlink(irq);
            self.prune(pin, vcpu, &mut list, irq, &mut leaving);
            drop(list);
            self.dispatch(pin, &mut leaving);
        }
    }
}

impl<H: Host> Drop for Vgic<H> {
    fn drop(&mut self) {
        // After `teardown` there is nothing left, and this only looks. Without, a vCPU may still be on
        // a CPU: what its registers hold goes back to its list first.
        let domain = crate::epoch::Domain::new();
        let local = domain.register(crate::intid::CpuId(u16::MAX));
        let pin = local.pin();
        for vcpu in &self.vcpus {
            // SAFETY: the VM is ours alone, so nobody runs the vCPU.
            unsafe { vcpu.abandon_registers(&pin) };
        }
        let _ = self.dismantle(&pin);
    }
}
