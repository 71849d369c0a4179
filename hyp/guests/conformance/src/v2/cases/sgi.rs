//! SGIs: target lists and filters, sources, what is pending and active.

use conformance::bank;

use crate::gicc::{self, EOI_MODE};
use crate::gicd::{TO_OTHERS, TO_SELF};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, expect_none_on, expect_on,
    from, holds, skip_unless,
};
use crate::machine::Machine;
use crate::{cpu, cpus, exception};

/// Number of SGIs.
const SGIS: u32 = 16;

/// `GICD_SGIR.NSATT`.
const NSATT: u32 = 1 << 15;

/// Target list of eight CPUs.
const LIST: u32 = 0xff;

/// SGIs that go to and fro.
const ROUNDS: u32 = 100;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "sgi2.to_self",
        "GICD_SGIR.TargetListFilter 2 (4.3.15)",
        |m| {
            m.irq(3).enable();
            m.send(TO_SELF | 3);
            expect_and_end(3)?;
            expect_none()
        },
    ),
    Case::new("sgi2.all_16_to_self", "GICD_SGIR.SGIINTID (4.3.15)", |m| {
        for sgi in 0..SGIS {
            m.irq(sgi).enable();
            m.send(TO_SELF | sgi);
            expect_and_end(sgi)?;
        }
        expect_none()
    }),
    Case::new(
        "sgi2.all_16_at_once",
        "GICD_SGIR, 3.3 prioritization",
        |m| {
            gicc::set_pmr(0);
            for sgi in 0..SGIS {
                m.irq(sgi).at((0xf0 - sgi * 0x10) as u8).enable();
                m.send(TO_SELF | sgi);
            }
            gicc::set_pmr(0xf8);
            for sgi in (0..SGIS).rev() {
                expect_and_end(sgi)?;
            }
            expect_none()
        },
    ),
    Case::new(
        "sgi2.list_to_self",
        "GICD_SGIR.CPUTargetList (4.3.15)",
        |m| {
            m.irq(1).enable();
            m.send_to(1, 1);
            expect_and_end(1)?;
            // The list is for filter 0 alone.
            m.send(TO_SELF | LIST << 16 | 1);
            expect_and_end(1)?;
            expect_none()
        },
    ),
    Case::new("sgi2.empty_list", "GICD_SGIR.CPUTargetList (4.3.15)", |m| {
        m.irq(1).enable();
        m.send_to(0, 1);
        expect_none()?;
        equal("pending", m.irq(1).is_pending(), false)
    }),
    Case::new(
        "sgi2.absent_targets",
        "GICD_SGIR.CPUTargetList (4.3.15)",
        |m| {
            m.irq(1).enable();
            m.send_to(LIST & !m.everyone(), 1);
            expect_none()?;
            m.send_to(LIST & !m.everyone() | 1, 1);
            expect_and_end(1)?;
            expect_none()
        },
    ),
    Case::new(
        "sgi2.to_others",
        "GICD_SGIR.TargetListFilter 1 (4.3.15)",
        |m| {
            m.send(TO_OTHERS | 7);
            cpus::on_all(|number| {
                m.irq(7).enable();
                if number == 0 {
                    expect_none()
                } else {
                    expect_and_end(7)
                }
            })
        },
    )
    .on(Cpus::All),
    Case::new(
        "sgi2.others_without_a_list",
        "GICD_SGIR.TargetListFilter 1 (4.3.15)",
        |m| {
            // The list is for filter 0 alone.
            m.send(TO_OTHERS | 1 << 16 | 7);
            m.irq(7).enable();
            expect_none()?;
            cpus::on(1, || m.irq(7).enable());
            expect_on(1, 7)
        },
    )
    .on(Cpus::Two),
    Case::new("sgi2.to_each", "GICD_SGIR.CPUTargetList (4.3.15)", |m| {
        for target in 0..m.cpus {
            m.send_to(1 << target, 9);
            cpus::on_all(|number| {
                m.irq(9).enable();
                if number == target {
                    expect_and_end(9)
                } else {
                    expect_none()
                }
            })?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("sgi2.to_all", "GICD_SGIR.CPUTargetList (4.3.15)", |m| {
        m.send_to(m.everyone(), 9);
        cpus::on_all(|_| {
            m.irq(9).enable();
            expect_and_end(9)?;
            expect_none()
        })
    })
    .on(Cpus::All),
    Case::new(
        "sgi2.between_every_pair",
        "GICC_IAR.CPUID (4.4.4), GICD_SGIR (4.3.15)",
        |m| {
            cpus::on_all(|_| {
                m.irq(4).enable();
                Ok(())
            })?;
            for source in 0..m.cpus {
                for target in 0..m.cpus {
                    cpus::on(source, || m.send_to(1 << target, 4));
                    expect_on(target, from(source, 4))?;
                }
            }
            cpus::on_all(|_| expect_none())
        },
    )
    .on(Cpus::All),
    Case::new(
        "sgi2.ended_with_its_source",
        "GICC_EOIR.CPUID (4.4.5)",
        |m| {
            m.irq(2).enable();
            cpus::on(1, || m.send_to(1, 2));
            expect(from(1, 2))?;
            holds("active", m.irq(2).is_active())?;
            gicc::end(from(1, 2));
            equal("active once ended", m.irq(2).is_active(), false)?;
            equal("RPR", gicc::running_priority(), gicc::IDLE)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "sgi2.deactivated_with_its_source",
        "GICC_DIR.CPUID (4.4.15)",
        |m| {
            gicc::set_ctlr(EOI_MODE);
            m.irq(2).enable();
            cpus::on(1, || m.send_to(1, 2));
            expect(from(1, 2))?;
            gicc::end(from(1, 2));
            holds("active", m.irq(2).is_active())?;
            gicc::deactivate(from(1, 2));
            equal("active once ended", m.irq(2).is_active(), false)
        },
    )
    .on(Cpus::Two),
    Case::new("sgi2.twice_is_once", "2.2.1 SGIs", |m| {
        m.send(TO_SELF | 5);
        m.send(TO_SELF | 5);
        m.irq(5).enable();
        expect_and_end(5)?;
        expect_none()
    }),
    Case::new("sgi2.again_while_active", "3.2.4 active and pending", |m| {
        m.irq(5).enable();
        m.send(TO_SELF | 5);
        expect(5)?;
        m.send(TO_SELF | 5);
        expect_none()?;
        holds("active", m.irq(5).is_active())?;
        holds("and pending", m.irq(5).is_pending())?;
        gicc::end(5);
        expect_and_end(5)?;
        expect_none()
    }),
    Case::new("sgi2.by_priority", "3.3 prioritization", |m| {
        m.irq(6).at(0x60).enable();
        m.irq(7).at(0x40).enable();
        gicc::set_pmr(0);
        m.send(TO_SELF | 6);
        m.send(TO_SELF | 7);
        gicc::set_pmr(gicc::OPEN);
        expect_and_end(7)?;
        expect_and_end(6)
    }),
    Case::new(
        "sgi2.priority_of_the_target",
        "GICD_IPRIORITYR0 to 3, banked (4.3.11)",
        |m| {
            m.irq(6).at(0x20).enable();
            cpus::on(1, || m.irq(6).at(0x80).enable());
            cpus::on(1, || gicc::set_pmr(0x40));
            m.send_to(3, 6);
            expect_and_end(6)?;
            expect_none_on(1)?;
            cpus::on(1, || gicc::set_pmr(gicc::OPEN));
            expect_on(1, 6)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "sgi2.disabled",
        "GICD_ICENABLER0, SGIs left open (4.3.6)",
        |m| {
            let sgi = m.irq(8);
            sgi.disable();
            skip_unless("SGIs are enabled for ever", !sgi.is_enabled())?;
            m.send(TO_SELF | 8);
            expect_none()?;
            holds("pending", sgi.is_pending())?;
            sgi.enable();
            expect_and_end(8)
        },
    ),
    Case::new(
        "sgi2.ispendr_is_read_only",
        "GICD_ISPENDR0, GICD_ICPENDR0 of SGIs (4.3.7)",
        |m| {
            m.irq(8).enable();
            m.write(bank::ISPENDR, 0xffff);
            equal("pending by ISPENDR0", m.read(bank::ISPENDR) & 0xffff, 0)?;
            expect_none()?;
            m.send(TO_SELF | 8);
            equal("pending", m.read(bank::ISPENDR) & 0xffff, 1 << 8)?;
            m.write(bank::ICPENDR, 0xffff);
            equal("after ICPENDR0", m.read(bank::ICPENDR) & 0xffff, 1 << 8)?;
            expect_and_end(8)?;
            equal("once taken", m.read(bank::ISPENDR) & 0xffff, 0)
        },
    ),
    Case::new(
        "sgi2.active_by_register",
        "GICD_ISACTIVER0, GICD_ICACTIVER0 of SGIs (4.3.9)",
        |m| {
            let sgi = m.irq(8).enabled();
            sgi.set_active();
            holds("active", sgi.is_active())?;
            m.send(TO_SELF | 8);
            expect_none()?;
            sgi.clear_active();
            expect_and_end(8)
        },
    ),
    Case::new(
        "sgi2.nsatt",
        "GICD_SGIR.NSATT without Security Extensions (4.3.15)",
        |m| {
            gicc::take_both_groups(0);
            for group in [0, 1] {
                m.irq(8).in_group(group).enable();
                for nsatt in [0, NSATT] {
                    m.send(TO_SELF | nsatt | 8);
                    expect_and_end(8)?;
                }
            }
            expect_none()
        },
    ),
    Case::new("sgi2.as_an_exception", "GICD_SGIR, IRQ of each CPU", |m| {
        for source in 0..m.cpus {
            cpus::on_all(|_| {
                exception::forget_taken();
                m.irq(11).enable();
                Ok(())
            })?;
            cpus::on(source, || m.send(TO_OTHERS | 11));
            cpus::on_all(|number| taken_by_exception(number != source, from(source, 11)))?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("sgi2.to_and_fro", "GICD_SGIR, GICC_IAR", |m| {
        m.irq(1).enable();
        let (other, own) = cpus::run_beside(
            1,
            || {
                m.irq(1).enable();
                for _ in 0..ROUNDS {
                    expect_and_end(from(0, 1))?;
                    m.send_to(1, 1);
                }
                Ok(())
            },
            || {
                for _ in 0..ROUNDS {
                    m.send_to(2, 1);
                    expect_and_end(from(1, 1))?;
                }
                Ok(())
            },
        );
        own.and(other)
    })
    .on(Cpus::Two),
    Case::new(
        "sgi2.to_a_cpu_that_is_off",
        "GICD_SGIR, DEN 0022 CPU_ON",
        |m| {
            cpus::turn_off(m, 1);
            m.send_to(2, 12);
            cpus::turn_on(m, 1);
            cpus::on(1, || {
                holds("pending", m.irq(12).is_pending())?;
                gicc::reset();
                m.irq(12).enable();
                expect_and_end(from(0, 12))
            })
        },
    )
    .on(Cpus::Two),
    Case::new("sgi2.interface_disabled", "GICC_CTLR (4.4.1)", |m| {
        cpus::on(1, || {
            m.irq(13).enable();
            gicc::write(gicc::CTLR, 0);
        });
        m.send_to(2, 13);
        expect_none_on(1)?;
        holds("pending", cpus::on(1, || m.irq(13).is_pending()))?;
        cpus::on(1, || gicc::set_ctlr(0));
        expect_on(1, 13)
    })
    .on(Cpus::Two),
];

/// Takes one IRQ as an exception, or none.
fn taken_by_exception(is_expected: bool, read: u32) -> Outcome {
    let number = cpu::number();
    cpu::unmasked(|| {
        cpu::spin_until(if is_expected { 1_000_000 } else { 400 }, || {
            exception::taken(number) > 0
        })
    });
    equal(
        "exceptions",
        exception::taken(number),
        usize::from(is_expected),
    )?;
    if is_expected {
        equal("the interrupt", exception::taken_at(0), read)?;
    }
    Ok(())
}

/// Makes sure that the calling CPU has no SGI pending.
pub(super) fn expect_no_sgi(m: &Machine) -> Outcome {
    equal("pending SGIs", m.read(bank::ISPENDR) & 0xffff, 0)
}
