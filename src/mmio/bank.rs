//! Registers with a field for each interrupt, of up to 32 interrupts: the same in the distributor (SPIs)
//! and in a redistributor's `SGI_base` (SGIs and PPIs).

use crate::cpu_interface::CpuInterface;
use crate::delivery::{change, inject, queue};
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Kind, VcpuId};
use crate::sync::Ordering::Relaxed;
use crate::vm::irq::{ACTIVE, ENABLED, FollowUp, GROUP1, Irq, LEVEL, State};
use crate::vm::residency::RECALL;
use crate::vm::rwp::{RWP_GICD, RWP_GICR};
use crate::vm::{Vm, rwp};

use super::{Access, Width};

/// The interrupts of one 32-bit register, from bit 0 up, and whose they are.
#[derive(Clone, Copy)]
pub(crate) struct Bank<'a> {
    pub(crate) irqs: &'a [Irq],
    /// The vCPU whose SGIs and PPIs these are; `None` for SPIs.
    pub(crate) owner: Option<VcpuId>,
}

/// Offsets from the frame's base, common to `GICD` and `GICR` `SGI_base` (12.9, 12.11).
pub(crate) mod offset {
    pub(crate) const IGROUPR: u64 = 0x0080;
    pub(crate) const ISENABLER: u64 = 0x0100;
    pub(crate) const ICENABLER: u64 = 0x0180;
    pub(crate) const ISPENDR: u64 = 0x0200;
    pub(crate) const ICPENDR: u64 = 0x0280;
    pub(crate) const ISACTIVER: u64 = 0x0300;
    pub(crate) const ICACTIVER: u64 = 0x0380;
    pub(crate) const IPRIORITYR: u64 = 0x0400;
    pub(crate) const ICFGR: u64 = 0x0c00;
}

impl<'a> Bank<'a> {
    /// The word whose bit n says `what` of interrupt n.
    pub(crate) fn bits(self, what: impl Fn(State) -> bool) -> u64 {
        self.irqs.iter().enumerate().fold(0, |word, (bit, irq)| {
            word | u64::from(what(irq.state())) << bit
        })
    }

    /// The interrupts whose bits are set; usually one or a few.
    fn named(self, word: u64) -> impl Iterator<Item = &'a Irq> {
        let mut left = word;
        core::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            // Bits beyond the bank are the highest, and past the last one `bit` is 64.
            self.irqs.get(bit)
        })
    }

    /// `IPRIORITYR`: the bytes of an access at `first`, the interrupt's place in the bank.
    pub(crate) fn priorities(self, first: usize, width: Width) -> u64 {
        let bytes = width.bytes() as usize;
        self.irqs
            .iter()
            .skip(first)
            .take(bytes)
            .rev()
            .fold(0, |word, irq| word << 8 | u64::from(irq.state().priority()))
    }

    /// `ICFGR`: two bits for each of 16 interrupts, 0b10 for edge-triggered.
    pub(crate) fn triggers(self) -> u64 {
        self.irqs.iter().take(16).rev().fold(0, |word, irq| {
            let edge = !irq.state().level();
            word << 2 | u64::from(edge) << 1
        })
    }

    /// Whose RWP tells that a write of these registers is complete.
    fn rwp_register(self) -> u8 {
        if self.owner.is_some() {
            RWP_GICR
        } else {
            RWP_GICD
        }
    }

    /// The interrupts of one `ICFGR`: the upper 16, or all from the lower 16 up.
    pub(crate) fn half(self, upper: bool) -> Self {
        let first = if upper { 16 } else { 0 };
        Self {
            irqs: self.irqs.get(first..).unwrap_or_default(),
            ..self
        }
    }
}

impl<H: Host, I: CpuInterface> Access<'_, H, I> {
    /// Reads a register with a bit for each interrupt, by its offset from [`offset`]; others read as
    /// zero. `None` asks for the access to be tried again.
    pub(crate) fn read_bits(&self, bank: Bank<'_>, register: u64) -> Option<u64> {
        Some(match register {
            offset::IGROUPR => bank.bits(|state| state.group1()),
            offset::ISENABLER | offset::ICENABLER => bank.bits(|state| state.enabled()),
            offset::ISPENDR | offset::ICPENDR => {
                if !self.sync_states(bank) {
                    return None;
                }
                bank.bits(|state| state.shows_pending()) | self.lines(bank)
            }
            offset::ISACTIVER | offset::ICACTIVER => {
                if !self.sync_states(bank) {
                    return None;
                }
                bank.bits(|state| state.shows_active())
            }
            _ => 0,
        })
    }

    /// The level-sensitive interrupts whose physical lines are high; while one is disabled or active its
    /// physical interrupt does not arrive, and says so only when it is asked.
    fn lines(&self, bank: Bank<'_>) -> u64 {
        bank.irqs.iter().enumerate().fold(0, |word, (bit, irq)| {
            let high = irq.state().level()
                && irq.pintid() != 0
                && self.vm.host.is_pending(bank.owner, irq.pintid());
            word | u64::from(high) << bit
        })
    }

    /// Makes the states of the bank's interrupts current, for registers that show what may be in list
    /// registers. False: another vCPU has been asked, and the access is to be tried again.
    fn sync_states(&self, bank: Bank<'_>) -> bool {
        let mut synced = false;
        let mut current = true;
        // Relaxed: the memo is the accessing vCPU's own, read and written where it runs.
        let asked = self.vcpu.retry_gpa.load(Relaxed) == self.gpa;
        for irq in bank.irqs {
            let state = irq.state();
            let Some(on) = state.queued_on().filter(|_| state.in_lr()) else {
                continue;
            };
            if on == self.vcpu.id {
                if !synced {
                    fold::refresh(self.cpu, self.pin, self.vcpu);
                    synced = true;
                }
            } else if let Some(other) = self.vm.vcpu(on) {
                let place = other.residency.get();
                if place.lrs_are_known() {
                    continue;
                }
                if !asked {
                    queue::notify(self.vm, self.pin, on, RECALL);
                    current = false;
                } else if place.has(RECALL) {
                    current = false;
                }
            }
        }
        // Relaxed: as above.
        self.vcpu
            .retry_gpa
            .store(if current { u64::MAX } else { self.gpa }, Relaxed);
        current
    }
}

/// Writes a register with a bit for each interrupt, by its offset from [`offset`]; others ignore it.
pub(crate) fn write_bits<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    bank: Bank<'_>,
    register: u64,
    word: u64,
) {
    match register {
        offset::IGROUPR => write_groups(vm, pin, bank, word),
        offset::ISENABLER => write_enables(vm, pin, bank, word, true),
        offset::ICENABLER => write_enables(vm, pin, bank, word, false),
        offset::ISPENDR => set_pendings(vm, pin, bank, word),
        offset::ICPENDR => clear_pendings(vm, pin, bank, word),
        offset::ISACTIVER => set_actives(vm, pin, bank, word),
        offset::ICACTIVER => clear_actives(vm, pin, bank, word),
        _ => {}
    }
}

/// Pays what a disabling change owes; if a vCPU in the guest has the interrupt in a list register, the
/// change is complete (RWP) only once that vCPU has taken it back.
fn follow_up_rwp<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    bank: Bank<'_>,
    irq: &Irq,
    follow_up: FollowUp,
) {
    queue::follow_up(vm, pin, irq, follow_up);
    if let FollowUp::Recall(vcpu) = follow_up
        && let Some(vcpu) = vm.vcpu(vcpu)
    {
        rwp::expect(vm, vcpu, bank.rwp_register());
    }
}

fn write_groups<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for (bit, irq) in bank.irqs.iter().enumerate() {
        let group1 = word >> bit & 1 != 0;
        let changed = irq.update(|state| state.with_flag(GROUP1, group1));
        follow_up_rwp(vm, pin, bank, irq, changed.follow_up);
    }
}

fn write_enables<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64, on: bool) {
    for irq in bank.named(word) {
        let changed = irq.update(|state| state.with_flag(ENABLED, on));
        follow_up_rwp(vm, pin, bank, irq, changed.follow_up);
        if changed.old.enabled() != on {
            vm.host.enabled(bank.owner, irq.intid(), on);
        }
    }
}

fn set_pendings<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    }
}

fn clear_pendings<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        change::clear_pending(vm, pin, irq);
    }
}

/// Also for one that counts as active in a list register: the guest may have ended it there since, and
/// if not, the two merge when it is taken back.
fn set_actives<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        let changed = irq.update(|state| state.with(ACTIVE, 0));
        queue::complete(vm, pin, irq, changed);
    }
}

fn clear_actives<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        change::deactivate(vm, pin, irq);
    }
}

pub(crate) fn write_priorities<H: Host>(
    vm: &Vm<H>,
    pin: &CpuPin<'_>,
    bank: Bank<'_>,
    first: usize,
    width: Width,
    word: u64,
) {
    let bytes = width.bytes() as usize;
    for (byte, irq) in bank.irqs.iter().skip(first).take(bytes).enumerate() {
        let priority = (word >> (byte << 3)) as u8;
        let changed = irq.update(|state| state.with_priority(priority));
        queue::follow_up(vm, pin, irq, changed.follow_up);
    }
}

/// `ICFGR`; SGIs stay edge-triggered.
pub(crate) fn write_triggers<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for (place, irq) in bank.irqs.iter().take(16).enumerate() {
        if irq.intid().kind() == Kind::Sgi {
            continue;
        }
        let edge = word >> (place << 1) & 0b10 != 0;
        let changed = irq.update(|state| state.with_flag(LEVEL, !edge));
        queue::complete(vm, pin, irq, changed);
        if changed.old.level() == edge {
            vm.host.configured(bank.owner, irq.intid(), edge);
        }
    }
}
