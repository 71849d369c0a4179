//! Waiting for an interrupt: whether a vCPU that executed WFI has something to wake up for.
//!
//! The answer is the virtual interrupt line's: the highest-priority pending interrupt of an enabled
//! group is more urgent than the priority mask and preempts the running priority (IHI 0069, 4.8). It
//! is computed from the interface's registers as they are now, never from copies.
#![expect(unsafe_code)]
// UNSAFETY: follows pointers to interrupts that a list keeps alive.

use crate::cpu::Cpu;
use crate::cpu_interface::CpuInterface;
use crate::cpu_interface::priority::{self, ActivePriorities};
use crate::entry::{enter, fold};
use crate::epoch::CpuPin;
use crate::error::EntryError;
use crate::host::Host;
use crate::intid::VcpuId;
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::residency::WORK;
use crate::vm::vcpu::Vcpu;
use crate::vm::{Vm, rwp};

/// Whether a vCPU may sleep.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// It sleeps now: [`Host::wake`] will be called when it should be looked at again.
    Yes,
    /// It has an interrupt to take, or news to look at: enter it.
    No,
}

/// Marks a vCPU that executed WFI as blocked, unless an interrupt is waiting for it. Call it again
/// after [`Host::wake`], or just enter. While a vCPU is blocked its registers stay on this CPU;
/// [`Vgic::vcpu_put`] them to let it be entered elsewhere.
///
/// # Errors
/// [`EntryError`] if this CPU does not have the vCPU's registers, or it is in the guest.
pub(crate) fn block<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<Blocked, EntryError> {
    let this = vm.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
    if this.residency.get().in_guest() {
        return Err(EntryError::AlreadyEntered(vcpu));
    }
    if has_pending(vm, cpu, pin, vcpu)? {
        return Ok(Blocked::No);
    }
    // Others read the states of what is in its list registers while it sleeps.
    fold::refresh(vm, cpu, pin, this);
    Ok(if this.residency.block() {
        Blocked::Yes
    } else {
        Blocked::No
    })
}

/// Whether the vCPU's virtual IRQ or FIQ is asserted: honours enables, groups, the priority mask
/// and the running priority. Only for a vCPU whose registers are on this CPU.
///
/// # Errors
/// [`EntryError::NotEntered`] if this CPU does not have the vCPU's registers.
pub(crate) fn has_pending<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
) -> Result<bool, EntryError> {
    let this = vm.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
    let settled = match this.shadow(cpu.local()) {
        Some(shadow) => shadow.nothing_due(),
        None => return Err(EntryError::NotEntered(vcpu)),
    };
    rwp::done(vm, this, this.residency.get());
    let work = this.residency.take_work();
    if work.has(WORK) || !settled {
        // SAFETY: it has just been found that this CPU has the registers.
        unsafe { enter::update_lrs(vm, cpu, pin, this, work) };
    }
    let shadow = this
        .shadow(cpu.local())
        .ok_or(EntryError::NotEntered(vcpu))?;
    Ok(signals(vm, cpu, pin, this, &shadow))
}

pub(crate) fn signals<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    shadow: &IchShadow,
) -> bool {
    // What most vCPUs that wait have: nothing.
    if shadow.in_use == 0 && vcpu.ap_list.lock(pin.ledger()).waiting() == 0 {
        return false;
    }
    let interface = cpu.interface();
    let vmcr = interface.read_vmcr();
    let mut active = ActivePriorities::new(cpu.vtr().preemption_bits);
    for group1 in [false, true] {
        for index in 0..cpu.vtr().apr_count() {
            active.set_register(group1, index, interface.read_apr(group1, index));
        }
    }
    let running = active.running_priority();
    let loaded = bits(shadow.in_use).any(|index| {
        let lr = shadow.read_lr(index, interface, pin.counters());
        lr.is_pending()
            && !lr.is_active()
            && priority::signals(vmcr, running, lr.priority(), lr.is_group1())
    });
    // IchShadow hold the most urgent ones, but perhaps of a group that the guest has disabled.
    loaded || {
        let open = vcpu.open_classes(vm.distributor.open_groups());
        let list = vcpu.ap_list.lock(pin.ledger());
        [false, true].into_iter().any(|group1| {
            list.first(open.of_group(group1))
                .is_some_and(|(_, level)| priority::signals(vmcr, running, level, group1))
        })
    }
}
