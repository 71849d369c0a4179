//! Fold: taking back what the guest has done with the list registers.
//!
//! An exit reads ELRSR (and EISR if a level-sensitive interrupt is in a register) and folds the
//! registers that became empty, which need not be read. If the interrupt of one has come again meanwhile, it
//! is staged there. IchShadow that are still in use stay as they are, and re-entering the same CPU finds
//! them in place. They are read and taken back only when something about them changed (RECALL, RECALL_LATER, or
//! RERAISED if the guest has not finished with the first one), when a more urgent interrupt needs room, or when
//! the vCPU leaves the CPU.

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{count, prune};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::lr::ListRegister;
use crate::vm::Vm;
use crate::vm::ap_list::ApList;
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::{Folded, Pruned};
use crate::vm::vcpu::Vcpu;

/// Takes every interrupt back from the registers, which are read, to where it waits. What the guest
/// had finished with was folded at the exit before, so none of these owes a resample.
pub(crate) fn fold_all<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    list: &mut ApList,
    after: &mut AfterUnlock,
) {
    let mut kept = 0_u16;
    for index in bits(shadow.in_use) {
        let now = shadow.read_lr(index, cpu.interface(), pin.counters());
        let folded = fold(vm, pin, vcpu, shadow, index, now);
        let Some(irq) = vcpu.listed(shadow, index) else {
            continue;
        };
        if folded.deactivate {
            after.deactivate(irq);
        }
        match irq.unlink(vcpu.id) {
            Pruned::Kept(_) => kept |= 1 << index,
            settled => prune::apply(vm, pin, vcpu, list, irq, settled, after),
        }
    }
    // Before those that came while they were there; the first register's before all.
    while let Some(index) = kept.checked_ilog2() {
        kept &= !(1 << index);
        if let Some(irq) = vcpu.listed(shadow, index as usize) {
            list.link_again(irq, irq.state());
        }
    }
}

/// Takes one interrupt back from its register, which holds `lr`; the register counts as vacated.
pub(crate) fn fold<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &mut IchShadow,
    index: usize,
    lr: ListRegister,
) -> Folded {
    shadow.vacate(index, lr);
    let Some(irq) = vcpu.listed(shadow, index) else {
        return Folded::default();
    };
    let folded = irq.fold(lr);
    count::fold(vm, pin, irq, folded);
    folded
}

/// Brings the states of what is in this CPU's registers up to date, for a register read that
/// shows them. Reads each register in use.
pub(crate) fn refresh<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
) {
    let Some(shadow) = vcpu.shadow(cpu.local()) else {
        return;
    };
    for index in bits(shadow.in_use) {
        if let Some(irq) = vcpu.listed(&shadow, index) {
            let now = shadow.read_lr(index, cpu.interface(), pin.counters());
            let folded = irq.refresh(now);
            count::fold(vm, pin, irq, folded);
        }
    }
}
