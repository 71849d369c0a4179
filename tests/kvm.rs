//! `vgic::kvm`: a VM goes through KVM's attributes and tables, and nothing that a guest can observe
//! changes. The format is checked byte by byte, and tables of a hostile guest are refused.

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::attributes::{
    ITS, ORDERS, attribute, command, gic, icc, of_vcpu, save_tables, transfer,
};
use common::its::{COLLECTION_TABLE, DEVICE_TABLE, Driver, PROPERTIES, itt, pending_table};
use common::{GICD, GITS, Machine, affinity, vcpu};
use vgic::config::{ItsConfig, RedistributorRegion};
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::{CpuId, IntId, ItsId, VcpuId};
use vgic::kvm::{Attribute, Device, Devices, Errno, address, control, group};
use vgic::state::{VmState, flags};
use vgic::{BadAddress, Config, Host, PhysicalInterrupt};

const VALID: u64 = 1 << 63;

fn its(group: u32, attr: u64) -> Attribute {
    attribute(ITS, group, attr)
}

/// Saves the VM, put on no CPU, and writes its tables.
fn save(machine: &Machine) -> Devices {
    machine.put_all();
    let state = machine.vm.save(&machine.pin()).unwrap();
    let mut devices = Devices::of(machine.vm.config().clone(), NEOVERSE, state);
    save_tables(&mut devices, machine.vm.config(), machine.vm.host());
    devices
}

/// Returns the devices as their attributes make them again.
fn moved(machine: &Machine, devices: &Devices) -> Devices {
    let (config, host) = (machine.vm.config(), machine.vm.host());
    transfer(devices, config, NEOVERSE, host, ORDERS[0])
}

/// Programs everything that the format has a place for, and leaves interrupts in every state.
/// Returns what vCPU 1 has taken.
fn use_everything(machine: &Machine) -> Vec<u32> {
    let driver = Driver::new(machine);
    driver.mapd(9, 3);
    driver.mapd(2, 1);
    for event in 0..4 {
        driver.map(9, event, 8192 + event, event % 2);
    }
    driver.map(2, 1, 8200, 1);
    driver.mapti(2, 0, 8201, 77); // a collection that is not mapped
    for event in [0, 3] {
        machine.inject_msi(9, event).unwrap();
    }
    for intid in 40..44 {
        machine.edge_spi(intid, 1);
        machine.inject_spi(intid);
    }
    machine.set_spi(0, 0x300, 46); // GICD_ISACTIVER
    machine.write64(0, GICD + 0x6000 + 44 * 8, 0xff_0000_00ff); // GICD_IROUTER44: no vCPU
    machine.set_spi(0, 0x100, 50);
    machine.write(0, GICD + 0x400 + 40, 0x80_90_a0_b0);
    machine
        .vm
        .set_spi_line(&machine.pin(), IntId::spi(51).unwrap(), true)
        .unwrap();
    machine
        .vm
        .set_ppi_line(&machine.pin(), vcpu(1), IntId::ppi(20).unwrap(), true)
        .unwrap();
    machine.write(1, machine.gicr(1) + 0x1_0100, 0xffff_ffff);
    machine.write(1, machine.gicr(1) + 0x1_0200, 0x0020_000f);
    machine.write(1, machine.gicr(1) + 0x1_0400, 0x40_c0_80_20);
    machine.vm.power_on(vcpu(1));
    machine.enter(1);
    let guest = machine.guest(1);
    guest.write_bpr1(3);
    let taken = vec![guest.read_iar1()];
    machine.exit(1);
    taken
}

/// Ends what vCPU 1 has taken, and takes and ends all others, on both vCPUs. The lines fall first.
fn go_on(machine: &Machine, taken: &[u32]) -> [Vec<u32>; 2] {
    let pin = machine.pin();
    machine
        .vm
        .set_spi_line(&pin, IntId::spi(51).unwrap(), false)
        .unwrap();
    machine
        .vm
        .set_ppi_line(&pin, vcpu(1), IntId::ppi(20).unwrap(), false)
        .unwrap();
    machine.enter(1);
    taken
        .iter()
        .rev()
        .for_each(|&intid| machine.guest(1).write_eoir1(intid));
    machine.exit(1);
    [0, 1].map(|n| {
        let mut served = machine.serve(n);
        // In any order among equal priorities.
        served.sort_unstable();
        served
    })
}

#[test]
fn a_vm_goes_through_the_attributes() {
    let source = Machine::new(2);
    let taken = use_everything(&source);
    let devices = save(&source);
    let (_, state) = devices.clone().finish().unwrap();

    let target = Machine::new(2);
    let config = source.vm.config();
    let mut all = ORDERS.map(|order| {
        target.vm.host().copy_ram(source.vm.host());
        let moved = transfer(&devices, config, NEOVERSE, target.vm.host(), order);
        moved.finish().unwrap()
    });
    assert!(all[0] == all[1] && all[0] == all[2], "in any order");
    let (made, moved) = std::mem::replace(&mut all[0], (config.clone(), state.clone()));
    assert_eq!(&made, config);

    // The format has no place for the vCPU on which an SPI is active.
    let mut expected = state;
    expected
        .spis
        .iter_mut()
        .for_each(|spi| spi.active_on = None);
    assert!(moved == expected);

    target.put_all();
    target.vm.restore(&target.pin(), &moved).unwrap();
    let served = go_on(&target, &taken);
    assert_eq!(served, go_on(&source, &taken));
    assert!(served[1].len() > 8, "{served:?}");
    source.finish();
    target.finish();
}

/// Takes a VM that has done nothing yet, and one whose guest has programmed the wired part alone.
#[test]
fn a_vm_without_its_tables_goes_through_the_attributes() {
    for machine in [Machine::from_config(config()), Machine::new(2)] {
        let devices = save(&machine);
        let moved = moved(&machine, &devices).finish().unwrap();
        assert!(moved == devices.finish().unwrap());
        machine.finish();
    }
}

#[test]
fn devices_that_are_initialised_are_a_vm_after_reset() {
    let machine = Machine::bare(3);
    let state = machine.vm.save(&machine.pin()).unwrap();
    let mut expected = VmState::after_reset(machine.vm.config());
    expected.vcpus.iter_mut().for_each(|vcpu| vcpu.is_on = true);
    assert!(state == expected);
    machine.finish();
}

fn read_entry(machine: &Machine, at: u64) -> u64 {
    let mut bytes = [0; 8];
    machine.vm.host().read_memory(at, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn write_entry(machine: &Machine, at: u64, entry: u64) {
    machine.vm.host().write_ram(at, &entry.to_le_bytes());
}

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

/// Returns the devices of a VM with one device and one event, and what a restore of its tables says
/// after `change`.
fn restore_of(config: Config, change: impl FnOnce(&Machine)) -> Result<Devices, Errno> {
    let machine = Machine::from_config(config);
    machine.set_up();
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.map(3, 2, 8200, 1);
    driver.map(3, 7, 8201, 0);
    let saved = save(&machine);
    let mut devices = saved.clone();
    let host = machine.vm.host();
    devices.set(its(group::ITS_REGS, 0), 0, host).unwrap();
    // The mappings go, the registers stay.
    for n in 0..2 {
        let at = its(group::ITS_REGS, 0x100 + n * 8);
        let mut value = 0;
        devices.get(at, &mut value).unwrap();
        devices.set(at, value & !VALID, host).unwrap();
        devices.set(at, value, host).unwrap();
    }
    change(&machine);
    let result = devices.set(command(ITS, control::RESTORE_TABLES), 0, host);
    if result.is_err() {
        let (_, state) = devices.clone().finish().unwrap();
        assert!(
            state.lpis.is_empty() && state.its[0].devices.is_empty(),
            "changed"
        );
        assert!(state.its[0].collections.is_empty(), "changed");
    }
    machine.finish();
    result.map(|()| devices)
}

fn config() -> Config {
    Config::new((0..2).map(affinity).collect()).with_its(GITS)
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

const LEVEL_1: u64 = 0x4000_0000;

impl Host for OnePage {
    fn kick(&self, _cpu: CpuId, _vcpu: VcpuId) {}
    fn wake(&self, _vcpu: VcpuId) {}
    fn read_memory(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
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

#[test]
fn addresses_are_set_once_and_in_order() {
    let host = common::TestHost::default();
    let mut devices = Devices::new(config(), NEOVERSE);
    let mut set = |attribute, value| devices.set(attribute, value, &host);
    let dist = gic(group::ADDR, address::DIST);
    assert_eq!(set(dist, 0x1000), Err(Errno::Inval));
    assert_eq!(set(dist, 1 << 52), Err(Errno::TooBig));
    assert_eq!(set(dist, !0xffff), Err(Errno::TooBig));
    assert_eq!(set(dist, 0x800_0000), Ok(()));
    assert_eq!(set(dist, 0x900_0000), Err(Errno::Exist));

    let region = gic(group::ADDR, address::REDIST_REGION);
    let value = |count: u64, base: u64, index: u64| count << 52 | base | index;
    assert_eq!(
        set(region, value(1, 0x80a_0000, 1)),
        Err(Errno::Inval),
        "index 0 first"
    );
    assert_eq!(set(region, value(0, 0x80a_0000, 0)), Err(Errno::Inval));
    assert_eq!(
        set(region, value(1, 0x80a_0000, 0) | 0x1000),
        Err(Errno::Inval),
        "flags"
    );
    assert_eq!(set(region, value(1, 0x80a_0000, 0)), Ok(()));
    assert_eq!(set(region, value(1, 0xa00_0000, 0)), Err(Errno::Inval));
    assert_eq!(set(region, value(1, 0xa00_0000, 1)), Ok(()));
    let one = gic(group::ADDR, address::REDIST);
    assert_eq!(
        set(one, 0xb00_0000),
        Err(Errno::Inval),
        "one way or the other"
    );

    let irqs = gic(group::NR_IRQS, 0);
    for count in [0, 32, 65, 1056, 1 << 32 | 64] {
        assert_eq!(set(irqs, count), Err(Errno::Inval), "{count}");
    }
    assert_eq!(set(irqs, 1024), Ok(()));
    assert_eq!(set(irqs, 64), Err(Errno::Busy));

    let ctlr = gic(group::DIST_REGS, 0);
    assert_eq!(set(ctlr, 2), Err(Errno::Busy), "not initialised");
    assert_eq!(
        set(its(group::ITS_REGS, 0x80), 0),
        Err(Errno::Nxio),
        "no address"
    );
    assert_eq!(
        set(command(ITS, control::RESTORE_TABLES), 0),
        Err(Errno::Nxio)
    );
    assert_eq!(set(command(Device::Gic, control::INIT), 0), Ok(()));
    assert_eq!(set(ctlr, 2), Ok(()));
    assert_eq!(
        set(command(Device::Gic, control::INIT), 0),
        Ok(()),
        "once more"
    );
    let get = |devices: &Devices, attribute, mut value| {
        devices.get(attribute, &mut value).map(|()| value)
    };
    assert_eq!(get(&devices, ctlr, 0), Ok(0x52), "and nothing is lost");
    assert_eq!(get(&devices, irqs, 0), Ok(1024));
    assert_eq!(get(&devices, region, 1), Ok(value(1, 0xa00_0000, 1)));
    assert_eq!(get(&devices, region, 2), Err(Errno::Noent));
    assert_eq!(
        get(&devices, its(group::ADDR, address::ITS), 0),
        Ok(u64::MAX)
    );
    assert_eq!(devices.clone().finish(), Err(Errno::Nxio), "no ITS");

    let its_at = |base| (its(group::ADDR, address::ITS), base);
    let (at, base) = its_at(0x800_0000);
    devices.set(at, base, &host).unwrap();
    assert_eq!(
        devices.clone().finish().map(drop),
        Err(Errno::Inval),
        "on the distributor"
    );

    let mut whole = Devices::new(config(), NEOVERSE);
    for (attribute, value) in [(dist, 0x800_0000), (one, 0x80a_0000), its_at(0xc00_0000)] {
        whole.set(attribute, value, &host).unwrap();
    }
    whole
        .set(command(Device::Gic, control::INIT), 0, &host)
        .unwrap();
    let (made, state) = whole.finish().unwrap();
    let expected = Config {
        spis: 224,
        distributor: 0x800_0000,
        redistributors: vec![RedistributorRegion {
            base: 0x80a_0000,
            count: 2,
        }],
        its: vec![ItsConfig::at(0xc00_0000)],
        ..config()
    };
    assert_eq!(made, expected);
    assert!(state == VmState::after_reset(&expected));
}

#[test]
fn attributes_that_there_are_not() {
    let machine = Machine::bare(2);
    let devices = save(&machine);
    let nxio = [
        gic(group::ADDR, 0),
        gic(group::ADDR, address::ITS),
        its(group::ADDR, address::DIST),
        of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 0)),
        gic(group::CTRL, control::SAVE_TABLES),
        its(group::CTRL, control::SAVE_PENDING_TABLES),
        gic(group::CTRL, 9),
        gic(group::ITS_REGS, 0),
        its(group::ITS_REGS, 0x10),
        its(group::ITS_REGS, 0x140),
        attribute(Device::Its(ItsId(1)), group::ITS_REGS, 0),
        its(group::DIST_REGS, 0),
        its(group::REDIST_REGS, 0),
        its(group::CPU_SYSREGS, icc(4, 6, 0)),
        its(group::LEVEL_INFO, 0),
        its(group::NR_IRQS, 0),
        gic(2, 0),
        gic(u32::MAX, u64::MAX),
    ];
    for attribute in nxio {
        let mut value = 0;
        let got = devices.get(attribute, &mut value);
        assert_eq!(got, Err(Errno::Nxio), "{attribute:x?}");
        assert_eq!(devices.has(attribute), Err(Errno::Nxio), "{attribute:x?}");
    }
    let inval = [
        of_vcpu(group::REDIST_REGS, affinity(2), 0),
        of_vcpu(group::CPU_SYSREGS, affinity(2), icc(4, 6, 0)),
        of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 8, 5)), // AP0R1, with 5 bits of preemption
        gic(group::LEVEL_INFO, 33),
        gic(group::LEVEL_INFO, 1 << 10),
        its(group::ITS_REGS, 0x81),
        its(group::ITS_REGS, 0x84),
        its(group::ITS_REGS, 1),
        its(group::ITS_REGS, 2),
        its(group::ITS_REGS, 0xffd1),
    ];
    for attribute in inval {
        let mut value = 0;
        let got = devices.get(attribute, &mut value);
        assert_eq!(got, Err(Errno::Inval), "{attribute:x?}");
    }
    machine.finish();
}

#[test]
fn values_that_cannot_be() {
    let machine = Machine::new(2);
    let _driver = Driver::new(&machine);
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let before = devices.clone().finish().unwrap();
    let ctlr = of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 4));
    let mut properties = 0;
    devices.get(ctlr, &mut properties).unwrap();
    let refused = [
        (gic(group::DIST_REGS, 8), 0x7600_1000, Errno::Inval), // the library's own IIDR
        (gic(group::DIST_REGS, 8), 0x4b00_143b, Errno::Inval),
        (gic(group::DIST_REGS, 0xc), 1, Errno::Inval), // TYPER2
        (ctlr, properties + (1 << 8), Errno::Inval),   // more bits of priority
        (ctlr, properties | 1 << 14, Errno::Inval),    // SErrors
        (
            of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 5)),
            0,
            Errno::Inval,
        ), // SRE
        (its(group::ITS_REGS, 4), 0x4b00_143b, Errno::Inval), // revision 1 of the tables
        (its(group::ITS_REGS, 0x90), 0, Errno::Busy),  // CREADR of an ITS that is enabled
        (command(ITS, control::RESTORE_TABLES), 0, Errno::Exist),
    ];
    for (attribute, value, error) in refused {
        let set = devices.set(attribute, value, host);
        assert_eq!(set, Err(error), "{attribute:x?}");
    }
    // Without effect.
    let ignored = [
        (gic(group::DIST_REGS, 4), 0),
        (gic(group::DIST_REGS, 0x288), 0xffff_ffff), // ICPENDR
        (gic(group::DIST_REGS, 0x80), 0),            // IGROUPR of SGIs and PPIs
        (its(group::ITS_REGS, 0x100), 0),            // BASER of an ITS that is enabled
        (its(group::ITS_REGS, 0x80), 0),
        (of_vcpu(group::REDIST_REGS, affinity(0), 0x78), 0), // PENDBASER while LPIs are enabled
        (gic(group::LEVEL_INFO, 992), 0xf000_0000),          // beyond the last SPI
    ];
    for (attribute, value) in ignored {
        devices.set(attribute, value, host).unwrap();
    }
    assert!(devices.clone().finish().unwrap() == before);

    devices.set(its(group::ITS_REGS, 0), 0, host).unwrap();
    let queue = its(group::ITS_REGS, 0x90);
    assert_eq!(
        devices.set(queue, 0x1_0000, host),
        Err(Errno::Inval),
        "beyond the queue"
    );
    devices.set(command(ITS, control::RESET), 0, host).unwrap();
    let (_, state) = devices.finish().unwrap();
    assert_eq!(state.its, VmState::after_reset(machine.vm.config()).its);
    machine.finish();
}

/// Reads and writes whole frames, as crosvm does.
#[test]
fn registers_that_there_are_not_are_zero() {
    let machine = Machine::bare(2);
    let mut devices = save(&machine);
    let host = machine.vm.host();
    for attribute in [
        gic(group::DIST_REGS, 1),
        of_vcpu(group::REDIST_REGS, affinity(0), 1),
        gic(group::DIST_REGS, 0x14),
        gic(group::DIST_REGS, 0x82),
        gic(group::DIST_REGS, 0x1_0000),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x18),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x1_0084),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x1_0082),
    ] {
        assert_eq!(devices.has(attribute), Err(Errno::Nxio), "{attribute:x?}");
        let mut value = !0;
        devices.get(attribute, &mut value).unwrap();
        assert_eq!(value, 0, "{attribute:x?}");
    }

    let (_, before) = devices.clone().finish().unwrap();
    let distributor = (0..0x1_0000).map(|at| gic(group::DIST_REGS, at));
    let redistributor = (0..0x2_0000).map(|at| of_vcpu(group::REDIST_REGS, affinity(1), at));
    for attribute in distributor.chain(redistributor).step_by(4) {
        let mut value = 0;
        devices.get(attribute, &mut value).unwrap();
        devices.set(attribute, value, host).unwrap();
    }
    assert!(devices.finish().unwrap().1 == before);
    machine.finish();
}

/// Leaves an ITS enabled without its tables, with `GITS_CWRITER` beyond the queue.
#[test]
fn an_its_that_a_guest_has_left_odd_stays_as_it_is() {
    for queue in [0, VALID | 0x4001_0000] {
        let machine = Machine::from_config(config());
        machine.write64(0, GITS + 0x80, queue);
        machine.write64(0, GITS + 0x88, 0x8000);
        machine.write(0, GITS, 1);
        let devices = save(&machine);
        let (_, state) = moved(&machine, &devices).finish().unwrap();
        assert!(state.its[0].is_enabled);
        assert_eq!(state.its[0].cwriter, 0x8000);
        assert!(state == devices.finish().unwrap().1);
        machine.vm.restore(&machine.pin(), &state).unwrap();
        machine.finish();
    }
}

#[test]
fn a_read_pointer_is_in_the_queue() {
    let machine = Machine::from_config(config());
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let creadr = its(group::ITS_REGS, 0x90);
    assert_eq!(devices.set(creadr, 0x20, host), Err(Errno::Inval), "none");
    let queue = VALID | 0x4001_0000;
    devices
        .set(its(group::ITS_REGS, 0x80), queue, host)
        .unwrap();
    assert_eq!(devices.set(creadr, 0x1000, host), Err(Errno::Inval));
    devices.set(creadr, 0xfe0, host).unwrap();
    let (_, state) = devices.finish().unwrap();
    machine.vm.restore(&machine.pin(), &state).unwrap();
    machine.finish();
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

#[test]
fn a_vcpu_that_is_gone_is_not_powered_on() {
    let config = Config {
        max_vcpus: 3,
        ..config()
    };
    let config = Config {
        redistributors: vec![RedistributorRegion {
            count: 3,
            ..config.redistributors[0]
        }],
        ..config
    };
    let machine = Machine::from_config(config);
    let added = machine.vm.add_vcpu(&machine.pin(), affinity(2)).unwrap();
    machine.vm.remove_vcpu(&machine.pin(), added).unwrap();
    let mut devices = save(&machine);
    assert_eq!(devices.power(added), Ok(false));
    assert_eq!(devices.set_power(added, true), Err(Errno::Inval));
    assert_eq!(devices.set_power(vcpu(3), true), Err(Errno::Inval));
    assert_eq!(devices.power(vcpu(3)), Err(Errno::Inval));
    devices.set_power(vcpu(1), false).unwrap();
    let (_, state) = devices.finish().unwrap();
    machine.vm.restore(&machine.pin(), &state).unwrap();
    assert!(!machine.vm.is_powered_on(vcpu(1)));
    machine.finish();
}

/// Returns the offsets at which the attributes of a frame have other values than the guest reads,
/// with both.
fn differences(
    machine: &Machine,
    devices: &Devices,
    base: u64,
    attribute: impl Fn(u64) -> Attribute,
    size: u64,
) -> Vec<(u64, u64, u64)> {
    let read = |at| {
        let mut value = 0;
        devices.get(attribute(at), &mut value).unwrap();
        (at, value, u64::from(machine.read(0, base + at)))
    };
    let all = (0..size).step_by(4).map(read);
    all.filter(|(_, value, seen)| value != seen).collect()
}

#[test]
fn a_register_reads_as_the_guest_reads_it() {
    let everything = Machine::new(2);
    use_everything(&everything);
    let without_lpis = Machine::from_config(Config {
        lpis: 0,
        its: Vec::new(),
        ..config()
    });
    // ISPENDR is the latch, and not the lines of SPI 51 and PPI 20.
    let lines = [(0x204, 1 << 19)];
    for (machine, lines) in [(&everything, &lines[..]), (&without_lpis, &[])] {
        machine.put_all();
        let state = machine.vm.save(&machine.pin()).unwrap();
        let devices = Devices::of(machine.vm.config().clone(), NEOVERSE, state);

        let gicd = |at| gic(group::DIST_REGS, at);
        let found = differences(machine, &devices, GICD, gicd, 0x1_0000);
        let found: Vec<_> = found.iter().filter(|(at, ..)| *at != 8).collect();
        for &&(at, value, seen) in &found {
            let is_clear = (0x280..0x300).contains(&at) && value == 0;
            let is_line = lines.contains(&(at, seen & !value)) && value & !seen == 0;
            assert!(is_clear || is_line, "GICD {at:#x}: {value:#x}, {seen:#x}");
        }

        for n in 0..2 {
            let gicr = |at| of_vcpu(group::REDIST_REGS, affinity(n), at);
            let found = differences(machine, &devices, machine.gicr(n), gicr, 0x2_0000);
            for (at, value, seen) in found.into_iter().filter(|(at, ..)| *at != 4) {
                let is_clear = at == 0x1_0280 && value == 0;
                let is_line = at == 0x1_0200 && seen & !value == 1 << 20 && n == 1;
                assert!(is_clear || is_line, "GICR {at:#x}: {value:#x}, {seen:#x}");
            }
        }
        for (attribute, identity) in [
            (gicd(8), 0x4b00_343b),
            (of_vcpu(group::REDIST_REGS, affinity(0), 4), 0x4b00_043b),
        ] {
            let mut value = 0;
            devices.get(attribute, &mut value).unwrap();
            assert_eq!(value, identity);
        }
    }
    without_lpis.finish();
    everything.finish();
}

#[test]
fn a_register_takes_what_the_guest_writes() {
    let machine = Machine::from_config(config());
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let gicd = |at| (gic(group::DIST_REGS, at), GICD + at);
    let gicr = |at| {
        let attribute = of_vcpu(group::REDIST_REGS, affinity(1), at);
        (attribute, machine.gicr(1) + at)
    };

    // Configurations before enables; clear bits after set bits.
    let blocks = [
        (0x0c0, 4),
        (0xc08, 8),
        (0x084, 4),
        (0x404, 64),
        (0x104, 4),
        (0x184, 4),
        (0x304, 4),
        (0x384, 4),
        (0x6100, 64),
    ];
    let mut registers = vec![gicd(0)];
    for (first, bytes) in blocks {
        registers.extend((first..first + bytes).step_by(4).map(gicd));
    }
    registers.extend([0x14, 0x70, 0x74, 0x78, 0x7c].map(gicr));
    for (first, bytes) in [(0xc00, 8), (0x080, 4), (0x400, 32), (0x100, 4), (0x180, 4)] {
        registers.extend(
            (first..first + bytes)
                .step_by(4)
                .map(|at| gicr(0x1_0000 | at)),
        );
    }
    registers.extend([0x300, 0x380].map(|at| gicr(0x1_0000 | at)));

    for value in [u32::MAX, 0x5a5a_a5a5, 0x1234_5678, 0] {
        for &(attribute, address) in &registers {
            devices.set(attribute, value.into(), host).unwrap();
            machine.write(1, address, value);
            machine.put_all();
            let (_, moved) = devices.clone().finish().unwrap();
            let mut state = machine.vm.save(&machine.pin()).unwrap();
            state.spis.iter_mut().for_each(|spi| spi.active_on = None);
            assert!(moved == state, "{attribute:x?} = {value:#x}");
        }
    }

    for (enable, propbaser) in [(1, u32::MAX), (0, 0)] {
        for (attribute, address, value) in [
            (gicr(0).0, gicr(0).1, enable),
            (gicr(0x70).0, gicr(0x70).1, propbaser),
            (gicr(0x78).0, gicr(0x78).1, propbaser),
        ] {
            devices.set(attribute, value.into(), host).unwrap();
            machine.write(1, address, value);
        }
        machine.advance();
        let state = machine.vm.save(&machine.pin()).unwrap();
        let (_, moved) = devices.clone().finish().unwrap();
        assert!(moved.vcpus == state.vcpus, "EnableLPIs {enable}");
        assert_eq!(moved.propbaser, state.propbaser);
    }
    machine.finish();
}

#[test]
fn a_register_of_an_its_is_as_the_guest_has_it() {
    let machine = Machine::from_config(config());
    let mut devices = save(&machine);
    let host = machine.vm.host();
    for value in [u64::MAX, 0x5a5a_a5a5_5a5a_a5a5, 0x1234_5678_9abc_def0, 0] {
        // BASER<n>, CBASER, CWRITER.
        for at in (0x100..0x140).step_by(8).chain([0x80, 0x88]) {
            devices.set(its(group::ITS_REGS, at), value, host).unwrap();
            machine.write64(0, GITS + at, value);
        }
        let (_, state) = devices.clone().finish().unwrap();
        let found = machine.vm.save(&machine.pin()).unwrap();
        assert_eq!(state.its, found.its, "{value:#x}");

        for at in [8, 0x80, 0x88, 0x90]
            .into_iter()
            .chain((0x100..0x140).step_by(8))
        {
            let read = get(&devices, its(group::ITS_REGS, at));
            assert_eq!(read, machine.read64(0, GITS + at), "{at:#x}");
        }
        for at in (0xffd0..0x1_0000).step_by(4) {
            let read = get(&devices, its(group::ITS_REGS, at));
            assert_eq!(read, machine.read(0, GITS + at).into(), "{at:#x}");
        }
        // Disabled, and quiescent unless commands wait.
        let quiescent = u64::from(state.its[0].creadr == state.its[0].cwriter) << 31;
        assert_eq!(get(&devices, its(group::ITS_REGS, 0)), quiescent);
    }
    assert_eq!(get(&devices, its(group::ITS_REGS, 4)), 0x4b00_043b);
    machine.finish();
}

fn get(devices: &Devices, attribute: Attribute) -> u64 {
    let mut value = 0;
    devices.get(attribute, &mut value).unwrap();
    value
}

#[test]
fn a_cpu_interface_is_as_the_guest_has_it() {
    let machine = Machine::new(2);
    let of = |register| of_vcpu(group::CPU_SYSREGS, affinity(1), register);
    let registers = [
        icc(4, 6, 0),
        icc(12, 8, 3),
        icc(12, 12, 3),
        icc(12, 12, 4),
        icc(12, 12, 6),
        icc(12, 12, 7),
        icc(12, 8, 4),
        icc(12, 9, 0),
    ];
    for n in 0..16_u8 {
        machine.enter(1);
        let guest = machine.guest(1);
        guest.write_pmr(n << 4 | 8).unwrap();
        guest.write_ctlr(0).unwrap();
        guest.write_bpr0(n & 7);
        guest.write_bpr1(!n & 7);
        guest.write_ctlr(u64::from(n & 3)).unwrap();
        guest.write_igrpen0(n & 4 != 0);
        guest.write_igrpen1(n & 8 == 0);
        guest.write_ap0r(0, 1 << n);
        guest.write_ap1r(0, 1 << (31 - n));
        let seen = [
            guest.read_pmr().unwrap().into(),
            guest.read_bpr0().into(),
            guest.read_bpr1().into(),
            guest.read_ctlr().unwrap(),
            guest.read_igrpen0().into(),
            guest.read_igrpen1().into(),
            guest.read_ap0r(0).into(),
            guest.read_ap1r(0).into(),
        ];
        machine.exit(1);

        let devices = save(&machine);
        let moved = moved(&machine, &devices);
        for devices in [&devices, &moved] {
            let found = registers.map(|register| get(devices, of(register)));
            assert_eq!(found, seen, "{n}");
            assert_eq!(get(devices, of(icc(12, 12, 5))), 7, "ICC_SRE_EL1");
        }
        // CBPR hides the binary point of Group 1.
        if n & 1 == 0 {
            assert!(moved.finish().unwrap().1 == devices.finish().unwrap().1);
        }
    }

    let mut devices = save(&machine);
    let set = |devices: &mut Devices, register, value| {
        devices.set(of(register), value, machine.vm.host()).unwrap();
        get(devices, of(register))
    };
    let (bpr0, bpr1, ctlr) = (icc(12, 8, 3), icc(12, 12, 3), icc(12, 12, 4));
    let properties = get(&devices, of(ctlr)) & !3;
    set(&mut devices, ctlr, properties);
    assert_eq!(set(&mut devices, bpr1, 5), 5);
    set(&mut devices, ctlr, properties | 1);
    for (common, group1) in [(2, 3), (6, 7), (7, 7)] {
        set(&mut devices, bpr0, common);
        assert_eq!(set(&mut devices, bpr1, 4), group1);
    }
    set(&mut devices, ctlr, properties);
    assert_eq!(get(&devices, of(bpr1)), 5, "as before");
    machine.finish();
}

#[test]
fn a_vcpu_runs_on_cpus_that_have_what_it_has_seen() {
    let few = NEOVERSE;
    let many = Vtr {
        priority_bits: 7,
        preemption_bits: 7,
        id_bits: 24,
        affinity3: !few.affinity3,
        local_serrors: !few.local_serrors,
        ..few
    };
    let host = common::TestHost::default();
    let config = config();
    let of = |register| of_vcpu(group::CPU_SYSREGS, affinity(1), register);
    let ctlr = of(icc(12, 12, 4));
    let devices = |vtr| Devices::of(config.clone(), vtr, VmState::after_reset(&config));
    let (mut of_few, mut of_many) = (devices(few), devices(many));
    let [little, much] = [&of_few, &of_many].map(|devices| get(devices, ctlr));
    let found = [&of_few, &of_many].map(|devices| get(devices, ctlr));
    assert_eq!(found.map(|value| value >> 8 & 7), [4, 6], "PRIbits");
    assert_eq!(found.map(|value| value >> 11 & 7), [0, 1], "IDbits");

    let (pri, id, seis, a3v) = (7 << 8, 7 << 11, 1 << 14, 1 << 15);
    let taken = |devices: &mut Devices, value| devices.set(ctlr, value, &host).is_ok();
    assert!(taken(&mut of_few, little) && taken(&mut of_many, much));
    assert!(taken(&mut of_many, much & !pri & !id), "fewer bits");
    assert!(!taken(&mut of_few, little & !pri | much & pri));
    assert!(!taken(&mut of_few, little & !id | much & id));
    for bit in [seis, a3v] {
        assert!(!taken(&mut of_few, little ^ bit), "{bit:#x}");
        assert!(!taken(&mut of_many, much ^ bit), "{bit:#x}");
    }

    let registers = [icc(12, 8, 4), icc(12, 9, 0)];
    for (place, register) in registers.into_iter().enumerate() {
        for n in 0..4 {
            let value = 1 << (place as u64 * 4 + n);
            of_many.set(of(register + n), value, &host).unwrap();
            let set = of_few.set(of(register + n), value, &host);
            assert_eq!(set.is_ok(), n == 0);
        }
    }
    let (_, state) = of_many.finish().unwrap();
    let expected = [[1, 2, 4, 8], [16, 32, 64, 128]];
    assert_eq!(state.vcpus[1].active_priorities, expected);
    let (_, state) = of_few.finish().unwrap();
    let expected = [[1, 0, 0, 0], [16, 0, 0, 0]];
    assert_eq!(state.vcpus[1].active_priorities, expected);
}

/// Takes tables away from two ITSes, one after the other, and resets one.
#[test]
fn mappings_go_with_their_tables() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(3, 4);
    driver.mapd(4, 4);
    driver.map(3, 0, 8300, 0);
    driver.map(3, 1, 8200, 1);
    driver.map(4, 0, 8250, 1);
    let devices = save(&machine);
    let host = machine.vm.host();
    let (mut config, mut state) = devices.finish().unwrap();
    // A second ITS maps one of the LPIs too, and one of its own.
    config.its.push(ItsConfig::at(GITS + 0x10_0000));
    let mut second = state.its[0].clone();
    second.devices.truncate(1);
    second.devices[0].events[0].intid = 8192;
    state.its.push(second);
    let mut own = state.lpis[0];
    own.intid = 8192;
    state.lpis.insert(0, own);
    let mut devices = Devices::of(config, NEOVERSE, state);
    let lpis = |devices: &Devices| -> Vec<u32> {
        let (_, state) = devices.clone().finish().unwrap();
        state.lpis.iter().map(|lpi| lpi.intid).collect()
    };
    assert_eq!(lpis(&devices), [8192, 8200, 8250, 8300]);

    devices.set(its(group::ITS_REGS, 0), 0, host).unwrap();
    let [device_table, collections] = [0x100, 0x108].map(|at| its(group::ITS_REGS, at));
    for table in [device_table, collections] {
        let value = get(&devices, table);
        devices.set(table, value, host).unwrap();
    }
    let (_, state) = devices.clone().finish().unwrap();
    assert_eq!(state.its[0].devices.len(), 2, "tables that are valid");
    assert_eq!(state.its[0].collections.len(), 2);

    devices.set(collections, 0, host).unwrap();
    let (_, state) = devices.clone().finish().unwrap();
    assert_eq!(state.its[0].devices.len(), 2);
    assert_eq!(state.its[0].collections, []);

    devices.set(device_table, 0, host).unwrap();
    assert_eq!(lpis(&devices), [8192, 8200]);
    let (_, state) = devices.clone().finish().unwrap();
    assert_eq!(
        (state.its[0].devices.len(), state.its[1].devices.len()),
        (0, 1)
    );

    let second = Device::Its(ItsId(1));
    devices
        .set(command(second, control::RESET), 0, host)
        .unwrap();
    assert_eq!(lpis(&devices), []);
    machine.finish();
}

#[test]
fn a_message_is_a_latch_and_lines_are_of_wires() {
    let machine = Machine::new(2);
    machine.write(0, GICD + 0x40, 51); // GICD_SETSPI_NSR
    machine.set_spi(0, 0x300, 40); // GICD_ISACTIVER
    machine.set_spi(0, 0x300, 41);
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let bit = |intid: u32| 1_u64 << (intid - 32);
    let pending = gic(group::DIST_REGS, 0x204);
    assert_eq!(get(&devices, pending), bit(51));

    let spi = |devices: &Devices, intid: u32| {
        let (_, state) = devices.clone().finish().unwrap();
        state.spis[(intid - 32) as usize]
    };
    assert!(spi(&devices, 51).interrupt.has(flags::MESSAGE));
    assert_eq!(
        [40, 41].map(|intid| spi(&devices, intid).active_on),
        [Some(0); 2]
    );
    let deactivate = gic(group::DIST_REGS, 0x384);
    devices.set(deactivate, bit(40), host).unwrap();
    let kept = spi(&devices, 51).interrupt;
    assert_eq!(kept.flags, flags::LATCH | flags::GROUP1 | flags::LEVEL);
    assert_eq!(
        [40, 41].map(|intid| spi(&devices, intid).active_on),
        [None, Some(0)]
    );

    let lines = |vcpu, first| of_vcpu(group::LEVEL_INFO, affinity(vcpu), first);
    devices.set(lines(1, 0), 0xffff_ffff, host).unwrap();
    devices.set(lines(0, 32), 0x8000_0001, host).unwrap();
    devices.set(lines(0, 992), 0xffff_ffff, host).unwrap();
    for (vcpu, first, found) in [
        (0, 0, 0),
        (1, 0, 0xffff_0000),
        (1, 32, 0x8000_0001),
        (0, 64, 0),
        (0, 992, 0x0fff_ffff),
    ] {
        assert_eq!(get(&devices, lines(vcpu, first)), found, "{vcpu}, {first}");
    }
    assert!(spi(&devices, 32).interrupt.has(flags::LINE));
    assert!(spi(&devices, 63).interrupt.has(flags::LINE));
    let (_, state) = devices.finish().unwrap();
    let of_sgis = &state.vcpus[1].private[..16];
    assert!(of_sgis.iter().all(|sgi| !sgi.has(flags::LINE)));
    machine.finish();
}

#[test]
fn a_number_of_interrupts_is_one_of_spis() {
    let host = common::TestHost::default();
    for (count, spis) in [(64, 32), (96, 64), (992, 960), (1024, 988)] {
        let mut devices = Devices::new(config(), NEOVERSE);
        let made = config();
        for (attribute, value) in [
            (gic(group::NR_IRQS, 0), count),
            (gic(group::ADDR, address::DIST), made.distributor),
            (
                gic(group::ADDR, address::REDIST),
                made.redistributors[0].base,
            ),
            (its(group::ADDR, address::ITS), made.its[0].base),
            (command(Device::Gic, control::INIT), 0),
        ] {
            devices.set(attribute, value, &host).unwrap();
        }
        let irqs = gic(group::NR_IRQS, 0);
        assert_eq!(devices.set(irqs, count, &host), Err(Errno::Busy));
        // GICD_TYPER.ITLinesNumber.
        let typer = get(&devices, gic(group::DIST_REGS, 4));
        assert_eq!(typer & 0x1f, count / 32 - 1, "{count}");
        let (config, state) = devices.finish().unwrap();
        assert_eq!((config.spis, state.spis.len()), (spis, spis as usize));
    }
}

#[test]
fn addresses_are_of_frames_that_fit() {
    const END: u64 = 1 << 52;
    let host = common::TestHost::default();
    let address = |attr| gic(group::ADDR, attr);
    let its_at = its(group::ADDR, address::ITS);
    let region = |count: u64, base: u64, index: u64| count << 52 | base | index;
    let sizes = [
        (address(address::DIST), 0, 0x1_0000),
        (address(address::REDIST), 0, 0x2_0000),
        (its_at, 0, 0x2_0000),
        (address(address::REDIST_REGION), region(2, 0, 0), 0x4_0000),
    ];
    for (attribute, value, size) in sizes {
        let set = |base| Devices::new(config(), NEOVERSE).set(attribute, value | base, &host);
        assert_eq!(set(END - size), Ok(()), "{attribute:?}");
        // A region has its base in the bits below 2^52.
        assert_eq!(
            set(END - size + 0x1_0000).is_err(),
            size > 0x1_0000 || value == 0
        );
        if size > 0x1_0000 {
            assert_eq!(set(END - 0x1_0000), Err(Errno::TooBig), "{attribute:?}");
        }
        if value == 0 {
            for odd in [1, 0x8000] {
                assert_eq!(set(odd), Err(Errno::Inval), "{attribute:?}");
            }
        }
    }

    let read = |devices: &Devices, attribute, mut value| {
        let got = devices.get(attribute, &mut value);
        got.map(|()| value)
    };
    let [dist, one, regions] =
        [address::DIST, address::REDIST, address::REDIST_REGION].map(address);
    let mut devices = Devices::new(config(), NEOVERSE);
    assert_eq!(devices.clone().finish().map(drop), Err(Errno::Nxio));
    for undefined in [dist, one, its_at] {
        assert_eq!(read(&devices, undefined, 0), Ok(u64::MAX));
    }
    assert_eq!(read(&devices, regions, 0), Err(Errno::Noent));
    for register in [
        gic(group::DIST_REGS, 0),
        of_vcpu(group::REDIST_REGS, affinity(1), 0),
        of_vcpu(group::CPU_SYSREGS, affinity(1), icc(4, 6, 0)),
        gic(group::LEVEL_INFO, 0),
    ] {
        assert_eq!(read(&devices, register, 0), Err(Errno::Busy));
    }
    let ctlr = its(group::ITS_REGS, 0);
    assert_eq!(read(&devices, ctlr, 0), Err(Errno::Nxio));
    assert_eq!(devices.has(ctlr), Ok(()), "as for every attribute");

    devices.set(one, 0x80a_0000, &host).unwrap();
    assert_eq!(devices.set(one, 0x80a_0000, &host), Err(Errno::Exist));
    assert_eq!(read(&devices, one, 0), Ok(0x80a_0000));
    assert_eq!(read(&devices, regions, 0), Ok(0x80a_0000));
    assert_eq!(read(&devices, regions, 1), Err(Errno::Noent));
    assert_eq!(
        devices.set(regions, region(1, 0xa00_0000, 0), &host),
        Err(Errno::Inval)
    );
    devices.set(dist, 0x800_0000, &host).unwrap();
    devices.set(its_at, 0xc00_0000, &host).unwrap();
    assert_eq!(devices.clone().finish().map(drop), Err(Errno::Nxio));
    devices
        .set(command(Device::Gic, control::INIT), 0, &host)
        .unwrap();
    devices.finish().unwrap();

    let mut devices = Devices::new(config(), NEOVERSE);
    devices
        .set(regions, region(1, 0xa00_0000, 0), &host)
        .unwrap();
    devices
        .set(regions, region(1, 0x80a_0000, 1), &host)
        .unwrap();
    assert_eq!(read(&devices, one, 0), Ok(0xa00_0000));
}

/// Has the vCPU with the higher affinity first.
#[test]
fn a_vcpu_is_found_by_its_affinity() {
    let config = Config::new([2, 0, 1].map(affinity).to_vec()).with_its(GITS);
    let machine = Machine::from_config(config);
    machine.write(0, machine.gicr(0) + 0x1_0400, 0x10);
    machine.write(1, machine.gicr(1) + 0x1_0400, 0x20);
    machine.write(2, machine.gicr(2) + 0x1_0400, 0x30);
    let devices = save(&machine);
    let priorities = [0, 1, 2].map(|n| {
        let register = of_vcpu(group::REDIST_REGS, affinity(n), 0x1_0400);
        get(&devices, register)
    });
    assert_eq!(priorities, [0x20, 0x30, 0x10]);
    let moved = moved(&machine, &devices).finish().unwrap();
    assert!(moved == devices.finish().unwrap());
    machine.finish();
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
        // In one byte of the pending table.
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
        let pending = read_entry(&machine, pending_table(1) + 8200 / 8);
        assert_eq!(pending & 0xff, 0b11);

        let moved = moved(&machine, &devices);
        let pending = read_entry(&machine, pending_table(1) + 8200 / 8);
        assert_eq!(pending & 0xff, 0, "taken");
        assert!(moved.finish().unwrap() == devices.finish().unwrap());
        machine.finish();
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
        devices.set(command, 0, host).unwrap();
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
