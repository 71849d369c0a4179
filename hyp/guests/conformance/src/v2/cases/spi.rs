//! SPIs: edges and levels, pending and active states, enables, ends in two steps.

use conformance::bank;
use conformance::board::Clock;

use crate::gicc::{self, EOI_MODE, NONE};
use crate::gicd::{BOTH, FREE_SPI};
use crate::harness::{
    Case, Cpus, NotPassed, Outcome, equal, expect, expect_and_end, expect_none, expect_none_on,
    holds, irq_comes,
};
use crate::machine::Machine;
use crate::{cpu, cpus};

pub(super) const CASES: &[Case] = &[
    Case::new("spi2.pending_by_register", "GICD_ISPENDR<n> (4.3.7)", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        holds("pending", spi.is_pending())?;
        expect(spi.intid)?;
        equal("pending once taken", spi.is_pending(), false)?;
        holds("active once taken", spi.is_active())?;
        gicc::end(spi.intid);
        equal("active once ended", spi.is_active(), false)?;
        expect_none()
    }),
    Case::new("spi2.every_free_one", "GICD_ISPENDR<n>, GICC_IAR", |m| {
        for number in 0..m.free_end() - FREE_SPI {
            m.edge(number).set_pending();
            expect_and_end(FREE_SPI + number)?;
        }
        expect_none()
    }),
    Case::new("spi2.twice_is_once", "3.2.4 pending", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        spi.set_pending();
        expect_and_end(spi.intid)?;
        expect_none()
    }),
    Case::new(
        "spi2.set_and_clear_read_alike",
        "GICD_ICENABLER<n>, GICD_ICPENDR<n>",
        |m| {
            let spi = m.edge(0);
            gicc::set_pmr(0);
            spi.set_pending();
            spi.set_active();
            for (set, clear) in [
                (bank::ISENABLER, bank::ICENABLER),
                (bank::ISPENDR, bank::ICPENDR),
                (bank::ISACTIVER, bank::ICACTIVER),
            ] {
                let word = spi.intid as usize / 32 * 4;
                let bit = 1 << (spi.intid % 32);
                equal("the register that sets", m.read(set + word), bit)?;
                equal("the register that clears", m.read(clear + word), bit)?;
                // Zeros have no effect.
                m.write(set + word, 0);
                m.write(clear + word, 0);
                equal("after zeros", m.read(set + word), bit)?;
                m.write(clear + word, bit);
                equal("once it is cleared", m.read(set + word), 0)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "spi2.pending_while_disabled",
        "GICD_ISENABLER<n> (4.3.5)",
        |m| {
            let spi = m.edge(0);
            spi.disable();
            spi.set_pending();
            expect_none()?;
            holds("pending", spi.is_pending())?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "spi2.disabled_while_pending",
        "GICD_ICENABLER<n> (4.3.6)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            spi.disable();
            expect_none()?;
            holds("still pending", spi.is_pending())?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "spi2.disabled_while_active",
        "GICD_ICENABLER<n>, 3.2.4",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_pending();
            spi.disable();
            holds("still active", spi.is_active())?;
            gicc::end(spi.intid);
            equal("active", spi.is_active(), false)?;
            expect_none()?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "spi2.cleared_while_pending",
        "GICD_ICPENDR<n> (4.3.8)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            spi.clear_pending();
            equal("pending", spi.is_pending(), false)?;
            holds("no IRQ", cpu::spin_until(1_000_000, || !cpu::irq()))?;
            expect_none()
        },
    ),
    Case::new("spi2.cleared_while_active", "GICD_ICPENDR<n>, 3.2.4", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        spi.set_pending();
        holds("active and pending", spi.is_active() && spi.is_pending())?;
        spi.clear_pending();
        equal("pending", spi.is_pending(), false)?;
        holds("active", spi.is_active())?;
        gicc::end(spi.intid);
        expect_none()
    }),
    Case::new("spi2.edge_while_active", "3.2.4 active and pending", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        spi.set_pending();
        expect_none()?;
        gicc::end(spi.intid);
        expect_and_end(spi.intid)?;
        expect_none()
    }),
    Case::new(
        "spi2.active_by_register",
        "GICD_ISACTIVER<n> (4.3.9)",
        |m| {
            let spi = m.edge(0);
            spi.set_active();
            holds("active", spi.is_active())?;
            equal("RPR", gicc::running_priority(), gicc::IDLE)?;
            spi.set_pending();
            expect_none()?;
            spi.clear_active();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "spi2.deactivated_by_register",
        "GICD_ICACTIVER<n> (4.3.10)",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            gicc::end(spi.intid);
            spi.set_pending();
            expect_none()?;
            spi.clear_active();
            equal("active", spi.is_active(), false)?;
            expect(spi.intid)
        },
    ),
    Case::new(
        "spi2.deactivated_by_register_elsewhere",
        "GICD_ICACTIVER<n> (4.3.10)",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            gicc::end(spi.intid);
            cpus::on(1, || spi.clear_active());
            equal("active", spi.is_active(), false)?;
            spi.set_pending();
            expect(spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi2.seen_from_elsewhere",
        "GICD_ISPENDR<n>, GICD_ISACTIVER<n>, common",
        |m| {
            let spi = m.edge(0);
            gicc::set_pmr(0);
            cpus::on(1, || spi.set_pending());
            holds("pending", cpus::on(1, || spi.is_pending()))?;
            gicc::set_pmr(gicc::OPEN);
            expect(spi.intid)?;
            equal(
                "pending once taken",
                cpus::on(1, || spi.is_pending()),
                false,
            )?;
            holds("active", cpus::on(1, || spi.is_active()))?;
            gicc::end(spi.intid);
            equal("active once ended", cpus::on(1, || spi.is_active()), false)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi2.split_end",
        "GICC_CTLR.EOImode, GICC_DIR (4.4.15)",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            gicc::end(spi.intid);
            equal("RPR once dropped", gicc::running_priority(), gicc::IDLE)?;
            holds("active once dropped", spi.is_active())?;
            spi.set_pending();
            expect_none()?;
            gicc::deactivate(spi.intid);
            expect(spi.intid)?;
            gicc::end(spi.intid);
            gicc::deactivate(spi.intid);
            equal("active", spi.is_active(), false)
        },
    ),
    Case::new(
        "spi2.split_end_lets_others_in",
        "3.2.1 priority drop",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            let (first, second) = (m.edge(0).at(0x40), m.edge(1).at(0x80));
            first.set_pending();
            second.set_pending();
            expect(first.intid)?;
            equal("what does not preempt", gicc::acknowledge(), NONE)?;
            gicc::end(first.intid);
            expect(second.intid)?;
            gicc::end(second.intid);
            gicc::deactivate(first.intid);
            holds("the second is active", second.is_active())?;
            gicc::deactivate(second.intid);
            equal("active", first.is_active() || second.is_active(), false)
        },
    ),
    Case::new(
        "spi2.deactivated_elsewhere",
        "GICC_DIR (4.4.15), 3.2.1",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            cpus::on(1, || gicc::set_ctlr(EOI_MODE));
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            gicc::end(spi.intid);
            cpus::on(1, || gicc::deactivate(spi.intid));
            equal("active", spi.is_active(), false)?;
            spi.set_pending();
            expect(spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi2.distributor_disabled",
        "GICD_CTLR.EnableGrp0 (4.3.1)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", irq_comes())?;
            m.enable_groups(0);
            expect_none()?;
            holds("pending", spi.is_pending())?;
            m.edge(1).set_pending();
            m.enable_groups(BOTH);
            expect_and_end(spi.intid)?;
            expect_and_end(spi.intid + 1)
        },
    ),
    Case::new(
        "spi2.distributor_disabled_while_active",
        "GICD_CTLR, GICC_EOIR",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            m.enable_groups(0);
            gicc::end(spi.intid);
            equal("active", spi.is_active(), false)?;
            equal("RPR", gicc::running_priority(), gicc::IDLE)
        },
    ),
    Case::new(
        "spi2.level_by_register",
        "GICD_ISPENDR<n> of a level (4.3.7)",
        |m| {
            let spi = m.level(0);
            spi.set_pending();
            holds("pending", spi.is_pending())?;
            expect_and_end(spi.intid)?;
            equal("pending once taken", spi.is_pending(), false)?;
            spi.set_pending();
            spi.clear_pending();
            expect_none()
        },
    ),
    Case::new("spi2.line", "4.3.7 level-sensitive, 3.2.4", |m| {
        with_line(m, |clock| {
            clock.raise();
            expect_and_end(clock.intid)?;
            // The line is still high.
            expect(clock.intid)?;
            holds("active and pending", m.irq(clock.intid).is_pending())?;
            clock.lower();
            equal("pending", m.irq(clock.intid).is_pending(), false)?;
            gicc::end(clock.intid);
            expect_none()
        })
    }),
    Case::new("spi2.line_falls", "4.3.7 level-sensitive, 3.2.4", |m| {
        with_line(m, |clock| {
            clock.raise();
            holds("an IRQ", irq_comes())?;
            clock.lower();
            equal("pending", m.irq(clock.intid).is_pending(), false)?;
            expect_none()
        })
    }),
    Case::new(
        "spi2.line_is_not_cleared",
        "GICD_ICPENDR<n> of a level (4.3.8)",
        |m| {
            with_line(m, |clock| {
                clock.raise();
                m.irq(clock.intid).clear_pending();
                holds("pending", m.irq(clock.intid).is_pending())?;
                expect(clock.intid)?;
                clock.lower();
                gicc::end(clock.intid);
                expect_none()
            })
        },
    ),
    Case::new(
        "spi2.line_and_register",
        "GICD_ISPENDR<n> of a level (4.3.7)",
        |m| {
            with_line(m, |clock| {
                clock.raise();
                m.irq(clock.intid).set_pending();
                clock.lower();
                holds("pending without the line", m.irq(clock.intid).is_pending())?;
                expect_and_end(clock.intid)?;
                expect_none()
            })
        },
    ),
    Case::new(
        "spi2.line_while_disabled",
        "GICD_ICENABLER<n>, 4.3.7",
        |m| {
            with_line(m, |clock| {
                let spi = m.irq(clock.intid);
                spi.disable();
                clock.raise();
                expect_none()?;
                holds("pending", spi.is_pending())?;
                spi.enable();
                expect(clock.intid)?;
                clock.lower();
                gicc::end(clock.intid);
                expect_none()
            })
        },
    ),
    Case::new("spi2.line_as_an_edge", "GICD_ICFGR<n> (4.3.13)", |m| {
        with_line(m, |clock| {
            // The trigger of an interrupt that is enabled must not change.
            let spi = m.irq(clock.intid);
            spi.disable();
            spi.set_edge(true);
            spi.enable();
            clock.raise();
            expect_and_end(clock.intid)?;
            expect_none()?;
            clock.lower();
            clock.raise();
            clock.lower();
            let outcome = expect_and_end(clock.intid);
            spi.disable();
            spi.set_edge(false);
            outcome
        })
    }),
    Case::new("spi2.line_with_split_end", "3.2.1, 3.2.4 of a level", |m| {
        gicc::set_ctlr(EOI_MODE);
        with_line(m, |clock| {
            clock.raise();
            expect(clock.intid)?;
            gicc::end(clock.intid);
            expect_none()?;
            gicc::deactivate(clock.intid);
            expect(clock.intid)?;
            clock.lower();
            gicc::end(clock.intid);
            gicc::deactivate(clock.intid);
            expect_none()
        })
    }),
    Case::new(
        "spi2.level_with_two_targets",
        "1.4.2 1-N model, 3.2.3",
        |m| {
            with_line(m, |clock| {
                let spi = m.irq(clock.intid).to(3);
                cpus::on(1, || gicc::set_pmr(0));
                clock.raise();
                expect(clock.intid)?;
                cpus::on(1, || gicc::set_pmr(gicc::OPEN));
                // It is active on CPU 0, and pending by its line.
                let outcome = expect_none_on(1);
                clock.lower();
                gicc::end(clock.intid);
                spi.set_targets(1);
                outcome
            })
        },
    )
    .unlike_qemu("the active state of an SPI is that of one CPU, and another one takes the SPI")
    .on(Cpus::Two),
];

/// Runs a case with the line that a device drives, as a level for CPU 0, or skips it.
fn with_line(m: &Machine, case: impl FnOnce(Clock) -> Outcome) -> Outcome {
    let Some(clock) = m.clock else {
        return Err(NotPassed::Skipped("no device drives a line"));
    };
    let spi = m.irq(clock.intid).to(1).at(0xa0);
    spi.set_edge(false);
    spi.enable();
    let outcome = case(clock);
    clock.lower();
    outcome
}
