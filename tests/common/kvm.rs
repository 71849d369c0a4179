//! VMs that go through KVM's attributes and tables.

use super::attributes::{ITS, ORDERS, attribute, command, save_tables, transfer};
use super::its::Driver;
use super::{GICD, GITS, Machine, affinity, vcpu};
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::IntId;
use vgic::kvm::{Attribute, Devices, Errno, control, group};
use vgic::{Config, Host};

pub const VALID: u64 = 1 << 63;

pub fn its(group: u32, attr: u64) -> Attribute {
    attribute(ITS, group, attr)
}

/// Saves the VM, put on no CPU, and writes its tables.
pub fn save(machine: &Machine) -> Devices {
    let state = machine.save();
    let mut devices = Devices::of(machine.vm.config().clone(), NEOVERSE, state);
    save_tables(&mut devices, machine.vm.config(), machine.vm.host());
    devices
}

/// Returns the devices as their attributes make them again.
pub fn moved(machine: &Machine, devices: &Devices) -> Devices {
    let (config, host) = (machine.vm.config(), machine.vm.host());
    transfer(devices, config, NEOVERSE, host, ORDERS[0])
}

pub fn get(devices: &Devices, attribute: Attribute) -> u64 {
    let mut value = 0;
    devices.get(attribute, &mut value).unwrap();
    value
}

pub fn config() -> Config {
    Config::new((0..2).map(affinity).collect()).with_its(GITS)
}

/// Programs everything that the format has a place for, and leaves interrupts in every state.
/// Returns what vCPU 1 has taken.
pub fn use_everything(machine: &Machine) -> Vec<u32> {
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

pub fn read_entry(machine: &Machine, at: u64) -> u64 {
    let mut bytes = [0; 8];
    machine.vm.host().read_memory(at, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

pub fn write_entry(machine: &Machine, at: u64, entry: u64) {
    machine.vm.host().write_ram(at, &entry.to_le_bytes());
}

/// Returns the devices of a VM with one device and one event, and what a restore of its tables says
/// after `change`.
pub fn restore_of(config: Config, change: impl FnOnce(&Machine)) -> Result<Devices, Errno> {
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
