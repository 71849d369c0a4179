//! PPIs, above all the timers', and WFI.

use crate::cpu::{self, Timer};
use crate::gicc::{self, EOI_MODE};
use crate::gicd::{FREE_PPI, TO_SELF};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, from, holds,
};
use crate::machine::Machine;
use crate::{cpus, exception};

/// Cases for one timer.
macro_rules! cases {
    ($name:literal, $timer:expr) => {
        [
            Case::new(concat!("ppi2.", $name, "_fires"), "DDI 0487, PPI", |m| {
                let timer = $timer;
                m.irq(timer.intid()).enable();
                timer.set(200);
                expect(timer.intid())?;
                timer.stop();
                gicc::end(timer.intid());
                expect_none()
            }),
            Case::new(
                concat!("ppi2.", $name, "_is_a_level"),
                "DDI 0487, 3.2.4 of a level",
                |m| {
                    let timer = $timer;
                    let ppi = m.irq(timer.intid()).enabled();
                    timer.set(0);
                    expect_and_end(timer.intid())?;
                    // The condition still holds.
                    expect(timer.intid())?;
                    timer.stop();
                    gicc::end(timer.intid());
                    expect_none()?;
                    equal("pending", ppi.is_pending(), false)
                },
            ),
            Case::new(
                concat!("ppi2.", $name, "_while_disabled"),
                "GICD_ISENABLER0, GICD_ISPENDR0",
                |m| {
                    let timer = $timer;
                    let ppi = m.irq(timer.intid());
                    timer.set(0);
                    holds("pending", ppi.becomes_pending(true))?;
                    expect_none()?;
                    timer.set(100_000_000);
                    holds("not pending once set anew", ppi.becomes_pending(false))?;
                    ppi.enable();
                    expect_none()
                },
            ),
            Case::new(
                concat!("ppi2.", $name, "_of_each_cpu"),
                "2.2.1 PPIs, banked",
                |m| {
                    cpus::on_all(|_| {
                        let timer = $timer;
                        m.irq(timer.intid()).enable();
                        timer.set(300);
                        expect(timer.intid())?;
                        timer.stop();
                        gicc::end(timer.intid());
                        expect_none()
                    })
                },
            )
            .on(Cpus::All),
            Case::new(
                concat!("wfi2.", $name),
                "WFI (DDI 0487), GICC signals an IRQ",
                |m| {
                    let timer = $timer;
                    m.irq(timer.intid()).enable();
                    for _ in 0..3 {
                        timer.set(500);
                        while !cpu::irq() {
                            cpu::wait_for_interrupt();
                        }
                        expect(timer.intid())?;
                        timer.stop();
                        gicc::end(timer.intid());
                    }
                    Ok(())
                },
            ),
        ]
    };
}

pub(super) const VIRTUAL: &[Case] = &cases!("virtual", Timer::Virtual);
pub(super) const PHYSICAL: &[Case] = &cases!("physical", Timer::Physical);

pub(super) const CASES: &[Case] = &[
    Case::new("ppi2.pending_by_register", "GICD_ISPENDR0 (4.3.7)", |m| {
        let ppi = m.irq(FREE_PPI).enabled();
        ppi.set_pending();
        holds("pending", ppi.is_pending())?;
        expect_and_end(FREE_PPI)?;
        ppi.set_pending();
        ppi.clear_pending();
        expect_none()
    }),
    Case::new("ppi2.every_one_by_register", "GICD_ISPENDR0 (4.3.7)", |m| {
        for intid in 16..32 {
            m.irq(intid).enable();
            m.irq(intid).set_pending();
            expect_and_end(intid)?;
        }
        expect_none()
    }),
    Case::new("ppi2.split_end", "GICC_DIR of a PPI (4.4.15)", |m| {
        gicc::set_ctlr(EOI_MODE);
        let ppi = m.irq(FREE_PPI).enabled();
        ppi.set_pending();
        expect(FREE_PPI)?;
        gicc::end(FREE_PPI);
        ppi.set_pending();
        expect_none()?;
        gicc::deactivate(FREE_PPI);
        expect(FREE_PPI)
    }),
    Case::new(
        "ppi2.deactivation_is_own",
        "GICC_DIR of a PPI, banked",
        |m| {
            cpus::on_all(|_| {
                gicc::set_ctlr(EOI_MODE);
                m.irq(FREE_PPI).enable();
                m.irq(FREE_PPI).set_pending();
                expect(FREE_PPI)?;
                gicc::end(FREE_PPI);
                Ok(())
            })?;
            cpus::on(1, || gicc::deactivate(FREE_PPI));
            holds("active on CPU 0", m.irq(FREE_PPI).is_active())?;
            let others = cpus::on(1, || m.irq(FREE_PPI).is_active());
            equal("active on CPU 1", others, false)
        },
    )
    .on(Cpus::Two),
    Case::new("ppi2.as_an_exception", "IRQ of each CPU", |m| {
        cpus::on_all(|number| {
            exception::forget_taken();
            m.irq(Timer::Virtual.intid()).enable();
            Timer::Virtual.set(200);
            cpu::unmasked(|| cpu::spin_until(1_000_000, || exception::taken(number) > 0));
            holds("an exception", exception::taken(number) > 0)?;
            equal("the PPI", exception::taken_at(0), Timer::Virtual.intid())
        })
    })
    .on(Cpus::All),
    Case::new("wfi2.sgi_to_itself", "WFI (DDI 0487), GICD_SGIR", |m| {
        m.irq(1).enable();
        m.send(TO_SELF | 1);
        cpu::wait_for_interrupt();
        expect_and_end(1)
    }),
    Case::new(
        "wfi2.sgi_from_elsewhere",
        "WFI (DDI 0487), GICD_SGIR",
        |m| woken(m, |_| m.send_to(2, 1), from(0, 1)),
    )
    .on(Cpus::Two),
    Case::new("wfi2.spi", "WFI (DDI 0487), GICD_ISPENDR<n>", |m| {
        let spi = m.edge(0).to(2);
        woken(m, |_| spi.set_pending(), spi.intid)
    })
    .on(Cpus::Two),
    Case::new(
        "wfi2.retargeted_spi",
        "WFI (DDI 0487), GICD_ITARGETSR<n>",
        |m| {
            let spi = m.edge(0);
            gicc::set_pmr(0);
            spi.set_pending();
            woken(m, |_| spi.set_targets(2), spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "wfi2.enabled_spi",
        "WFI (DDI 0487), GICD_ISENABLER<n>",
        |m| {
            let spi = m.edge(0).to(2);
            spi.disable();
            spi.set_pending();
            woken(m, |_| spi.enable(), spi.intid)
        },
    )
    .on(Cpus::Two),
    Case::new(
        "wfi2.distributor_enabled",
        "WFI (DDI 0487), GICD_CTLR",
        |m| {
            let spi = m.edge(0).to(2);
            m.enable_groups(0);
            spi.set_pending();
            woken(m, |_| m.enable_groups(crate::gicd::BOTH), spi.intid)
        },
    )
    .on(Cpus::Two),
];

/// Has CPU 1 sleep, wakes it, and checks what it takes.
fn woken(m: &Machine, wake: impl FnOnce(&Machine), read: u32) -> Outcome {
    let (outcome, ()) = cpus::run_beside(
        1,
        || {
            m.irq(1).enable();
            while !cpu::irq() {
                cpu::wait_for_interrupt();
            }
            expect_and_end(read)
        },
        || {
            cpu::spin(2_000);
            wake(m);
        },
    );
    outcome
}
