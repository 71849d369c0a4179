//! Targets of SPIs: several, none, absent ones, and new ones while an SPI is pending or active.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use conformance::board::Clock;

use crate::gicc;
use crate::gicd::{FIRST_SPI, FREE_SPI, ITARGETSR, Irq};
use crate::harness::{
    Case, Cpus, NotPassed, Outcome, equal, expect, expect_and_end, expect_none, expect_none_on,
    expect_on, holds, irq_comes, skip_unless,
};
use crate::machine::Machine;
use crate::{cpu, cpus};

/// CPUs 0 and 1.
const PAIR: u32 = 3;

/// Rounds of the cases in which CPUs compete for an SPI.
const ROUNDS: u32 = 50;

/// The reasons why QEMU fails a case.
const ONE_CPU_S: &str = "an acknowledge clears the pending state of the acknowledging CPU only, \
                         and each target takes the SPI";
const ACTIVE_ELSEWHERE: &str = "the active state of an SPI is that of one CPU, and another one \
                                takes the SPI meanwhile";

pub(super) const CASES: &[Case] = &[
    Case::new(
        "targets.of_one_cpu",
        "GICD_ITARGETSR<n>, uniprocessor RAZ/WI (4.3.12)",
        |m| {
            skip_unless("there are more CPUs", m.cpus == 1)?;
            for intid in (0..m.lines() as usize).step_by(4) {
                m.write(ITARGETSR + intid, u32::MAX);
                equal("the word", m.read(ITARGETSR + intid), 0)?;
            }
            let spi = m.edge(0);
            spi.set_pending();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "targets.absent_cpus",
        "GICD_ITARGETSR<n>, absent CPUs RAZ/WI (4.3.12)",
        |m| {
            for intid in FREE_SPI..m.free_end() {
                let spi = m.irq(intid).to(0xff);
                equal("the targets", spi.targets(), m.everyone())?;
            }
            Ok(())
        },
    )
    .unlike_qemu("the bits of absent CPUs are kept")
    .on(Cpus::Two),
    Case::new("targets.kept", "GICD_ITARGETSR<n> (4.3.12)", |m| {
        let mask = |intid: u32| (intid * 0x35) & m.everyone();
        let spis = FREE_SPI..m.free_end();
        spis.clone()
            .for_each(|intid| m.irq(intid).set_targets(mask(intid)));
        for intid in spis {
            equal("the targets", m.irq(intid).targets(), mask(intid))?;
        }
        Ok(())
    })
    .on(Cpus::Two),
    Case::new("targets.each_cpu", "GICD_ITARGETSR<n> (4.3.12)", |m| {
        let spi = m.edge(0);
        for number in 0..m.cpus {
            spi.set_targets(1 << number);
            spi.set_pending();
            expect_on(number, spi.intid)?;
            cpus::on_all(|_| expect_none())?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("targets.every_spi", "GICD_ITARGETSR<n> (4.3.12)", |m| {
        for number in 0..m.free_end() - FREE_SPI {
            m.edge(number).to(2).set_pending();
            expect_on(1, FREE_SPI + number)?;
        }
        expect_none()
    })
    .on(Cpus::Two),
    Case::new(
        "targets.two",
        "1.4.2 1-N model, GICD_ITARGETSR<n> (4.3.12)",
        |m| compete(m, PAIR),
    )
    .unlike_qemu(ONE_CPU_S)
    .on(Cpus::Two),
    Case::new(
        "targets.all",
        "1.4.2 1-N model, GICD_ITARGETSR<n> (4.3.12)",
        |m| compete(m, m.everyone()),
    )
    .unlike_qemu(ONE_CPU_S)
    .on(Cpus::All),
    Case::new(
        "targets.acknowledged_by_one",
        "3.2.3 implications of the 1-N model",
        |m| {
            let spi = m.edge(0).to(PAIR);
            spi.set_pending();
            expect(spi.intid)?;
            equal("pending once taken", spi.is_pending(), false)?;
            expect_none_on(1)?;
            gicc::end(spi.intid);
            expect_none_on(1)?;
            expect_none()
        },
    )
    .unlike_qemu(ONE_CPU_S)
    .on(Cpus::Two),
    Case::new(
        "targets.one_is_masked",
        "1.4.2 1-N model, GICC_PMR (4.4.2)",
        |m| {
            gicc::set_pmr(0);
            let spi = m.edge(0).to(PAIR);
            spi.set_pending();
            expect_on(1, spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.one_is_disabled",
        "1.4.2 1-N model, GICC_CTLR (4.4.1)",
        |m| {
            cpus::on(1, || gicc::write(gicc::CTLR, 0));
            let spi = m.edge(0).to(PAIR);
            spi.set_pending();
            expect_none_on(1)?;
            expect_and_end(spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.one_is_busy",
        "1.4.2 1-N model, 3.3.1 preemption",
        |m| {
            let first = m.edge(0).at(0x20);
            first.set_pending();
            expect(first.intid)?;
            let spi = m.edge(1).to(PAIR);
            spi.set_pending();
            expect_on(1, spi.intid)?;
            gicc::end(first.intid);
            Ok(())
        },
    )
    .on(Cpus::Two),
    Case::new("targets.none", "GICD_ITARGETSR<n> of 0 (4.3.12)", |m| {
        let spi = m.edge(0).to(0);
        spi.set_pending();
        no_target(m, spi)?;
        spi.set_targets(1);
        taken_if_pending(spi)
    })
    .on(Cpus::Two),
    Case::new(
        "targets.taken_away_while_pending",
        "GICD_ITARGETSR<n>, effect of changes (4.3.12)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            spi.set_targets(0);
            no_target(m, spi)?;
            spi.set_targets(1);
            taken_if_pending(spi)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.none_of_a_line",
        "GICD_ITARGETSR<n> of 0 of a level (4.3.12)",
        |m| {
            let (clock, spi) = line(m)?;
            spi.set_targets(0);
            clock.raise();
            no_target(m, spi)?;
            // The line makes it pending wherever it is sent.
            spi.set_targets(2);
            let taken = cpus::on(1, gicc::take);
            clock.lower();
            cpus::on(1, || gicc::end(taken));
            spi.set_targets(1);
            equal("taken by CPU 1", taken, spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.moved_while_pending",
        "GICD_ITARGETSR<n>, effect of changes (4.3.12)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            spi.set_targets(2);
            holds("no IRQ", cpu::spin_until(1_000_000, || !cpu::irq()))?;
            expect_none()?;
            expect_on(1, spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.added_while_pending",
        "GICD_ITARGETSR<n>, effect of changes (4.3.12)",
        |m| {
            gicc::set_pmr(0);
            let spi = m.edge(0);
            spi.set_pending();
            expect_none_on(1)?;
            spi.set_targets(PAIR);
            expect_on(1, spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.moved_from_cpu_to_cpu",
        "GICD_ITARGETSR<n>, effect of changes (4.3.12)",
        |m| {
            let spi = m.edge(0);
            cpus::on_all(|_| {
                gicc::set_pmr(0);
                Ok(())
            })?;
            spi.set_pending();
            for number in (0..m.cpus).cycle().take(3 * m.cpus) {
                spi.set_targets(1 << number);
                holds("pending", spi.is_pending())?;
            }
            cpus::on_all(|number| {
                gicc::set_pmr(gicc::OPEN);
                if number + 1 == m.cpus {
                    expect_and_end(spi.intid)
                } else {
                    expect_none()
                }
            })
        },
    )
    .on(Cpus::All),
    Case::new(
        "targets.moved_while_active",
        "3.2.4 active and pending, GICD_ITARGETSR<n>",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_targets(2);
            spi.set_pending();
            expect_none_on(1)?;
            gicc::end(spi.intid);
            expect_none()?;
            expect_on(1, spi.intid)
        },
    )
    .unlike_qemu(ACTIVE_ELSEWHERE)
    .on(Cpus::Two),
    Case::new(
        "targets.two_while_active",
        "3.2.4 active and pending, 1.4.2 1-N model",
        |m| {
            let spi = m.edge(0).to(PAIR);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_pending();
            expect_none_on(1)?;
            gicc::end(spi.intid);
            let others = cpus::on(1, gicc::take);
            equal("taken by the other CPU", others, spi.intid)?;
            cpus::on(1, || gicc::end(spi.intid));
            expect_none()
        },
    )
    .unlike_qemu(ACTIVE_ELSEWHERE)
    .on(Cpus::Two),
    Case::new(
        "targets.line_follows",
        "GICD_ITARGETSR<n> of a level (4.3.12)",
        |m| {
            let (clock, spi) = line(m)?;
            clock.raise();
            expect_and_end(spi.intid)?;
            spi.set_targets(2);
            expect_none()?;
            let taken = cpus::on(1, gicc::take);
            clock.lower();
            cpus::on(1, || gicc::end(taken));
            spi.set_targets(1);
            equal("taken by CPU 1", taken, spi.intid)?;
            expect_none_on(1)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "targets.of_disabled_spis",
        "GICD_ITARGETSR<n> of each SPI (4.3.12)",
        |m| {
            for intid in FIRST_SPI..m.lines() {
                let spi = m.irq(intid);
                let before = spi.targets();
                spi.set_targets(PAIR);
                let read = spi.targets();
                spi.set_targets(before);
                equal("the targets", read, PAIR)?;
            }
            Ok(())
        },
    )
    .on(Cpus::Two),
];

/// Makes sure that no CPU takes an SPI without a target.
fn no_target(m: &Machine, spi: Irq) -> Outcome {
    equal("the targets", spi.targets(), 0)?;
    for number in 0..2.min(m.cpus) {
        expect_none_on(number)?;
    }
    equal("active", spi.is_active(), false)
}

/// Takes an SPI that has had no target and has CPU 0 now. Its edge is still pending, or was lost
/// with the last target: an SPI is pending if it is so on some CPU.
fn taken_if_pending(spi: Irq) -> Outcome {
    match spi.is_pending() {
        true => expect_and_end(spi.intid)?,
        false => {
            expect_none()?;
            spi.set_pending();
            expect_and_end(spi.intid)?;
        }
    }
    expect_none()
}

/// Returns the clock, and the SPI that its line drives, as a level for CPU 0, or skips the case.
fn line(m: &Machine) -> Result<(Clock, Irq), NotPassed> {
    let Some(clock) = m.clock else {
        return Err(NotPassed::Skipped("no device drives a line"));
    };
    let spi = m.irq(clock.intid).to(1).at(0xa0);
    spi.set_edge(false);
    Ok((clock, spi.enabled()))
}

/// Raises an SPI for several CPUs, one edge after the other. Each edge is taken by one of them.
fn compete(m: &Machine, mask: u32) -> Outcome {
    let spi = m.edge(0).to(mask);
    for _ in 0..ROUNDS {
        spi.set_pending();
        let taken = AtomicU32::new(0);
        cpus::on_all(|_| {
            cpu::spin_until(200, || {
                let read = gicc::acknowledge();
                if read == spi.intid {
                    taken.fetch_add(1, Relaxed);
                    gicc::end(read);
                }
                false
            });
            Ok(())
        })?;
        equal("CPUs that take the SPI", taken.into_inner(), 1)?;
    }
    Ok(())
}
