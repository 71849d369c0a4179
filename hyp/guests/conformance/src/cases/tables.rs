//! Ranges of the tables of the ITS and of LPIs, and commands that must not change anything.
//!
//! Without SErrors (`GITS_TYPER.SEIS`) an ITS ignores a command with an error, and reads on in its
//! queue.

use super::its::open_with_events;
use crate::gic::gicr;
use crate::gic::interface::{OPEN, set_pmr};
use crate::gic::its::{FIRST_LPI, Its, LPI_END, big_table, gits};
use crate::harness::{Case, Cpus, Outcome, equal, expect_and_end, expect_none, holds, skip_unless};
use crate::machine::Machine;
use crate::mmio::{read_32, read_64, write_32, write_64};
use crate::{cpu, cpus};

/// Device of [`open_with_events`].
const DEVICE: u32 = 2;
/// Event that is not mapped.
const FREE_EVENT: u32 = 4;
/// Device that is not mapped.
const ABSENT: u32 = 0x60;
/// Processor number without a processor, as a field of a command.
const FAR_TARGET: u64 = 0xffff << 16;

const VALID: u64 = 1 << 63;
const INDIRECT: u64 = 1 << 62;
const MAPD: u64 = 0x8;

/// Case that commands have no effect: earlier mappings work, pending states are unchanged, and no
/// other interrupt arrives.
macro_rules! refused {
    ($name:literal, $rule:literal, $commands:expr) => {
        Case::new($name, $rule, |m| {
            let its = open_with_events(m, 2)?;
            let commands: fn(&Machine, &Its<'_>) -> Outcome = $commands;
            set_pmr(0);
            its.raise(DEVICE, 1)?;
            commands(m, &its)?;
            set_pmr(OPEN);
            expect_and_end(FIRST_LPI + 1)?;
            expect_none()?;
            its.raise(DEVICE, 0)?;
            expect_and_end(FIRST_LPI)?;
            expect_none()
        })
    };
}

pub(super) const CASES: &[Case] = &[
    refused!(
        "error.discard_twice",
        "5.5 DISCARD_UNMAPPED_INTERRUPT",
        |_, its| {
            its.map_event(DEVICE, FREE_EVENT, FIRST_LPI + 9, 0)?;
            its.discard(DEVICE, FREE_EVENT)?;
            its.discard(DEVICE, FREE_EVENT)?;
            its.raise(DEVICE, FREE_EVENT)
        }
    ),
    refused!("error.mapti_sgi", "5.5 MAPTI_PHYSICALID_OOR", |_, its| {
        its.map_event(DEVICE, FREE_EVENT, 3, 0)?;
        its.raise(DEVICE, FREE_EVENT)
    }),
    refused!(
        "error.mapti_last_before_the_lpis",
        "5.5 MAPTI_PHYSICALID_OOR",
        |_, its| {
            its.map_event(DEVICE, FREE_EVENT, FIRST_LPI - 1, 0)?;
            its.raise(DEVICE, FREE_EVENT)
        }
    ),
    refused!(
        "error.movall_to_nobody",
        "5.5 MOVALL_PROCNUM_OOR",
        |_, its| its.command([0xe, 0, its.target(0), FAR_TARGET])
    ),
    refused!(
        "error.movall_to_itself",
        "5.3 MOVALL, to the same redistributor",
        |_, its| its.move_all(0, 0)
    ),
    refused!(
        "error.mapd_unmaps_nothing",
        "5.3 MAPD of a device that is not mapped",
        |_, its| its.unmap_device(ABSENT)
    ),
    refused!(
        "error.mapd_beyond_the_table",
        "5.5 MAPD_DEVICE_OOR, GITS_BASER<n>.Size",
        |_, its| {
            let device = count_devices(its);
            its.command([MAPD | u64::from(device) << 32, 4, VALID | big_table(), 0])?;
            its.map_event(device, 0, FIRST_LPI + 9, 0)?;
            its.raise(device, 0)
        }
    ),
    refused!("error.commands_zero", "5.3 the commands", |_, its| {
        its.command([0; 4])
    }),
    refused!("error.virtual_commands", "5.3, no GICv4", |_, its| {
        for number in [0x21, 0x22, 0x23, 0x25, 0x29, 0x2a, 0x2b, 0x2d, 0x2e] {
            its.command([number, 0, 0, 0])?;
        }
        Ok(())
    }),
    refused!("error.many_in_a_row", "5.5, the queue goes on", |_, its| {
        for round in 0..100 {
            its.queue_command([0x3 | u64::from(ABSENT) << 32, round, 0, 0]);
        }
        its.submit();
        holds("the queue is read to its end", its.wait_until_read())
    }),
    Case::new("table.last_device", "GITS_BASER<n>.Size (12.19)", |m| {
        let its = open_with_events(m, 1)?;
        let device = count_devices(&its) - 1;
        its.command([MAPD | u64::from(device) << 32, 4, VALID | big_table(), 0])?;
        its.map_event(device, 31, FIRST_LPI + 9, 0)?;
        its.raise(device, 31)?;
        expect_and_end(FIRST_LPI + 9)?;
        expect_none()
    }),
    Case::new(
        "table.two_levels",
        "GITS_BASER<n>.Indirect (12.19)",
        two_levels,
    ),
    Case::new("table.last_lpi", "GICR_PROPBASER.IDbits (12.11)", |m| {
        let its = open_with_events(m, 1)?;
        its.map_event(DEVICE, FREE_EVENT, LPI_END - 1, 0)?;
        its.raise(DEVICE, FREE_EVENT)?;
        expect_and_end(LPI_END - 1)?;
        expect_none()
    }),
    Case::new(
        "table.lpi_beyond_the_configuration",
        "GICR_PROPBASER.IDbits (12.11)",
        |m| {
            let its = open_with_events(m, 1)?;
            its.map_event(DEVICE, FREE_EVENT, LPI_END, 0)?;
            its.raise(DEVICE, FREE_EVENT)?;
            expect_none()?;
            its.raise(DEVICE, 0)?;
            expect_and_end(FIRST_LPI)
        },
    ),
    Case::new(
        "table.size_of_the_queue",
        "GITS_CBASER.Size, GITS_CWRITER",
        |m| {
            // One page of commands, read around its end.
            let its = open_with_events(m, 1)?;
            write_32(its.register(gits::CTLR), 0);
            holds("Quiescent", wait_until_quiescent(&its))?;
            let queue = read_64(its.register(gits::CBASER));
            write_64(its.register(gits::CBASER), queue & !0xff);
            let last = 4096 - 32;
            write_64(its.register(gits::CWRITER), last);
            write_32(its.register(gits::CTLR), 1);
            let at =
                |place| cpu::spin_until(5_000_000, || read_64(its.register(gits::CREADR)) == place);
            holds("CREADR at the last command", at(last))?;
            write_64(its.register(gits::CWRITER), 0);
            holds("CREADR at the first one again", at(0))
        },
    ),
    Case::new(
        "lpi.each_cpu_its_own_enable",
        "GICR_CTLR.EnableLPIs (12.11)",
        |m| {
            let its = open_with_events(m, 2)?;
            its.move_event(DEVICE, 1, 1)?;
            its.disable_lpis(0);
            skip_unless(
                "EnableLPIs cannot be cleared",
                read_32(m.gicr(0, gicr::CTLR)) & 1 == 0,
            )?;
            its.raise(DEVICE, 1)?;
            its.raise(DEVICE, 0)?;
            equal(
                "what CPU 1 takes",
                cpus::on(1, super::its::take_and_end),
                FIRST_LPI + 1,
            )?;
            expect_none()
        },
    )
    .on(Cpus::Two),
];

/// Returns the number of devices in the device table.
fn count_devices(its: &Its<'_>) -> u32 {
    let register = read_64(device_table_register(its));
    let entry = (register >> 48 & 0x1f) + 1;
    ((PAGE << (register & 0xff).count_ones()) / entry) as u32
}

/// Bytes of the device table's page.
const PAGE: u64 = 0x1_0000;

/// Returns the address of the device table's `GITS_BASER<n>`.
fn device_table_register(its: &Its<'_>) -> usize {
    const DEVICES: u64 = 1;
    let mut registers = (0..8).map(|n| its.register(gits::BASER + 8 * n));
    registers
        .find(|&register| read_64(register) >> 56 & 7 == DEVICES)
        .unwrap_or_else(|| its.register(gits::BASER))
}

/// Waits until the ITS is quiescent. Returns false on a timeout.
fn wait_until_quiescent(its: &Its<'_>) -> bool {
    cpu::spin_until(5_000_000, || read_32(its.register(gits::CTLR)) >> 31 == 1)
}

/// Uses a device table of two levels: a device is mapped only if the first level has a page for it.
fn two_levels(m: &Machine) -> Outcome {
    let its = open_with_events(m, 1)?;
    write_32(its.register(gits::CTLR), 0);
    holds("Quiescent", wait_until_quiescent(&its))?;
    let register = device_table_register(&its);
    let flat = read_64(register);
    write_64(register, flat & !VALID);
    holds("Quiescent", wait_until_quiescent(&its))?;
    write_64(register, flat | INDIRECT);
    skip_unless("tables have one level", read_64(register) & INDIRECT != 0)?;

    let level_1 = (flat & 0xffff_ffff_0000) as usize;
    let page = |number| big_table() + number * PAGE;
    write_64(level_1, VALID | page(2));
    write_64(level_1 + 8, 0);
    cpu::synchronize();
    write_32(its.register(gits::CTLR), 1);

    let second = count_devices(&its);
    let map = |device: u32| {
        its.command([MAPD | u64::from(device) << 32, 4, VALID | page(0), 0])?;
        its.map_event(device, 0, FIRST_LPI + 9, 0)?;
        its.raise(device, 0)
    };
    map(3)?;
    expect_and_end(FIRST_LPI + 9)?;
    its.unmap_device(3)?;
    map(second)?;
    expect_none()?;
    write_64(level_1 + 8, VALID | page(3));
    cpu::synchronize();
    write_64(page(0) as usize, 0);
    map(second)?;
    expect_and_end(FIRST_LPI + 9)?;
    expect_none()
}
