//! Out of the guest. Most exits have nothing to fold.
#![expect(unsafe_code)]
// UNSAFETY: folds for a vCPU that this CPU has been found to have.

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::vm::Vm;
use crate::vm::ich_shadow::IchShadow;
use crate::vm::residency::{RECALL, Whereabouts};

/// Folds what the guest has ended: [`Vgic::exit`](crate::Vgic::exit).
#[inline]
pub(crate) fn exit<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<(), EntryError> {
    // `Vm::vcpus` needs no count of vCPUs: saves 2 of the 47 instructions of vcpu_exit/0.
    if let Some(vcpu) = vm.vcpus.get(id.index())
        && let Some((_, untouched)) =
            vcpu.peek(cpu.local(), Whereabouts::InGuest, IchShadow::is_untouched)
    {
        let work = vcpu.residency.exit();
        if !untouched {
            if work.has(RECALL) {
                // SAFETY: `peek` has found that this CPU has the vCPU.
                unsafe { fold::fold_recalled(vm, cpu, pin, vcpu) };
            } else {
                // SAFETY: `peek` has found that this CPU has the vCPU.
                unsafe { fold::fold_exit(vm, cpu, pin, vcpu) };
            }
        }
        return Ok(());
    }

    Err(match vm.vcpu(id) {
        Some(_) => EntryError::NotEntered(id),
        None => EntryError::UnknownVcpu(id),
    })
}
