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
use crate::vm::residency::RECALL;

/// Folds what the guest has ended: [`Vgic::exit`](crate::Vgic::exit).
#[inline]
pub(crate) fn exit<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    id: VcpuId,
) -> Result<(), EntryError> {
    if let Some(vcpu) = vm.in_guest(cpu.local(), id)
        // SAFETY: the CPU has the vCPU, by its own record.
        && let Some(untouched) = unsafe { vcpu.peek(IchShadow::is_untouched) }
    {
        cpu.local().loaded().set_out(vm.key(id));

        if !untouched {
            // SAFETY: the CPU has the vCPU, by its own record.
            unsafe { fold::fold_exit(vm, cpu, pin, vcpu) };
            // After a refill the next entry consumes the word's news without a look at it, and a
            // recall with it.
            if !cpu.local().loaded().is_refilled() && vcpu.residency.look().has(RECALL) {
                fold::show_states(cpu, pin, vcpu);
            }
        }
        return Ok(());
    }

    Err(match vm.vcpu(id) {
        Some(_) => EntryError::NotEntered(id),
        None => EntryError::UnknownVcpu(id),
    })
}
