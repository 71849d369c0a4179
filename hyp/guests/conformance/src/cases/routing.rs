//! Routes of SPIs, and SPIs that are raised and ended by other CPUs.

use super::its::take_and_end;
use super::kvm;
use super::sgi::distances;
use crate::gic::interface::{
    self, EOI_MODE, NONE, acknowledge, deactivate, end, highest_pending, set_ctlr, set_pmr,
};
use crate::gic::{FREE_SPI, FREE_SPI_END, bank};
use crate::harness::{Case, Cpus, equal, expect, expect_and_end, expect_none, holds};
use crate::mmio::write_32;
use crate::{cpu, cpus};

/// `GICD_ICFGR<n>` of 16 edge-triggered SPIs.
const EDGES: u32 = 0xaaaa_aaaa;

pub(super) const CASES: &[Case] = &[
    Case::new("spi.routed_to_each", "GICD_IROUTER<n> (12.9), 3.2", |m| {
        // Each CPU has an SPI of its own routed to it, as far as there are SPIs.
        let spis = (FREE_SPI_END - FREE_SPI) as usize;
        for intid in (FREE_SPI..FREE_SPI_END).step_by(16) {
            write_32(m.gicd(bank::ICFGR + intid as usize / 4), EDGES);
        }
        for first in (0..m.cpus).step_by(spis) {
            cpus::on_all(|cpu| {
                if !(first..first + spis).contains(&cpu) {
                    return Ok(());
                }
                let spi = m.shared(FREE_SPI + (cpu - first) as u32);
                spi.enable();
                spi.route(cpu);
                spi.set_pending();
                equal("what the target takes", take_and_end(), spi.intid)
            })?;
        }
        cpus::on_all(|_| equal("what is left", acknowledge(), NONE))
    })
    .on(Cpus::All),
    Case::new(
        "spi.raised_from_each",
        "GICD_ISPENDR<n> from any CPU, 12.1",
        |m| {
            let spi = m.edge(0);
            for cpu in distances(m) {
                cpus::on(cpu, || spi.set_pending());
                expect_and_end(spi.intid)?;
            }
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new(
        "spi.around_the_ring",
        "GICD_IROUTER<n>, GICD_ISPENDR<n>",
        |m| {
            for round in 0..20 {
                let spi = m.edge(round);
                for target in distances(m) {
                    spi.route(target);
                    spi.set_pending();
                    equal(
                        "what the target takes",
                        cpus::on(target, take_and_end),
                        spi.intid,
                    )?;
                }
            }
            Ok(())
        },
    )
    .on(Cpus::All),
    Case::new(
        "spi.retargeted_while_pending",
        "GICD_IROUTER<n> (12.9)",
        |m| {
            let spi = m.edge(0);
            set_pmr(0);
            spi.set_pending();
            holds(
                "pending on CPU 0",
                cpu::spin_until(1_000_000, || highest_pending() == spi.intid),
            )?;
            spi.route(1);
            equal("what CPU 1 takes", cpus::on(1, take_and_end), spi.intid)?;
            set_pmr(interface::OPEN);
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi.retargeted_while_disabled",
        "GICD_IROUTER<n> (12.9)",
        |m| {
            let spi = m.edge(0);
            spi.disable();
            spi.set_pending();
            spi.route(1);
            spi.enable();
            equal("what CPU 1 takes", cpus::on(1, take_and_end), spi.intid)?;
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new("spi.retargeted_while_active", "GICD_IROUTER<n>, 4.1", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        spi.route(1);
        spi.set_pending();
        holds("active and pending", spi.is_active() && spi.is_pending())?;
        let early = cpus::on(1, || {
            cpu::spin(300);
            acknowledge()
        });
        equal("what CPU 1 takes while it is active", early, NONE)?;
        end(spi.intid);
        equal(
            "what CPU 1 takes then",
            cpus::on(1, take_and_end),
            spi.intid,
        )?;
        equal("active", spi.is_active(), false)
    })
    .on(Cpus::Two),
    Case::new("spi.routed_to_nobody", "GICD_IROUTER<n>, 3.2", |m| {
        let spi = m.edge(0);
        spi.route_to(0x7f_007f_7f7f);
        spi.set_pending();
        expect_none()?;
        holds("pending", spi.is_pending())?;
        spi.route(0);
        expect_and_end(spi.intid)
    })
    .unlike_kvm(kvm::NOT_ROUTED_AGAIN),
    Case::new("spi.ended_by_its_cpu_only", "ICC_EOIR1_EL1, 4.1", |m| {
        let spi = m.edge(0);
        spi.set_pending();
        expect(spi.intid)?;
        let active = cpus::on(1, || spi.is_active());
        holds("active, as another CPU sees it", active)?;
        end(spi.intid);
        equal("then", cpus::on(1, || spi.is_active()), false)
    })
    .on(Cpus::Two),
    Case::new(
        "spi.deactivated_from_elsewhere",
        "GICD_ICACTIVER<n> from any CPU",
        |m| {
            set_ctlr(EOI_MODE);
            let spi = m.edge(0);
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            cpus::on(1, || spi.clear_active());
            spi.set_pending();
            expect(spi.intid)?;
            end(spi.intid);
            deactivate(spi.intid);
            Ok(())
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi.pending_elsewhere_is_seen",
        "GICD_ISPENDR<n> from any CPU",
        |m| {
            let spi = m.edge(0);
            set_pmr(0);
            spi.set_pending();
            holds("as CPU 1 sees it", cpus::on(1, || spi.is_pending()))?;
            cpus::on(1, || spi.clear_pending());
            set_pmr(interface::OPEN);
            expect_none()
        },
    )
    .unlike_kvm(
        "ISPENDR reads as zero for an interrupt that is pending in a list register of another CPU",
    )
    .on(Cpus::Two),
    Case::new("spi.storm_between_two", "GICD_ISPENDR<n>, 4.1", |m| {
        const ROUNDS: u32 = 300;
        let (mine, other) = (m.edge(0), m.edge(1));
        other.route(1);
        let (there, back) = cpus::run_beside(
            1,
            || {
                let rounds = (0..ROUNDS).take_while(|_| {
                    let taken = take_and_end() == other.intid;
                    mine.set_pending();
                    taken
                });
                rounds.count()
            },
            || {
                let rounds = (0..ROUNDS).take_while(|_| {
                    other.set_pending();
                    take_and_end() == mine.intid
                });
                rounds.count()
            },
        );
        equal("rounds there", there, ROUNDS)?;
        equal("rounds back", back, ROUNDS)
    })
    .on(Cpus::Two),
    Case::new(
        "spi.to_a_cpu_that_is_off",
        "GICD_IROUTER<n>, DEN 0022",
        |m| {
            let spi = m.edge(0);
            spi.route(1);
            cpus::turn_off(m, 1);
            spi.set_pending();
            let pending = spi.is_pending();
            cpus::turn_on(m, 1);
            holds("pending", pending)?;
            let taken = cpus::on(1, || {
                interface::reset();
                take_and_end()
            });
            equal("what it takes when it is on", taken, spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "spi.taken_away_from_a_cpu_that_is_off",
        "GICD_IROUTER<n>, DEN 0022",
        |m| {
            let spi = m.edge(0);
            spi.route(1);
            cpus::turn_off(m, 1);
            spi.set_pending();
            spi.route(0);
            let taken = take_and_end();
            cpus::turn_on(m, 1);
            equal("what CPU 0 takes", taken, spi.intid)
        },
    )
    .unlike_kvm(kvm::NOT_ROUTED_AGAIN)
    .on(Cpus::Two),
];
