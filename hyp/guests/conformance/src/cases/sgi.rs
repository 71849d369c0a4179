//! SGIs: targets, groups, and states until they are taken.

use super::kvm;
use crate::gic::interface::{
    self, NONE, OPEN, acknowledge, end, send, send_0, send_other, set_pmr,
};
use crate::gic::{GROUP_0, GROUP_1, gicd};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::read_32;
use crate::{cpu, cpus};

/// `IRM`: all CPUs but the sender.
const ALL_BUT_SELF: u64 = 1 << 40;

/// Most CPUs of which every pair is tested.
const FEW: usize = 8;

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
            cpus::on_all(|cpu| {
                (0..16).for_each(|intid| m.private(cpu, intid).enable());
                Ok(())
            })?;
            let intid = |sender, target| (sender + target) as u32 % 16;
            for distance in distances(m) {
                cpus::on_all(|cpu| {
                    let target = (cpu + distance) % m.cpus;
                    send(sgi_value(m, target, intid(cpu, target)));
                    let sender = (cpu + m.cpus - distance) % m.cpus;
                    equal("what each takes", take_and_end(), intid(sender, cpu))
                })?;
            }
            cpus::on_all(|_| equal("what is left", acknowledge(), NONE))
        },
    )
    .on(Cpus::All),
    Case::new("sgi.list_of_all", "ICC_SGI1R_EL1.TargetList (12.2)", |m| {
        enable_on_all_cpus(m, 7)?;
        cpus::on_all(|cpu| {
            // The first CPU of each list sends: one list reaches 16 CPUs.
            if let Some(list) = list_of(m, cpu) {
                send(7 << 24 | list);
            }
            equal("what each takes", take_and_end(), 7)
        })?;
        cpus::on_all(|_| equal("what is left", acknowledge(), NONE))
    })
    .on(Cpus::All),
    Case::new(
        "sgi.list_leaves_others_out",
        "ICC_SGI1R_EL1.TargetList (12.2)",
        |m| {
            enable_on_all_cpus(m, 2)?;
            send(sgi_value(m, 1, 2));
            equal("what the target takes", cpus::on(1, take_and_end), 2)?;
            cpus::on_all(|cpu| equal("pending", m.private(cpu, 2).is_pending(), false))?;
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new("sgi.all_but_self", "ICC_SGI1R_EL1.IRM (12.2)", |m| {
        enable_on_all_cpus(m, 9)?;
        for sender in distances(m) {
            cpus::on_all(|cpu| {
                if cpu == sender {
                    send(ALL_BUT_SELF | 9 << 24);
                    return Ok(());
                }
                equal("what each takes", take_and_end(), 9)
            })?;
            equal("what the sender takes", cpus::on(sender, acknowledge), NONE)?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new(
        "sgi.two_senders_are_one",
        "4.1 SGIs have no source in GICv3",
        |m| {
            let sgi = m.private(0, 1);
            cpus::on_all(|_| {
                send(sgi_value(m, 0, 1));
                Ok(())
            })?;
            holds("pending", sgi.becomes_pending(true))?;
            sgi.enable();
            expect_and_end(1)?;
            expect_none()
        },
    )
    .on(Cpus::All),
    Case::new(
        "sgi.broadcast_to_a_crowd",
        "ICC_SGI1R_EL1.IRM (12.2)",
        |m| {
            skip_without_a_crowd(m)?;
            enable_on_all_cpus(m, 9)?;
            // One SGI that is masked until every CPU has it, and one that is taken as it arrives.
            for mask in [0, OPEN] {
                cpus::on_all(|_| {
                    set_pmr(mask);
                    Ok(())
                })?;
                send(ALL_BUT_SELF | 9 << 24);
                cpus::on_all(|cpu| {
                    let sgi = m.private(cpu, 9);
                    if mask != OPEN && cpu != 0 {
                        holds("pending", sgi.becomes_pending(true))?;
                        equal("what is taken while it is masked", acknowledge(), NONE)?;
                    }
                    Ok(())
                })?;
                cpus::on_all(|cpu| {
                    set_pmr(OPEN);
                    match cpu {
                        0 => Ok(()),
                        _ => equal("what each takes", take_and_end(), 9),
                    }
                })?;
                cpus::on_all(|_| equal("what is left", acknowledge(), NONE))?;
            }
            Ok(())
        },
    )
    .on(Cpus::All),
    Case::new(
        "sgi.all_send_to_the_last",
        "4.1, ICC_SGI1R_EL1 (12.2)",
        |m| {
            skip_without_a_crowd(m)?;
            let last = m.cpus - 1;
            let sgi = m.private(last, 1);
            // SGIs that are sent while one is pending are the same one.
            cpus::on_all(|_| {
                send(sgi_value(m, last, 1));
                Ok(())
            })?;
            holds("pending", sgi.becomes_pending(true))?;
            sgi.enable();
            equal("what the last takes", cpus::on(last, take_and_end), 1)?;
            equal("what is left", cpus::on(last, acknowledge), NONE)
        },
    )
    .on(Cpus::All),
    Case::new("sgi.chain_through_a_crowd", "ICC_SGI1R_EL1, WFI", |m| {
        skip_without_a_crowd(m)?;
        enable_on_all_cpus(m, 14)?;
        for _ in 0..4 {
            // Each CPU sleeps until the one before it wakes it, and wakes the next one.
            cpus::on_all(|cpu| {
                let next = (cpu + 1) % m.cpus;
                if cpu == 0 {
                    send(sgi_value(m, next, 14));
                }
                let taken = sleep_and_take();
                if cpu != 0 {
                    send(sgi_value(m, next, 14));
                }
                equal("what wakes it", taken, 14)
            })?;
        }
        cpus::on_all(|_| equal("what is left", acknowledge(), NONE))
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
    })
    .unlike_kvm(kvm::FORGOTTEN),
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
    )
    .unlike_kvm("it makes an SGI of either group pending by ICC_SGI1R_EL1"),
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
            let (taken, ()) = cpus::run_beside(1, sleep_and_take, || {
                cpu::spin(100);
                send(sgi_value(m, 1, 14));
            });
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

/// Returns the target list with the CPUs of the same list from `cpu` on, if `cpu` is the first one
/// there, without an INTID.
fn list_of(m: &Machine, cpu: usize) -> Option<u64> {
    let list = |cpu| m.affinity(cpu) & !0xf;
    let is_first = cpu == 0 || list(cpu - 1) != list(cpu);
    let others = (cpu..m.cpus).take_while(|&other| list(other) == list(cpu));
    is_first.then(|| others.fold(0, |value, other| value | sgi_value(m, other, 0)))
}

/// Returns distances between CPUs, or numbers of CPUs: all of them, or if there are more than
/// [`FEW`] those of a CPU, its neighbours, the CPUs at the ends of the next list, and the one that
/// is half-way round.
pub(super) fn distances(m: &Machine) -> impl Iterator<Item = usize> {
    let some = [0, 1, 15, 16, 31, m.cpus / 2, m.cpus - 1];
    (0..m.cpus).filter(move |distance| m.cpus <= FEW || some.contains(distance))
}

/// Skips a case about more CPUs than the other cases need.
pub(super) fn skip_without_a_crowd(m: &Machine) -> Outcome {
    skip_unless("needs more than eight CPUs", m.cpus > FEW)
}

/// Enables an SGI on all CPUs, which are on.
fn enable_on_all_cpus(m: &Machine, intid: u32) -> Outcome {
    cpus::on_all(|cpu| {
        m.private(cpu, intid).enable();
        Ok(())
    })
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

/// Sleeps until an interrupt is pending, acknowledges and ends it. Returns its INTID, or [`NONE`].
pub(super) fn sleep_and_take() -> u32 {
    let mut taken = NONE;
    cpu::spin_until(2_000_000, || {
        cpu::wait_for_interrupt();
        taken = take_and_end();
        taken != NONE
    });
    taken
}
