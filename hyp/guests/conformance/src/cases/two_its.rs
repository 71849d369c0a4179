//! Two ITSes: registers and mappings of each, and LPIs of both.

use super::its::take_and_end;
use super::kvm;
use crate::cpus;
use crate::gic::interface::{self, OPEN, acknowledge, end, set_pmr};
use crate::gic::its::{ENABLED, FIRST_LPI, Its, gits};
use crate::harness::{Case, Cpus, NotPassed, equal, expect_and_end, expect_none, holds};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_32, write_64};

/// Device that a case maps in both ITSes.
const DEVICE: u32 = 2;
/// Event that a case maps in both ITSes.
const EVENT: u32 = 5;
const LPI: u32 = FIRST_LPI + 3;

/// Offset of `GITS_PIDR2`.
const PIDR2: usize = 0xffe8;
/// `ArchRev` of `GITS_PIDR2`.
const ARCHITECTURE: u32 = 0xf0;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "two.identification",
        "GITS_PIDR2, GITS_TYPER (12.19)",
        |m| {
            let (first, second) = open_both(m)?;
            let read = |its: &Its<'_>| read_32(its.register(PIDR2)) & ARCHITECTURE;
            equal("GITS_PIDR2", read(&second), read(&first))?;
            let typer = read_64(second.register(gits::TYPER));
            holds("Physical", typer & 1 != 0)?;
            equal(
                "PTA is the same",
                typer >> 19 & 1,
                read_64(first.register(gits::TYPER)) >> 19 & 1,
            )
        },
    ),
    Case::new("two.registers", "12.19, frames of each ITS", |m| {
        let (first, second) = open_both(m)?;
        for (one, other) in [(&first, &second), (&second, &first)] {
            let before = [gits::CBASER, gits::CWRITER, gits::BASER]
                .map(|offset| read_64(other.register(offset)));
            holds("Quiescent", one.quiesce())?;
            write_64(one.register(gits::BASER), 0);
            write_64(one.register(gits::CBASER), 0);
            let after = [gits::CBASER, gits::CWRITER, gits::BASER]
                .map(|offset| read_64(other.register(offset)));
            for (before, after) in before.into_iter().zip(after) {
                equal("a register of the other one", after, before)?;
            }
            if one.register(0) == first.register(0) {
                holds(
                    "the other is on",
                    read_32(other.register(gits::CTLR)) & 1 != 0,
                )?;
            }
        }
        Ok(())
    }),
    Case::new(
        "two.same_device",
        "5.1 DeviceIDs are of one ITS, 5.3 MAPD",
        |m| {
            let (first, second) = open_both(m)?;
            for (its, lpi) in [(&first, LPI), (&second, LPI + 1)] {
                its.map_device(DEVICE)?;
                its.map_event(DEVICE, EVENT, lpi, 0)?;
            }
            for (its, lpi) in [(&first, LPI), (&second, LPI + 1), (&first, LPI)] {
                its.raise(DEVICE, EVENT)?;
                expect_and_end(lpi)?;
                expect_none()?;
            }
            first.unmap_device(DEVICE)?;
            first.raise(DEVICE, EVENT)?;
            expect_none()?;
            second.raise(DEVICE, EVENT)?;
            expect_and_end(LPI + 1)
        },
    ),
    Case::new("two.same_lpi", "5.1, 5.3 MAPTI", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        set_pmr(0);
        first.raise(DEVICE, EVENT)?;
        second.raise(DEVICE, EVENT)?;
        set_pmr(OPEN);
        // There was one pending state.
        expect_and_end(LPI)?;
        expect_none()?;
        second.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        first.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        expect_none()
    }),
    Case::new("two.cleared_through_the_other", "5.3 CLEAR", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        set_pmr(0);
        first.raise(DEVICE, EVENT)?;
        second.clear(DEVICE, EVENT)?;
        set_pmr(OPEN);
        expect_none()?;
        first.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)
    }),
    Case::new("two.discarded_in_one", "5.3 DISCARD", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        first.discard(DEVICE, EVENT)?;
        first.raise(DEVICE, EVENT)?;
        expect_none()?;
        second.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        first.map_event(DEVICE, EVENT, LPI, 0)?;
        second.discard(DEVICE, EVENT)?;
        second.raise(DEVICE, EVENT)?;
        expect_none()?;
        first.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)
    }),
    Case::new("two.device_unmapped_in_one", "5.3 MAPD with V=0", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        second.unmap_device(DEVICE)?;
        second.raise(DEVICE, EVENT)?;
        expect_none()?;
        first.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        expect_none()
    }),
    Case::new("two.configured_through_one", "5.3 INV, 5.1", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        first.configure(LPI, 0xa0);
        second.invalidate(DEVICE, EVENT)?;
        first.raise(DEVICE, EVENT)?;
        expect_none()?;
        first.configure(LPI, 0xa0 | ENABLED);
        first.invalidate(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        second.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)
    }),
    Case::new("two.moved_in_both_while_pending", "5.3 MOVI", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        for (raised, cpu) in [(&first, 1), (&second, 0), (&second, 1), (&first, 0)] {
            set_pmr(0);
            cpus::on(1, || set_pmr(0));
            raised.raise(DEVICE, EVENT)?;
            // Both ITSes move their event, the second one first.
            second.move_event(DEVICE, EVENT, cpu as u64)?;
            first.move_event(DEVICE, EVENT, cpu as u64)?;
            set_pmr(OPEN);
            cpus::on(1, || set_pmr(OPEN));
            equal("what its CPU takes", cpus::on(cpu, take_and_end), LPI)?;
            cpus::on(1, || {
                equal("what CPU 1 takes", acknowledge(), interface::NONE)
            })?;
            expect_none()?;
        }
        Ok(())
    })
    .on(Cpus::Two),
    Case::new(
        "two.collections",
        "5.1 collections are of one ITS, 5.3 MAPC",
        |m| {
            let (first, second) = open_both(m)?;
            for (its, lpi, cpu) in [(&first, LPI, 0), (&second, LPI + 1, 1)] {
                its.map_device(DEVICE)?;
                its.map_collection(8, cpu)?;
                its.map_event(DEVICE, EVENT, lpi, 8)?;
            }
            let arrives = |its: &Its<'_>, lpi, cpu| {
                its.raise(DEVICE, EVENT)?;
                equal("what its CPU takes", cpus::on(cpu, take_and_end), lpi)?;
                expect_none()
            };
            arrives(&first, LPI, 0)?;
            arrives(&second, LPI + 1, 1)?;
            first.map_collection(8, 1)?;
            second.map_collection(8, 0)?;
            arrives(&first, LPI, 1)?;
            arrives(&second, LPI + 1, 0)?;
            second.unmap_collection(8)?;
            arrives(&first, LPI, 1)?;
            second.raise(DEVICE, EVENT)?;
            expect_none()
        },
    )
    .on(Cpus::Two),
    Case::new("two.movall", "5.3 MOVALL is of a Redistributor", |m| {
        const COUNT: u32 = 8;
        let (first, second) = open_both(m)?;
        for (its, lpi) in [(&first, FIRST_LPI), (&second, FIRST_LPI + COUNT)] {
            its.map_device(DEVICE)?;
            (0..COUNT).try_for_each(|event| its.map_event(DEVICE, event, lpi + event, 0))?;
        }
        set_pmr(0);
        for its in [&first, &second] {
            (0..COUNT).try_for_each(|event| its.raise(DEVICE, event))?;
        }
        second.move_all(0, 1)?;
        let taken = cpus::on(1, || take_all(2 * COUNT));
        set_pmr(OPEN);
        equal("those that CPU 1 takes", taken, (1 << (2 * COUNT)) - 1)?;
        expect_none()
    })
    .on(Cpus::Two),
    Case::new("two.one_disabled", "GITS_CTLR.Enabled (12.19)", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        for (off, on) in [(&first, &second), (&second, &first)] {
            holds("Quiescent", off.quiesce())?;
            let stands = read_64(off.register(gits::CREADR));
            off.queue_raise(DEVICE, EVENT);
            off.submit();
            expect_none()?;
            equal("its CREADR", read_64(off.register(gits::CREADR)), stands)?;
            on.raise(DEVICE, EVENT)?;
            expect_and_end(LPI)?;
            write_32(off.register(gits::CTLR), 1);
            holds("its queue is read", off.wait_until_read())?;
            expect_and_end(LPI)?;
            expect_none()?;
        }
        Ok(())
    }),
    Case::new("two.queues", "5.2 the command queue of each", |m| {
        const COUNT: u32 = 16;
        let (first, second) = open_both(m)?;
        for (its, lpi) in [(&first, FIRST_LPI), (&second, FIRST_LPI + COUNT)] {
            its.map_device(DEVICE)?;
            (0..COUNT).try_for_each(|event| its.map_event(DEVICE, event, lpi + event, 0))?;
        }
        for event in 0..COUNT {
            first.queue_raise(DEVICE, event);
            second.queue_raise(DEVICE, event);
        }
        second.submit();
        let of_second = take_all(COUNT);
        equal("those of the second", of_second, u32::MAX << COUNT)?;
        holds("its queue is read to its end", second.wait_until_read())?;
        expect_none()?;
        first.submit();
        equal("those of the first", take_all(COUNT), (1 << COUNT) - 1)?;
        holds("its queue is read to its end", first.wait_until_read())
    }),
    Case::new(
        "two.driven_by_two_cpus",
        "5.2, 5.3 INT, MOVI, DISCARD, MAPTI",
        |m| {
            const ROUNDS: u32 = 100;
            let (first, second) = open_both(m)?;
            let rounds = |its: &Its<'_>, cpu: u64, lpi: u32| {
                its.map_device(DEVICE)?;
                its.map_event(DEVICE, EVENT, lpi, cpu)?;
                for _ in 0..ROUNDS {
                    its.raise(DEVICE, EVENT)?;
                    expect_and_end(lpi)?;
                    its.discard(DEVICE, EVENT)?;
                    its.map_event(DEVICE, EVENT, lpi, 1 - cpu)?;
                    its.move_event(DEVICE, EVENT, cpu)?;
                }
                expect_none()
            };
            let ours = || rounds(&first, 0, LPI);
            let (theirs, ours) = cpus::run_beside(1, move || rounds(&second, 1, LPI + 1), ours);
            ours?;
            theirs
        },
    )
    .on(Cpus::Two),
    Case::new("two.storm_of_one_lpi", "5.1, 5.3 INT", |m| {
        const ROUNDS: u32 = 300;
        let (first, second) = open_sharing_lpi(m)?;
        let mut more = 0;
        let raise = |its: &Its<'_>| (0..ROUNDS).try_for_each(|_| its.raise(DEVICE, EVENT));
        let mut drain = || {
            while acknowledge() == LPI {
                end(LPI);
                more += 1;
            }
        };
        let (theirs, ours) = cpus::run_beside(
            1,
            move || raise(&second),
            || {
                (0..ROUNDS).try_for_each(|_| {
                    first.raise(DEVICE, EVENT)?;
                    expect_and_end(LPI)?;
                    drain();
                    Ok(())
                })
            },
        );
        drain();
        ours?;
        theirs?;
        // Each of this CPU's own raises has been taken already.
        holds("taken no more often than raised", more <= ROUNDS)?;
        expect_none()
    })
    .on(Cpus::Two),
    Case::new("two.errors_in_one", "5.5, the other goes on", |m| {
        let (first, second) = open_sharing_lpi(m)?;
        for (wrong, right) in [(&first, &second), (&second, &first)] {
            for round in 0..200 {
                // No such device, no such collection, no such command.
                wrong.queue_command([0x3 | 0x60 << 32, round, 0, 0]);
                wrong.queue_command([0xd, 0, 0xffff, 0]);
                wrong.queue_command([0xff, round, 0, 0]);
            }
            wrong.submit();
            right.raise(DEVICE, EVENT)?;
            expect_and_end(LPI)?;
            holds("its queue is read to its end", wrong.wait_until_read())?;
            expect_none()?;
            wrong.raise(DEVICE, EVENT)?;
            expect_and_end(LPI)?;
        }
        Ok(())
    }),
    Case::new(
        "two.lpis_off_while_pending",
        "GICR_CTLR.EnableLPIs (12.11)",
        |m| {
            let (first, second) = open_both(m)?;
            for (its, lpi) in [(&first, LPI), (&second, LPI + 1)] {
                its.map_device(DEVICE)?;
                its.map_event(DEVICE, EVENT, lpi, 0)?;
            }
            set_pmr(0);
            first.raise(DEVICE, EVENT)?;
            second.raise(DEVICE, EVENT)?;
            first.disable_lpis(0);
            set_pmr(OPEN);
            expect_none()?;
            second.enable_lpis(0, false);
            second.raise(DEVICE, EVENT)?;
            let lpis = [take_and_end(), take_and_end()];
            holds("that of the second", lpis.contains(&(LPI + 1)))?;
            holds("that of the first", lpis.contains(&LPI))?;
            expect_none()
        },
    )
    .unlike_kvm(kvm::LPIS_OFF_FORGETS),
];

/// Opens both ITSes, each with a collection for each CPU.
fn open_both(m: &Machine) -> Result<(Its<'_>, Its<'_>), NotPassed> {
    let first = Its::open(m)?;
    let second = Its::open_second(m)?;
    Ok((first, second))
}

/// Opens both ITSes, with one event of each mapped to one LPI on CPU 0.
fn open_sharing_lpi(m: &Machine) -> Result<(Its<'_>, Its<'_>), NotPassed> {
    let (first, second) = open_both(m)?;
    for its in [&first, &second] {
        its.map_device(DEVICE)?;
        its.map_event(DEVICE, EVENT, LPI, 0)?;
    }
    Ok((first, second))
}

/// Acknowledges and ends `count` interrupts. Returns a bit for each of the first 32 LPIs among
/// them.
fn take_all(count: u32) -> u32 {
    (0..count).fold(0, |taken, _| {
        let bit = take_and_end().wrapping_sub(FIRST_LPI);
        taken | 1u32.checked_shl(bit).unwrap_or(0)
    })
}
