//! SGIs: targets, groups, and states until they are taken.

use crate::gic::interface::{self, NONE, acknowledge, end, send, send_0, send_other};
use crate::gic::{GROUP_0, GROUP_1, gicd};
use crate::harness::{Case, Cpus, equal, expect, expect_and_end, expect_none, holds, skip_unless};
use crate::machine::Machine;
use crate::mmio::read_32;
use crate::{cpu, cpus};

/// `IRM`: all CPUs but the sender.
const ALL_BUT_SELF: u64 = 1 << 40;

pub(super) const CASES: &[Case] = &[
    Case::new("sgi.all_16_to_self", "ICC_SGI1R_EL1.INTID (12.2)", |m| {
        for intid in 0..16 {
            m.sgi(0, intid);
            send(sgi_value(m, 0, intid));
            expect_and_end(intid)?;
        }
        expect_none()
    }),
    Case::new(
        "sgi.between_every_pair",
        "ICC_SGI1R_EL1.TargetList (12.2)",
        |m| {
            for sender in 0..m.cpus {
                for target in 0..m.cpus {
                    let intid = (sender + target) as u32 % 16;
                    m.sgi(target, intid);
                    cpus::on(sender, || send(sgi_value(m, target, intid)));
                    let taken = cpus::on(target, take_and_end);
                    equal("what the target takes", taken, intid)?;
                }
            }
            Ok(())
        },
    )
    .on(Cpus::All),
    Case::new("sgi.list_of_all", "ICC_SGI1R_EL1.TargetList (12.2)", |m| {
        enable_on_all_cpus(m, 7);
        let list = (1 << m.cpus) - 1;
        send(7 << 24 | list);
        for cpu in 0..m.cpus {
            equal("what each takes", cpus::on(cpu, take_and_end), 7)?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new(
        "sgi.list_leaves_others_out",
        "ICC_SGI1R_EL1.TargetList (12.2)",
        |m| {
            enable_on_all_cpus(m, 2);
            send(sgi_value(m, 1, 2));
            equal("what the target takes", cpus::on(1, take_and_end), 2)?;
            for cpu in (0..m.cpus).filter(|&cpu| cpu != 1) {
                equal("pending elsewhere", m.private(cpu, 2).is_pending(), false)?;
            }
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new("sgi.all_but_self", "ICC_SGI1R_EL1.IRM (12.2)", |m| {
        enable_on_all_cpus(m, 9);
        for sender in 0..m.cpus {
            cpus::on(sender, || send(ALL_BUT_SELF | 9 << 24));
            for target in (0..m.cpus).filter(|&target| target != sender) {
                equal("what each takes", cpus::on(target, take_and_end), 9)?;
            }
            equal("what the sender takes", cpus::on(sender, acknowledge), NONE)?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("sgi.all_but_self_alone", "ICC_SGI1R_EL1.IRM (12.2)", |m| {
        m.sgi(0, 4);
        send(ALL_BUT_SELF | 4 << 24 | 1);
        expect_none()
    }),
    Case::new(
        "sgi.range_selector",
        "ICC_SGI1R_EL1.RS, GICD_TYPER.RSS",
        |m| {
            skip_unless(
                "range selectors above 0 are not supported",
                read_32(m.gicd(gicd::TYPER)) & 1 << 26 != 0,
            )?;
            m.sgi(0, 3);
            // Aff0 of 16 and more: no such CPU.
            send(1 << 44 | sgi_value(m, 0, 3));
            expect_none()?;
            send(sgi_value(m, 0, 3));
            expect_and_end(3)
        },
    ),
    Case::new("sgi.another_cluster", "ICC_SGI1R_EL1.Aff1 (12.2)", |m| {
        m.sgi(0, 3);
        for place in [16, 32, 48] {
            send(0x7f << place | sgi_value(m, 0, 3));
        }
        expect_none()
    }),
    Case::new("sgi.empty_list", "ICC_SGI1R_EL1.TargetList (12.2)", |m| {
        m.sgi(0, 3);
        send(3 << 24);
        expect_none()
    }),
    Case::new(
        "sgi.pending_while_disabled",
        "GICR_ISENABLER0 (12.11)",
        |m| {
            let sgi = m.private(0, 11);
            send(sgi_value(m, 0, 11));
            holds("pending", sgi.becomes_pending(true))?;
            expect_none()?;
            sgi.enable();
            expect_and_end(11)
        },
    ),
    Case::new("sgi.clear_pending", "GICR_ICPENDR0 (12.11)", |m| {
        let sgi = m.private(0, 12);
        send(sgi_value(m, 0, 12));
        holds("pending", sgi.becomes_pending(true))?;
        sgi.clear_pending();
        equal("pending", sgi.is_pending(), false)?;
        sgi.enable();
        expect_none()
    }),
    Case::new(
        "sgi.set_pending_by_register",
        "GICR_ISPENDR0 (12.11)",
        |m| {
            let sgi = m.sgi(0, 13);
            sgi.set_pending();
            expect_and_end(13)?;
            expect_none()
        },
    ),
    Case::new(
        "sgi.sent_twice_is_taken_once",
        "4.1 interrupt lifecycle",
        |m| {
            let sgi = m.private(0, 1);
            send(sgi_value(m, 0, 1));
            send(sgi_value(m, 0, 1));
            holds("pending", sgi.becomes_pending(true))?;
            sgi.enable();
            expect_and_end(1)?;
            expect_none()
        },
    ),
    Case::new(
        "sgi.two_senders_are_one",
        "4.1 SGIs have no source in GICv3",
        |m| {
            let sgi = m.private(0, 1);
            for sender in 0..m.cpus {
                cpus::on(sender, || send(sgi_value(m, 0, 1)));
            }
            holds("pending", sgi.becomes_pending(true))?;
            sgi.enable();
            expect_and_end(1)?;
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new("sgi.sent_while_active", "4.1 active and pending", |m| {
        let sgi = m.sgi(0, 6);
        send(sgi_value(m, 0, 6));
        expect(6)?;
        send(sgi_value(m, 0, 6));
        holds("pending", sgi.becomes_pending(true))?;
        holds("active", sgi.is_active())?;
        expect_none()?;
        end(6);
        expect_and_end(6)?;
        expect_none()
    }),
    Case::new("sgi.by_priority", "4.8 prioritization", |m| {
        m.enable_groups(0);
        for (intid, priority) in [(1, 0xc0), (2, 0x40), (3, 0x80)] {
            m.sgi(0, intid).at(priority);
            send(sgi_value(m, 0, intid));
        }
        m.enable_groups(GROUP_1);
        holds("an IRQ", cpu::spin_until(1_000_000, cpu::irq))?;
        for intid in [2, 3, 1] {
            expect_and_end(intid)?;
        }
        expect_none()
    }),
    Case::new(
        "sgi.own_enable_on_each_cpu",
        "GICR_ISENABLER0 (12.11)",
        |m| {
            m.sgi(0, 8);
            send(8 << 24 | 3);
            expect_and_end(8)?;
            equal("what CPU 1 takes", cpus::on(1, acknowledge), NONE)?;
            holds("pending there", m.private(1, 8).becomes_pending(true))
        },
    )
    .on(Cpus::Two),
    Case::new("sgi.to_a_closed_interface", "ICC_IGRPEN1_EL1 (12.2)", |m| {
        m.sgi(1, 8);
        cpus::on(1, || interface::set_igrpen_1(0));
        send(sgi_value(m, 1, 8));
        holds("pending", m.private(1, 8).becomes_pending(true))?;
        equal("what CPU 1 takes", cpus::on(1, acknowledge), NONE)?;
        cpus::on(1, || interface::set_igrpen_1(1));
        equal("what CPU 1 takes then", cpus::on(1, take_and_end), 8)
    })
    .on(Cpus::Two),
    Case::new("sgi.group_0", "ICC_SGI0R_EL1 (12.2)", |m| {
        enable_both_groups(m);
        m.sgi(0, 5).set_group(0);
        send_0(sgi_value(m, 0, 5));
        equal("what is taken", interface::take_0(), 5)?;
        interface::end_0(5);
        equal("what is left", interface::acknowledge_0(), NONE)
    }),
    Case::new(
        "sgi.group_1_call_of_a_group_0_sgi",
        "ICC_SGI1R_EL1 with DS (12.2)",
        |m| {
            enable_both_groups(m);
            let sgi = m.sgi(0, 5);
            sgi.set_group(0);
            send(sgi_value(m, 0, 5));
            expect_none()?;
            equal("pending", sgi.is_pending(), false)
        },
    ),
    Case::new(
        "sgi.group_0_call_of_a_group_1_sgi",
        "ICC_SGI0R_EL1 with DS (12.2)",
        |m| {
            enable_both_groups(m);
            let sgi = m.sgi(0, 5);
            send_0(sgi_value(m, 0, 5));
            expect_none()?;
            equal("pending", sgi.is_pending(), false)
        },
    ),
    Case::new(
        "sgi.other_state_call_of_a_group_1_sgi",
        "ICC_ASGI1R_EL1 with DS (12.2)",
        |m| {
            enable_both_groups(m);
            let sgi = m.sgi(0, 5);
            send_other(sgi_value(m, 0, 5));
            expect_none()?;
            equal("pending", sgi.is_pending(), false)
        },
    ),
    Case::new("sgi.wakes_from_wfi", "ICC_SGI1R_EL1, WFI", |m| {
        m.sgi(1, 14);
        for _ in 0..50 {
            let (taken, ()) = cpus::run_beside(
                1,
                || {
                    let mut taken = NONE;
                    cpu::spin_until(2_000_000, || {
                        cpu::wait_for_interrupt();
                        taken = take_and_end();
                        taken != NONE
                    });
                    taken
                },
                || {
                    cpu::spin(100);
                    send(sgi_value(m, 1, 14));
                },
            );
            equal("what wakes it", taken, 14)?;
        }
        Ok(())
    })
    .on(Cpus::Two),
    Case::new("sgi.ping_pong", "ICC_SGI1R_EL1 (12.2)", |m| {
        const ROUNDS: u32 = 200;
        m.sgi(0, 1);
        m.sgi(1, 2);
        let (back, there) = cpus::run_beside(
            1,
            || {
                (0..ROUNDS)
                    .take_while(|_| {
                        let taken = take_and_end();
                        send(sgi_value(m, 0, 1));
                        taken == 2
                    })
                    .count()
            },
            || {
                (0..ROUNDS)
                    .take_while(|_| {
                        send(sgi_value(m, 1, 2));
                        take_and_end() == 1
                    })
                    .count()
            },
        );
        equal("rounds there", there, ROUNDS)?;
        equal("rounds back", back, ROUNDS)
    })
    .on(Cpus::Two),
    Case::new("sgi.to_a_cpu_that_is_off", "DEN 0022, 4.1", |m| {
        cpus::turn_off(m, 1);
        let sgi = m.sgi(1, 10);
        send(sgi_value(m, 1, 10));
        let pending = sgi.becomes_pending(true);
        cpus::turn_on(m, 1);
        holds("pending", pending)?;
        let taken = cpus::on(1, || {
            interface::reset();
            take_and_end()
        });
        equal("what it takes when it is on", taken, 10)
    })
    .on(Cpus::Two),
];

/// Returns the value of `ICC_SGI1R_EL1` for one target.
fn sgi_value(m: &Machine, cpu: usize, intid: u32) -> u64 {
    let affinity = m.affinity(cpu);
    let level = |n: u32| affinity >> (8 * n) & 0xff;
    let range = (affinity & 0xf0) >> 4;
    (affinity >> 32 & 0xff) << 48
        | range << 44
        | level(2) << 32
        | u64::from(intid) << 24
        | level(1) << 16
        | 1 << (affinity & 0xf)
}

/// Enables an SGI on all CPUs.
fn enable_on_all_cpus(m: &Machine, intid: u32) {
    for cpu in 0..m.cpus {
        m.sgi(cpu, intid);
    }
}

/// Enables both groups in the distributor and at the calling CPU's interface.
pub(super) fn enable_both_groups(m: &Machine) {
    m.enable_groups(GROUP_0 | GROUP_1);
    interface::set_igrpen_0(1);
}

/// Acknowledges and ends the next interrupt. Returns its INTID, or [`NONE`].
fn take_and_end() -> u32 {
    let intid = interface::take();
    if intid != NONE {
        end(intid);
    }
    intid
}
