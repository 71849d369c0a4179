//! More interrupts at once than an implementation has list registers, in every order.

use crate::cpus;
use crate::gicc::{self, EOI_MODE, IDLE, deactivate, take_both_groups};
use crate::gicd::{BOTH, FREE_PPI, FREE_SPI};
use crate::harness::{
    Case, Cpus, NotPassed, Outcome, equal, expect, expect_and_end, expect_none, from, holds,
    irq_comes,
};
use crate::machine::Machine;

/// Most interrupts of a case.
const MOST: usize = 64;

/// Cases for one number of interrupts.
macro_rules! cases {
    ($count:literal) => {
        [
            Case::new(concat!("full.pending_", $count), "3.3, GICC_IAR", |m| {
                pending(m, $count)
            }),
            Case::new(
                concat!("full.ended_in_order_", $count),
                "GICC_DIR (4.4.15), 3.2.1",
                |m| active(m, $count, |place| place, |irq| deactivate(irq)),
            ),
            Case::new(
                concat!("full.ended_in_reverse_", $count),
                "GICC_DIR (4.4.15), 3.2.1",
                |m| active(m, $count, |place| $count - 1 - place, |irq| deactivate(irq)),
            ),
            Case::new(
                concat!("full.ended_in_disorder_", $count),
                "GICC_DIR (4.4.15), 3.2.1",
                // A step without a common factor visits each place.
                |m| {
                    active(
                        m,
                        $count,
                        |place| (place * 7 + 3) % $count,
                        |irq| deactivate(irq),
                    )
                },
            ),
            Case::new(
                concat!("full.ended_by_register_", $count),
                "GICD_ICACTIVER<n> (4.3.10)",
                |m| active(m, $count, |place| place, |irq| m.irq(irq).clear_active()),
            ),
            Case::new(
                concat!("full.ended_elsewhere_", $count),
                "GICC_DIR (4.4.15) of another CPU",
                |m| {
                    cpus::on(1, || gicc::set_ctlr(EOI_MODE));
                    let order = |place| (place * 7 + 3) % $count;
                    active(m, $count, order, |irq| cpus::on(1, || deactivate(irq)))
                },
            )
            .on(Cpus::Two),
            Case::new(
                concat!("full.active_and_pending_", $count),
                "3.2.4 active and pending",
                |m| active_and_pending(m, $count),
            ),
            Case::new(
                concat!("full.raised_while_taken_", $count),
                "3.2.4, 3.3",
                |m| raised_while_taken(m, $count),
            ),
        ]
    };
}

pub(super) const EIGHT: &[Case] = &cases!(8);
pub(super) const SIXTEEN: &[Case] = &cases!(16);
pub(super) const FORTY: &[Case] = &cases!(40);

pub(super) const CASES: &[Case] = &[
    Case::new(
        "full.nested_with_sgis",
        "3.3.1, GICD_SGIR, GICC_EOIR",
        |m| {
            // Eight levels, an SPI and an SGI each; of equal priority, the SGI waits.
            for level in (0..8_u32).rev() {
                let priority = (level * 0x20) as u8;
                m.irq(level).at(priority).enable();
                m.edge(level).at(priority).set_pending();
                expect(FREE_SPI + level)?;
                m.send_to(1, level);
            }
            for level in 0..8 {
                gicc::end(FREE_SPI + level);
                expect_and_end(level)?;
            }
            equal("RPR", gicc::running_priority(), IDLE)?;
            expect_none()
        },
    ),
    Case::new(
        "full.active_sgis_ppis_and_spis",
        "3.2.1, GICC_DIR of each kind",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            let intids = || (0..16).chain([FREE_PPI]).chain(FREE_SPI..FREE_SPI + 23);
            for intid in intids() {
                let irq = m.irq(intid).enabled();
                match intid {
                    0..16 => m.send_to(1, intid),
                    _ => irq.set_pending(),
                }
                expect(intid)?;
                gicc::end(intid);
            }
            for intid in intids() {
                holds("active", m.irq(intid).is_active())?;
            }
            for intid in intids() {
                deactivate(intid);
                equal("active once ended", m.irq(intid).is_active(), false)?;
            }
            expect_none()
        },
    ),
    Case::new(
        "full.sgis_from_all",
        "2.2.1 SGIs from different CPUs",
        |m| {
            gicc::set_pmr(0);
            cpus::on_all(|_| {
                (0..16).for_each(|sgi| m.send_to(1, sgi));
                Ok(())
            })?;
            (0..16).for_each(|sgi| m.irq(sgi).enable());
            gicc::set_pmr(gicc::OPEN);
            let mut seen = [false; 8 << 4];
            for _ in 0..16 * m.cpus {
                let read = gicc::take();
                let (sgi, source) = (read & 0x3ff, (read >> 10) as usize);
                holds("an SGI from a CPU", sgi < 16 && source < m.cpus)?;
                let seen = &mut seen[source << 4 | sgi as usize];
                equal("taken before", core::mem::replace(seen, true), false)?;
                gicc::end(read);
            }
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new("full.both_groups", "3.5, 3.3", |m| {
        take_both_groups(0);
        m.enable_groups(0);
        for place in 0..40 {
            m.edge(place)
                .at(priority_at(place))
                .in_group(place % 2)
                .set_pending();
        }
        m.enable_groups(BOTH);
        let (mut seen, mut last) = ([false; MOST], 0);
        for _ in 0..40 {
            let place = take_unseen(&mut seen[..40])?;
            holds(
                "not more urgent than the one before",
                priority_at(place) >= last,
            )?;
            last = priority_at(place);
            gicc::end(FREE_SPI + place);
        }
        expect_none()
    }),
    Case::new("full.urgent_behind_many_active", "3.3.1, 3.2.1", |m| {
        gicc::set_ctlr(EOI_MODE);
        for place in 0..40 {
            m.edge(place).set_pending();
            expect(FREE_SPI + place)?;
            gicc::end(FREE_SPI + place);
        }
        let urgent = m.edge(50).at(0x20);
        urgent.set_pending();
        holds("an IRQ", irq_comes())?;
        expect(urgent.intid)?;
        gicc::end(urgent.intid);
        deactivate(urgent.intid);
        m.irq(1).enable();
        m.send_to(1, 1);
        expect(from(0, 1))?;
        gicc::end(1);
        deactivate(1);
        (0..40).for_each(|place| deactivate(FREE_SPI + place));
        expect_none()
    }),
    Case::new("full.of_each_cpu", "GICD_ITARGETSR<n>, 3.3", |m| {
        let each = 40 / m.cpus as u32;
        m.enable_groups(0);
        for place in 0..each * m.cpus as u32 {
            m.edge(place)
                .at(priority_at(place))
                .to(1 << (place / each))
                .set_pending();
        }
        m.enable_groups(BOTH);
        cpus::on_all(|number| {
            let first = number as u32 * each;
            let mut seen = [false; MOST];
            for _ in 0..each {
                let place = gicc::take().wrapping_sub(FREE_SPI);
                holds(
                    "one of the CPU's own",
                    (first..first + each).contains(&place),
                )?;
                let seen = &mut seen[place as usize];
                equal("taken before", core::mem::replace(seen, true), false)?;
                gicc::end(FREE_SPI + place);
            }
            expect_none()
        })
    })
    .on(Cpus::All),
];

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

/// Makes `count` interrupts pending.
fn raise_all(m: &Machine, count: u32) {
    for place in 0..count {
        m.irq(FREE_SPI + place).set_pending();
    }
}

/// Acknowledges the next interrupt, whose place must not be in `seen`, and adds the place.
fn take_unseen(seen: &mut [bool]) -> Result<u32, NotPassed> {
    let place = gicc::take().wrapping_sub(FREE_SPI);
    holds(
        "one of those that are pending",
        (place as usize) < seen.len(),
    )?;
    let seen = &mut seen[place as usize];
    equal("taken before", core::mem::replace(seen, true), false)?;
    Ok(place)
}

/// Takes and ends `count` pending interrupts, in order of priority.
fn pending(m: &Machine, count: u32) -> Outcome {
    m.enable_groups(0);
    prioritize(m, count);
    raise_all(m, count);
    m.enable_groups(BOTH);
    holds("an IRQ", irq_comes())?;
    let (mut seen, mut last) = ([false; MOST], 0);
    for _ in 0..count {
        let place = take_unseen(&mut seen[..count as usize])?;
        holds(
            "not more urgent than the one before",
            priority_at(place) >= last,
        )?;
        last = priority_at(place);
        gicc::end(FREE_SPI + place);
    }
    expect_none()
}

/// Acknowledges `count` pending interrupts, and drops the priority of each.
fn activate(m: &Machine, count: u32) -> Outcome {
    gicc::set_ctlr(EOI_MODE);
    prioritize(m, count);
    raise_all(m, count);
    let mut seen = [false; MOST];
    for _ in 0..count {
        let place = take_unseen(&mut seen[..count as usize])?;
        gicc::end(FREE_SPI + place);
    }
    Ok(())
}

/// Activates `count` interrupts, then ends them by `finish` in the given order.
fn active(m: &Machine, count: u32, order: impl Fn(u32) -> u32, finish: impl Fn(u32)) -> Outcome {
    activate(m, count)?;
    equal("RPR", gicc::running_priority(), IDLE)?;
    let is_active = |place| m.irq(FREE_SPI + place).is_active();
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
    activate(m, count)?;
    raise_all(m, count);
    expect_none()?;
    for step in 0..count {
        let irq = m.irq(FREE_SPI + (step * 3 + 1) % count);
        holds("active and pending", irq.is_active() && irq.is_pending())?;
        deactivate(irq.intid);
        expect(irq.intid)?;
        gicc::end(irq.intid);
        equal("pending once it is taken", irq.is_pending(), false)?;
        deactivate(irq.intid);
    }
    expect_none()
}

/// Makes a few more interrupts pending whenever one is taken.
fn raised_while_taken(m: &Machine, count: u32) -> Outcome {
    prioritize(m, count);
    let mut seen = [false; MOST];
    let mut raised = 0..count;
    for _ in 0..count {
        for place in raised.by_ref().take(3) {
            m.irq(FREE_SPI + place).set_pending();
        }
        let place = take_unseen(&mut seen[..count as usize])?;
        gicc::end(FREE_SPI + place);
    }
    expect_none()
}
