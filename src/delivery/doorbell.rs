//! Doorbells of virtual PEs: [`Vgic::doorbell`](crate::Vgic::doorbell).

use crate::delivery::queue;
use crate::direct::residency;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::residency::NEW;
use crate::vm::vcpu::Vcpu;

/// Gives a vCPU work because its doorbell has rung.
pub(crate) fn ring<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    pin.counters().doorbells.add(1);

    // Before the work: the vCPU, if it looks for an interrupt at once, finds this one.
    let early = !mutant(Mutant::DoorbellNotedLate);
    if early {
        residency::doorbell_rang(vm, pin, vcpu);
    }

    queue::notify(vm, pin, vcpu.id, NEW);
    if !early || mutant(Mutant::DoorbellDisabledLate) {
        residency::doorbell_rang(vm, pin, vcpu);
    }
}
