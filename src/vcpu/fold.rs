//! Fold: taking back what the guest has done with the list registers.
//!
//! An exit reads ELRSR (and EISR if a level-sensitive interrupt is in a register) and folds the
//! registers that became empty, which need not be read. If the interrupt of one has come again meanwhile, it
//! is posted there. Registers that are still in use stay as they are, and re-entering the same CPU finds
//! them in place. They are read and taken back only when something about them changed (RECALL, NOTE, or
//! AGAIN if the guest has not finished with the first one), when a more urgent interrupt needs room, or when
//! the vCPU leaves the CPU.

use core::cell::RefMut;

use crate::Vgic;
use crate::ap_list::{ApList, Classes};
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::IntId;
use crate::irq::{Folded, Irq, Settled};
use crate::lr::ListRegister;
use crate::vgic::Leaving;

use super::flush::GROUPS_CHANGED;
use super::registers::{Registers, bits};
use super::{BASE_HCR, Cpu, Vcpu};

impl<H: Host> Vgic<H> {
    /// Most exits after an interrupt: the guest has finished with one, which may have come again.
    #[inline]
    pub(super) fn retire_only<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: &Vcpu,
        mut registers: RefMut<'_, Registers>,
        done: u16,
    ) {
        if done == 0 {
            // That is all there is to know.
            return;
        }
        let index = done.trailing_zeros() as usize;
        let irq = match vcpu.listed(&registers, index) {
            Some(irq) if done & (done - 1) == 0 => irq,
            _ => return self.take_stock_of(cpu, pin, vcpu, registers, done),
        };
        let (intid, kind) = (irq.intid(), irq.kind());
        let irq: *const Irq = irq;
        // SAFETY: as in `listed`. From the end of `finish` on it is looked at only if the list still has it,
        // or if its last reference is gone, and then it is ours to bury.
        let irq = unsafe { &*irq };
        let list = vcpu.ap_list.lock(pin.ledger());
        let others_wait = list.waiting() != 0;
        let groups = || {
            if others_wait {
                0
            } else {
                self.groups_open_to(vcpu, irq)
            }
        };
        let finished = irq.finish(vcpu.id, groups);
        drop(list);
        let Some(finished) = finished else {
            return self.take_stock_of(cpu, pin, vcpu, registers, done);
        };
        if finished.delivered {
            pin.counters().deliveries[kind as usize].add(1);
        }
        if let Some(image) = finished.again {
            registers.post_again(index, image);
            return;
        }
        registers.vacate_finished(index);
        if others_wait {
            registers.due.add_refill(true);
        }
        self.trace_list_put(pin, intid, vcpu.id);
        if finished.last {
            drop(registers);
            self.bury(irq);
        }
    }

    /// As [`Vgic::take_stock`], whatever there is to it; the registers of `done` are empty.
    #[inline(never)]
    pub(super) fn take_stock_of<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        this: &Vcpu,
        mut registers: RefMut<'_, Registers>,
        mut done: u16,
    ) {
        let registers = &mut *registers;
        if registers.in_use != 0 {
            if registers.wants_eoi != 0 {
                done |= cpu.interface().read_eisr() & registers.in_use;
            }
            if done != 0 {
                self.retire(pin, this, registers, done);
            }
        }
        if registers.hcr != BASE_HCR {
            // The guest has done something that was watched for: enabled or disabled a group, or made all
            // registers active while something pending waits. What it has finished with is room enough.
            let misr = cpu.interface().read_misr();
            let crowded_out = misr & misr::NP != 0 && done == 0;
            // QEMU (10.0) shows VGrp0D by the enable of Group 1. It is asked for only while both are enabled.
            let group0_is_disabled = registers.hcr & hcr::VGRP0DIE != 0
                && cpu.interface().read_vmcr() & vmcr::VENG0 == 0;
            registers
                .due
                .add_reload(crowded_out || group0_is_disabled || misr & GROUPS_CHANGED != 0);
            if misr & misr::LRENP != 0 {
                self.take_eoi_count(cpu, pin, this, registers);
            }
        }
    }

    /// Folds and prunes the interrupts in the registers of `done`, which the guest has finished with.
    fn retire(&self, pin: &CpuPin<'_>, vcpu: &Vcpu, registers: &mut Registers, done: u16) {
        let _entered = pin.guard();
        let mut resample = 0;
        let mut leaving = Leaving::new();
        let waiting;
        {
            let mut list = vcpu.ap_list.lock(pin.ledger());
            for index in bits(done) {
                let Some(irq) = vcpu.listed(registers, index) else {
                    continue;
                };
                let (folded, settled) = irq.retire(vcpu.id);
                self.account(pin, irq, folded);
                self.settled(pin, vcpu, &mut list, irq, settled, &mut leaving);
                resample |= u16::from(folded.resample) << index;
                registers.vacate(index, registers.images[index].without_state());
            }
            waiting = list.waiting() != 0;
        }
        registers.due.add_refill(waiting || registers.stale != 0);
        self.resample(vcpu, registers, resample);
        self.dispatch(pin, &mut leaving);
    }

    /// Takes every interrupt back from the registers, which are read, to where it waits. What the guest
    /// had finished with was folded at the exit before, so none of these owes a resample.
    pub(super) fn take_back<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: &Vcpu,
        registers: &mut Registers,
        list: &mut ApList,
        leaving: &mut Leaving,
    ) {
        let mut kept = 0_u16;
        for index in bits(registers.in_use) {
            let now = registers.read(index, cpu.interface(), pin.counters());
            let folded = self.fold(pin, vcpu, registers, index, now);
            let Some(irq) = vcpu.listed(registers, index) else {
                continue;
            };
            if folded.deactivate {
                leaving.deactivate(irq);
            }
            match irq.settle(vcpu.id) {
                Settled::Kept(_) => kept |= 1 << index,
                settled => self.settled(pin, vcpu, list, irq, settled, leaving),
            }
        }
        // Before those that came while they were there; the first register's before all.
        while let Some(index) = kept.checked_ilog2() {
            kept &= !(1 << index);
            if let Some(irq) = vcpu.listed(registers, index as usize) {
                list.link_again(irq, irq.state());
            }
        }
    }

    /// Takes one interrupt back from its register, which holds `lr`; the register counts as vacated.
    fn fold(
        &self,
        pin: &CpuPin<'_>,
        vcpu: &Vcpu,
        registers: &mut Registers,
        index: usize,
        lr: ListRegister,
    ) -> Folded {
        registers.vacate(index, lr);
        let Some(irq) = vcpu.listed(registers, index) else {
            return Folded::default();
        };
        let folded = irq.fold(lr);
        self.account(pin, irq, folded);
        folded
    }

    /// Tells the embedder of level-sensitive interrupts that the guest has finished with. No lock is
    /// held; SPIs and PPIs live as long as the VM.
    fn resample(&self, vcpu: &Vcpu, registers: &Registers, done: u16) {
        for index in bits(done) {
            if let Some(intid) = IntId::new(registers.images[index].vintid()) {
                self.host().resample(vcpu.id, intid);
            }
        }
    }

    /// Ends active interrupts outside the list registers as often as the hardware has counted.
    fn take_eoi_count<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &CpuPin<'_>,
        vcpu: &Vcpu,
        registers: &mut Registers,
    ) {
        let value = cpu.interface().read_hcr();
        let count = (value & hcr::EOI_COUNT) >> hcr::EOI_COUNT_SHIFT;
        if count == 0 {
            return;
        }
        // The register differs from what we wrote, so this writes it, and the count with it.
        registers.hcr = value;
        registers.set_hcr(value & !hcr::EOI_COUNT, cpu.interface());
        // With EOImode 1 the guest deactivates by ICC_DIR_EL1, which traps. QEMU counts its priority
        // drops all the same.
        if cpu.interface().read_vmcr() & vmcr::VEOIM != 0 {
            return;
        }
        let _entered = pin.guard();
        for _ in 0..count {
            let mut leaving = Leaving::new();
            let mut resample = None;
            {
                let mut list = vcpu.ap_list.lock(pin.ledger());
                let Some((irq, _)) = list.first(Classes::ACTIVE) else {
                    break;
                };
                let irq: *const Irq = irq;
                // SAFETY: linked, so the list's reference keeps it alive; we hold the list's lock,
                // under which alone it can leave.
                let irq = unsafe { &*irq };
                list.unlink(irq);
                let (deactivate, changed) = irq.clear_active();
                let state = changed.old;
                // Pending again, it may be more urgent than what the registers hold.
                registers.due.add_reload(changed.new.deliverable());
                self.book(pin, irq, changed);
                if deactivate {
                    leaving.deactivate(irq);
                }
                if state.level() && !state.hw() {
                    resample = Some(irq.intid());
                }
                self.prune(pin, vcpu, &mut list, irq, &mut leaving);
            }
            self.dispatch(pin, &mut leaving);
            if let Some(intid) = resample {
                self.host().resample(vcpu.id, intid);
            }
        }
        registers.due.add_refill(true);
    }

    /// Brings the states of what is in this CPU's registers up to date, for a register read that
    /// shows them. Reads each register in use.
    pub(crate) fn sync<I: CpuInterface>(&self, cpu: &Cpu<I>, pin: &CpuPin<'_>, vcpu: &Vcpu) {
        let Some(registers) = vcpu.registers(cpu.local()) else {
            return;
        };
        for index in bits(registers.in_use) {
            if let Some(irq) = vcpu.listed(&registers, index) {
                let now = registers.read(index, cpu.interface(), pin.counters());
                let folded = irq.refresh(now);
                self.account(pin, irq, folded);
            }
        }
    }
}

impl Vcpu {
    /// Whether an interrupt has come again while it is in a list register, which the guest has not finished
    /// with.
    #[cold]
    pub(super) fn waits_behind_itself(&self, registers: &Registers) -> bool {
        bits(registers.in_use)
            .filter_map(|index| self.listed(registers, index))
            .any(|irq| irq.state().latch())
    }

    /// The interrupt that register `index` holds or has just been vacated by; still queued here.
    pub(super) fn listed<'r>(&self, registers: &'r Registers, index: usize) -> Option<&'r Irq> {
        // SAFETY: by the invariant of `Registers` it is queued on this vCPU, so the list's reference
        // keeps it alive; callers look only at registers in use, or at those they have just folded
        // and not pruned yet.
        unsafe { registers.irqs[index].as_ref() }
    }
}
