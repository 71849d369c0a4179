//! A thousand interrupts of one CPU at once: every SGI, some PPIs, and all SPIs that an
//! implementation can have except a few of the first.

use crate::cpus;
use crate::gic::interface::{self, EOI_MODE, NONE, deactivate, end, running_priority, set_ctlr};
use crate::gic::{GROUP_1, bank, gicd};
use crate::harness::{Case, Cpus, Outcome, equal, expect_none, holds, skip_unless};
use crate::machine::Machine;
use crate::mmio::{read_32, write_32, write_64};

/// Number of SGIs and of PPIs that no device drives.
const PRIVATE: u32 = 20;
/// First SPI.
const FIRST_SPI: u32 = 40;
/// First INTID behind the SPIs.
const END: u32 = 1020;
/// Number of interrupts.
pub(super) const COUNT: u32 = PRIVATE + END - FIRST_SPI;
const _: () = assert!(COUNT == 1000);

/// Registers with a bit for each interrupt.
const WORDS: usize = END.div_ceil(32) as usize;

/// Number of priorities that preempt one another, from `0xf0` on: as many as ICC_AP1R0_EL1 can hold
/// with 5 bits of priority.
const LEVELS: u32 = 31;

pub(super) const CASES: &[Case] = &[
    Case::new("overflow.pending_1000", "4.1, 4.8", |m| {
        with_thousand(m, |thousand| {
            thousand.raise();
            m.enable_groups(GROUP_1);
            let mut last = 0;
            thousand.take_each(|intid| {
                let priority = thousand.priority(intid);
                holds("not more urgent than the one before", priority >= last)?;
                last = priority;
                end(intid);
                Ok(())
            })?;
            expect_none()
        })
    }),
    Case::new(
        "overflow.active_ended_in_order_1000",
        "ICC_DIR_EL1, 4.1",
        |m| active(m, |place| place, deactivate_each),
    ),
    Case::new(
        "overflow.active_ended_in_reverse_1000",
        "ICC_DIR_EL1, 4.1",
        |m| active(m, |place| COUNT - 1 - place, deactivate_each),
    ),
    Case::new(
        "overflow.active_ended_in_disorder_1000",
        "ICC_DIR_EL1, 4.1",
        |m| active(m, shuffled, deactivate_each),
    ),
    Case::new(
        "overflow.active_ended_elsewhere_1000",
        "ICC_DIR_EL1 from another CPU, 4.1",
        |m| {
            active(m, shuffled, |thousand, order| {
                // SGIs and PPIs are each CPU's own.
                let of = |shared: bool| {
                    let all = (0..COUNT).map(order).map(intid_at);
                    all.filter(move |intid| (*intid >= FIRST_SPI) == shared)
                };
                cpus::on(1, || {
                    set_ctlr(EOI_MODE);
                    of(true).try_for_each(|intid| thousand.deactivate(intid))
                })?;
                of(false).try_for_each(|intid| thousand.deactivate(intid))
            })
        },
    )
    .on(Cpus::Two),
    Case::new(
        "overflow.active_ended_by_register_1000",
        "GICD_ICACTIVER<n>, GICR_ICACTIVER0, 4.1",
        |m| {
            active(
                m,
                |place| place,
                |thousand, _| {
                    thousand.write(bank::ICACTIVER);
                    Ok(())
                },
            )
        },
    ),
    Case::new(
        "overflow.active_and_pending_1000",
        "4.1 active and pending, ICC_DIR_EL1",
        |m| {
            active_and_pending(m, |_| {
                // Each interrupt arrives again as soon as it is deactivated.
                for place in (0..COUNT).map(shuffled) {
                    let intid = intid_at(place);
                    deactivate(intid);
                    equal("the one that was deactivated", interface::take(), intid)?;
                    end(intid);
                    deactivate(intid);
                }
                Ok(())
            })
        },
    ),
    Case::new(
        "overflow.active_and_pending_ended_by_register_1000",
        "4.1 active and pending, GICD_ICACTIVER<n>",
        |m| {
            active_and_pending(m, |thousand| {
                thousand.write(bank::ICACTIVER);
                thousand.take_each(|intid| {
                    end(intid);
                    deactivate(intid);
                    Ok(())
                })
            })
        },
    ),
    Case::new(
        "overflow.nested_among_1000",
        "4.8 preemption, ICC_EOIR1_EL1",
        nested,
    ),
    Case::new(
        "overflow.active_set_by_register_1000",
        "GICD_ISACTIVER<n>, GICR_ISACTIVER0, 4.1",
        |m| {
            with_thousand(m, |thousand| {
                set_ctlr(EOI_MODE);
                thousand.write(bank::ISACTIVER);
                thousand.raise();
                m.enable_groups(GROUP_1);
                thousand.all("ISACTIVER", bank::ISACTIVER, true)?;
                expect_none()?;
                thousand.write(bank::ICACTIVER);
                thousand.take_each(|intid| {
                    end(intid);
                    deactivate(intid);
                    Ok(())
                })?;
                thousand.all("ISACTIVER", bank::ISACTIVER, false)
            })
        },
    ),
];

/// Returns the interrupt at a place among the thousand.
const fn intid_at(place: u32) -> u32 {
    if place < PRIVATE {
        place
    } else {
        place - PRIVATE + FIRST_SPI
    }
}

/// Returns the place of an interrupt among the thousand, at least [`COUNT`] for any other
/// interrupt.
const fn place_of(intid: u32) -> u32 {
    match intid {
        0..PRIVATE => intid,
        FIRST_SPI.. => intid - FIRST_SPI + PRIVATE,
        _ => NONE,
    }
}

/// Returns a place out of order. A step without a common factor visits each place.
const fn shuffled(step: u32) -> u32 {
    (step * 387 + 11) % COUNT
}

/// All thousand interrupts, edge-triggered if that is a choice, enabled, on CPU 0.
pub(super) struct Thousand<'a> {
    machine: &'a Machine,
}

/// Runs a case with the thousand interrupts and Group 1 disabled at the distributor. Afterwards
/// brings SPIs that devices drive back into the initial state of a case.
pub(super) fn with_thousand(m: &Machine, run: impl FnOnce(&Thousand<'_>) -> Outcome) -> Outcome {
    skip_unless("there are fewer SPIs", m.lines() == END)?;
    m.enable_groups(0);

    let thousand = Thousand { machine: m };
    let place = |register| m.gicd(bank::ICFGR + register as usize / 16 * 4);
    for intid in (FIRST_SPI / 16 * 16..END).step_by(16) {
        write_32(place(intid), 0xaaaa_aaaa_u32);
    }
    thousand.route(0);
    thousand.prioritize(|intid| (0x40 + intid % 4 * 0x20) as u8);
    thousand.write(bank::ISENABLER);

    let outcome = run(&thousand);
    // Level-sensitive again, once nothing of it is pending.
    m.enable_groups(0);
    thousand.write(bank::ICENABLER);
    thousand.write(bank::ICPENDR);
    for intid in (FIRST_SPI / 16 * 16..END).step_by(16) {
        write_32(place(intid), 0);
    }
    thousand.prioritize(|_| 0xa0);
    outcome
}

impl Thousand<'_> {
    /// Returns the address of a register of one bank, and the bits of the thousand interrupts.
    fn word(&self, register: usize, word: usize) -> (usize, u32) {
        let bits = (0..32).filter(|bit| place_of(word as u32 * 32 + bit) < COUNT);
        let bits = bits.fold(0, |bits, bit| bits | 1u32 << bit);
        let address = match word {
            0 => self.machine.sgi_base(0, register),
            _ => self.machine.gicd(register + word * 4),
        };
        (address, bits)
    }

    /// Writes ones for all interrupts.
    pub(super) fn write(&self, register: usize) {
        for word in 0..WORDS {
            let (address, bits) = self.word(register, word);
            write_32(address, bits);
        }
    }

    /// Fails unless all interrupts, or none, have a one in this bank.
    #[track_caller]
    pub(super) fn all(&self, what: &'static str, register: usize, ones: bool) -> Outcome {
        (0..WORDS).try_for_each(|word| {
            let (address, bits) = self.word(register, word);
            equal(what, read_32(address) & bits, if ones { bits } else { 0 })
        })
    }

    /// Puts all interrupts into Group 0.
    pub(super) fn clear_groups(&self) {
        for word in 0..WORDS {
            write_32(self.word(bank::IGROUPR, word).0, 0);
        }
    }

    /// Routes the SPIs to a CPU.
    pub(super) fn route(&self, cpu: usize) {
        let affinity = self.machine.affinity(cpu);
        for intid in FIRST_SPI..END {
            let register = gicd::IROUTER + intid as usize * 8;
            write_64(self.machine.gicd(register), affinity);
        }
    }

    /// Calls `then` for each interrupt, in order.
    pub(super) fn each(&self, then: impl FnMut(u32) -> Outcome) -> Outcome {
        (0..COUNT).map(intid_at).try_for_each(then)
    }

    /// Makes all interrupts pending.
    pub(super) fn raise(&self) {
        self.write(bank::ISPENDR);
    }

    /// Sets the priority of each interrupt.
    pub(super) fn prioritize(&self, priority: impl Fn(u32) -> u8) {
        for intid in (0..PRIVATE).chain(FIRST_SPI..END).step_by(4) {
            let bytes = [0, 1, 2, 3].map(|next| priority(intid + next));
            let offset = bank::IPRIORITYR + intid as usize;
            let address = match intid {
                0..PRIVATE => self.machine.sgi_base(0, offset),
                _ => self.machine.gicd(offset),
            };
            write_32(address, u32::from_le_bytes(bytes));
        }
    }

    fn priority(&self, intid: u32) -> u8 {
        self.machine.on_cpu_0(intid).priority()
    }

    /// Acknowledges each interrupt once, and calls `then`.
    pub(super) fn take_each(&self, mut then: impl FnMut(u32) -> Outcome) -> Outcome {
        let mut seen = Seen::default();
        for _ in 0..COUNT {
            let intid = interface::take();
            seen.note(intid)?;
            then(intid)?;
        }
        Ok(())
    }

    /// Deactivates an active interrupt, on the calling CPU.
    fn deactivate(&self, intid: u32) -> Outcome {
        let irq = self.machine.on_cpu_0(intid);
        holds("active until it is ended", irq.is_active())?;
        deactivate(intid);
        equal("active once it is ended", irq.is_active(), false)
    }
}

impl Machine {
    /// Returns an interrupt as CPU 0 has it.
    fn on_cpu_0(&self, intid: u32) -> crate::gic::irq::Irq<'_> {
        if intid < PRIVATE {
            self.private(0, intid)
        } else {
            self.shared(intid)
        }
    }
}

/// Interrupts that have been taken.
struct Seen([u32; WORDS]);

impl Default for Seen {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl Seen {
    /// Fails if the interrupt is none of the thousand, or was taken before.
    fn note(&mut self, intid: u32) -> Outcome {
        if place_of(intid) >= COUNT {
            return equal("one of those that are pending", intid, FIRST_SPI);
        }
        let (word, bit) = (&mut self.0[intid as usize / 32], 1 << (intid % 32));
        equal("taken before", *word & bit != 0, false)?;
        *word |= bit;
        Ok(())
    }
}

/// Deactivates each interrupt in the given order, and checks it before and after.
fn deactivate_each(thousand: &Thousand<'_>, order: fn(u32) -> u32) -> Outcome {
    (0..COUNT)
        .map(order)
        .try_for_each(|place| thousand.deactivate(intid_at(place)))
}

/// Activates all interrupts, then ends them by `finish`, in the given order.
fn active(
    m: &Machine,
    order: fn(u32) -> u32,
    finish: impl FnOnce(&Thousand<'_>, fn(u32) -> u32) -> Outcome,
) -> Outcome {
    with_thousand(m, |thousand| {
        activate(thousand)?;
        finish(thousand, order)?;
        thousand.all("ISACTIVER once they are ended", bank::ISACTIVER, false)?;
        expect_none()
    })
}

/// Takes all interrupts, and deactivates none.
fn activate(thousand: &Thousand<'_>) -> Outcome {
    set_ctlr(EOI_MODE);
    thousand.raise();
    thousand.machine.enable_groups(GROUP_1);
    thousand.take_each(|intid| {
        end(intid);
        Ok(())
    })?;
    equal("RPR", running_priority(), 0xff)?;
    thousand.all("ISACTIVER", bank::ISACTIVER, true)?;
    thousand.all("ISPENDR", bank::ISPENDR, false)
}

/// Activates all interrupts and makes them pending again. `finish` ends them and takes each once
/// more.
fn active_and_pending(m: &Machine, finish: impl FnOnce(&Thousand<'_>) -> Outcome) -> Outcome {
    with_thousand(m, |thousand| {
        activate(thousand)?;
        thousand.raise();
        thousand.all("ISACTIVER", bank::ISACTIVER, true)?;
        thousand.all("ISPENDR", bank::ISPENDR, true)?;
        expect_none()?;
        finish(thousand)?;
        thousand.all("ISACTIVER once they are ended", bank::ISACTIVER, false)?;
        thousand.all("ISPENDR once they are taken", bank::ISPENDR, false)?;
        expect_none()
    })
}

/// Nests as many active interrupts as there are priorities, while all others are pending. Then ends
/// all, by one write each, and takes the others in between.
fn nested(m: &Machine) -> Outcome {
    /// Returns the priority of a level. Higher levels are more urgent.
    fn priority(level: u32) -> u8 {
        0xf0 - (level * 8) as u8
    }
    with_thousand(m, |thousand| {
        let level_of = |intid| place_of(intid) % LEVELS;
        thousand.prioritize(|intid| priority(level_of(intid)));
        m.enable_groups(GROUP_1);
        let mut seen = Seen::default();
        let mut active = [NONE; LEVELS as usize];
        for level in 0..LEVELS {
            let members = || (0..COUNT).filter(|place| place % LEVELS == level);
            members().for_each(|place| m.on_cpu_0(intid_at(place)).set_pending());
            let intid = interface::take();
            seen.note(intid)?;
            equal("its level", level_of(intid), level)?;
            equal("RPR", running_priority(), priority(level))?;
            active[level as usize] = intid;
        }
        for level in (0..LEVELS).rev() {
            end(active[level as usize]);
            let others = (0..COUNT).filter(|place| place % LEVELS == level).count() - 1;
            for _ in 0..others {
                let intid = interface::take();
                seen.note(intid)?;
                equal("its level", level_of(intid), level)?;
                end(intid);
            }
        }
        equal("RPR", running_priority(), 0xff)?;
        thousand.all("ISACTIVER once they are ended", bank::ISACTIVER, false)?;
        expect_none()
    })
}
