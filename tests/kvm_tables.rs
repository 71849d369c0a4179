//! `vgic::kvm`: the format of the tables is checked byte by byte, and tables of a hostile guest are
//! refused.

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::attributes::{ITS, attribute, command};
use common::its::{COLLECTION_TABLE, DEVICE_TABLE, Driver, PROPERTIES, itt, pending_table};
use common::kvm::{VALID, config, its, moved, read_entry, restore_of, save, write_entry};
use common::{GITS, Machine, TestHost};
use vgic::config::ItsConfig;
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::{CpuId, ItsId, VcpuId};
use vgic::kvm::{Attribute, Device, Devices, Errno, control, group};
use vgic::state::{VmState, flags};
use vgic::{BadAddress, Host, PhysicalInterrupt};

#[test]
fn the_tables_are_kvms_byte_by_byte() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.mapd(0x1004, 2);
    driver.map(3, 2, 8200, 1);
    driver.map(3, 15, 8300, 0);
    driver.map(0x1004, 0, 8209, 1);
    machine.inject_msi(0x1004, 0).unwrap();
    machine.inject_msi(3, 15).unwrap();
    // From an earlier save: nothing of it comes back.
    for stale in [
        DEVICE_TABLE,
        DEVICE_TABLE + 8 * 0x800,
        itt(3),
        itt(3) + 8 * 9,
    ] {
        write_entry(&machine, stale, !0);
    }
    machine
        .vm
        .host()
        .write_ram(pending_table(0) + 1024 - 1, &[0xff]);
    machine
        .vm
        .host()
        .write_ram(pending_table(0) + 8200 / 8, &[0x01]);
    machine
        .vm
        .host()
        .write_ram(pending_table(1) + 8200 / 8, &[0x01]);
    save(&machine);

    let dte = |next: u64, device: u64, bits: u64| {
        VALID | next << 49 | (itt(device) >> 8) << 5 | (bits - 1)
    };
    let entry = |at| read_entry(&machine, at);
    assert_eq!(entry(DEVICE_TABLE), 0);
    assert_eq!(entry(DEVICE_TABLE + 8 * 3), dte(0x1001, 3, 4));
    assert_eq!(entry(DEVICE_TABLE + 8 * 0x800), 0);
    assert_eq!(entry(DEVICE_TABLE + 8 * 0x1004), dte(0, 0x1004, 2));

    assert_eq!(entry(itt(3)), 0);
    assert_eq!(entry(itt(3) + 8 * 2), 13 << 48 | 8200 << 16 | 1);
    assert_eq!(entry(itt(3) + 8 * 9), 0);
    assert_eq!(entry(itt(3) + 8 * 15), 8300 << 16);
    assert_eq!(entry(itt(0x1004)), 8209 << 16 | 1);

    assert_eq!(entry(COLLECTION_TABLE), VALID);
    assert_eq!(entry(COLLECTION_TABLE + 8), VALID | 1 << 16 | 1);
    assert_eq!(entry(COLLECTION_TABLE + 16), 0);

    let byte = |at| read_entry(&machine, at & !7).to_le_bytes()[at as usize & 7];
    assert_eq!(byte(pending_table(0) + 1023), 0xff, "the first KiB stays");
    assert_eq!(byte(pending_table(0) + 8300 / 8), 1 << (8300 % 8));
    assert_eq!(byte(pending_table(0) + 8200 / 8), 0x01, "no LPI of vCPU 0");
    assert_eq!(byte(pending_table(1) + 8200 / 8), 0, "not pending any more");
    assert_eq!(byte(pending_table(1) + 8209 / 8), 1 << (8209 % 8));
    machine.finish();
}

#[test]
fn tables_of_a_hostile_guest_are_refused() {
    let dte = VALID | (itt(3) >> 8) << 5 | 3;
    let cases: &[(&str, u64, u64, Errno)] = &[
        ("no LPI", itt(3) + 16, 5 << 48 | 100 << 16 | 1, Errno::Inval),
        (
            "beyond the LPIs",
            itt(3) + 16,
            5 << 48 | 65_536 << 16 | 1,
            Errno::Inval,
        ),
        (
            "next beyond the ITT",
            itt(3) + 16,
            14 << 48 | 8200 << 16 | 1,
            Errno::Inval,
        ),
        (
            "unknown collection",
            itt(3) + 16,
            5 << 48 | 8200 << 16 | 9,
            Errno::Inval,
        ),
        (
            "too many events",
            DEVICE_TABLE + 24,
            VALID | 16,
            Errno::Inval,
        ),
        ("ITT in no RAM", DEVICE_TABLE + 24, VALID | 3, Errno::Fault),
        ("ICID twice", COLLECTION_TABLE + 8, VALID, Errno::Exist),
        (
            "ICID out of range",
            COLLECTION_TABLE + 8,
            VALID | 0xffff,
            Errno::Inval,
        ),
        (
            "no such vCPU",
            COLLECTION_TABLE + 8,
            VALID | 2 << 16 | 1,
            Errno::Inval,
        ),
        (
            "no such vCPU by far",
            COLLECTION_TABLE + 8,
            VALID | 0x1_0001 << 16 | 1,
            Errno::Inval,
        ),
        (
            "a device again and again",
            DEVICE_TABLE + 8,
            dte | 1 << 49,
            Errno::NoMem,
        ),
    ];
    for &(what, at, entry, error) in cases {
        let found = restore_of(config(), |machine| {
            write_entry(machine, at, entry);
            if error == Errno::NoMem {
                // Each device has its own entry and the same table: the quota of events ends it.
                for n in 0..4096 {
                    let large = VALID | (itt(3) >> 8) << 5 | 1 << 49 | 15;
                    write_entry(machine, DEVICE_TABLE + n * 8, large);
                }
                for place in 0..0x1_0000 {
                    write_entry(machine, itt(3) + place * 8, 0);
                }
            }
        });
        assert_eq!(found.map(drop), Err(error), "{what}");
    }
}

#[test]
fn a_collection_without_a_processor_is_kept() {
    let devices = restore_of(config(), |machine| {
        let unmapped = VALID | 0xffff_ffff << 16 | 1;
        write_entry(machine, COLLECTION_TABLE + 8, unmapped);
    });
    let (_, state) = devices.unwrap().finish().unwrap();
    assert_eq!(state.its[0].collections.len(), 1);
    assert_eq!((state.lpis[0].icid, state.lpis[0].target), (1, None));
}

/// Guest memory of a level-1 table whose entries, as many as the number, lead to one empty page.
struct OnePage(u64);

impl Host for OnePage {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        let is_table = (LEVEL_1..LEVEL_1 + 8 * 0x1_0000).contains(&gpa);
        assert!(
            is_table || gpa >= 0x5000_0000,
            "{gpa:#x} is behind the table"
        );
        buffer.fill(0);
        let first = gpa.wrapping_sub(LEVEL_1) / 8;
        for (place, entry) in (first..self.0).zip(buffer.chunks_mut(8)) {
            assert!(place < self.0);
            entry.copy_from_slice(&(VALID | 0x5000_0000).to_le_bytes());
        }
        Ok(())
    }
    fn write_memory(&self, _gpa: u64, _bytes: &[u8]) -> Result<(), BadAddress> {
        Ok(())
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
}

const LEVEL_1: u64 = 0x4000_0000;

#[test]
fn a_device_table_of_two_levels_is_bounded() {
    let mut config = config();
    config.its[0].device_bits = 32;
    let state = VmState::after_reset(&config);
    let mut devices = Devices::of(config, NEOVERSE, state);
    let baser = its(group::ITS_REGS, 0x100);
    let value = VALID | 1 << 62 | 2 << 8 | LEVEL_1 | 7;
    devices.set(baser, value, &OnePage(0)).unwrap();
    for (pages, expected) in [(8, Ok(())), (0x1_0000, Err(Errno::Inval))] {
        for tables in [control::RESTORE_TABLES, control::SAVE_TABLES] {
            let result = devices.set(command(ITS, tables), 0, &OnePage(pages));
            assert_eq!(result, expected, "{tables}, one page {pages} times");
        }
    }
}

#[test]
fn a_device_without_its_tables_does_not_fail_the_others() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.map(3, 2, 8200, 1);
    // A translation table that is in no RAM: the ITS maps the device all the same.
    driver.send([0x08 | 4 << 32, 3, VALID | 0x1000, 0]);
    driver.map(4, 1, 8201, 1);
    let devices = save(&machine);
    assert_eq!(read_entry(&machine, DEVICE_TABLE + 8 * 4), 0);
    let moved = moved(&machine, &devices);
    let (_, state) = moved.finish().unwrap();
    assert_eq!(state.its[0].devices.len(), 1);
    machine.finish();
}

#[test]
fn pending_states_of_a_redistributor_without_lpis_stay_in_its_table() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.map(3, 2, 8200, 1);
    machine.inject_msi(3, 2).unwrap();
    machine.write(1, machine.gicr(1), 0); // EnableLPIs: the pending state goes to the table
    machine.advance();
    let devices = save(&machine);
    let byte = read_entry(&machine, pending_table(1) + 8200 / 8);
    assert_eq!(byte & 1, 1);
    let moved = moved(&machine, &devices);
    assert_eq!(read_entry(&machine, pending_table(1) + 8200 / 8), byte);
    let (_, state) = moved.finish().unwrap();
    assert!(!state.lpis[0].interrupt.has(flags::LATCH));
    machine.finish();
}

#[test]
fn configuration_is_read_with_the_tables() {
    let devices = restore_of(config(), |machine| {
        machine.vm.host().write_ram(PROPERTIES + 8, &[0x60]);
        machine
            .vm
            .host()
            .write_ram(pending_table(1) + 8200 / 8, &[0x01]);
    });
    let (_, state) = devices.unwrap().finish().unwrap();
    let lpi = state.lpis[0].interrupt;
    assert_eq!(
        (lpi.priority, lpi.flags),
        (0x60, flags::GROUP1 | flags::LATCH)
    );
}

/// Maps one LPI as often as commands can, and once more: the tables are refused, and not the VM's
/// restore.
#[test]
fn an_lpi_of_too_many_events_is_refused() {
    let other = itt(3) + (8 << 14);
    for (is_one_more, expected) in [(false, Ok(())), (true, Err(Errno::Inval))] {
        let found = restore_of(config(), |machine| {
            // Devices of one table.
            let dte = |next: u64, bits: u64| VALID | next << 49 | (itt(3) >> 8) << 5 | (bits - 1);
            write_entry(machine, DEVICE_TABLE + 8 * 3, dte(1, 14));
            write_entry(machine, DEVICE_TABLE + 8 * 4, dte(is_one_more.into(), 14));
            let last = VALID | (other >> 8) << 5;
            write_entry(machine, DEVICE_TABLE + 8 * 5, last);
            write_entry(machine, other, 8200 << 16);
            for event in 0..1 << 14 {
                let next = u64::from(event + 1 < 1 << 14);
                write_entry(machine, itt(3) + event * 8, next << 48 | 8200 << 16);
            }
        });
        assert_eq!(found.map(drop), expected);
    }
}

/// Saves and restores tables that end within a page, or have pages that are of no DeviceID, with
/// entries behind their ends.
#[test]
fn tables_end_where_their_devices_end() {
    const PAGES: [u64; 2] = [DEVICE_TABLE + 0x8000, DEVICE_TABLE + 0x9000];
    let cases = [
        // Indirect, bits of DeviceID, another DeviceID than 3, first entry behind the end.
        (1, 10, 600, None),
        (1, 8, 200, Some(PAGES[0] + 8 * 256)),
        (0, 8, 200, Some(DEVICE_TABLE + 8 * 256)),
    ];
    for (indirect, device_bits, other, end) in cases {
        let mut config = config();
        config.its[0].device_bits = device_bits;
        let machine = Machine::from_config(config);
        machine.set_up();
        let driver = Driver::new(&machine);
        machine.write(0, GITS, 0);
        let table = VALID | indirect << 62 | DEVICE_TABLE | if indirect == 0 { 3 } else { 0 };
        machine.write64(0, GITS + 0x100, table);
        machine.write(0, GITS, 1);
        if indirect != 0 {
            write_entry(&machine, DEVICE_TABLE, VALID | PAGES[0]);
            write_entry(&machine, DEVICE_TABLE + 8, VALID | PAGES[1]);
            write_entry(&machine, DEVICE_TABLE + 16, VALID | 0x1000); // no RAM
        }
        driver.mapd(3, 4);
        driver.map(3, 2, 8200, 1);
        driver.mapd(other, 2);
        driver.map(other, 1, 8201, 1);
        for behind in end.into_iter().chain([itt(other) + 8 * 4, itt(3) + 8 * 16]) {
            write_entry(&machine, behind, !0);
        }
        // In one byte of the pending table, with an LPI that is not mapped.
        let byte = pending_table(1) + 8200 / 8;
        machine.vm.host().write_ram(byte, &[0x80]);
        machine.inject_msi(3, 2).unwrap();
        machine.inject_msi(other as u32, 1).unwrap();

        let devices = save(&machine);
        for behind in end.into_iter().chain([itt(other) + 8 * 4, itt(3) + 8 * 16]) {
            assert_eq!(read_entry(&machine, behind), !0, "{behind:#x}");
        }
        let at = |device: u64| match (indirect, device / 512) {
            (0, _) => DEVICE_TABLE + device * 8,
            (_, page) => PAGES[page as usize] + device % 512 * 8,
        };
        let entry = read_entry(&machine, at(3));
        assert_eq!(entry >> 49 & 0x3fff, other - 3, "offset to the next");
        assert_eq!(
            read_entry(&machine, at(other)) >> 49,
            VALID >> 49,
            "the last"
        );
        assert_eq!(read_entry(&machine, byte) & 0xff, 0x83);

        let moved = moved(&machine, &devices);
        assert_eq!(read_entry(&machine, byte) & 0xff, 0x80, "taken");
        assert!(moved.finish().unwrap() == devices.finish().unwrap());
        machine.finish();
    }
}

/// Guest memory that is not written.
struct ReadOnly<'a>(&'a TestHost);

impl Host for ReadOnly<'_> {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        self.0.read_memory(gpa, buffer)
    }
    fn write_memory(&self, gpa: u64, _bytes: &[u8]) -> Result<(), BadAddress> {
        panic!("{gpa:#x} is written, and sent once more");
    }
    fn deactivate(&self, _physical: PhysicalInterrupt) {}
    fn is_pending(&self, _physical: PhysicalInterrupt) -> bool {
        false
    }
}

#[test]
fn a_second_save_reads_each_chunk_once_and_writes_nothing() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.mapd(0x1004, 2);
    driver.map(3, 2, 8200, 1);
    driver.map(0x1004, 0, 8201, 1);
    machine.inject_msi(3, 2).unwrap();
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let mut accesses = |command: Attribute| {
        let before = host.reads.load(Relaxed);
        devices.set(command, 0, &ReadOnly(host)).unwrap();
        host.reads.load(Relaxed) - before
    };
    // The device table, a look at it for each device, a table for each, and the collections.
    let tables = command(ITS, control::SAVE_TABLES);
    assert_eq!(accesses(tables), 8192 / 32 + 2 + 2 + 1);
    let pending = command(Device::Gic, control::SAVE_PENDING_TABLES);
    assert_eq!(accesses(pending), 1);
    machine.finish();
}

#[test]
fn a_pending_table_in_no_memory_fails_if_it_matters() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.map(3, 0, 8200, 0);
    driver.map(3, 1, 8201, 1);
    machine.inject_msi(3, 1).unwrap();
    machine.put_all();
    let (config, host) = (machine.vm.config(), machine.vm.host());
    let mut state = machine.vm.save(&machine.pin()).unwrap();
    let save = |state: &VmState| {
        let mut devices = Devices::of(config.clone(), NEOVERSE, state.clone());
        devices.set(command(Device::Gic, control::SAVE_PENDING_TABLES), 0, host)
    };
    state.vcpus[0].pendbaser = 0x1_0000;
    assert_eq!(save(&state), Ok(()));
    state.lpis[0].interrupt.flags |= flags::LATCH;
    assert_eq!(save(&state), Err(Errno::Fault));
    let pending = read_entry(&machine, pending_table(1) + 8200 / 8);
    assert_eq!(pending & 0xff, 0b10, "the others are written");
    machine.finish();
}

#[test]
fn an_offset_to_the_next_entry_is_as_large_as_its_field() {
    const TABLE: u64 = 0x4040_0000;
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    machine.write(0, GITS, 0);
    machine.write64(0, GITS + 0x100, VALID | TABLE | 0x3f);
    machine.write(0, GITS, 1);
    driver.mapd(3, 16);
    driver.map(3, 0, 8200, 0);
    driver.map(3, 65_535, 8201, 1);
    driver.mapd(0x5004, 2);
    driver.map(0x5004, 0, 8202, 1);
    let devices = save(&machine);
    let entry = read_entry(&machine, TABLE + 8 * 3);
    assert_eq!(entry >> 49 & 0x3fff, 0x3fff);
    assert_eq!(read_entry(&machine, itt(3)) >> 48, 0xffff);
    let moved = moved(&machine, &devices);
    assert!(moved.finish().unwrap() == devices.finish().unwrap());
    machine.finish();
}

/// Maps events to collections that are not mapped: below and above those that are, and more than
/// the table has room for.
#[test]
fn collections_without_a_processor_have_entries_as_long_as_there_is_room() {
    const PLACES: u64 = 512;
    let mut config = config();
    config.its[0].collections = 1024;
    let machine = Machine::from_config(config);
    machine.set_up();
    let driver = Driver::new(&machine);
    driver.mapd(3, 10);
    driver.mapti(3, 0, 8200, 77);
    driver.mapti(3, 1, 8201, 5);
    driver.mapti(3, 2, 8202, 77);
    driver.map(3, 3, 8203, 0);
    driver.map(3, 4, 8204, 1);
    driver.mapc(0, None);
    let entry = |place: u64| read_entry(&machine, COLLECTION_TABLE + place * 8);
    let unmapped = |icid: u64| VALID | 0xffff_ffff << 16 | icid;

    write_entry(&machine, COLLECTION_TABLE + 4 * 8, !0);
    let devices = save(&machine);
    let found = [0, 1, 2, 3, 4].map(entry);
    let listed = [
        VALID | 1 << 16 | 1,
        unmapped(0),
        unmapped(5),
        unmapped(77),
        0,
    ];
    assert_eq!(found, listed);
    // Not valid, whatever the rest says.
    write_entry(&machine, COLLECTION_TABLE + 4 * 8, 1 << 16 | 1);
    write_entry(&machine, DEVICE_TABLE + 8, 0xff << 5 | 1);
    let restored = moved(&machine, &devices);
    assert!(restored.finish().unwrap() == devices.finish().unwrap());

    // The list ends in the midst of a chunk, and nothing behind it is written.
    for event in 5..40 {
        driver.mapti(3, event, 8200 + event, 100 + event);
    }
    write_entry(&machine, COLLECTION_TABLE + 50 * 8, !0);
    save(&machine);
    assert_eq!([38, 39, 50].map(entry), [unmapped(139), 0, !0]);

    for event in 5..700 {
        driver.mapti(3, event, 8200 + event, 100 + event);
    }
    let behind = COLLECTION_TABLE + PLACES * 8;
    write_entry(&machine, behind, !0);
    let devices = save(&machine);
    assert_eq!(read_entry(&machine, behind), !0);
    let (_, state) = moved(&machine, &devices).finish().unwrap();
    // One collection is mapped, and three more are of the first events.
    assert_eq!(entry(PLACES - 1), unmapped(100 + 5 + PLACES - 1 - 4));
    let events = &state.its[0].devices[0].events;
    assert_eq!(events.len() as u64, 5 + PLACES - 4);
    assert_eq!(events.len(), state.lpis.len());
    machine.vm.restore(&machine.pin(), &state).unwrap();
    machine.finish();
}

/// Restores two ITSes, of which the second has some of the first one's LPIs, and lower ones.
#[test]
fn an_lpi_of_two_itses_is_one_lpi() {
    let (other_table, other_itt) = (DEVICE_TABLE + 0x8000, itt(5));
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.map(3, 2, 8300, 1);
    driver.map(3, 3, 8250, 0);
    machine.inject_msi(3, 2).unwrap();
    let saved = save(&machine);
    write_entry(&machine, other_table, VALID | (other_itt >> 8) << 5 | 3);
    write_entry(&machine, other_itt, 1 << 48 | 8300 << 16);
    write_entry(&machine, other_itt + 8, 8200 << 16 | 1);

    let (mut config, mut state) = saved.finish().unwrap();
    config.its.push(ItsConfig::at(GITS + 0x10_0000));
    state.lpis.clear();
    state.its[0].is_enabled = false;
    state.its[0].devices.clear();
    state.its[0].collections.clear();
    state.its.push(state.its[0].clone());
    let mut devices = Devices::of(config, NEOVERSE, state);
    let second = Device::Its(ItsId(1));
    let host = machine.vm.host();
    let table = attribute(second, group::ITS_REGS, 0x100);
    devices.set(table, VALID | other_table, host).unwrap();
    for its in [ITS, second] {
        devices
            .set(command(its, control::RESTORE_TABLES), 0, host)
            .unwrap();
    }
    let (_, state) = devices.clone().finish().unwrap();
    let lpis = state.lpis.iter();
    let lpis: Vec<_> = lpis
        .map(|lpi| (lpi.intid, lpi.icid, lpi.interrupt.has(flags::LATCH)))
        .collect();
    assert_eq!(lpis, [(8200, 1, false), (8250, 0, false), (8300, 1, true)]);

    // A vCPU that has gone has no collections.
    let (config, mut state) = devices.finish().unwrap();
    state.vcpus[1].affinity = None;
    state.its[1].collections.clear();
    state.its[1].devices.clear();
    let mut devices = Devices::of(config, NEOVERSE, state);
    let restored = devices.set(command(second, control::RESTORE_TABLES), 0, host);
    assert_eq!(restored, Err(Errno::Inval));
    machine.finish();
}

#[test]
fn nothing_behind_an_empty_table_is_read() {
    let mut config = config();
    config.its[0].device_bits = 8;
    let restored = restore_of(config, |machine| {
        write_entry(machine, DEVICE_TABLE + 8 * 3, 0);
        write_entry(machine, DEVICE_TABLE + 8 * 256, !0);
    });
    let (_, state) = restored.unwrap().finish().unwrap();
    assert_eq!(state.its[0].devices, []);
}

#[test]
fn devices_are_as_many_as_the_quota_and_lpis_are_each_one() {
    for (max_devices, expected) in [(2, Ok(vec![8200, 8201])), (1, Err(Errno::NoMem))] {
        let mut config = config();
        config.its[0].max_devices = max_devices;
        let restored = restore_of(config, |machine| {
            let dte = |next: u64| VALID | next << 49 | (itt(3) >> 8) << 5 | 3;
            write_entry(machine, DEVICE_TABLE + 8 * 3, dte(1));
            write_entry(machine, DEVICE_TABLE + 8 * 4, dte(0));
        });
        let lpis = restored.map(|devices| {
            let (_, state) = devices.finish().unwrap();
            state.lpis.iter().map(|lpi| lpi.intid).collect()
        });
        assert_eq!(lpis, expected);
    }
}

#[test]
fn an_lpi_whose_configuration_cannot_be_read_is_disabled() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.map(3, 2, 8200, 1);
    let devices = save(&machine);
    let (config, mut state) = devices.finish().unwrap();
    state.propbaser = 0x1_0000 | 15;
    state.lpis.clear();
    state.its[0].devices.clear();
    state.its[0].collections.clear();
    let mut devices = Devices::of(config, NEOVERSE, state);
    let host = machine.vm.host();
    devices
        .set(command(ITS, control::RESTORE_TABLES), 0, host)
        .unwrap();
    let (_, state) = devices.finish().unwrap();
    let lpi = state.lpis[0].interrupt;
    assert_eq!((lpi.flags, lpi.priority), (flags::GROUP1, 0));
    machine.finish();
}

/// Takes the collection table away after a restore. No LPI goes to a vCPU any more, as in an ITS.
#[test]
fn lpis_without_a_collection_table_have_no_target() {
    let mut devices = restore_of(config(), |_| ()).unwrap();
    let (_, state) = devices.clone().finish().unwrap();
    assert_eq!(state.lpis.iter().filter_map(|lpi| lpi.target).count(), 2);

    let machine = Machine::from_config(config());
    let table = its(group::ITS_REGS, 0x108);
    devices.set(table, 0, machine.vm.host()).unwrap();
    let (_, state) = devices.finish().unwrap();
    assert!(state.its[0].collections.is_empty());
    assert!(state.lpis.iter().all(|lpi| lpi.target.is_none()));
    machine.finish();
}
