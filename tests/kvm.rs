//! `vgic::kvm`: a VM goes through KVM's attributes and tables, and nothing that a guest can observe
//! changes.

mod common;

use std::sync::Mutex;

use common::attributes::{ITS, Memory, ORDERS, command, gic, icc, of_vcpu, save_tables, transfer};
use common::its::Driver;
use common::kvm::{VALID, config, get, its, moved, save, use_everything};
use common::{GITS, Machine, affinity, vcpu};
use vgic::Config;
use vgic::config::{ItsConfig, RedistributorRegion};
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::{IntId, ItsId};
use vgic::kvm::{Device, Devices, Errno, address, control, group};
use vgic::state::VmState;

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

/// Saves the tables of a state that no VM has: the device is left out.
#[test]
fn a_device_of_too_many_events_is_left_out() {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    for device in [2, 9] {
        driver.mapd(device, 3);
        driver.map(device, 0, 8192 + device, 1);
    }
    let state = machine.save();
    let config = machine.vm.config();
    let most = config.its[0].event_bits;
    for event_bits in [0, most + 1, 63, 64, u8::MAX] {
        let mut state = state.clone();
        state.its[0].devices[0].event_bits = event_bits;
        let mut devices = Devices::of(config.clone(), NEOVERSE, state);
        save_tables(&mut devices, config, machine.vm.host());
        let (_, moved) = moved(&machine, &devices).finish().unwrap();
        let left = moved.its[0].devices.iter().map(|device| device.device);
        assert_eq!(left.collect::<Vec<_>>(), [9], "{event_bits}");
    }
    machine.finish();
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

/// Powers a vCPU on before the devices are complete, as a VMM that makes its vCPUs first.
#[test]
fn power_is_no_state_of_the_devices() {
    let host = Memory(Mutex::new(Vec::new()));
    let mut devices = Devices::new(config(), NEOVERSE);
    devices.set_power(vcpu(1), true).unwrap();
    devices.set(gic(group::NR_IRQS, 0), 256, &host).unwrap();
    let init = command(Device::Gic, control::INIT);
    devices.set(init, 0, &host).unwrap();
    assert_eq!(devices.power(vcpu(1)), Ok(true));
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
    let a3v = |vtr: Vtr| u64::from(vtr.affinity3) << 15;
    let seis = |vtr: Vtr| u64::from(vtr.local_serrors) << 14;
    let rest = [few, many].map(|vtr| a3v(vtr) | seis(vtr));
    assert_eq!(found, [4 << 8 | rest[0], 1 << 11 | 6 << 8 | rest[1]]);

    let (pri, id, seis, a3v) = (7 << 8, 7 << 11, 1 << 14, 1 << 15);
    let taken = |devices: &mut Devices, value| devices.set(ctlr, value, &host).is_ok();
    assert!(taken(&mut of_few, little) && taken(&mut of_many, much));
    assert!(taken(&mut of_many, much & !pri & !id), "fewer bits");
    assert!(!taken(&mut of_few, little & !pri | much & pri));
    assert!(!taken(&mut of_few, little & !id | much & id));
    assert!(!taken(&mut of_many, much & !id | 4 << 11), "reserved");
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
    second.devices[0].events[1].intid = 8192;
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

    // Two levels of a table that is not valid.
    devices.set(device_table, 1 << 62, host).unwrap();
    assert_eq!(lpis(&devices), [8192, 8300]);
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
