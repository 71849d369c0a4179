//! Waiting for an interrupt: whether a vCPU that executed WFI has something to wake up for.
//!
//! The answer is the virtual interrupt line's: the highest-priority pending interrupt of an enabled
//! group is more urgent than the priority mask and preempts the running priority (IHI 0069, 4.8). It
//! is computed from the interface's registers as they are now, never from copies.

use crate::Vgic;
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::VcpuId;

use super::entry::{EntryError, bits};
use super::registers::Registers;
use super::residency::{NEW, NOTE, RECALL};
use super::{Cpu, Vcpu};
use crate::ap_list::Classes;

/// Whether a vCPU may sleep.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// It sleeps now: [`Host::wake`] will be called when it should be looked at again.
    Yes,
    /// It has an interrupt to take, or news to look at: enter it.
    No,
}

impl<H: Host> Vgic<H> {
    /// Marks a vCPU that executed WFI as blocked, unless an interrupt is waiting for it. Call it again
    /// after [`Host::wake`], or just enter. While a vCPU is blocked its registers stay on this CPU;
    /// [`Vgic::put`] them to let it be entered elsewhere.
    ///
    /// # Errors
    /// [`EntryError`] if this CPU does not have the vCPU's registers, or it is in the guest.
    pub fn block<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<Blocked, EntryError> {
        let this = self.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
        if this.residency.get().in_guest() {
            return Err(EntryError::AlreadyEntered(vcpu));
        }
        if self.has_pending(cpu, pin, vcpu)? || !this.residency.block() {
            return Ok(Blocked::No);
        }
        Ok(Blocked::Yes)
    }

    /// Whether the vCPU's virtual IRQ or FIQ is asserted: honours enables, groups, the priority mask
    /// and the running priority. Only for a vCPU whose registers are on this CPU.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if this CPU does not have the vCPU's registers.
    pub fn has_pending<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<bool, EntryError> {
        let this = self.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
        let Some(mut registers) = this.registers(cpu) else {
            return Err(EntryError::NotEntered(vcpu));
        };
        let work = this.residency.take_work();
        if work.has(NEW | RECALL | NOTE) || registers.refill || registers.reload {
            self.flush(cpu, pin, this, &mut registers, true, true);
        }
        Ok(self.signals(cpu, pin, this, &registers))
    }

    fn signals<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        registers: &Registers,
    ) -> bool {
        let interface = cpu.interface();
        let gate = Gate::read(interface);
        let loaded = bits(registers.in_use).any(|index| {
            let lr = interface.read_lr(index);
            lr.is_pending() && !lr.is_active() && gate.lets(lr.is_group1(), lr.priority())
        });
        // Registers hold the most urgent ones, but perhaps of a group that the guest has disabled.
        loaded || {
            let open = vcpu.open_classes(self.distributor().open_groups());
            let list = vcpu.ap_list.lock(pin.ledger());
            [false, true].into_iter().any(|group1| {
                list.first(open.of_group(group1))
                    .is_some_and(|(_, priority)| gate.lets(group1, priority))
            })
        }
    }
}

/// What an interrupt must pass to be signalled.
struct Gate {
    vmcr: u64,
    running: u16,
}

impl Gate {
    fn read(interface: &impl CpuInterface) -> Self {
        let mut apr = [[0; 4]; 2];
        for group in [false, true] {
            for index in 0..interface.vtr().apr_count() {
                apr[usize::from(group)][index] = interface.read_apr(group, index);
            }
        }
        Self {
            vmcr: interface.read_vmcr(),
            running: Registers::running_priority(&apr, interface.vtr().preemption_bits),
        }
    }

    fn lets(&self, group1: bool, priority: u8) -> bool {
        let enabled = if group1 { vmcr::VENG1 } else { vmcr::VENG0 };
        let own_point = group1 && self.vmcr & vmcr::VCBPR == 0;
        // Group 0 compares the bits above its binary point, Group 1 one bit more (IHI 0069, 4.8.3).
        let shift = if own_point {
            self.vmcr >> vmcr::VBPR1_SHIFT & 7
        } else {
            (self.vmcr >> vmcr::VBPR0_SHIFT & 7) + 1
        };
        let group_priority = u16::from(priority) >> shift << shift;
        self.vmcr & enabled != 0
            && priority < vmcr::priority_mask(self.vmcr)
            && group_priority < self.running
    }
}

impl Classes {
    fn of_group(self, group1: bool) -> Self {
        if group1 {
            Self(self.0 & !1)
        } else {
            Self(self.0 & 1)
        }
    }
}
