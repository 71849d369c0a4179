//! LPIs: pending states without active ones, tables, thousands of LPIs.

use super::its::{open_with_events, take_and_end};
use super::kvm;
use super::sgi::{skip_without_a_crowd, sleep_and_take};
use crate::gic::gicr;
use crate::gic::interface::{
    self, EOI_MODE, NONE, OPEN, acknowledge, end, running_priority, set_ctlr, set_igrpen_1, set_pmr,
};
use crate::gic::its::{BIG, ENABLED, FIRST_LPI, Its};
use crate::gic::{GROUP_1, irq::Irq};
use crate::harness::{
    Case, Cpus, Outcome, equal, expect, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_64};
use crate::{cpu, cpus};

/// Device of [`open_with_events`].
const DEVICE: u32 = 2;

/// `GICR_CTLR.IR`: `GICR_INVLPIR` and `GICR_INVALLR` exist.
const DIRECT: u32 = 1 << 2;
const INVLPIR: usize = 0xa0;
const INVALLR: usize = 0xb0;
const SYNCR: usize = 0xc0;

pub(super) const CASES: &[Case] = &[
    Case::new("lpi.raised_twice_is_taken_once", "5.1, 4.1", |m| {
        let its = open_with_events(m, 1)?;
        set_pmr(0);
        its.raise(DEVICE, 0)?;
        its.raise(DEVICE, 0)?;
        set_pmr(OPEN);
        expect_and_end(FIRST_LPI)?;
        expect_none()
    }),
    Case::new(
        "lpi.raised_while_taken",
        "5.1 LPIs have no active state",
        |m| {
            let its = open_with_events(m, 1)?;
            its.raise(DEVICE, 0)?;
            expect(FIRST_LPI)?;
            its.raise(DEVICE, 0)?;
            // The LPI's own priority masks it.
            expect_none()?;
            end(FIRST_LPI);
            expect_and_end(FIRST_LPI)?;
            expect_none()
        },
    ),
    Case::new(
        "lpi.needs_no_deactivation",
        "5.1, ICC_CTLR_EL1.EOImode",
        |m| {
            let its = open_with_events(m, 1)?;
            set_ctlr(EOI_MODE);
            for _ in 0..3 {
                its.raise(DEVICE, 0)?;
                expect(FIRST_LPI)?;
                end(FIRST_LPI);
                equal("RPR", running_priority(), 0xff)?;
            }
            expect_none()
        },
    ),
    Case::new("lpi.running_priority", "5.1, ICC_RPR_EL1", |m| {
        let its = open_with_events(m, 1)?;
        its.raise(DEVICE, 0)?;
        expect(FIRST_LPI)?;
        let while_taken = running_priority();
        end(FIRST_LPI);
        equal("RPR while it is taken", while_taken, 0xa0)?;
        equal("RPR once it is ended", running_priority(), 0xff)
    }),
    Case::new("lpi.by_priority", "5.1 LPI configuration, 4.8", |m| {
        let its = open_with_events(m, 4)?;
        for (event, priority) in [(0, 0xc0), (1, 0x40), (2, 0x80), (3, 0x20)] {
            its.configure(FIRST_LPI + event, priority | ENABLED);
            its.invalidate(DEVICE, event)?;
        }
        set_pmr(0);
        (0..4).try_for_each(|event| its.raise(DEVICE, event))?;
        set_pmr(OPEN);
        for event in [3, 1, 2, 0] {
            expect_and_end(FIRST_LPI + event)?;
        }
        expect_none()
    }),
    Case::new("lpi.preempts_an_spi", "5.1, 4.8 preemption", |m| {
        let its = open_with_events(m, 1)?;
        its.configure(FIRST_LPI, 0x40 | ENABLED);
        its.invalidate(DEVICE, 0)?;
        let spi = m.edge(0).at(0x80);
        spi.set_pending();
        expect(spi.intid)?;
        its.raise(DEVICE, 0)?;
        expect(FIRST_LPI)?;
        equal("RPR", running_priority(), 0x40)?;
        end(FIRST_LPI);
        equal("RPR of the outer one", running_priority(), 0x80)?;
        end(spi.intid);
        Ok(())
    }),
    Case::new("lpi.is_preempted_by_an_spi", "5.1, 4.8 preemption", |m| {
        let its = open_with_events(m, 1)?;
        its.raise(DEVICE, 0)?;
        expect(FIRST_LPI)?;
        let spi: Irq<'_> = m.edge(0).at(0x40);
        spi.set_pending();
        expect_and_end(spi.intid)?;
        end(FIRST_LPI);
        equal("RPR", running_priority(), 0xff)
    }),
    Case::new("lpi.masked", "5.1, ICC_PMR_EL1", |m| {
        let its = open_with_events(m, 1)?;
        set_pmr(0xa0);
        its.raise(DEVICE, 0)?;
        expect_none()?;
        set_pmr(0xa8);
        expect_and_end(FIRST_LPI)
    }),
    Case::new("lpi.group_1_only", "5.1, ICC_IGRPEN1_EL1", |m| {
        let its = open_with_events(m, 1)?;
        set_igrpen_1(0);
        its.raise(DEVICE, 0)?;
        expect_none()?;
        set_igrpen_1(1);
        expect_and_end(FIRST_LPI)
    }),
    Case::new(
        "lpi.distributor_disabled",
        "5.1, GICD_CTLR.EnableGrp1",
        |m| {
            let its = open_with_events(m, 1)?;
            m.enable_groups(0);
            its.raise(DEVICE, 0)?;
            expect_none()?;
            m.enable_groups(GROUP_1);
            expect_and_end(FIRST_LPI)
        },
    )
    .unlike_kvm(kvm::FORGOTTEN),
    Case::new(
        "lpi.disabled_is_kept_pending",
        "5.1 LPI configuration",
        |m| {
            let its = open_with_events(m, 1)?;
            its.configure(FIRST_LPI, 0xa0);
            its.invalidate(DEVICE, 0)?;
            its.raise(DEVICE, 0)?;
            expect_none()?;
            its.clear(DEVICE, 0)?;
            its.configure(FIRST_LPI, 0xa0 | ENABLED);
            its.invalidate(DEVICE, 0)?;
            expect_none()
        },
    ),
    Case::new("lpi.disabled_while_pending", "5.3 INV, 5.1", |m| {
        let its = open_with_events(m, 1)?;
        set_pmr(0);
        its.raise(DEVICE, 0)?;
        its.configure(FIRST_LPI, 0xa0);
        its.invalidate(DEVICE, 0)?;
        set_pmr(OPEN);
        expect_none()?;
        its.configure(FIRST_LPI, 0xa0 | ENABLED);
        its.invalidate(DEVICE, 0)?;
        expect_and_end(FIRST_LPI)
    }),
    Case::new("lpi.off", "GICR_CTLR.EnableLPIs (12.11)", |m| {
        let its = open_with_events(m, 1)?;
        its.disable_lpis(0);
        skip_unless(
            "EnableLPIs cannot be cleared",
            read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
        )?;
        its.raise(DEVICE, 0)?;
        expect_none()
    }),
    Case::new(
        "lpi.off_while_pending",
        "GICR_CTLR.EnableLPIs (12.11)",
        |m| {
            let its = open_with_events(m, 4)?;
            set_pmr(0);
            (0..4).try_for_each(|event| its.raise(DEVICE, event))?;
            its.disable_lpis(0);
            skip_unless(
                "EnableLPIs cannot be cleared",
                read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
            )?;
            set_pmr(OPEN);
            equal("nothing to take once RWP is clear", acknowledge(), NONE)?;
            expect_none()
        },
    ),
    Case::new(
        "lpi.off_and_on_again",
        "GICR_CTLR.EnableLPIs (12.11), 5.1",
        |m| {
            let its = open_with_events(m, 4)?;
            set_pmr(0);
            its.raise(DEVICE, 1)?;
            its.raise(DEVICE, 3)?;
            its.disable_lpis(0);
            skip_unless(
                "EnableLPIs cannot be cleared",
                read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
            )?;
            its.enable_lpis(0, false);
            set_pmr(OPEN);
            let mut taken = 0u32;
            for _ in 0..2 {
                let lpi = take_and_end();
                holds("one of them", (FIRST_LPI..FIRST_LPI + 4).contains(&lpi))?;
                taken |= 1 << (lpi - FIRST_LPI);
            }
            equal("what was pending is pending again", taken, 1 << 1 | 1 << 3)?;
            its.raise(DEVICE, 0)?;
            expect_and_end(FIRST_LPI)?;
            expect_none()
        },
    )
    .unlike_kvm(kvm::LPIS_OFF_FORGETS),
    Case::new(
        "lpi.pending_table",
        "GICR_PENDBASER, 5.1 LPI pending table",
        |m| {
            let its = Its::prepare(m)?;
            // The events are mapped before LPIs are on. Then the table holds the pending LPIs.
            for cpu in 1..m.cpus {
                its.enable_lpis(cpu, true);
            }
            its.start()?;
            its.map_device(DEVICE)?;
            for event in 0..20 {
                its.map_event(DEVICE, event, FIRST_LPI + event, 0)?;
            }
            for event in [1, 7, 8, 19] {
                its.set_in_pending_table(0, FIRST_LPI + event);
            }
            its.enable_lpis(0, false);
            let mut taken = 0u32;
            for _ in 0..4 {
                let lpi = take_and_end();
                holds("one of them", (FIRST_LPI..FIRST_LPI + 20).contains(&lpi))?;
                taken |= 1 << (lpi - FIRST_LPI);
            }
            equal(
                "those that the table says",
                taken,
                1 << 1 | 1 << 7 | 1 << 8 | 1 << 19,
            )?;
            expect_none()
        },
    ),
    Case::new(
        "lpi.stored_when_off",
        "GICR_CTLR.EnableLPIs, 5.1 LPI pending table",
        |m| {
            let its = open_with_events(m, 4)?;
            // One that was taken before, and two that are pending.
            its.raise(DEVICE, 0)?;
            expect_and_end(FIRST_LPI)?;
            set_pmr(0);
            its.raise(DEVICE, 1)?;
            its.raise(DEVICE, 3)?;
            its.disable_lpis(0);
            skip_unless(
                "EnableLPIs cannot be cleared",
                read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
            )?;
            for event in 0..4 {
                equal(
                    "the bit in the table once RWP is clear",
                    its.is_in_pending_table(0, FIRST_LPI + event),
                    event == 1 || event == 3,
                )?;
            }
            Ok(())
        },
    )
    .unlike_kvm(kvm::LPIS_OFF_FORGETS),
    Case::new(
        "lpi.stored_table_is_not_the_next",
        "GICR_PENDBASER.PTZ, 5.1 LPI pending table",
        |m| {
            let its = open_with_events(m, 4)?;
            set_pmr(0);
            (0..4).try_for_each(|event| its.raise(DEVICE, event))?;
            its.disable_lpis(0);
            skip_unless(
                "EnableLPIs cannot be cleared",
                read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
            )?;
            // As a kernel does that another one has started.
            its.clear_pending_table(0);
            its.enable_lpis(0, true);
            set_pmr(OPEN);
            expect_none()?;
            its.raise(DEVICE, 2)?;
            expect_and_end(FIRST_LPI + 2)?;
            expect_none()
        },
    ),
    Case::new("lpi.tables_read_back", "GICR_PENDBASER (12.11)", |m| {
        let _its = open_with_events(m, 1)?;
        equal("EnableLPIs", read_32(m.gicr(0, gicr::CTLR)) & 1, 1)?;
        let before = read_64(m.gicr(0, gicr::PENDBASER));
        let mask = 0xf_ffff_ffff_0000;
        holds("GICR_PENDBASER has the table", before & mask != 0)
    }),
    Case::new(
        "lpi.direct_invalidation",
        "GICR_INVLPIR, GICR_INVALLR, GICR_SYNCR",
        |m| {
            let its = open_with_events(m, 2)?;
            skip_unless(
                "GICR_CTLR.IR is 0",
                read_32(m.gicr(0, gicr::CTLR)) & DIRECT != 0,
            )?;
            for event in 0..2 {
                its.configure(FIRST_LPI + event, 0xa0);
            }
            write_64(m.gicr(0, INVALLR), 0);
            holds("not busy", wait_until_invalidated(m))?;
            (0..2).try_for_each(|event| its.raise(DEVICE, event))?;
            expect_none()?;
            its.configure(FIRST_LPI + 1, 0xa0 | ENABLED);
            write_64(m.gicr(0, INVLPIR), u64::from(FIRST_LPI + 1));
            holds("not busy", wait_until_invalidated(m))?;
            expect_and_end(FIRST_LPI + 1)?;
            expect_none()
        },
    ),
    Case::new("lpi.wakes_from_wfi", "5.1, WFI", |m| {
        let its = open_with_events(m, 1)?;
        its.move_event(DEVICE, 0, 1)?;
        for _ in 0..20 {
            let (taken, raised) = cpus::run_beside(1, sleep_and_take, || {
                cpu::spin(100);
                its.raise(DEVICE, 0)
            });
            raised?;
            equal("what wakes it", taken, FIRST_LPI)?;
        }
        Ok(())
    })
    .on(Cpus::Two),
    Case::new("lpi.ping_pong", "5.1, 5.3 INT", |m| {
        const ROUNDS: u32 = 100;
        let its = open_with_events(m, 1)?;
        its.move_event(DEVICE, 0, 1)?;
        m.sgi(0, 1);
        for _ in 0..ROUNDS {
            let (taken, raised) = cpus::run_beside(1, take_and_end, || its.raise(DEVICE, 0));
            raised?;
            equal("what CPU 1 takes", taken, FIRST_LPI)?;
        }
        Ok(())
    })
    .on(Cpus::Two),
    Case::new("lpi.to_a_cpu_that_is_off", "5.1, DEN 0022", |m| {
        let its = open_with_events(m, 1)?;
        its.move_event(DEVICE, 0, 1)?;
        cpus::turn_off(m, 1);
        let raised = its.raise(DEVICE, 0);
        cpus::turn_on(m, 1);
        raised?;
        let taken = cpus::on(1, || {
            interface::reset();
            take_and_end()
        });
        equal("what it takes when it is on", taken, FIRST_LPI)
    })
    .on(Cpus::Two),
    Case::new("lpi.a_thousand_at_once", "5.1, 4.8", |m| {
        take_all_at_once(m, 1000)
    }),
    Case::new("lpi.four_thousand_at_once", "5.1, 4.8", |m| {
        take_all_at_once(m, 4000)
    }),
    Case::new("lpi.thousands_over_all_cpus", "5.1, 5.3 MAPTI", |m| {
        const COUNT: u32 = 2000;
        let its = open_with_big_device(m, COUNT, |event| u64::from(event) % m.cpus as u64)?;
        (0..COUNT).for_each(|event| its.queue_raise(BIG, event));
        its.finish()?;
        cpus::on_all(|cpu| {
            let is_own = |lpi| (lpi - FIRST_LPI) as usize % m.cpus == cpu;
            let share = (cpu..COUNT as usize).step_by(m.cpus).len();
            equal("its own ones", take_each_lpi(is_own), share)
        })
    })
    .on(Cpus::All),
    Case::new("lpi.one_for_each_of_a_crowd", "5.1, 5.3 MAPTI", |m| {
        skip_without_a_crowd(m)?;
        let its = open_with_big_device(m, m.cpus as u32, u64::from)?;
        for _ in 0..2 {
            // Each CPU sleeps until its own LPI wakes it.
            (0..m.cpus as u32).for_each(|event| its.queue_raise(BIG, event));
            its.finish()?;
            cpus::on_all(|cpu| {
                equal("what wakes it", sleep_and_take(), FIRST_LPI + cpu as u32)?;
                equal("what is left", acknowledge(), NONE)
            })?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("lpi.moved_through_a_crowd", "5.3 MOVI", |m| {
        skip_without_a_crowd(m)?;
        let its = open_with_big_device(m, 1, |_| 0)?;
        mask_all()?;
        its.raise(BIG, 0)?;
        // It is pending all the way.
        (1..m.cpus as u64).for_each(|icid| its.queue_event_command(0x1, BIG, 0, icid));
        its.finish()?;
        cpus::on_all(|cpu| {
            set_pmr(OPEN);
            if cpu + 1 == m.cpus {
                equal("what the last takes", take_and_end(), FIRST_LPI)?;
            }
            equal("what is left", acknowledge(), NONE)
        })
    })
    .on(Cpus::All),
    Case::new("lpi.collected_from_a_crowd", "5.3 MOVALL", |m| {
        skip_without_a_crowd(m)?;
        const COUNT: usize = 64;
        // One is pending on each of these CPUs.
        let owner = |event: usize| event * (m.cpus - 1) / COUNT;
        let its = open_with_big_device(m, COUNT as u32, |event| owner(event as usize) as u64)?;
        mask_all()?;
        (0..COUNT as u32).for_each(|event| its.queue_raise(BIG, event));
        let last = m.cpus - 1;
        (0..COUNT).for_each(|event| its.queue_move_all(owner(event), last));
        its.finish()?;
        cpus::on_all(|cpu| {
            set_pmr(OPEN);
            if cpu == last {
                equal("those that the last takes", take_each_lpi(|_| true), COUNT)?;
            }
            equal("what is left", acknowledge(), NONE)
        })
    })
    .on(Cpus::All),
    Case::new("lpi.movall_of_a_thousand", "5.3 MOVALL", |m| {
        const COUNT: u32 = 1000;
        let its = open_with_big_device(m, COUNT, |_| 0)?;
        set_pmr(0);
        for event in 0..COUNT {
            its.raise(BIG, event)?;
        }
        its.move_all(0, 1)?;
        let count = cpus::on(1, || {
            let mut count = 0;
            while let lpi @ FIRST_LPI.. = interface::acknowledge() {
                end(lpi);
                count += 1;
            }
            count
        });
        set_pmr(OPEN);
        equal("taken by CPU 1", count, COUNT)?;
        expect_none()
    })
    .on(Cpus::Two),
    Case::new(
        "lpi.device_unmapped_while_pending",
        "5.3 MAPD with V=0",
        |m| {
            let its = open_with_events(m, 8)?;
            set_pmr(0);
            (0..8).try_for_each(|event| its.raise(DEVICE, event))?;
            (0..8).try_for_each(|event| its.discard(DEVICE, event))?;
            its.unmap_device(DEVICE)?;
            set_pmr(OPEN);
            expect_none()
        },
    )
    .unlike_kvm(kvm::DISCARD_LEAVES_PENDING),
];

/// Opens the ITS with `count` events of one device, each mapped to the LPI of its number and to the
/// collection that `icid` returns.
fn open_with_big_device(
    m: &Machine,
    count: u32,
    icid: impl Fn(u32) -> u64,
) -> Result<Its<'_>, crate::harness::NotPassed> {
    let its = Its::open(m)?;
    its.map_device(BIG)?;
    for event in 0..count {
        its.queue_map_event(BIG, event, FIRST_LPI + event, icid(event));
        // The queue has room for twice as many.
        if event % 1000 == 999 {
            its.finish()?;
        }
    }
    its.finish()?;
    Ok(its)
}

/// Masks every priority on all CPUs.
fn mask_all() -> Outcome {
    cpus::on_all(|_| {
        set_pmr(0);
        Ok(())
    })
}

/// Acknowledges and ends LPIs until none is pending. Returns the number of those of which `is_own`
/// returns true.
fn take_each_lpi(is_own: impl Fn(u32) -> bool) -> usize {
    let mut count = 0;
    while let lpi @ FIRST_LPI.. = acknowledge() {
        count += usize::from(is_own(lpi));
        end(lpi);
    }
    count
}

/// Makes `count` LPIs of one CPU pending; each is taken once.
fn take_all_at_once(m: &Machine, count: u32) -> Outcome {
    let its = open_with_big_device(m, count, |_| 0)?;
    set_pmr(0);
    for event in 0..count {
        its.raise(BIG, event)?;
    }
    set_pmr(OPEN);
    let mut seen = [0u32; 4096 / 32];
    for _ in 0..count {
        let lpi = interface::take();
        holds("one of them", (FIRST_LPI..FIRST_LPI + count).contains(&lpi))?;
        let (word, bit) = ((lpi - FIRST_LPI) as usize / 32, lpi % 32);
        equal("taken before", seen[word] >> bit & 1, 0)?;
        seen[word] |= 1 << bit;
        end(lpi);
    }
    expect_none()
}

/// Waits until `GICR_SYNCR` says that invalidations are complete. Returns false on a timeout.
fn wait_until_invalidated(m: &Machine) -> bool {
    cpu::spin_until(3_000_000, || read_32(m.gicr(0, SYNCR)) & 1 == 0)
}
