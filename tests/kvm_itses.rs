//! LPIs that events of two ITSes are mapped to, through KVM's tables. The guest's mistake does not
//! keep its VM from being saved and restored.

mod common;

use common::attributes::{ORDERS, save_tables, transfer};
use common::its::{Driver, itt, write_commands};
use common::kvm::VALID;
use common::{GITS, Machine, RAM, affinity};
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::{DeviceId, EventId, ItsId};
use vgic::kvm::Devices;
use vgic::state::VmState;
use vgic::{Config, InjectError};

const SECOND: u64 = 0x0900_0000;

/// Returns a VM with two ITSes, the first one with so many collections.
fn config(collections: u32) -> Config {
    let config = Config::new((0..2).map(affinity).collect());
    let mut config = config.with_its(GITS).with_its(SECOND);
    config.its[0].collections = collections;
    config
}

/// Sets up the second ITS, and has it execute commands.
fn command(machine: &Machine, commands: &[[u64; 4]]) {
    let queue = RAM + 0x5_0000;
    let end = write_commands(machine.vm.host(), queue, commands);
    machine.write64(0, SECOND + 0x100, VALID | (RAM + 0x6_0000));
    machine.write64(0, SECOND + 0x108, VALID | (RAM + 0x8_0000));
    machine.write64(0, SECOND + 0x80, VALID | queue);
    machine.write(0, SECOND, 1);
    machine.write64(0, SECOND + 0x88, end);
    machine.advance();
    assert_eq!(machine.read64(0, SECOND + 0x90), end);
}

/// Returns a VM with LPI 8200, of collection `first` in the first ITS, and of collection `second`,
/// of vCPU 1, in the second one.
fn machine(collections: u32, first: u64, second: u64) -> Machine {
    let machine = Machine::from_config(config(collections));
    machine.set_up();
    let driver = Driver::new(&machine);
    driver.mapd(9, 4);
    driver.map(9, 0, 8200, first);
    let commands = [
        [0x09, 0, VALID | 1 << 16 | second, 0],  // MAPC
        [0x08 | 5 << 32, 3, VALID | itt(5), 0],  // MAPD
        [0x0a | 5 << 32, 8200 << 32, second, 0], // MAPTI
    ];
    command(&machine, &commands);
    inject(&machine).unwrap();
    machine
}

/// Sends the MSI of the second ITS.
fn inject(machine: &Machine) -> Result<(), InjectError> {
    let (its, device, event) = (ItsId(1), DeviceId(5), EventId(0));
    let injected = machine.vm.inject_msi(&machine.pin(), its, device, event);
    injected.map(|_| ())
}

/// Returns the state of a VM as KVM's attributes and tables have it.
fn through_kvm(machine: &Machine) -> VmState {
    let state = machine.save();
    let (config, host) = (machine.vm.config(), machine.vm.host());
    let mut devices = Devices::of(config.clone(), NEOVERSE, state);
    save_tables(&mut devices, config, host);
    let moved = transfer(&devices, config, NEOVERSE, host, ORDERS[0]);
    moved.finish().unwrap().1
}

/// Restores the state to a VM, and raises the LPI once more.
#[track_caller]
fn goes_on(source: Machine, state: &VmState) {
    let target = Machine::from_config(source.vm.config().clone());
    target.vm.restore(&target.pin(), state).unwrap();
    target.vm.host().copy_ram(source.vm.host());
    assert_eq!(target.serve(1), [8200], "pending before");
    inject(&target).unwrap();
    assert_eq!(target.serve(1), [8200]);
    source.finish();
    target.finish();
}

/// Uses a collection of the second ITS that the first one has no place for.
#[test]
fn an_icid_beyond_those_of_another_its_is_restored() {
    let source = machine(4, 0, 100);
    let state = through_kvm(&source);
    assert_eq!(state.its[0].devices[0].events, []);
    goes_on(source, &state);
}

/// Maps the collection in the second ITS alone.
#[test]
fn an_lpi_goes_where_any_of_its_collections_is() {
    let source = machine(4096, 3, 3);
    let state = through_kvm(&source);
    assert_eq!(state.its[0].devices[0].events.len(), 1);
    assert_eq!(state.lpis[0].target, Some(1));
    goes_on(source, &state);
}
