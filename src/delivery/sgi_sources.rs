//! SGIs of a GICv2, which are pending from a source each: [`vm::gicv2`](crate::vm::gicv2).

use crate::delivery::{change, inject};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::IntId;
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::gicv2::Interface;
use crate::vm::irq::Irq;
use crate::vm::vcpu::Vcpu;

/// Returns the state of a vCPU's interface, and an SGI's number and state word.
fn parts<'v, H: Host>(
    vm: &'v Vm<H>,
    vcpu: &'v Vcpu,
    intid: IntId,
) -> Option<(&'v Interface, usize, &'v Irq)> {
    let interface = vm.gicv2_interface(vcpu.id)?;
    Some((interface, intid.raw() as usize, vcpu.private(intid)?))
}

/// Makes the SGI `intid` of `target` pending from `sources`, a bit for each vCPU: `GICD_SGIR` and
/// `GICD_SPENDSGIR<n>` (IHI 0048, 4.3.15 and 4.3.17).
pub(crate) fn send<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    target: &Vcpu,
    intid: IntId,
    sources: u8,
) {
    let Some((interface, sgi, irq)) = parts(vm, target, intid) else {
        return;
    };

    if sources == 0 {
        return;
    }
    if mutant(Mutant::RaisedBeforeSource) {
        let _ = inject::raised_for(vm, pin, irq, irq.raise(), Some(target));
        interface.add(sgi, sources);
        return;
    }
    interface.add(sgi, sources);
    let _ = inject::raised_for(vm, pin, irq, irq.raise(), Some(target));
}

/// Takes `sources` of the SGI `intid` of `vcpu` away: `GICD_CPENDSGIR<n>` (IHI 0048, 4.3.16). On
/// the CPU that has the vCPU.
pub(crate) fn clear<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, intid: IntId, sources: u8) {
    let Some((interface, sgi, irq)) = parts(vm, vcpu, intid) else {
        return;
    };

    if sources == 0 || interface.remove(sgi, sources) != 0 {
        return;
    }

    change::clear_pending(vm, pin, irq);
    // A sender may have added its bit after the look above, and raised before the withdrawal.
    if interface.sources(sgi) != 0 && !mutant(Mutant::ClearedSourceForgotten) {
        let _ = inject::raised_for(vm, pin, irq, irq.raise(), Some(vcpu));
    }
}
