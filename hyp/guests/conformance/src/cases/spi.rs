//! SPIs: edges and levels, pending and active states, enables, messages.

use conformance::board::Clock;

use super::kvm;
use crate::gic::interface::{
    self, EOI_MODE, NONE, acknowledge, deactivate, end, highest_pending, running_priority,
    set_ctlr, set_pmr,
};
use crate::gic::{FREE_SPI, FREE_SPI_END, gicd};
use crate::harness::{
    Case, Cpus, NotPassed, Outcome, equal, expect, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::{read_32, write_16, write_32};
use crate::{cpu, cpus};

pub(super) const CASES: &[Case] = &[
    Case::new("spi.pending_by_register", "GICD_ISPENDR<n> (12.9)", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        holds("pending", spi.is_pending())?;
        expect(spi.intid)?;
        equal("pending once taken", spi.is_pending(), false)?;
        holds("active once taken", spi.is_active())?;
        end(spi.intid);
        equal("active once ended", spi.is_active(), false)?;
        expect_none()
    }),
    Case::new("spi.every_free_one", "GICD_ISPENDR<n>, ICC_IAR1_EL1", |m| {
        for number in 0..FREE_SPI_END - FREE_SPI {
            m.edge(number).set_pending();
            expect_and_end(FREE_SPI + number)?;
        }
        expect_none()
    }),
    Case::new(
        "spi.pending_while_disabled",
        "GICD_ISENABLER<n> (12.9)",
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
        "spi.disabled_while_pending",
        "GICD_ICENABLER<n>, GICD_CTLR.RWP",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
            spi.disable();
            equal("what there is once RWP is clear", acknowledge(), NONE)?;
            holds("still pending", spi.is_pending())?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    ),
    Case::new("spi.disabled_while_active", "GICD_ICENABLER<n>, 4.1", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        spi.disable();
        holds("still active", spi.is_active())?;
        end(spi.intid);
        equal("active", spi.is_active(), false)?;
        equal("RPR", running_priority(), 0xff)
    }),
    Case::new(
        "spi.disabled_while_active_and_pending",
        "GICD_ICENABLER<n>, 4.1",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_pending();
            spi.disable();
            end(spi.intid);
            expect_none()?;
            holds("still pending", spi.is_pending())?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    )
    .unlike_kvm(kvm::DISABLED_WHILE_ACTIVE),
    Case::new(
        "spi.pending_while_active_and_disabled",
        "GICD_ISPENDR<n>, 4.1",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.disable();
            spi.set_pending();
            end(spi.intid);
            expect_none()?;
            spi.enable();
            expect_and_end(spi.intid)
        },
    )
    .unlike_kvm(kvm::DISABLED_WHILE_ACTIVE),
    Case::new(
        "spi.distributor_disabled_while_active_and_pending",
        "GICD_CTLR.EnableGrp1, 4.1",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_pending();
            m.enable_groups(0);
            end(spi.intid);
            expect_none()?;
            m.enable_groups(crate::gic::GROUP_1);
            expect_and_end(spi.intid)
        },
    )
    .unlike_kvm(kvm::DISABLED_WHILE_ACTIVE),
    Case::new("spi.cleared_while_pending", "GICD_ICPENDR<n> (12.9)", |m| {
        let spi = m.edge(0);
        set_pmr(0);
        spi.set_pending();
        equal("HPPIR1", highest_pending(), spi.intid)?;
        spi.clear_pending();
        equal("pending", spi.is_pending(), false)?;
        set_pmr(interface::OPEN);
        expect_none()
    }),
    Case::new(
        "spi.raised_twice_is_taken_once",
        "4.1 interrupt lifecycle",
        |m| {
            let spi = m.edge(0);
            set_pmr(0);
            spi.set_pending();
            spi.set_pending();
            set_pmr(interface::OPEN);
            expect_and_end(spi.intid)?;
            expect_none()
        },
    ),
    Case::new("spi.raised_while_active", "4.1 active and pending", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        spi.set_pending();
        holds("active and pending", spi.is_active() && spi.is_pending())?;
        expect_none()?;
        end(spi.intid);
        expect_and_end(spi.intid)?;
        expect_none()
    }),
    Case::new(
        "spi.active_and_pending_cleared",
        "GICD_ICPENDR<n>, 4.1",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.set_pending();
            spi.clear_pending();
            holds("still active", spi.is_active())?;
            equal("pending", spi.is_pending(), false)?;
            end(spi.intid);
            expect_none()
        },
    ),
    Case::new(
        "spi.deactivated_by_register",
        "GICD_ICACTIVER<n> (12.9)",
        |m| {
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            spi.clear_active();
            equal("active", spi.is_active(), false)?;
            equal("the priority has not dropped", running_priority(), 0xa0)?;
            end(spi.intid);
            equal("RPR", running_priority(), 0xff)?;
            spi.set_pending();
            expect_and_end(spi.intid)
        },
    ),
    Case::new(
        "spi.deactivated_by_register_goes_on",
        "GICD_ICACTIVER<n>, 4.1",
        |m| {
            set_ctlr(EOI_MODE);
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            spi.set_pending();
            expect_none()?;
            spi.clear_active();
            expect(spi.intid)?;
            end(spi.intid);
            deactivate(spi.intid);
            expect_none()
        },
    ),
    Case::new("spi.trigger", "GICD_ICFGR<n> (12.9)", |m| {
        let spi = m.edge(0);
        holds("edge-triggered", spi.is_edge())?;
        spi.disable();
        spi.set_edge(false);
        equal("edge-triggered", spi.is_edge(), false)
    }),
    Case::new(
        "spi.level_latched_by_register",
        "GICD_ISPENDR<n>, level-sensitive",
        |m| {
            let spi = m.level(0);
            spi.set_pending();
            holds("pending", spi.is_pending())?;
            expect_and_end(spi.intid)?;
            equal("pending", spi.is_pending(), false)?;
            expect_none()
        },
    ),
    Case::new(
        "spi.level_unlatched_by_register",
        "GICD_ICPENDR<n>, level-sensitive",
        |m| {
            let spi = m.level(0);
            set_pmr(0);
            spi.set_pending();
            spi.clear_pending();
            equal("pending", spi.is_pending(), false)?;
            set_pmr(interface::OPEN);
            expect_none()
        },
    ),
    Case::new(
        "spi.line_stays_pending",
        "4.1 level-sensitive interrupts",
        |m| {
            let (clock, spi) = clock_line(m)?;
            clock.raise();
            expect(spi.intid)?;
            holds("active", spi.is_active())?;
            end(spi.intid);
            expect(spi.intid)?;
            clock.lower();
            end(spi.intid);
            expect_none()?;
            equal("pending", spi.is_pending(), false)
        },
    ),
    Case::new(
        "spi.line_falls_before_it_is_taken",
        "4.1 level-sensitive interrupts",
        |m| {
            let (clock, spi) = clock_line(m)?;
            spi.disable();
            clock.raise();
            holds("pending while it is high", spi.becomes_pending(true))?;
            clock.lower();
            holds("not pending once it is low", spi.becomes_pending(false))?;
            spi.enable();
            expect_none()
        },
    ),
    Case::new(
        "spi.line_is_not_cleared_by_register",
        "GICD_ICPENDR<n>, level-sensitive",
        |m| {
            let (clock, spi) = clock_line(m)?;
            spi.disable();
            clock.raise();
            holds("pending while it is high", spi.becomes_pending(true))?;
            spi.clear_pending();
            holds("still pending", spi.becomes_pending(true))?;
            spi.enable();
            expect(spi.intid)?;
            clock.lower();
            end(spi.intid);
            expect_none()
        },
    ),
    Case::new("spi.line_while_active", "4.1 active and pending", |m| {
        let (clock, spi) = clock_line(m)?;
        clock.raise();
        expect(spi.intid)?;
        clock.lower();
        clock.raise();
        end(spi.intid);
        expect(spi.intid)?;
        clock.lower();
        end(spi.intid);
        expect_none()
    }),
    Case::new(
        "spi.line_again_and_again",
        "4.1 level-sensitive interrupts",
        |m| {
            let (clock, spi) = clock_line(m)?;
            for _ in 0..50 {
                clock.raise();
                expect(spi.intid)?;
                clock.lower();
                end(spi.intid);
                expect_inactive(&spi)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "spi.line_with_split_end",
        "ICC_DIR_EL1, level-sensitive",
        |m| {
            set_ctlr(EOI_MODE);
            let (clock, spi) = clock_line(m)?;
            clock.raise();
            expect(spi.intid)?;
            end(spi.intid);
            expect_none()?;
            deactivate(spi.intid);
            expect(spi.intid)?;
            clock.lower();
            end(spi.intid);
            deactivate(spi.intid);
            expect_none()
        },
    ),
    Case::new(
        "spi.line_on_another_cpu",
        "GICD_IROUTER<n>, level-sensitive",
        |m| {
            let (clock, spi) = clock_line(m)?;
            spi.route(1);
            clock.raise();
            let taken = cpus::on(1, || {
                let taken = interface::take();
                clock.lower();
                end(taken);
                taken
            });
            equal("what CPU 1 takes", taken, spi.intid)?;
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi.line_of_an_edge",
        "GICD_ICFGR<n>, edge-triggered (12.9)",
        |m| {
            let (clock, spi) = clock_line(m)?;
            spi.disable();
            spi.set_edge(true);
            spi.enable();
            for _ in 0..3 {
                clock.raise();
                expect_and_end(spi.intid)?;
                // The line stays high, and then falls: neither is an edge.
                expect_none()?;
                clock.lower();
                expect_none()?;
            }
            Ok(())
        },
    ),
    Case::new(
        "spi.edge_outlives_the_line",
        "GICD_ICFGR<n>, edge-triggered (12.9)",
        |m| {
            let (clock, spi) = clock_line(m)?;
            spi.disable();
            spi.set_edge(true);
            spi.enable();
            set_pmr(0);
            clock.raise();
            holds("pending", spi.becomes_pending(true))?;
            clock.lower();
            holds("still pending", spi.is_pending())?;
            set_pmr(interface::OPEN);
            expect_and_end(spi.intid)?;
            expect_none()
        },
    ),
    Case::new("spi.setspi_edge", "GICD_SETSPI_NSR (12.9)", |m| {
        require_message_spis(m)?;
        let spi = m.edge(1);
        write_32(m.gicd(gicd::SETSPI_NSR), spi.intid);
        expect_and_end(spi.intid)?;
        expect_none()
    }),
    Case::new("spi.setspi_by_halfword", "GICD_SETSPI_NSR (12.9)", |m| {
        require_message_spis(m)?;
        let spi = m.edge(2);
        write_16(m.gicd(gicd::SETSPI_NSR), spi.intid as u16);
        expect_and_end(spi.intid)
    }),
    Case::new("spi.clrspi_edge", "GICD_CLRSPI_NSR (12.9)", |m| {
        require_message_spis(m)?;
        let spi = m.edge(1);
        set_pmr(0);
        write_32(m.gicd(gicd::SETSPI_NSR), spi.intid);
        holds("pending", spi.is_pending())?;
        write_32(m.gicd(gicd::CLRSPI_NSR), spi.intid);
        equal("pending", spi.is_pending(), false)?;
        set_pmr(interface::OPEN);
        expect_none()
    }),
    Case::new(
        "spi.setspi_level",
        "GICD_SETSPI_NSR, GICD_CLRSPI_NSR, level-sensitive",
        |m| {
            require_message_spis(m)?;
            let spi = m.level(1);
            write_32(m.gicd(gicd::SETSPI_NSR), spi.intid);
            expect(spi.intid)?;
            end(spi.intid);
            // Until it is cleared, the message acts as a line that is high.
            expect(spi.intid)?;
            write_32(m.gicd(gicd::CLRSPI_NSR), spi.intid);
            end(spi.intid);
            expect_none()
        },
    ),
    Case::new(
        "spi.clrspi_keeps_the_line",
        "GICD_CLRSPI_NSR, level-sensitive",
        |m| {
            require_message_spis(m)?;
            let (clock, spi) = clock_line(m)?;
            clock.raise();
            holds("pending by the line", spi.becomes_pending(true))?;
            write_32(m.gicd(gicd::CLRSPI_NSR), spi.intid);
            expect(spi.intid)?;
            clock.lower();
            end(spi.intid);
            expect_none()
        },
    ),
    Case::new(
        "spi.clrspi_of_a_latch",
        "GICD_CLRSPI_NSR, level-sensitive",
        |m| {
            require_message_spis(m)?;
            let spi = m.level(1);
            set_pmr(0);
            spi.set_pending();
            holds("pending", spi.is_pending())?;
            write_32(m.gicd(gicd::CLRSPI_NSR), spi.intid);
            equal("pending", spi.is_pending(), false)?;
            set_pmr(interface::OPEN);
            expect_none()
        },
    ),
    Case::new(
        "spi.setspi_of_a_special_intid",
        "GICD_SETSPI_NSR, 2.2",
        |m| {
            require_message_spis(m)?;
            for intid in [0, 31, 1020, 1023, 0x1fff] {
                write_32(m.gicd(gicd::SETSPI_NSR), intid);
            }
            expect_none()
        },
    ),
];

/// Skips the case unless there are message-based SPIs.
fn require_message_spis(m: &Machine) -> Outcome {
    let typer = read_32(m.gicd(gicd::TYPER));
    skip_unless("GICD_TYPER.MBIS is 0", typer & 1 << 16 != 0)
}

/// Returns a line that cases can drive, and its SPI, enabled and routed to CPU 0.
fn clock_line(m: &Machine) -> Result<(Clock, crate::gic::irq::Irq<'_>), NotPassed> {
    let clock = m.clock.ok_or(NotPassed::Skipped("there is no PL031"))?;
    let spi = m.shared(clock.intid).at(0xa0);
    spi.set_edge(false);
    spi.route(0);
    spi.enable();
    Ok((clock, spi))
}

/// Fails unless the SPI becomes neither pending nor active.
fn expect_inactive(spi: &crate::gic::irq::Irq<'_>) -> Outcome {
    holds("no longer pending", spi.becomes_pending(false))?;
    equal("active", spi.is_active(), false)
}
