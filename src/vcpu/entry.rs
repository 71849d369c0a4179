//! Into the guest and out of it: choosing what the list registers hold, and taking it back.
//!
//! # Choosing
//! Pending interrupts go in by priority; what registers remain take active ones, the most urgent first.
//! A pending and active interrupt ranks as active: it cannot be acknowledged before it is deactivated.
//! * While pending interrupts wait outside, NPIE asks for a maintenance interrupt once no list register
//!   is pending.
//! * While active ones wait outside, LRENPIE asks for one when the guest deactivates one of them.
//!   The hardware counts such deactivations (EOIcount); the guest ends its active interrupts from the
//!   most urgent to the least, and those in registers are the most urgent, so the count is taken off
//!   the waiting ones in order of priority.
//!
//! * When there are more interrupts than registers, those of a group that the guest has disabled stay
//!   outside, and `VGrp<n>EIE` and `VGrp<n>DIE` ask for an interrupt when it enables or disables a group.
//!
//! Maintenance interrupts make this fast, never correct: every exit asks MISR for itself what of this has
//! come about.
//!
//! # Posting
//! An interrupt that a CPU raises for the vCPU that it has out of the guest, while a register is free and
//! nothing waits, is put into that register in the step that queues it ([`Vgic::insert`]). Only its image
//! is noted then; the register is written on the way into the guest.
//!
//! # Taking back
//! An exit reads ELRSR (and EISR if a level-sensitive interrupt is in a register) and folds the
//! registers that became empty, which need not be read. If the interrupt of one has come again meanwhile, it
//! is posted there. Registers that are still in use stay as they are, and re-entering the same CPU finds
//! them in place. They are read and taken back only when something about them changed (RECALL, NOTE, or
//! AGAIN if the guest has not finished with the first one), when a more urgent interrupt needs room, or when
//! the vCPU leaves the CPU.

use core::cell::RefMut;
use core::ptr;

use crate::Vgic;
use crate::ap_list::{ApList, Classes};
use crate::cpu_interface::{CpuInterface, hcr, misr, vmcr};
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::{IntId, VcpuId};
use crate::irq::{Folded, Irq, Settled};
use crate::lr::{self, ListRegister};
use crate::sync::{Mutant, mutant};
use crate::vgic::Leaving;

use super::registers::Registers;
use super::residency::{AGAIN, NEW, NOTE, Place, RECALL, WORK, Whereabouts};
use super::{BASE_HCR, Cpu, Vcpu};

/// Why a vCPU cannot enter, leave or block here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EntryError {
    /// The VM has no such vCPU.
    UnknownVcpu(VcpuId),
    /// The vCPU is powered off ([`Vgic::power_on`]).
    PoweredOff(VcpuId),
    /// The vCPU is in the guest already.
    AlreadyEntered(VcpuId),
    /// The vCPU is not in the guest on this CPU.
    NotEntered(VcpuId),
    /// The registers of this vCPU are on another CPU, which has to [`Vgic::put`] it first.
    OnAnotherCpu(VcpuId),
    /// This CPU's registers hold another vCPU, which has to be [`Vgic::put`] first.
    CpuInUse,
}

impl core::fmt::Display for EntryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownVcpu(v) => write!(f, "the VM has no vCPU {}", v.index()),
            Self::PoweredOff(v) => write!(f, "vCPU {} is powered off", v.index()),
            Self::AlreadyEntered(v) => write!(f, "vCPU {} is in the guest already", v.index()),
            Self::NotEntered(v) => write!(f, "vCPU {} is not in the guest on this CPU", v.index()),
            Self::OnAnotherCpu(v) => {
                write!(f, "the registers of vCPU {} are on another CPU", v.index())
            }
            Self::CpuInUse => write!(f, "this CPU's registers hold another vCPU"),
        }
    }
}

impl core::error::Error for EntryError {}

/// Most interrupts that one pass takes out of the buckets, so that a pass is bounded even when other
/// CPUs keep changing what it looks at.
const PASS_LIMIT: usize = lr::MAX * 2;

impl<H: Host> Vgic<H> {
    /// Prepares `cpu`'s list registers for `vcpu` and marks it as in the guest. The caller drops its
    /// pins and enters the guest with interrupts masked until the exception return.
    ///
    /// With nothing new this is one atomic operation and no register access.
    ///
    /// # Errors
    /// [`EntryError`] when the vCPU cannot run here; nothing has changed then.
    #[inline]
    pub fn enter<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        if let Some(this) = self.vcpus().get(vcpu.index())
            && let Some((place, settled)) =
                this.glance(cpu.local(), Whereabouts::Out, Registers::is_settled)
        {
            self.recalled(this, place);
            let work = this.residency.enter(cpu.id());
            if work.has(WORK) || !settled {
                // SAFETY: by the glance.
                unsafe { self.prepare(cpu, pin, this, work) };
            }
            return Ok(());
        }
        self.enter_first(cpu, pin, vcpu)
    }

    /// Enters a vCPU that `cpu` does not have yet, or says why it cannot.
    #[cold]
    fn enter_first<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        let this = self.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
        let place = this.residency.get();
        if !place.is_on() {
            return Err(EntryError::PoweredOff(vcpu));
        }
        if place.in_guest() {
            return Err(EntryError::AlreadyEntered(vcpu));
        }
        if this.registers(cpu.local()).is_none() {
            self.take(cpu, this)?;
        }
        self.recalled(this, place);
        let work = this.residency.enter(cpu.id());
        // SAFETY: `registers` or `take` has found that this CPU has them.
        unsafe { self.prepare(cpu, pin, this, work) };
        Ok(())
    }

    /// Brings the list registers up to date on the way into the guest; `work` is what came up.
    ///
    /// # Safety
    /// `cpu` has the vCPU's registers.
    #[inline(never)]
    pub(super) unsafe fn prepare<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        work: Place,
    ) {
        // SAFETY: by the caller's promise.
        let Some(mut registers) = (unsafe { vcpu.borrow() }) else {
            return;
        };
        if work.has(NEW | RECALL | NOTE)
            || registers.due.choose()
            || work.has(AGAIN) && vcpu.waits_behind_itself(&registers)
        {
            self.prepare_lists(cpu, pin, vcpu, registers, work);
        } else {
            registers.write_posted(cpu.interface(), pin.counters());
        }
    }

    /// As [`Vgic::prepare`], when there is more to do than to write what has been posted.
    #[inline(never)]
    fn prepare_lists<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        mut registers: RefMut<'_, Registers>,
        work: Place,
    ) {
        let registers = &mut *registers;
        let again = work.has(AGAIN) && vcpu.waits_behind_itself(registers);
        let reload = work.has(RECALL | NOTE) || registers.due.reload() || again;
        let recall = reload && registers.in_use != 0;
        if recall || !self.add(cpu, pin, vcpu, registers) {
            self.flush(cpu, pin, vcpu, registers, reload, work.has(NEW));
        }
        registers.write_posted(cpu.interface(), pin.counters());
    }

    /// Most entries with news: one interrupt waits, and there is a register for it. False if there is
    /// more to do than to load that one.
    #[inline]
    pub(super) fn add<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        registers: &mut Registers,
    ) -> bool {
        let Some(index) = registers.free_while_simple() else {
            return false;
        };
        let open = vcpu.open_classes(self.distributor().open_groups());
        let mut list = vcpu.ap_list.lock(pin.ledger());
        let Some(irq) = list.take_only(open) else {
            return false;
        };
        // SAFETY: still queued, so the list's reference keeps it alive; we hold the list's lock, under
        // which alone it can leave.
        let irq = unsafe { irq.as_ref() };
        let Some(image) = irq.load_plain(vcpu.id) else {
            // A level, or it changed after it was linked.
            list.link(irq, irq.state());
            return false;
        };
        drop(list);
        registers.put(index, image, irq, cpu.interface(), pin.counters());
        registers.due.chosen();
        true
    }

    /// Loads a vCPU onto a CPU that does not have it.
    #[cold]
    fn take<I: CpuInterface>(&self, cpu: &Cpu<I>, vcpu: &Vcpu) -> Result<(), EntryError> {
        if cpu.local().is_loaded() {
            return Err(EntryError::CpuInUse);
        }
        let mut registers = vcpu
            .claim(cpu)
            .map_err(|_| EntryError::OnAnotherCpu(vcpu.id))?;
        registers.load(cpu.interface());
        registers.set_hcr(BASE_HCR, cpu.interface());
        // What was taken back when it was put, or arrived since, has to be chosen from.
        registers.due.add_reload(true);
        Ok(())
    }

    /// Takes back what the guest has done since [`Vgic::enter`]. Called first thing after an exit.
    ///
    /// With no list register in use this is one atomic operation and no register access; otherwise it
    /// reads one or two registers.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if the vCPU was not in the guest on this CPU.
    #[inline]
    pub fn exit<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        if let Some(this) = self.vcpus().get(vcpu.index())
            && let Some((_, untouched)) =
                this.glance(cpu.local(), Whereabouts::InGuest, Registers::is_untouched)
        {
            this.residency.exit();
            if !untouched {
                // SAFETY: by the glance.
                unsafe { self.take_stock(cpu, pin, this) };
            }
            return Ok(());
        }
        Err(match self.vcpu(vcpu) {
            Some(_) => EntryError::NotEntered(vcpu),
            None => EntryError::UnknownVcpu(vcpu),
        })
    }

    /// Finds out what the guest has done with the list registers.
    ///
    /// # Safety
    /// `cpu` has the vCPU's registers.
    #[inline(never)]
    unsafe fn take_stock<I: CpuInterface>(&self, cpu: &Cpu<I>, pin: &Pin<'_>, this: &Vcpu) {
        // SAFETY: by the caller's promise.
        let Some(registers) = (unsafe { this.borrow() }) else {
            return;
        };
        let done = cpu.interface().read_elrsr() & registers.in_use;
        // With any other HCR there is more to look at than what is in the registers.
        if registers.wants_eoi == 0 && registers.hcr == BASE_HCR {
            self.retire_only(cpu, pin, this, registers, done);
        } else {
            self.take_stock_of(cpu, pin, this, registers, done);
        }
    }

    /// Most exits after an interrupt: the guest has finished with one, which may have come again.
    #[inline]
    fn retire_only<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
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
    fn take_stock_of<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
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
    fn retire(&self, pin: &Pin<'_>, vcpu: &Vcpu, registers: &mut Registers, done: u16) {
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

    /// Takes one interrupt back from its register, which holds `lr`; the register counts as vacated.
    fn fold(
        &self,
        pin: &Pin<'_>,
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
        pin: &Pin<'_>,
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

    /// Settles an interrupt that is queued on `vcpu`, in no bucket and in no register: back into a
    /// bucket, or off the list. The caller is in the epoch, if it can be an LPI: off the list it may be gone.
    pub(crate) fn prune(
        &self,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        list: &mut ApList,
        irq: &Irq,
        leaving: &mut Leaving,
    ) {
        self.settled(pin, vcpu, list, irq, irq.settle(vcpu.id), leaving);
    }

    /// Carries out what was decided about an interrupt that was queued on `vcpu`.
    #[inline]
    fn settled(
        &self,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        list: &mut ApList,
        irq: &Irq,
        settled: Settled,
        leaving: &mut Leaving,
    ) {
        match settled {
            Settled::Kept(state) => list.link(irq, state),
            Settled::Unlinked { last } => {
                self.trace_list_put(pin, irq.intid(), vcpu.id);
                if last {
                    leaving.dying(irq);
                }
            }
            Settled::Carried => {
                self.trace_list_put(pin, irq.intid(), vcpu.id);
                self.trace_lookup_get(pin, irq);
                leaving.carried(irq);
            }
        }
    }

    /// Fills free registers with what waits; takes all of them back first when `reload` asks for it
    /// or when something more urgent may have come (`new`) and there is no room.
    pub(super) fn flush<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        registers: &mut Registers,
        reload: bool,
        new: bool,
    ) {
        let _entered = pin.guard();
        registers.due.chosen();
        let count = usize::from(cpu.vtr().list_registers);
        let all = cpu.vtr().all();
        let mut open = vcpu.open_classes(self.distributor().open_groups());
        let mut watch = 0;
        let mut leaving = Leaving::new();
        {
            let mut list = vcpu.ap_list.lock(pin.ledger());
            let room = all & !registers.in_use;
            let crowded = new && room.count_ones() < list.waiting();
            if list.waiting() as usize + registers.in_use.count_ones() as usize > count {
                (open, watch) = guest_groups(open, cpu.interface().read_vmcr());
            }
            if (reload || crowded) && registers.in_use != 0 {
                self.take_back(cpu, pin, vcpu, registers, &mut list, &mut leaving);
            }
            let settled = self.choose(
                pin,
                vcpu,
                &mut list,
                registers,
                cpu,
                open,
                all,
                &mut leaving,
            );
            registers.clean(cpu.interface(), pin.counters());
            let spilled = list.first(Classes::ACTIVE).is_some();
            let starving = list.first(open).is_some();
            // A pass that hit its limit goes on at the next entry.
            registers.due.add_refill(!settled);
            let value = BASE_HCR
                | watch
                | if starving { hcr::NPIE } else { 0 }
                | if spilled { hcr::LRENPIE } else { 0 };
            registers.set_hcr(value, cpu.interface());
        }
        self.dispatch(pin, &mut leaving);
    }

    /// Takes every interrupt back from the registers, which are read, to where it waits. What the guest
    /// had finished with was folded at the exit before, so none of these owes a resample.
    fn take_back<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
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

    /// Moves the most urgent waiting interrupts into free registers. Prefers the register that holds an
    /// interrupt's image already. False if it stopped at its limit.
    #[expect(clippy::too_many_arguments, reason = "one step of flush, named")]
    fn choose<I: CpuInterface>(
        &self,
        pin: &Pin<'_>,
        vcpu: &Vcpu,
        list: &mut ApList,
        registers: &mut Registers,
        cpu: &Cpu<I>,
        open: Classes,
        all: u16,
        leaving: &mut Leaving,
    ) -> bool {
        let groups = [false, true].map(|group1| open.of_group(group1) != Classes::NONE);
        for _ in 0..PASS_LIMIT {
            let free = all & !registers.in_use;
            if free == 0 || leaving.is_full() {
                return !leaving.is_full();
            }
            let Some((irq, _)) = list.first(open).or_else(|| list.first(Classes::ACTIVE)) else {
                return true;
            };
            let irq: *const Irq = irq;
            // SAFETY: linked, so the list's reference keeps it alive; we hold the list's lock, under
            // which alone it can leave.
            let irq = unsafe { &*irq };
            list.unlink(irq);
            match irq.load(vcpu.id, groups) {
                Some(image) => {
                    let index = bits(free)
                        .find(|index| ptr::eq(registers.irqs[*index], irq))
                        .unwrap_or(free.trailing_zeros() as usize);
                    registers.put(index, image, irq, cpu.interface(), pin.counters());
                }
                // It changed after it was linked; whoever changed it is on the way to settle it.
                None => self.prune(pin, vcpu, list, irq, leaving),
            }
        }
        false
    }

    /// Brings the states of what is in this CPU's registers up to date, for a register read that
    /// shows them. Reads each register in use.
    pub(crate) fn sync<I: CpuInterface>(&self, cpu: &Cpu<I>, pin: &Pin<'_>, vcpu: &Vcpu) {
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

    /// Takes `vcpu` off `cpu`: all its list registers back, the rest of its state saved. Another CPU
    /// may enter it afterwards.
    ///
    /// # Errors
    /// [`EntryError::NotEntered`] if this CPU does not have it, [`EntryError::AlreadyEntered`] if it is
    /// in the guest.
    pub fn put<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        self.unload(cpu, pin, vcpu, |_, _| ())
    }

    /// Powers a vCPU off and takes it off `cpu`, as [`Vgic::put`] does. Its CPU interface is reset;
    /// interrupts routed to it stay where they are until it is on again ([`Vgic::power_on`]) or the
    /// guest routes them elsewhere.
    ///
    /// # Errors
    /// As for [`Vgic::put`].
    pub fn power_off<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
    ) -> Result<(), EntryError> {
        self.unload(cpu, pin, vcpu, |this, registers| {
            *registers = Registers::new(vmcr::reset(cpu.vtr().preemption_bits));
            this.residency.set_power(false);
        })
    }

    fn unload<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
        last: impl FnOnce(&Vcpu, &mut Registers),
    ) -> Result<(), EntryError> {
        let this = self.vcpu(vcpu).ok_or(EntryError::UnknownVcpu(vcpu))?;
        let Some(mut registers) = this.registers(cpu.local()) else {
            return Err(EntryError::NotEntered(vcpu));
        };
        if this.residency.get().in_guest() {
            return Err(EntryError::AlreadyEntered(vcpu));
        }
        let _entered = pin.guard();
        let mut leaving = Leaving::new();
        {
            let mut list = this.ap_list.lock(pin.ledger());
            if !mutant(Mutant::RegistersForgotten) {
                self.take_back(cpu, pin, this, &mut registers, &mut list, &mut leaving);
            }
            registers.clean(cpu.interface(), pin.counters());
            list.check();
        }
        registers.save(cpu.interface());
        self.recalled(this, this.residency.get());
        last(this, &mut registers);
        drop(registers);
        this.release(cpu);
        self.dispatch(pin, &mut leaving);
        Ok(())
    }
}

impl Vcpu {
    /// Whether an interrupt has come again while it is in a list register, which the guest has not finished
    /// with.
    #[cold]
    fn waits_behind_itself(&self, registers: &Registers) -> bool {
        bits(registers.in_use)
            .filter_map(|index| self.listed(registers, index))
            .any(|irq| irq.state().latch())
    }

    /// The interrupt that register `index` holds or has just been vacated by; still queued here.
    fn listed<'r>(&self, registers: &'r Registers, index: usize) -> Option<&'r Irq> {
        // SAFETY: by the invariant of `Registers` it is queued on this vCPU, so the list's reference
        // keeps it alive; callers look only at registers in use, or at those they have just folded
        // and not pruned yet.
        unsafe { registers.irqs[index].as_ref() }
    }
}

/// The guest has enabled or disabled a group, as [`guest_groups`] has asked to be told.
const GROUPS_CHANGED: u64 = misr::VGRP0E | misr::VGRP0D | misr::VGRP1E | misr::VGRP1D;

/// Without the classes of groups that the guest has disabled, which would only take up registers; and
/// the bits of `ICH_HCR_EL2` that make it exit when it enables or disables a group.
fn guest_groups(mut open: Classes, vmcr: u64) -> (Classes, u64) {
    let enabled = |group1| vmcr & vmcr::group_enable(group1) != 0;
    let mut watch = 0;
    for (group1, enabling, disabling) in [
        (false, hcr::VGRP0EIE, hcr::VGRP0DIE),
        (true, hcr::VGRP1EIE, hcr::VGRP1DIE),
    ] {
        let classes = open.of_group(group1);
        if classes == Classes::NONE {
            continue;
        }
        if !enabled(group1) {
            open = open.without(classes);
            watch |= enabling;
        } else if enabled(!group1) {
            // Else nothing is signalled any more, and nobody needs to know. (QEMU 10.0 takes Group 0 for
            // disabled while Group 1 is, and would interrupt without end.)
            watch |= disabling;
        }
    }
    (open, watch)
}

/// The indices of the bits that are set.
pub(super) fn bits(mut set: u16) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (set != 0).then(|| {
            let index = set.trailing_zeros() as usize;
            set &= set - 1;
            index
        })
    })
}
