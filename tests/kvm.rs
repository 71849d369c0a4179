//! `vgic::kvm`: a VM goes through KVM's attributes and tables, and nothing that a guest can observe
//! changes. The format is checked byte by byte, and tables of a hostile guest are refused.

mod common;

use common::attributes::{
    ITS, ORDERS, attribute, command, gic, icc, of_vcpu, save_tables, transfer,
};
use common::its::{COLLECTION_TABLE, DEVICE_TABLE, Driver, PROPERTIES, itt, pending_table};
use common::{GICD, GITS, Machine, affinity, vcpu};
use vgic::config::{ItsConfig, RedistributorRegion};
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
        gic(group::DIST_REGS, 0x14),
        gic(group::DIST_REGS, 0x82),
        gic(group::DIST_REGS, 0x1_0000),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x18),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x1_0084),
        of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 0)),
        gic(group::CTRL, control::SAVE_TABLES),
        its(group::CTRL, control::SAVE_PENDING_TABLES),
        gic(group::CTRL, 9),
        gic(group::ITS_REGS, 0),
        its(group::ITS_REGS, 0x10),
        its(group::ITS_REGS, 0x140),
        attribute(Device::Its(ItsId(1)), group::ITS_REGS, 0),
        its(group::DIST_REGS, 0),
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
        its(group::ITS_REGS, 0x84),
        its(group::ITS_REGS, 2),
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
