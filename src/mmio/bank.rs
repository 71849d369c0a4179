//! Registers with a field for each interrupt, common to the distributor (SPIs, IHI 0069, 12.9) and
//! a redistributor's `SGI_base` (SGIs and PPIs, 12.11).
//!
//! * `IGROUPR`: 1 for Group 1, 0 for Group 0. Cases `keep.igroupr`, `keep.gicr_igroupr0`,
//!   `cpu.regrouped_while_pending`.
//! * `ISENABLER`, `ICENABLER`: enable and disable. Cases `keep.isenabler_icenabler`,
//!   `keep.private_isenabler`, `spi.disabled_while_pending`.
//! * `ISPENDR`: sets the pending latch. Cases `spi.pending_by_register`,
//!   `sgi.set_pending_by_register`, `spi.level_latched_by_register`.
//! * `ICPENDR`: clears the latch, not the line. Cases `spi.cleared_while_pending`,
//!   `sgi.clear_pending`, `spi.line_is_not_cleared_by_register`.
//! * `ISACTIVER`, `ICACTIVER`: activate and deactivate. Cases `keep.isactiver_icactiver`,
//!   `cpu.active_set_by_register`, `spi.deactivated_by_register`.
//! * `IPRIORITYR`: a byte of priority, of which the upper five bits count. Cases
//!   `keep.ipriorityr_bits`, `keep.ipriorityr_bytes_and_words`, `cpu.reprioritized_while_pending`.
//! * `ICFGR`: 0b10 for edge-triggered, 0b00 for level-sensitive. Cases `keep.icfgr`,
//!   `keep.gicr_icfgr0_is_read_only`, `spi.trigger`.
//!
//! Zeros in the set and clear registers have no effect (case `keep.isenabler_icenabler`).

use crate::delivery::{change, inject, physical, queue, report};
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{Kind, VcpuId};
use crate::sync::Ordering::Relaxed;
use crate::sync::{Mutant, mutant};
use crate::vm::irq::{ACTIVE, ENABLED, FollowUp, GROUP1, Irq, LEVEL, State};
use crate::vm::residency::RECALL;
use crate::vm::rwp::{Control, RWP_GICD, RWP_GICR};
use crate::vm::{Vm, rwp};

use super::{Access, Width};

/// Most tries of a register read that waits for vCPUs on CPUs, none of them running. Such a vCPU is
/// recalled, and its CPU usually enters or puts the vCPU soon; but an embedder may also leave the
/// vCPU there for ever.
const MOST_TRIES: u16 = 256;

/// Most tries of a register read that waits for a running vCPU. Its CPU takes an IPI, unless it
/// handles an exit of the vCPU for longer than so many traps of the reader.
const MOST_TRIES_RUNNING: u16 = u16::MAX;

/// Interrupts of one 32-bit register, from bit 0 up.
#[derive(Clone, Copy)]
pub(crate) struct Bank<'a> {
    pub(crate) irqs: &'a [Irq],
    /// The vCPU that owns the SGIs and PPIs; `None` for SPIs.
    pub(crate) owner: Option<VcpuId>,
}

/// Register offsets in bytes from the base of `GICD` (12.9) and of `GICR`'s `SGI_base` (12.11).
pub(crate) mod offset {
    /// Bytes of the block of a register with a bit for each interrupt.
    pub(crate) const BITS_BLOCK: u64 = 0x80;

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
    /// Returns the 32 of `spis` that the 32-bit register number `register` is for; none beyond the
    /// last SPI.
    #[inline]
    pub(super) fn of_spis(spis: &'a [Irq], register: usize) -> Self {
        let here = spis.get(register.wrapping_mul(32)..).unwrap_or_default();
        Self {
            irqs: here.get(..32).unwrap_or(here),
            owner: None,
        }
    }

    /// Returns the word whose bit n is `property` of the state of interrupt n.
    fn bits(self, property: impl Fn(State) -> bool) -> u64 {
        self.irqs.iter().enumerate().fold(0, |word, (bit, irq)| {
            word | u64::from(property(irq.state())) << bit
        })
    }

    /// Iterates over the interrupts whose bits are set in `word`, and over no others: saves 252 of
    /// the 590 instructions of a write of `GICD_ISENABLER` with one bit.
    fn named(self, word: u64) -> impl Iterator<Item = &'a Irq> {
        let mut left = word;
        core::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            // Bits beyond the bank come last, and without a bit left `bit` is 64: both end the
            // iteration.
            self.irqs.get(bit)
        })
    }

    /// Returns the bytes of an `IPRIORITYR` access of `width`, from the interrupt at index `first`
    /// on.
    pub(crate) fn priorities(self, first: usize, width: Width) -> u64 {
        let bytes = width.bytes() as usize;
        self.irqs
            .iter()
            .skip(first)
            .take(bytes)
            .rev()
            .fold(0, |word, irq| word << 8 | u64::from(irq.state().priority()))
    }

    /// Returns `ICFGR` of the first 16 interrupts: two bits each, 0b10 for edge-triggered.
    pub(crate) fn triggers(self) -> u64 {
        self.irqs.iter().take(16).rev().fold(0, |word, irq| {
            let edge = !irq.state().level();
            word << 2 | u64::from(edge) << 1
        })
    }

    /// Returns the flag of the register whose RWP field covers writes of the bank: `GICR_CTLR` or
    /// `GICD_CTLR`.
    fn rwp_register(self) -> u8 {
        if self.owner.is_some() {
            RWP_GICR
        } else {
            RWP_GICD
        }
    }

    /// Returns the word of that register.
    fn control<H: Host>(self, vm: &Vm<H>) -> &Control {
        match self.owner.and_then(|owner| vm.vcpu(owner)) {
            Some(owner) => &owner.redistributor.control,
            None => &vm.distributor.control,
        }
    }

    /// Returns the interrupts of one `ICFGR`: the upper 16, or all interrupts from bit 0 up.
    pub(crate) fn half(self, upper: bool) -> Self {
        let first = if upper { 16 } else { 0 };
        Self {
            irqs: self.irqs.get(first..).unwrap_or_default(),
            ..self
        }
    }
}

impl<H: Host> Access<'_, H> {
    /// Reads the register with a bit for each interrupt at the offset `register`, one of
    /// [`offset`]; other offsets read as zero. Returns `None` if the vCPU has to retry the access.
    pub(crate) fn read_bits(&self, bank: Bank<'_>, register: u64) -> Option<u64> {
        Some(match register {
            offset::IGROUPR => bank.bits(|state| state.group1()),
            offset::ISENABLER | offset::ICENABLER => bank.bits(|state| state.enabled()),
            offset::ISPENDR | offset::ICPENDR => {
                if !self.sync_states(bank) {
                    return None;
                }
                self.pending(bank)
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

    /// Returns the bits of the pending interrupts.
    fn pending(&self, bank: Bank<'_>) -> u64 {
        let (mut pending, mut connected) = (0, 0);
        for (bit, irq) in bank.irqs.iter().enumerate() {
            let state = irq.state();
            pending |= u64::from(state.shows_pending()) << bit;
            connected |= u64::from(state.is_connected_level()) << bit;
        }

        if connected == 0 {
            pending
        } else {
            let lines = self.lines(bank, connected);
            bank.bits(|state| state.shows_pending()) | lines
        }
    }

    /// Returns the bits of the level-sensitive interrupts in `connected` whose physical lines are
    /// high, and withdraws those that were forwarded and whose lines are low. While a forwarded
    /// interrupt is disabled or active, the physical interrupt does not arrive: only the host knows
    /// the line. Case `spi.line_falls_before_it_is_taken`.
    #[inline(never)]
    fn lines(&self, bank: Bank<'_>, connected: u64) -> u64 {
        let mut lines = 0;
        for irq in bank.named(connected) {
            let line = physical::line(self.vm, self.pin, irq);
            if line == Some(false) {
                physical::withdraw(self.vm, self.pin, irq);
            }
            lines |= u64::from(line == Some(true)) << (irq.intid().raw() & 31);
        }
        lines
    }

    /// Makes the states of the bank's interrupts current, for registers that show states kept in
    /// list registers. Returns false if another vCPU has to fold first; the vCPU then retries the
    /// access.
    ///
    /// A first access asks for the states and recalls the other vCPUs. The retry waits until each
    /// vCPU has folded its list registers, or looked at them, since. The retry asks for nothing, so
    /// that it succeeds although the guest runs on. Case `spi.pending_elsewhere_is_seen`.
    ///
    /// A vCPU that had left the guest before the recall, and is neither entered nor put, has states
    /// that only its CPU can read. After [`MOST_TRIES`], or [`MOST_TRIES_RUNNING`], the register
    /// shows the states last known.
    ///
    /// A read of no vCPU is not tried again, and shows the states last known.
    fn sync_states(&self, bank: Bank<'_>) -> bool {
        let mut synced = false;
        let mut current = true;
        let mut most_tries = MOST_TRIES;
        let reader = self.reader.map(|reader| reader.vcpu);
        // Relaxed: no partner; only the accessing vCPU's CPU reads and writes `retry_gpa`.
        let asked = reader.is_some_and(|reader| reader.retry_gpa.load(Relaxed) == self.gpa);

        for irq in bank.irqs {
            let state = irq.state();
            let Some(on) = state.queued_on().filter(|_| state.in_lr()) else {
                continue;
            };
            if let Some(reader) = self.reader.filter(|reader| on == reader.vcpu.id) {
                if !synced {
                    reader.cpu.refresh_states(self.pin, reader.vcpu);
                    synced = true;
                }
            } else if let Some(other) = self.vm.vcpu(on) {
                let place = other.residency.look();

                if asked {
                    let waits = if mutant(Mutant::RecallIsNoFold) {
                        place.has(RECALL)
                    } else {
                        state.lr_asked()
                    };
                    if waits {
                        current = false;
                        if place.is_running() {
                            most_tries = MOST_TRIES_RUNNING;
                        }
                    }
                } else if !place.lrs_are_known()
                    && let Some(on) = irq.ask_lr()
                {
                    queue::notify(self.vm, self.pin, on, RECALL);
                    current = false;
                }
            }
        }

        let Some(reader) = reader else {
            return true;
        };

        // Relaxed: no partner; only the accessing vCPU's CPU reads and writes `retries`.
        let tries = if asked {
            reader.retries.load(Relaxed)
        } else {
            0
        };
        current |= tries >= most_tries;
        // Relaxed: no partner; only the accessing vCPU's CPU reads and writes both.
        reader.retries.store(tries.saturating_add(1), Relaxed);
        reader
            .retry_gpa
            .store(if current { u64::MAX } else { self.gpa }, Relaxed);
        current
    }
}

/// Writes the register with a bit for each interrupt at the offset `register`, one of [`offset`].
/// Other offsets ignore the write.
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
        offset::ICENABLER => disable(vm, pin, bank, word),
        offset::ISPENDR => set_pendings(vm, pin, bank, word),
        offset::ICPENDR => clear_pendings(vm, pin, bank, word),
        offset::ISACTIVER => set_actives(vm, pin, bank, word),
        offset::ICACTIVER => clear_actives(vm, pin, bank, word),
        _ => {}
    }
}

/// Does the follow-up of a change of the group or enable. If a vCPU in the guest has the interrupt
/// in a list register, RWP reads 1 until that vCPU has folded the list register. Cases
/// `spi.disabled_while_pending`, `ppi.disabled_while_pending`.
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
        rwp::expect(vm, pin, vcpu, bank.rwp_register());
    }
}

/// Writes `IGROUPR`: 1 for Group 1, 0 for Group 0.
#[inline(never)]
fn write_groups<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for (bit, irq) in bank.irqs.iter().enumerate() {
        let group1 = word >> bit & 1 != 0;
        let changed = irq.update(|state| state.with_flag(GROUP1, group1));
        follow_up_rwp(vm, pin, bank, irq, changed.follow_up);
    }
}

/// Writes `ICENABLER`, a write that RWP covers.
// Out of line, as the other cases of `write_bits`, which then needs no frame of its own: saves 10
// of the 236 instructions of a write of `GICD_ISENABLER` in hyp.
#[inline(never)]
fn disable<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    let _write = bank.control(vm).begin();
    write_enables(vm, pin, bank, word, false);
}

/// Writes `ISENABLER` (`on`) or `ICENABLER`, and reports changes to the host.
fn write_enables<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64, on: bool) {
    for irq in bank.named(word) {
        let changed = irq.update(|state| state.with_flag(ENABLED, on));
        // Saves 10 of the 198 instructions of a write of `GICD_ISENABLER`.
        if changed.follow_up != FollowUp::Nothing {
            if changed.new.hw() {
                // Forwarded, and disabled since: the line may have fallen.
                physical::sample(vm, pin, irq);
            }
            follow_up_rwp(vm, pin, bank, irq, changed.follow_up);
        }
        report::enable(vm, irq, changed);
    }
}

/// Writes `ISPENDR`: sets the pending latch, also of level-sensitive interrupts.
#[inline(never)]
fn set_pendings<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        let _ = inject::raised(vm, pin, irq, irq.raise());
    }
}

/// Writes `ICPENDR`: clears the pending latch, not the line.
#[inline(never)]
fn clear_pendings<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        change::clear_pending(vm, pin, irq);
    }
}

/// Writes `ISACTIVER`.
///
/// Sets the active state also of an interrupt last seen active in a list register, because the
/// guest may have deactivated the interrupt since. If not, the fold makes one active state of both.
#[inline(never)]
fn set_actives<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        let changed = irq.update(|state| state.with(ACTIVE, 0));
        queue::complete(vm, pin, irq, changed);
    }
}

/// Writes `ICACTIVER`: deactivates, without a priority drop.
#[inline(never)]
fn clear_actives<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for irq in bank.named(word) {
        change::deactivate(vm, pin, irq);
    }
}

/// Writes the bytes of an `IPRIORITYR` access of `width`, from the interrupt at index `first` on.
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

/// Writes `ICFGR` and reports changes to the host. SGIs stay edge-triggered (case
/// `keep.gicr_icfgr0_is_read_only`).
pub(crate) fn write_triggers<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, bank: Bank<'_>, word: u64) {
    for (place, irq) in bank.irqs.iter().take(16).enumerate() {
        if irq.intid().kind() == Kind::Sgi {
            continue;
        }
        let edge = word >> (place << 1) & 0b10 != 0;
        // A pending level without a line would become an edge that nobody raised.
        if irq.state().hw() {
            physical::sample(vm, pin, irq);
        }
        let changed = irq.update(|state| state.with_flag(LEVEL, !edge));
        queue::complete(vm, pin, irq, changed);
        report::trigger(vm, irq, changed);
    }
}
