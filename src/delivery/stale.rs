//! Virtual PEs for which the hardware has to read configurations of virtual LPIs again.
//!
//! The VM's table has a new configuration at once. Redistributors may have cached the old one,
//! until a `VINVALL`, which is for all virtual LPIs of a virtual PE. A reading of several
//! configurations gathers the virtual PEs in a [`Stale`], so that one wait for the ITS does for
//! many LPIs.
//!
//! # No lost wake-up
//! A virtual LPI that is pending, and becomes enabled, rings no doorbell: the doorbell rang when
//! the virtual LPI became pending, and the vCPU found nothing to take. So a vCPU whose virtual PE
//! is not resident gets work once the hardware has read the configuration, and looks again. A
//! virtual PE that is resident tells by PendingLast.

use core::mem;

use crate::delivery::queue;
use crate::direct::{configuration, residency};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::vm::Vm;
use crate::vm::irq::{Changed, Irq};
use crate::vm::residency::NEW;

/// Virtual PEs for which the hardware has old configurations.
#[derive(Default)]
#[must_use]
pub(crate) struct Stale {
    /// vCPUs, from the first place on. True for one that a virtual LPI may wake.
    vcpus: [Option<(VcpuId, bool)>; configuration::AT_ONCE],
    /// Number of waits for a physical ITS so far.
    waits: u32,
}

impl Stale {
    /// Copies the configuration of an LPI to the VM's table, if the configuration has changed, and
    /// notes the virtual PE of the LPI's vCPU, if it has one. May wait for a physical ITS.
    #[inline]
    pub(crate) fn note<H: Host>(
        &mut self,
        vm: &Vm<H>,
        pin: &CpuPin<'_>,
        irq: &Irq,
        changed: Changed,
    ) {
        if vm.direct.is_some() && changed.old != changed.new {
            self.note_changed(vm, pin, irq, changed);
        }
    }

    #[inline(never)]
    fn note_changed<H: Host>(&mut self, vm: &Vm<H>, pin: &CpuPin<'_>, irq: &Irq, changed: Changed) {
        configuration::store(vm, pin, irq);

        let Some(vcpu) = configuration::reader(vm, irq) else {
            return;
        };

        let wakes = changed.new.enabled() && !changed.old.enabled();
        if !self.add(vcpu, wakes) {
            self.flush(vm, pin);
            self.add(vcpu, wakes);
        }
    }

    /// Adds a vCPU. Returns false if there is no place.
    fn add(&mut self, vcpu: VcpuId, wakes: bool) -> bool {
        for place in &mut self.vcpus {
            match place {
                Some((other, _)) if *other != vcpu => {}
                Some((_, also_wakes)) => {
                    *also_wakes |= wakes;
                    return true;
                }
                None => {
                    *place = Some((vcpu, wakes));
                    return true;
                }
            }
        }
        false
    }

    /// Makes the hardware read the configurations again. Returns the number of waits for a physical
    /// ITS.
    pub(crate) fn finish<H: Host>(mut self, vm: &Vm<H>, pin: &CpuPin<'_>) -> u32 {
        self.flush(vm, pin);
        self.waits
    }

    /// Takes the number of waits for a physical ITS so far.
    pub(crate) fn take_waits(&mut self) -> u32 {
        mem::take(&mut self.waits)
    }

    fn flush<H: Host>(&mut self, vm: &Vm<H>, pin: &CpuPin<'_>) {
        let stale = mem::take(&mut self.vcpus);
        let vcpus = || stale.iter().flatten();
        if vcpus().next().is_none() {
            return;
        }

        let waits = configuration::invalidate(vm, pin, vcpus().map(|(vcpu, _)| *vcpu));
        self.waits = self.waits.saturating_add(waits);

        for (vcpu, _) in vcpus().filter(|(_, wakes)| *wakes) {
            if let Some(vcpu) = vm.vcpu(*vcpu)
                && residency::may_be_pending(vm, pin, vcpu)
            {
                queue::notify(vm, pin, vcpu.id, NEW);
            }
        }
    }
}
