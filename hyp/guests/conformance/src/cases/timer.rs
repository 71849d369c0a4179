//! PPIs, above all the timers', and WFI.

use crate::cpu::{self, Timer};
use crate::cpus;
use crate::gic::interface::{self, EOI_MODE, NONE, acknowledge, deactivate, end, set_ctlr};
use crate::gic::{bank, gicr};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::{read_32, write_32};
use crate::psci;

/// PPI that no device drives.
const FREE_PPI: u32 = 20;

/// Cases for one timer.
macro_rules! cases {
    ($name:literal, $timer:expr) => {
        [
            Case::new(
                concat!("timer.", $name, "_fires"),
                "DDI 0487 D11, PPI",
                |m| {
                    let timer = $timer;
                    m.private(0, timer.intid()).enable();
                    timer.set(200);
                    expect(timer.intid())?;
                    timer.stop();
                    end(timer.intid());
                    expect_none()
                },
            ),
            Case::new(
                concat!("timer.", $name, "_is_a_level"),
                "DDI 0487 D11, 4.1",
                |m| {
                    let timer = $timer;
                    let ppi = m.sgi(0, timer.intid());
                    timer.set(0);
                    expect_and_end(timer.intid())?;
                    // The condition still holds.
                    expect(timer.intid())?;
                    timer.stop();
                    end(timer.intid());
                    expect_none()?;
                    equal("pending", ppi.is_pending(), false)
                },
            ),
            Case::new(
                concat!("timer.", $name, "_masked"),
                "CNTx_CTL.IMASK, 4.1",
                |m| {
                    let timer = $timer;
                    m.private(0, timer.intid()).enable();
                    timer.set_masked(0);
                    expect_none()?;
                    holds("ISTATUS", timer.status())?;
                    timer.unmask();
                    expect(timer.intid())?;
                    timer.stop();
                    end(timer.intid());
                    Ok(())
                },
            ),
            Case::new(
                concat!("timer.", $name, "_condition_ends"),
                "DDI 0487 D11, GICR_ISPENDR0",
                |m| {
                    let timer = $timer;
                    let ppi = m.private(0, timer.intid());
                    timer.set(0);
                    holds("pending, disabled as it is", ppi.becomes_pending(true))?;
                    timer.set(100_000_000);
                    holds(
                        "not pending once it is set anew",
                        ppi.becomes_pending(false),
                    )?;
                    ppi.enable();
                    let outcome = expect_none();
                    timer.stop();
                    outcome
                },
            ),
            Case::new(
                concat!("timer.", $name, "_wakes_from_wfi"),
                "DDI 0487 D1, WFI",
                |m| {
                    let timer = $timer;
                    m.private(0, timer.intid()).enable();
                    for _ in 0..20 {
                        let began = cpu::now();
                        timer.set(1000);
                        let woken = cpu::spin_until(2_000_000, || {
                            cpu::wait_for_interrupt();
                            cpu::irq()
                        });
                        holds("awake", woken)?;
                        holds(
                            "no sooner than it was due",
                            cpu::now() - began >= cpu::ticks(1000),
                        )?;
                        expect(timer.intid())?;
                        timer.stop();
                        end(timer.intid());
                    }
                    Ok(())
                },
            ),
            Case::new(
                concat!("timer.", $name, "_with_split_end"),
                "ICC_DIR_EL1, PPI",
                |m| {
                    let timer = $timer;
                    m.private(0, timer.intid()).enable();
                    set_ctlr(EOI_MODE);
                    timer.set(0);
                    expect(timer.intid())?;
                    end(timer.intid());
                    expect_none()?;
                    deactivate(timer.intid());
                    expect(timer.intid())?;
                    timer.stop();
                    end(timer.intid());
                    deactivate(timer.intid());
                    expect_none()
                },
            ),
            Case::new(
                concat!("timer.", $name, "_on_each_cpu"),
                "DDI 0487 D11, PPI",
                |m| {
                    cpus::on_all(|cpu| {
                        let timer = $timer;
                        m.private(cpu, timer.intid()).enable();
                        timer.set(200);
                        let taken = interface::take();
                        timer.stop();
                        end(taken);
                        equal("what it takes", taken, timer.intid())
                    })
                },
            )
            .on(Cpus::All),
        ]
    };
}

pub(super) const VIRTUAL: &[Case] = &cases!("virtual", Timer::Virtual);
pub(super) const PHYSICAL: &[Case] = &cases!("physical", Timer::Physical);

pub(super) const CASES: &[Case] = &[
    Case::new("timer.both_by_priority", "DDI 0487 D11, 4.8", |m| {
        interface::set_pmr(0);
        m.private(0, Timer::Virtual.intid()).at(0x80).enable();
        m.private(0, Timer::Physical.intid()).at(0x40).enable();
        Timer::ALL.iter().for_each(|timer| timer.set(0));
        let both = Timer::ALL
            .iter()
            .all(|timer| m.private(0, timer.intid()).becomes_pending(true));
        interface::set_pmr(interface::OPEN);
        holds("both pending", both)?;
        for timer in Timer::ALL.iter().rev() {
            expect(timer.intid())?;
            timer.stop();
            end(timer.intid());
        }
        expect_none()
    }),
    Case::new("timer.many_times", "DDI 0487 D11, PPI", |m| {
        let timer = Timer::Virtual;
        m.private(0, timer.intid()).enable();
        for _ in 0..200 {
            timer.set(20);
            expect(timer.intid())?;
            timer.stop();
            end(timer.intid());
        }
        expect_none()
    }),
    Case::new(
        "timer.disabled_ppi_is_pending",
        "GICR_ISENABLER0, GICR_ISPENDR0",
        |m| {
            let timer = Timer::Virtual;
            let ppi = m.private(0, timer.intid());
            timer.set(0);
            let pending = ppi.becomes_pending(true);
            let outcome = expect_none();
            timer.stop();
            holds("pending", pending)?;
            outcome
        },
    ),
    Case::new(
        "timer.stops_before_it_is_taken",
        "4.1 level-sensitive interrupts",
        |m| {
            let timer = Timer::Virtual;
            let ppi = m.private(0, timer.intid());
            ppi.enable();
            timer.set(0);
            cpu::spin_until(2_000_000, || interface::highest_pending() == timer.intid());
            timer.stop();
            holds(
                "not pending once it has stopped",
                ppi.becomes_pending(false),
            )?;
            expect_none()
        },
    ),
    Case::new(
        "timer.acknowledged_as_exceptions",
        "DDI 0487 D11, IRQ exceptions",
        |m| {
            let timer = Timer::Virtual;
            m.private(0, timer.intid()).enable();
            cpu::unmasked(|| {
                for round in 1..=20 {
                    timer.set(100);
                    // The handler stops the timer.
                    cpu::spin_until(2_000_000, || crate::exception::taken(0) == round);
                }
            });
            equal("exceptions", crate::exception::taken(0), 20)?;
            equal(
                "the interrupt",
                crate::exception::taken_at(0),
                timer.intid(),
            )
        },
    ),
    Case::new(
        "timer.stops_with_its_cpu",
        "DEN 0022 CPU_OFF, CPU_ON",
        |m| {
            let timer = Timer::Virtual;
            let ppi = m.private(1, timer.intid());
            ppi.enable();
            cpus::on(1, || timer.set(100_000));
            cpus::turn_off(m, 1);
            cpus::turn_on(m, 1);
            cpus::on(1, || {
                interface::reset();
                timer.stop();
            });
            holds(
                "not pending when it is on again",
                ppi.becomes_pending(false),
            )
        },
    )
    .on(Cpus::Two),
    Case::new("ppi.pending_by_register", "GICR_ISPENDR0 (12.11)", |m| {
        let ppi = free_ppi(m);
        ppi.set_pending();
        holds("pending", ppi.is_pending())?;
        expect(FREE_PPI)?;
        holds("active", ppi.is_active())?;
        end(FREE_PPI);
        equal("active", ppi.is_active(), false)?;
        expect_none()
    }),
    Case::new("ppi.cleared_by_register", "GICR_ICPENDR0 (12.11)", |m| {
        let ppi = free_ppi(m);
        ppi.disable();
        ppi.set_pending();
        ppi.clear_pending();
        ppi.enable();
        expect_none()
    }),
    Case::new(
        "ppi.active_by_register",
        "GICR_ISACTIVER0, GICR_ICACTIVER0 (12.11)",
        |m| {
            let ppi = free_ppi(m);
            ppi.set_active();
            holds("active", ppi.is_active())?;
            ppi.set_pending();
            expect_none()?;
            ppi.clear_active();
            expect_and_end(FREE_PPI)
        },
    ),
    Case::new(
        "ppi.disabled_while_pending",
        "GICR_ICENABLER0, GICR_CTLR.RWP",
        |m| {
            let ppi = free_ppi(m);
            ppi.set_pending();
            holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
            ppi.disable();
            equal("what there is once RWP is clear", acknowledge(), NONE)?;
            ppi.enable();
            expect_and_end(FREE_PPI)
        },
    ),
    Case::new(
        "ppi.raised_from_another_cpu",
        "GICR_ISPENDR0 of another CPU, 12.1",
        |m| {
            // Each CPU raises the next one's.
            cpus::on_all(|cpu| {
                let ppi = m.private((cpu + 1) % m.cpus, FREE_PPI);
                ppi.enable();
                ppi.set_pending();
                let taken = interface::take();
                end(taken);
                equal("what the owner takes", taken, FREE_PPI)
            })?;
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new(
        "ppi.deactivated_from_another_cpu",
        "GICR_ICACTIVER0 of another CPU",
        |m| {
            set_ctlr(EOI_MODE);
            let ppi = free_ppi(m);
            ppi.set_pending();
            expect(FREE_PPI)?;
            end(FREE_PPI);
            cpus::on(1, || ppi.clear_active());
            equal("active", ppi.is_active(), false)?;
            ppi.set_pending();
            expect(FREE_PPI)?;
            end(FREE_PPI);
            deactivate(FREE_PPI);
            Ok(())
        },
    )
    .on(Cpus::Two),
    Case::new(
        "ppi.deactivation_is_the_cpus_own",
        "ICC_DIR_EL1, PPI",
        |m| {
            // The INTID is another interrupt on another CPU.
            set_ctlr(EOI_MODE);
            let ppi = free_ppi(m);
            ppi.set_pending();
            expect(FREE_PPI)?;
            end(FREE_PPI);
            cpus::on(1, || {
                set_ctlr(EOI_MODE);
                deactivate(FREE_PPI);
            });
            holds("still active", ppi.is_active())?;
            deactivate(FREE_PPI);
            equal("active", ppi.is_active(), false)
        },
    )
    .on(Cpus::Two),
    Case::new("ppi.trigger", "GICR_ICFGR1 (12.11)", |m| {
        let before = read_32(m.sgi_0(bank::ICFGR + 4));
        equal("RES0 bits", before & 0x5555_5555, 0)
    }),
    Case::new("wfi.ends_for_what_is_pending", "DDI 0487 D1, WFI", |m| {
        // Nothing would wake the CPU afterwards: it must not sleep at all.
        free_ppi(m).set_pending();
        holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
        cpu::wait_for_interrupt();
        expect_and_end(FREE_PPI)
    }),
    Case::new(
        "wfi.is_not_ended_by_what_is_masked",
        "DDI 0487 D1, ICC_PMR_EL1",
        |m| {
            let timer = Timer::Virtual;
            let ppi = free_ppi(m).at(0xc0);
            interface::set_pmr(0xc0);
            ppi.set_pending();
            m.private(0, timer.intid()).at(0x40).enable();
            timer.set(3000);
            let woken = cpu::spin_until(2_000_000, || {
                cpu::wait_for_interrupt();
                cpu::irq()
            });
            holds("the timer wakes it", woken)?;
            expect(timer.intid())?;
            timer.stop();
            end(timer.intid());
            interface::set_pmr(interface::OPEN);
            expect_and_end(FREE_PPI)
        },
    ),
    Case::new(
        "wfi.is_ended_by_a_sleeping_redistributor",
        "GICR_WAKER.ProcessorSleep (11.1, 12.11)",
        check_wake_request,
    ),
];

/// Checks that an interrupt wakes a CPU whose redistributor is asleep, whatever the CPU interface
/// says. If it does not, another one in Group 0 does, much later.
fn check_wake_request(m: &Machine) -> Outcome {
    const PROCESSOR_SLEEP: u32 = 2;
    const CHILDREN_ASLEEP: u32 = 4;
    const LATE: u64 = 300_000;
    skip_unless("CPUs cannot be suspended", psci::can_suspend())?;
    let waker = m.gicr_0(gicr::WAKER);
    let rescue = Timer::Physical;

    let ppi = free_ppi(m);
    interface::set_igrpen_1(0);
    write_32(waker, PROCESSOR_SLEEP);
    ppi.set_pending();
    m.private(0, rescue.intid()).set_group(0);
    m.private(0, rescue.intid()).enable();
    m.enable_groups(3);
    interface::set_igrpen_0(1);
    rescue.set(LATE);
    let began = cpu::now();
    psci::stand_by();
    let slept = cpu::now() - began;

    rescue.stop();
    interface::set_igrpen_0(0);
    write_32(waker, 0);
    let awake = cpu::spin_until(1_000_000, || read_32(waker) & CHILDREN_ASLEEP == 0);
    interface::set_igrpen_1(1);
    holds("the redistributor wakes up", awake)?;
    expect_and_end(FREE_PPI)?;
    holds("it was woken at once", slept < cpu::ticks(LATE / 2))
}

/// Returns the enabled PPI of CPU 0 that no device drives.
fn free_ppi(m: &Machine) -> crate::gic::irq::Irq<'_> {
    let ppi = m.private(0, FREE_PPI);
    ppi.enable();
    ppi
}
