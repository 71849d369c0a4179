//! The CPU interface of a GICv2 (IHI 0048, 4.4), by traps: acknowledge, end, deactivate.
//!
//! The guest's interrupts are in the CPU's list registers, as for a GICv3, and its priority mask,
//! binary points, enables and active priorities in `ICH_VMCR_EL2` and `ICH_AP<x>R<n>_EL2`. But the
//! hardware does not signal them (`ICH_HCR_EL2.En` is 0), because it would signal Group 0 as FIQ
//! whatever `GICC_CTLR.FIQEn` says. A trapped access changes the list registers as the hardware's
//! `ICV_IAR<n>_EL1` or `ICV_EOIR<n>_EL1` would, and [`lines`] says what to signal.
//!
//! The hardware counts the end of an interrupt in no list register without its INTID
//! (`ICH_HCR_EL2.EOIcount`). Here the INTID is known, and the count stays 0.
#![expect(unsafe_code)]
// UNSAFETY: folds for a vCPU that this CPU has been found to have, and borrows its shadow.

use core::cell::RefMut;

use crate::cpu::{BASE_HCR, Cpu};
use crate::cpu_interface::{CpuInterface, priority, vmcr};
use crate::delivery::{change, inject, routing};
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::host::{Host, PhysicalInterrupt};
use crate::intid::{IntId, Kind, VcpuId};
use crate::lr::{self, ListRegister};
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::gicv2::{CTLR_ACK_CTL, CTLR_FIQ_EN, Interface};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::vcpu::Vcpu;

/// INTID read while no interrupt is pending, or signalled (IHI 0048, 3.2.1).
const SPURIOUS: u32 = 1023;
/// INTID read while the interrupt is of Group 1, and the register of Group 0 alone.
const OF_GROUP_1: u32 = 1022;
/// First INTID that names no interrupt.
const FIRST_SPECIAL: u32 = 1020;
/// Lowest bit of an SGI's source in `GICC_IAR`.
const SOURCE_SHIFT: u32 = 10;

/// IRQ and FIQ of a vCPU with a GICv2: `HCR_EL2.VI` and `VF` (DDI 0487).
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VirtualLines {
    /// The IRQ is asserted.
    pub irq: bool,
    /// The FIQ is asserted.
    pub fiq: bool,
}

/// Registers of the interface that exist twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    /// `GICC_IAR`, `GICC_EOIR`, `GICC_HPPIR`: Group 0, and Group 1 with AckCtl.
    Common,
    /// `GICC_AIAR`, `GICC_AEOIR`, `GICC_AHPPIR`: Group 1.
    Aliased,
}

/// The CPU interface of a vCPU, on the CPU that has the vCPU out of the guest.
pub(crate) struct Gicc<'a, H: Host, I> {
    vm: &'a Vm<H>,
    cpu: &'a Cpu<I>,
    pin: &'a CpuPin<'a>,
    vcpu: &'a Vcpu,
    state: &'a Interface,
}

/// Returns the interrupt that is signalled, with the index of its list register.
fn signalled(shadow: &IchShadow, interface: &impl CpuInterface) -> Option<(usize, ListRegister)> {
    if shadow.in_use == 0 {
        return None;
    }

    let vmcr = interface.read_vmcr();
    most_urgent_pending(shadow, vmcr).filter(|(_, lr)| {
        let running = priority::running(interface);
        priority::signals(vmcr, running, lr.priority(), lr.is_group1())
    })
}

/// Returns the most urgent pending interrupt of the groups that the interface enables, with the
/// index of its list register. An active one waits for its deactivation.
fn most_urgent_pending(shadow: &IchShadow, vmcr: u64) -> Option<(usize, ListRegister)> {
    bits(shadow.in_use)
        .map(|index| (index, shadow.images[index]))
        .filter(|(_, lr)| lr.is_pending() && !lr.is_active())
        .filter(|(_, lr)| vmcr & vmcr::group_enable(lr.is_group1()) != 0)
        .min_by_key(|(_, lr)| lr.priority())
}

/// Returns the lines asserted by a vCPU's interface:
/// [`Vgic::virtual_lines`](crate::Vgic::virtual_lines).
pub(crate) fn lines<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    id: VcpuId,
) -> VirtualLines {
    let none = VirtualLines::default();
    let Some(state) = vm.gicv2_interface(id) else {
        return none;
    };
    let Some(vcpu) = vm.in_guest(cpu.local(), id) else {
        return none;
    };

    // SAFETY: the CPU has the vCPU, by its own record.
    let shadow = unsafe { vcpu.borrow_shadow() };
    let Some((_, lr)) = shadow.and_then(|shadow| signalled(&shadow, cpu.interface())) else {
        return none;
    };

    let fiq = state.control() & CTLR_FIQ_EN != 0 && !lr.is_group1();
    VirtualLines { irq: !fiq, fiq }
}

impl<'a, H: Host, I: CpuInterface> Gicc<'a, H, I> {
    /// Returns the interface of `vcpu`, whose access trapped; `None` in a VM with a GICv3, or if
    /// the CPU does not have the vCPU out of the guest.
    pub(crate) fn new(
        vm: &'a Vm<H>,
        cpu: &'a Cpu<I>,
        pin: &'a CpuPin<'a>,
        vcpu: &'a Vcpu,
    ) -> Option<Self> {
        let state = vm.gicv2_interface(vcpu.id)?;
        let mut shadow = vcpu.shadow_out_of_guest(cpu.local())?;
        if !shadow.nothing_due() {
            // From here on the images are the contents of the list registers. The next exit reads
            // their status.
            shadow.write_staged(cpu.interface(), pin.counters());
            cpu.interface().synchronize();
        }
        Some(Self {
            vm,
            cpu,
            pin,
            vcpu,
            state,
        })
    }

    /// Returns the registers `ICH_*_EL2` of the CPU.
    pub(crate) fn registers(&self) -> &I {
        self.cpu.interface()
    }

    /// Returns AckCtl and FIQEn, as in `GICC_CTLR`.
    pub(crate) fn control(&self) -> u32 {
        self.state.control()
    }

    /// Replaces AckCtl, FIQEn and the fields of `ICH_VMCR_EL2`.
    pub(crate) fn set_control(&self, control: u32, vmcr: u64) {
        self.state.set_control(control);
        self.registers().write_vmcr(vmcr);
        // Interrupts of a group that has been disabled may occupy list registers.
        self.fold();
    }

    /// Publishes the state of the interface after an access, and routes SPIs with several targets
    /// anew.
    pub(crate) fn publish(&self) {
        let vmcr = self.registers().read_vmcr();
        if (self.state).publish(vmcr, priority::running(self.registers()))
            && !mutant(Mutant::ChangedUnsettled)
        {
            routing::settle_shared(self.vm, self.pin);
        }
    }

    /// Borrows the shadow.
    fn shadow(&self) -> Option<RefMut<'a, IchShadow>> {
        self.vcpu.shadow_out_of_guest(self.cpu.local())
    }

    /// Changes the state of list register `index`, as the hardware would.
    fn set(&self, shadow: &mut IchShadow, index: usize, lr: ListRegister) {
        self.registers().write_lr(index, lr);
        self.pin.counters().ich_lr_writes.add(1);
        shadow.images[index] = lr;
    }

    /// Folds what has been ended, and looks for maintenance conditions, as an exit would.
    fn fold(&self) {
        // For the status of the list registers.
        self.registers().synchronize();
        // SAFETY: `new` has found that the CPU has the vCPU out of the guest.
        unsafe { fold::fold_exit(self.vm, self.cpu, self.pin, self.vcpu) };
    }

    /// Returns the INTID that `register` shows for `lr`, or the special INTID.
    fn shown(&self, register: Register, lr: ListRegister) -> Result<IntId, u32> {
        match register {
            Register::Common if lr.is_group1() && self.control() & CTLR_ACK_CTL == 0 => {
                Err(OF_GROUP_1)
            }
            Register::Aliased if !lr.is_group1() => Err(SPURIOUS),
            _ => IntId::new(lr.vintid()).ok_or(SPURIOUS),
        }
    }

    /// Reads `GICC_IAR` or `GICC_AIAR` (IHI 0048, 4.4.4 and 4.4.9): acknowledges the signalled
    /// interrupt.
    pub(crate) fn acknowledge(&self, register: Register) -> u32 {
        // Each try but the last empties a list register.
        for _ in 0..=lr::MAX {
            let Some(mut shadow) = self.shadow() else {
                return SPURIOUS;
            };
            let Some((index, lr)) = signalled(&shadow, self.registers()) else {
                return SPURIOUS;
            };
            let intid = match self.shown(register, lr) {
                Ok(intid) => intid,
                Err(special) => return special,
            };

            let sgi = (intid.kind() == Kind::Sgi).then(|| self.state.take(intid.raw() as usize));
            if sgi == Some(None) {
                // Its senders' bits have all been taken with earlier raises.
                self.set(&mut shadow, index, lr.without_state());
                drop(shadow);
                self.fold();
                continue;
            }

            let toggled = lr.0 ^ (ListRegister::PENDING | ListRegister::ACTIVE);
            self.set(&mut shadow, index, ListRegister(toggled));

            let mask = priority::group_mask(self.registers().read_vmcr(), lr.is_group1());
            priority::activate(self.registers(), lr.is_group1(), lr.priority() & mask);

            // Without a pending interrupt in a list register, those that wait outside get one.
            let crowded = shadow.hcr != BASE_HCR;
            drop(shadow);
            if crowded {
                self.fold();
            }

            let (source, others) = sgi.flatten().unwrap_or_default();
            if others
                && let Some(irq) = self.vcpu.private(intid)
                && !mutant(Mutant::OtherSourceForgotten)
            {
                let _ = inject::raised_for(self.vm, self.pin, irq, irq.raise(), Some(self.vcpu));
            }
            self.publish();
            return source << SOURCE_SHIFT | intid.raw();
        }
        SPURIOUS
    }

    /// Reads `GICC_HPPIR` or `GICC_AHPPIR` (IHI 0048, 4.4.7 and 4.4.11): the most urgent pending
    /// interrupt, masked or not.
    pub(crate) fn highest_pending(&self, register: Register) -> u32 {
        let vmcr = self.registers().read_vmcr();
        let pending = self
            .shadow()
            .and_then(|shadow| most_urgent_pending(&shadow, vmcr));
        let Some((_, lr)) = pending else {
            return SPURIOUS;
        };

        match self.shown(register, lr) {
            Ok(intid) if intid.kind() == Kind::Sgi => {
                match self.state.sources(intid.raw() as usize) {
                    0 => SPURIOUS,
                    sources => sources.trailing_zeros() << SOURCE_SHIFT | intid.raw(),
                }
            }
            Ok(intid) => intid.raw(),
            Err(special) => special,
        }
    }

    /// Writes `GICC_EOIR` or `GICC_AEOIR` (IHI 0048, 4.4.5 and 4.4.10): drops the running priority,
    /// and with EOImode 0 deactivates. An end out of order is UNPREDICTABLE: it drops the running
    /// priority, whatever the INTID.
    pub(crate) fn end(&self, register: Register, value: u32) {
        let Some(intid) = named(value) else {
            return;
        };

        let of_group1 = || {
            let irq = self.vm.irq(self.pin, self.vcpu, intid);
            irq.is_some_and(|irq| irq.state().group1())
        };
        if register == Register::Aliased && !of_group1() {
            return;
        }

        let dropped = priority::drop_running(self.registers());
        if dropped && self.registers().read_vmcr() & vmcr::VEOIM == 0 {
            self.deactivate(intid);
        }
    }

    /// Writes `GICC_DIR` (IHI 0048, 4.4.15): with EOImode 1, deactivates. With EOImode 0 a write is
    /// UNPREDICTABLE, and ignored.
    pub(crate) fn deactivate_by_register(&self, value: u32) {
        if self.registers().read_vmcr() & vmcr::VEOIM != 0
            && let Some(intid) = named(value)
        {
            self.deactivate(intid);
        }
    }

    /// Ends the active state of an interrupt: of an SGI or PPI of the vCPU, or of an SPI wherever
    /// it is active.
    fn deactivate(&self, intid: IntId) {
        let Some(mut shadow) = self.shadow() else {
            return;
        };

        let found = bits(shadow.in_use).find(|&index| {
            let lr = shadow.images[index];
            lr.is_active() && lr.vintid() == intid.raw()
        });

        match found {
            Some(index) => {
                let lr = shadow.images[index];
                self.set(
                    &mut shadow,
                    index,
                    ListRegister(lr.0 & !ListRegister::ACTIVE),
                );
                drop(shadow);
                if lr.is_hw() {
                    let physical = PhysicalInterrupt::new(lr.pintid() as u16, self.cpu.id());
                    self.vm.host.deactivate(physical);
                }
                self.fold();
            }
            None => {
                drop(shadow);
                if let Some(irq) = self.vm.irq(self.pin, self.vcpu, intid) {
                    change::deactivate(self.vm, self.pin, irq);
                }
            }
        }
    }
}

/// Returns the interrupt that a write of an end or a deactivation names. An SGI's source is not
/// looked at: an SGI is active once.
fn named(value: u32) -> Option<IntId> {
    let intid = value & 0x3ff;
    (intid < FIRST_SPECIAL).then(|| IntId::new(intid)).flatten()
}
