//! Fold: emptying the list registers, or reading them.

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::delivery::queue::AfterUnlock;
use crate::delivery::{count, prune};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::vm::Vm;
use crate::vm::ap_list::ApList;
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::Pruned;
use crate::vm::vcpu::Vcpu;

/// Folds every interrupt from its list register, which is read, and relinks or prunes it. The exit
/// before has folded what the guest had ended, so no interrupt has to be resampled here.
pub(super) fn fold_all<H: Host, I: CpuInterface>(
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
        let lr = shadow.read_lr(index, cpu.interface(), pin.counters());
        shadow.vacate(index, lr);
        let Some(irq) = vcpu.irq_in_lr(shadow, index) else {
            continue;
        };
        let (folded, pruned) = irq.fold_unlink(vcpu.id, lr);
        count::on_fold(pin, irq, folded);
        if folded.deactivate {
            after.deactivate(irq);
        }
        match pruned {
            Pruned::Kept(_) => kept |= 1 << index,
            pruned => prune::apply(vm, pin, vcpu, list, irq, pruned, after),
        }
    }

    // Before the interrupts that came while these were in list registers, the first list register's
    // first.
    while let Some(index) = kept.checked_ilog2() {
        kept &= !(1 << index);
        if let Some(irq) = vcpu.irq_in_lr(shadow, index as usize) {
            list.relink(irq, irq.state());
        }
    }
}

/// Updates the states of the interrupts in this CPU's list registers, for a register read that
/// shows them. Reads each list register in use.
pub(crate) fn refresh<I: CpuInterface>(cpu: &Cpu<I>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
    let Some(shadow) = vcpu.shadow(cpu.local()) else {
        return;
    };
    for index in bits(shadow.in_use) {
        if let Some(irq) = vcpu.irq_in_lr(&shadow, index) {
            let lr = shadow.read_lr(index, cpu.interface(), pin.counters());
            let folded = irq.refresh(lr);
            count::on_fold(pin, irq, folded);
        }
    }
}
