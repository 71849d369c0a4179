//! More interrupts at once than an implementation has list registers, in every order.

use super::kvm;
use crate::gic::interface::{self, EOI_MODE, deactivate, end, running_priority, set_ctlr};
use crate::gic::{FREE_SPI, bank};
use crate::harness::{Case, Cpus, Outcome, equal, expect, expect_none, holds};
use crate::machine::Machine;
use crate::mmio::write_32;
use crate::{cpu, cpus};

/// Cases for one number of interrupts.
macro_rules! cases {
    ($count:literal) => {
        [
            Case::new(concat!("overflow.pending_", $count), "4.1, 4.8", |m| {
                pending(m, $count)
            })
            .unlike_kvm(kvm::FORGOTTEN),
            Case::new(
                concat!("overflow.active_ended_in_order_", $count),
                "ICC_DIR_EL1, 4.1",
                |m| active(m, $count, |place| place, deactivate),
            )
            .unlike_kvm(kvm::STARVED),
            Case::new(
                concat!("overflow.active_ended_in_reverse_", $count),
                "ICC_DIR_EL1, 4.1",
                |m| active(m, $count, |place| $count - 1 - place, deactivate),
            )
            .unlike_kvm(kvm::STARVED),
            Case::new(
                concat!("overflow.active_ended_in_disorder_", $count),
                "ICC_DIR_EL1, 4.1",
                // A step without a common factor visits each place.
                |m| active(m, $count, |place| (place * 7 + 3) % $count, deactivate),
            )
            .unlike_kvm(kvm::STARVED),
            Case::new(
                concat!("overflow.active_ended_by_register_", $count),
                "GICD_ICACTIVER<n>, 4.1",
                |m| {
                    active(
                        m,
                        $count,
                        |place| place,
                        |intid| m.shared(intid).clear_active(),
                    )
                },
            )
            .unlike_kvm(kvm::STARVED),
            Case::new(
                concat!("overflow.active_ended_elsewhere_", $count),
                "ICC_DIR_EL1 from another CPU, 4.1",
                |m| {
                    cpus::on(1, || set_ctlr(EOI_MODE));
                    active(
                        m,
                        $count,
                        |place| (place * 7 + 3) % $count,
                        |intid| cpus::on(1, || deactivate(intid)),
                    )
                },
            )
            .unlike_kvm(kvm::STARVED)
            .on(Cpus::Two),
            Case::new(
                concat!("overflow.active_and_pending_", $count),
                "4.1 active and pending",
                |m| active_and_pending(m, $count),
            )
            .unlike_kvm(kvm::STARVED),
            Case::new(
                concat!("overflow.raised_while_taken_", $count),
                "4.1, 4.8",
                |m| raised_while_taken(m, $count),
            ),
        ]
    };
}

pub(super) const FIVE: &[Case] = &cases!(5);
pub(super) const SIXTEEN: &[Case] = &cases!(16);
pub(super) const SIXTY_FOUR: &[Case] = &cases!(64);
pub(super) const TWO_HUNDRED: &[Case] = &cases!(200);

/// Prepares `count` interrupts of 4 priorities, edge-triggered and enabled.
fn prioritize(m: &Machine, count: u32) {
    for place in 0..count {
        m.edge(place).set_priority(priority_at(place));
    }
}

/// Returns the priority of the interrupt at `place`.
fn priority_at(place: u32) -> u8 {
    (0x40 + place % 4 * 0x20) as u8
}

/// Makes `count` interrupts pending, by one write for each register.
fn raise_all(m: &Machine, count: u32) {
    let (first, end) = (FREE_SPI, FREE_SPI + count);
    for word in first / 32..end.div_ceil(32) {
        let bits = (0..32).filter(|bit| (first..end).contains(&(word * 32 + bit)));
        let bits = bits.fold(0, |bits, bit| bits | 1u32 << bit);
        write_32(m.gicd(bank::ISPENDR + word as usize * 4), bits);
    }
}

/// Acknowledges the next interrupt, which must not be in `seen`, and adds it.
fn take_unseen(seen: &mut [bool]) -> Result<u32, crate::harness::NotPassed> {
    let intid = interface::take();
    let place = intid.wrapping_sub(FREE_SPI) as usize;
    holds("one of those that are pending", place < seen.len())?;
    equal("taken before", seen[place], false)?;
    seen[place] = true;
    Ok(intid)
}

/// Takes and ends `count` pending interrupts, in order of priority.
fn pending(m: &Machine, count: u32) -> Outcome {
    m.enable_groups(0);
    prioritize(m, count);
    raise_all(m, count);
    m.enable_groups(crate::gic::GROUP_1);
    holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
    let mut seen = [false; 256];
    let seen = &mut seen[..count as usize];
    let mut last = 0;
    for _ in 0..count {
        let intid = take_unseen(seen)?;
        let priority = priority_at(intid - FREE_SPI);
        holds("not more urgent than the one before", priority >= last)?;
        last = priority;
        end(intid);
    }
    expect_none()
}

/// Activates `count` interrupts, then ends them by `finish` in the given order.
fn active(m: &Machine, count: u32, order: impl Fn(u32) -> u32, finish: impl Fn(u32)) -> Outcome {
    set_ctlr(EOI_MODE);
    prioritize(m, count);
    raise_all(m, count);
    let mut seen = [false; 256];
    for _ in 0..count {
        let intid = take_unseen(&mut seen[..count as usize])?;
        end(intid);
    }

    equal("RPR", running_priority(), 0xff)?;
    let is_active = |place| m.shared(FREE_SPI + place).is_active();
    for place in 0..count {
        holds("active", is_active(place))?;
    }
    for step in 0..count {
        let place = order(step);
        finish(FREE_SPI + place);
        equal("active once it is ended", is_active(place), false)?;
        if step + 1 < count {
            holds("the next one is active yet", is_active(order(step + 1)))?;
        }
    }
    expect_none()
}

/// Makes `count` active interrupts pending again. Each is taken once more when it is deactivated.
fn active_and_pending(m: &Machine, count: u32) -> Outcome {
    set_ctlr(EOI_MODE);
    prioritize(m, count);
    raise_all(m, count);
    let mut seen = [false; 256];
    for _ in 0..count {
        end(take_unseen(&mut seen[..count as usize])?);
    }
    raise_all(m, count);

    expect_none()?;
    for step in 0..count {
        let intid = FREE_SPI + (step * 3 + 1) % count;
        let irq = m.shared(intid);
        holds("active and pending", irq.is_active() && irq.is_pending())?;
        deactivate(intid);
        expect(intid)?;
        end(intid);
        equal("pending once it is taken", irq.is_pending(), false)?;
        deactivate(intid);
    }
    expect_none()
}

/// Makes a few more interrupts pending whenever one is taken.
fn raised_while_taken(m: &Machine, count: u32) -> Outcome {
    prioritize(m, count);
    let mut seen = [false; 256];
    let mut raised = 0;
    let mut taken = 0;
    while taken < count {
        for _ in 0..3 {
            if raised < count {
                m.shared(FREE_SPI + raised).set_pending();
                raised += 1;
            }
        }
        let intid = take_unseen(&mut seen[..count as usize])?;
        end(intid);
        taken += 1;
    }
    expect_none()
}
