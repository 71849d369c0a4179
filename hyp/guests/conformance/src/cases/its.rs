//! The ITS: identification and commands.

use super::kvm;
use crate::cpus;
use crate::gic::interface::{self, NONE, OPEN, end, set_pmr};
use crate::gic::its::{BIG, DEVICES, ENABLED, EVENT_BITS, FIRST_LPI, Its, big_table, gits};
use crate::harness::{
    Case, Cpus, NotPassed, equal, expect_and_end, expect_none, holds, skip_unless,
};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_32, write_64};

/// LPI of a case with one event.
pub(super) const LPI: u32 = FIRST_LPI + 3;
/// Device of the one event.
pub(super) const DEVICE: u32 = 2;
/// EventID of the one event.
pub(super) const EVENT: u32 = 5;

pub(super) const CASES: &[Case] = &[
    Case::new("its.introspection", "GITS_TYPER (12.19)", |m| {
        let its = Its::open(m)?;
        let typer = read_64(its.register(gits::TYPER));
        holds("Physical", typer & 1 != 0)?;
        holds(
            "as many events as cases need",
            (typer >> 8 & 0x1f) + 1 >= 12,
        )?;
        holds(
            "as many devices as cases need",
            (typer >> 13 & 0x1f) + 1 >= 8,
        )?;
        equal("targets are processor numbers (PTA)", typer >> 19 & 1, 0)
    }),
    Case::new("its.tables", "GITS_BASER<n>.Type (12.19)", |m| {
        let its = Its::open(m)?;
        let kinds = (0..8).map(|n| read_64(its.register(gits::BASER + 8 * n)) >> 56 & 7);
        let found = kinds.fold(0u32, |found, kind| found | 1 << kind);
        holds("a table of devices", found & 1 << 1 != 0)?;
        let own = read_64(its.register(gits::TYPER)) >> 24 & 0xff;
        holds(
            "a table of collections, or room for them",
            found & 1 << 4 != 0 || own > 8,
        )
    }),
    Case::new(
        "its.quiescent",
        "GITS_CTLR.Enabled, Quiescent (12.19)",
        |m| {
            let its = Its::open(m)?;
            equal(
                "GITS_CTLR.Enabled",
                read_32(its.register(gits::CTLR)) & 1,
                1,
            )?;
            write_32(its.register(gits::CTLR), 0);
            let rests =
                crate::cpu::spin_until(1_000_000, || read_32(its.register(gits::CTLR)) >> 31 == 1);
            holds("Quiescent once it is disabled", rests)
        },
    ),
    Case::new(
        "its.queue_registers",
        "GITS_CBASER, GITS_CREADR, GITS_CWRITER",
        |m| {
            let its = open_with_one_event(m)?;
            let (reader, writer) = (gits::CREADR, gits::CWRITER);
            equal(
                "CREADR",
                read_64(its.register(reader)),
                read_64(its.register(writer)),
            )?;
            write_64(its.register(gits::CREADR), 0x40);
            equal(
                "CREADR is read-only",
                read_64(its.register(reader)),
                read_64(its.register(writer)),
            )?;
            write_32(its.register(gits::CTLR), 0);
            let cbaser = read_64(its.register(gits::CBASER));
            write_64(its.register(gits::CBASER), cbaser);
            equal(
                "CREADR after a write of CBASER",
                read_64(its.register(reader)),
                0,
            )
        },
    )
    .unlike_qemu("it lets GITS_CREADR be written"),
    Case::new("its.int", "5.3 INT", |m| {
        let its = open_with_one_event(m)?;
        its.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        expect_none()
    }),
    Case::new("its.int_for_each_cpu", "5.3 INT, MAPTI", |m| {
        let its = Its::open(m)?;
        its.map_device(BIG)?;
        for event in 0..m.cpus as u32 {
            its.queue_map_event(BIG, event, FIRST_LPI + event, event.into());
        }
        its.finish()?;
        (0..m.cpus as u32).for_each(|event| its.queue_raise(BIG, event));
        its.finish()?;
        cpus::on_all(|cpu| {
            equal("what the CPU takes", take_and_end(), FIRST_LPI + cpu as u32)?;
            equal("what is left", interface::acknowledge(), NONE)
        })
    })
    .on(Cpus::All),
    Case::new("its.every_device_and_event", "5.3 MAPD, MAPTI", |m| {
        let its = Its::open(m)?;
        for device in 0..DEVICES {
            its.map_device(device)?;
            for event in 0..1 << EVENT_BITS {
                let lpi = FIRST_LPI + device * 64 + event;
                its.map_event(device, event, lpi, 0)?;
            }
        }
        for device in (0..DEVICES).rev() {
            for event in 0..1 << EVENT_BITS {
                its.raise(device, event)?;
                expect_and_end(FIRST_LPI + device * 64 + event)?;
            }
        }
        expect_none()
    }),
    Case::new("its.mapi", "5.3 MAPI", |m| {
        let its = Its::open(m)?;
        skip_unless("EventIDs do not reach LPIs", event_bits(&its) > 13)?;
        // The EventID is the INTID: the device needs room for it.
        let word = 0x8 | u64::from(BIG) << 32;
        its.command([word, 13, 1 << 63 | big_table(), 0])?;
        its.event_command(0xb, BIG, LPI, 0)?;
        its.raise(BIG, LPI)?;
        expect_and_end(LPI)
    }),
    Case::new("its.clear", "5.3 CLEAR", |m| {
        let its = open_with_one_event(m)?;
        set_pmr(0);
        its.raise(DEVICE, EVENT)?;
        its.clear(DEVICE, EVENT)?;
        set_pmr(OPEN);
        expect_none()?;
        its.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)
    }),
    Case::new("its.discard", "5.3 DISCARD", |m| {
        let its = open_with_one_event(m)?;
        its.discard(DEVICE, EVENT)?;
        its.raise(DEVICE, EVENT)?;
        expect_none()?;
        its.map_event(DEVICE, EVENT, LPI + 1, 0)?;
        its.raise(DEVICE, EVENT)?;
        expect_and_end(LPI + 1)
    }),
    Case::new("its.discard_while_pending", "5.3 DISCARD", |m| {
        let its = open_with_one_event(m)?;
        set_pmr(0);
        its.raise(DEVICE, EVENT)?;
        its.discard(DEVICE, EVENT)?;
        set_pmr(OPEN);
        expect_none()
    })
    .unlike_kvm(kvm::DISCARD_LEAVES_PENDING),
    Case::new("its.unmapped_device", "5.3 MAPD with V=0", |m| {
        let its = open_with_one_event(m)?;
        its.unmap_device(DEVICE)?;
        its.raise(DEVICE, EVENT)?;
        expect_none()
    }),
    Case::new("its.movi", "5.3 MOVI", |m| {
        let its = open_with_one_event(m)?;
        its.move_event(DEVICE, EVENT, 1)?;
        its.raise(DEVICE, EVENT)?;
        equal("what CPU 1 takes", cpus::on(1, take_and_end), LPI)?;
        expect_none()
    })
    .on(Cpus::Two),
    Case::new("its.movi_while_pending", "5.3 MOVI", |m| {
        let its = open_with_one_event(m)?;
        set_pmr(0);
        its.raise(DEVICE, EVENT)?;
        its.move_event(DEVICE, EVENT, 1)?;
        equal("what CPU 1 takes", cpus::on(1, take_and_end), LPI)?;
        set_pmr(OPEN);
        expect_none()
    })
    .on(Cpus::Two),
    Case::new("its.movi_back_and_forth", "5.3 MOVI, INT", |m| {
        let its = open_with_one_event(m)?;
        for round in 0..40 {
            let cpu = round % m.cpus;
            its.move_event(DEVICE, EVENT, cpu as u64)?;
            its.raise(DEVICE, EVENT)?;
            equal("what the CPU takes", cpus::on(cpu, take_and_end), LPI)?;
        }
        Ok(())
    })
    .on(Cpus::All),
    Case::new("its.movall_while_pending", "5.3 MOVALL", |m| {
        const COUNT: u32 = 20;
        let its = open_with_events(m, COUNT)?;
        set_pmr(0);
        for event in 0..COUNT {
            its.raise(DEVICE, event)?;
        }
        its.move_all(0, 1)?;
        let mut taken = 0u32;
        for _ in 0..COUNT {
            let lpi = cpus::on(1, take_and_end);
            holds("one of them", (FIRST_LPI..FIRST_LPI + COUNT).contains(&lpi))?;
            taken |= 1 << (lpi - FIRST_LPI);
        }
        equal("each of them", taken, (1 << COUNT) - 1)?;
        set_pmr(OPEN);
        expect_none()
    })
    .on(Cpus::Two),
    Case::new("its.movall_leaves_other_cpus", "5.3 MOVALL", |m| {
        skip_unless("needs three CPUs", m.cpus >= 3)?;
        let its = open_with_one_event(m)?;
        its.map_event(DEVICE, EVENT + 1, LPI + 1, 1)?;
        set_pmr(0);
        its.raise(DEVICE, EVENT)?;
        cpus::on(1, || set_pmr(0));
        its.raise(DEVICE, EVENT + 1)?;
        its.move_all(1, 2)?;
        set_pmr(OPEN);
        let (here, there) = (take_and_end(), cpus::on(2, take_and_end));
        equal("what CPU 0 takes", here, LPI)?;
        equal("what CPU 2 takes", there, LPI + 1)
    })
    .unlike_kvm("MOVALL moves the LPIs of every CPU, not those of RDbase1")
    .on(Cpus::All),
    Case::new("its.mapc_elsewhere", "5.3 MAPC", |m| {
        let its = Its::open(m)?;
        its.map_device(DEVICE)?;
        its.map_collection(8, 0)?;
        its.map_event(DEVICE, EVENT, LPI, 8)?;
        its.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)?;
        its.map_collection(8, 1)?;
        its.raise(DEVICE, EVENT)?;
        equal("what CPU 1 takes", cpus::on(1, take_and_end), LPI)?;
        expect_none()
    })
    .on(Cpus::Two),
    Case::new("its.mapc_after_mapti", "5.3 MAPC, MAPTI", |m| {
        let its = Its::open(m)?;
        its.map_device(DEVICE)?;
        its.map_event(DEVICE, EVENT, LPI, 9)?;
        its.raise(DEVICE, EVENT)?;
        expect_none()?;
        its.map_collection(9, 0)?;
        its.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)
    }),
    Case::new("its.unmapped_collection", "5.3 MAPC with V=0", |m| {
        let its = Its::open(m)?;
        its.map_device(DEVICE)?;
        its.map_collection(9, 0)?;
        its.map_event(DEVICE, EVENT, LPI, 9)?;
        its.unmap_collection(9)?;
        its.raise(DEVICE, EVENT)?;
        expect_none()?;
        its.map_collection(9, 0)?;
        its.raise(DEVICE, EVENT)?;
        expect_and_end(LPI)
    })
    .unlike_kvm("an event forgets its ICID at the MAPC with V=0, although its entry has it"),
    Case::new("its.inv_enables", "5.3 INV", |m| {
        let its = open_with_one_event(m)?;
        its.configure(LPI, 0xa0);
        its.invalidate(DEVICE, EVENT)?;
        its.raise(DEVICE, EVENT)?;
        expect_none()?;
        its.configure(LPI, 0xa0 | ENABLED);
        its.invalidate(DEVICE, EVENT)?;
        expect_and_end(LPI)
    }),
    Case::new("its.inv_changes_the_priority", "5.3 INV, 5.1", |m| {
        let its = open_with_events(m, 2)?;
        set_pmr(0);
        its.raise(DEVICE, 0)?;
        its.raise(DEVICE, 1)?;
        its.configure(FIRST_LPI, 0xc0 | ENABLED);
        its.invalidate(DEVICE, 0)?;
        its.configure(FIRST_LPI + 1, 0x40 | ENABLED);
        its.invalidate(DEVICE, 1)?;
        set_pmr(OPEN);
        expect_and_end(FIRST_LPI + 1)?;
        expect_and_end(FIRST_LPI)
    }),
    Case::new("its.invall", "5.3 INVALL", |m| {
        let its = open_with_events(m, 8)?;
        for event in 0..8 {
            its.configure(FIRST_LPI + event, 0xa0);
        }
        its.invalidate_all(0)?;
        for event in 0..8 {
            its.raise(DEVICE, event)?;
        }
        expect_none()?;
        for event in 0..8 {
            its.configure(FIRST_LPI + event, (0xf0 - (event as u8) * 0x10) | ENABLED);
        }
        set_pmr(0);
        its.invalidate_all(0)?;
        set_pmr(OPEN);
        for event in (0..8).rev() {
            expect_and_end(FIRST_LPI + event)?;
        }
        expect_none()
    }),
    Case::new("its.goes_on_by_itself", "5.2 the command queue", |m| {
        // Only the interrupt is polled, which the last of many commands raises.
        let its = open_with_one_event(m)?;
        for _ in 0..1500 {
            its.queue_command([0xd, 0, 0, 0]);
        }
        its.queue_raise(DEVICE, EVENT);
        its.submit();
        expect_and_end(LPI)?;
        holds("the queue is read to its end", its.wait_until_read())
    }),
    Case::new("its.many_commands_at_once", "5.3 the command queue", |m| {
        let its = open_with_events(m, 32)?;
        for event in 0..32 {
            its.queue_command([0x3 | u64::from(DEVICE) << 32, event, 0, 0]);
        }
        its.submit();
        let mut taken = 0u32;
        for _ in 0..32 {
            let lpi = take_and_end();
            holds("one of them", (FIRST_LPI..FIRST_LPI + 32).contains(&lpi))?;
            taken |= 1 << (lpi - FIRST_LPI);
        }
        equal("each of them", taken, u32::MAX)?;
        holds("the queue is read to its end", its.wait_until_read())
    }),
    Case::new(
        "its.queue_wraps",
        "GITS_CWRITER, GITS_CREADR (12.19)",
        |m| {
            // Twice around the 2,048 commands of the queue.
            let its = open_with_one_event(m)?;
            for _ in 0..4 {
                for _ in 0..1023 {
                    its.queue_command([0xc | u64::from(DEVICE) << 32, u64::from(EVENT), 0, 0]);
                }
                its.submit();
                holds("the queue is read to its end", its.wait_until_read())?;
            }
            its.raise(DEVICE, EVENT)?;
            expect_and_end(LPI)
        },
    ),
    Case::new("its.disabled", "GITS_CTLR.Enabled (12.19)", |m| {
        let its = open_with_one_event(m)?;
        write_32(its.register(gits::CTLR), 0);
        its.queue_command([0x3 | u64::from(DEVICE) << 32, u64::from(EVENT), 0, 0]);
        its.submit();
        expect_none()?;
        write_32(its.register(gits::CTLR), 1);
        holds(
            "the queue is read once it is enabled",
            its.wait_until_read(),
        )?;
        expect_and_end(LPI)
    }),
    Case::new("its.same_event_of_two_devices", "5.2 translation", |m| {
        let its = Its::open(m)?;
        for device in [1, 3] {
            its.map_device(device)?;
            its.map_event(device, EVENT, FIRST_LPI + device, 0)?;
        }
        its.raise(3, EVENT)?;
        expect_and_end(FIRST_LPI + 3)?;
        its.raise(1, EVENT)?;
        expect_and_end(FIRST_LPI + 1)?;
        expect_none()
    }),
];

/// Opens the ITS with one event mapped to CPU 0.
pub(super) fn open_with_one_event(m: &Machine) -> Result<Its<'_>, NotPassed> {
    let its = Its::open(m)?;
    its.map_device(DEVICE)?;
    its.map_event(DEVICE, EVENT, LPI, 0)?;
    Ok(its)
}

/// Opens the ITS with `count` events of one device mapped to CPU 0, each to the LPI of its number.
pub(super) fn open_with_events(m: &Machine, count: u32) -> Result<Its<'_>, NotPassed> {
    let its = Its::open(m)?;
    its.map_device(DEVICE)?;
    for event in 0..count {
        its.map_event(DEVICE, event, FIRST_LPI + event, 0)?;
    }
    Ok(its)
}

/// Returns the number of EventID bits.
fn event_bits(its: &Its<'_>) -> u64 {
    (read_64(its.register(gits::TYPER)) >> 8 & 0x1f) + 1
}

/// Acknowledges and ends the next interrupt. Returns its INTID, or [`NONE`].
pub(super) fn take_and_end() -> u32 {
    let intid = interface::take();
    if intid != NONE {
        end(intid);
    }
    intid
}
