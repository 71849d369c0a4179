//! `Vgic::restore` beside what else happens: raises and commands of other CPUs, vCPUs that are
//! away, interrupts that the host forwards, mappings that end.

mod common;

use common::its::{COLLECTION_TABLE, DEVICE_TABLE, Driver, itt, write_commands};
use common::{Call, GITS, Machine, RAM, TestHost, affinity, vcpu};
use vgic::epoch::CpuPin;
use vgic::intid::IntId;
use vgic::mmio::{MmioOutcome, Width};
use vgic::state::{InterruptState, VcpuState, VmState, flags};
use vgic::{Config, PhysicalInterrupt, Vgic};

const VALID: u64 = 1 << 63;

/// Returns a VM with SPIs 40 and 45, device 9 with two events, and its state.
fn source() -> (Machine, VmState) {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.edge_spi(45, 1);

    map_two(&machine);

    let state = machine.save();
    (machine, state)
}

/// Maps two events of device 9.
fn map_two(machine: &Machine) -> Driver<'_> {
    let driver = Driver::new(machine);
    driver.mapd(9, 1);
    driver.map(9, 0, 8200, 1);
    driver.map(9, 1, 8201, 0);
    driver
}

/// Reads a VM that was just made, was used and reset, or was used and given the state after reset.
#[test]
fn a_vm_after_reset_has_the_state_after_reset() {
    let (machine, _) = source();
    let config = Config::new(vec![affinity(0), affinity(1)]).with_its(GITS);
    let made = VmState::after_reset(&config);

    machine.vm.reset(&machine.pin()).unwrap();
    assert_eq!(machine.save(), made);
    machine.finish();

    let (machine, _) = source();
    machine.restore(&made).unwrap();
    assert_eq!(machine.save(), made);
    let asleep = machine.read(1, machine.gicr(1) + 0x14);
    assert_eq!(asleep, 0b110, "GICR_WAKER");
    machine.finish();
}

/// Restores on a host that keeps the mappings itself.
#[test]
fn a_restore_reports_what_it_maps() {
    let (source, state) = source();
    source.finish();
    let target = Machine::bare(2);
    target.restore(&state).unwrap();
    let calls = target.vm.host().take_calls();
    let mapped: Vec<_> = (calls.into_iter())
        .filter(|call| matches!(call, Call::Mapped(..)))
        .collect();
    let events = [
        Call::Mapped(9, 0, 8200, Some(1)),
        Call::Mapped(9, 1, 8201, Some(0)),
    ];
    assert_eq!(mapped, events);
    target.finish();
}

/// Raises an SPI between the reset that a restore begins with, and its own turn.
#[test]
fn a_raise_in_the_middle_of_a_restore_stays() {
    let (source, state) = source();
    source.finish();
    let target = Machine::bare(2);
    let raise = |vm: &Vgic<TestHost>, pin: &CpuPin<'_>| {
        let _ = vm.inject_spi(pin, IntId::spi(45).unwrap()).unwrap();
    };
    target.meanwhile("enabled", raise, || target.restore(&state).unwrap());
    assert_eq!(target.serve(1), [45]);
    target.finish();
}

/// Maps, on another CPU in the middle of a restore, a collection, and a device with two events. One
/// is an LPI that the state has too.
fn map_by_hand(vm: &Vgic<TestHost>, pin: &CpuPin<'_>) {
    const COMMANDS: [[u64; 4]; 5] = [
        [0x09, 0, VALID | 5, 0],
        [0x09, 0, VALID, 0],
        [0x08 | 33 << 32, 1, 0, 0],
        [0x0a | 33 << 32, 8200 << 32, 5, 0],
        [0x0a | 33 << 32, 1 | 8300 << 32, 5, 0],
    ];
    let queue = RAM + 0x4_0000;
    let mut commands = COMMANDS;
    commands[2][2] = VALID | itt(33);
    let end = write_commands(vm.host(), queue, &commands);

    let write = |offset, value| {
        let written = vm.mmio_write(pin, GITS + offset, Width::Double, value);
        assert_eq!(written, Ok(MmioOutcome::Done(0)));
    };
    write(0x100, VALID | DEVICE_TABLE | 0xf);
    write(0x108, VALID | COLLECTION_TABLE);
    write(0x80, VALID | queue);
    let enabled = vm.mmio_write(pin, GITS, Width::Word, 1);
    assert_eq!(enabled, Ok(MmioOutcome::Done(0)));
    write(0x88, end);
    while vm.has_deferred() {
        vm.advance(pin).unwrap();
    }
}

#[test]
fn what_is_mapped_in_the_middle_of_a_restore_goes() {
    let (source, state) = source();
    let target = Machine::new(2);
    target.vm.host().copy_ram(source.vm.host());
    target.meanwhile("enabled", map_by_hand, || target.restore(&state).unwrap());
    assert_eq!(target.save(), state);
    assert!(target.inject_msi(33, 1).is_err());
    target.inject_msi(9, 0).unwrap();
    assert_eq!(target.serve(1), [8200]);
    source.finish();
    target.finish();
}

/// Gives a vCPU that is away a state. Once it is back, it has the state after reset.
#[test]
fn a_vcpu_that_is_away_has_no_state() {
    let machine = Machine::new(2);
    machine.power_off(1);
    machine.vm.remove_vcpu(&machine.pin(), vcpu(1)).unwrap();

    let mut state = machine.save();
    state.vcpus[1].private[20] = InterruptState {
        flags: flags::ENABLED | flags::GROUP1 | flags::LATCH,
        priority: 0x80,
    };
    state.vcpus[1].enable_lpis = true;
    state.vcpus[1].vmcr = 0xff00_0002;
    machine.restore(&state).unwrap();

    let back = machine.vm.add_vcpu(&machine.pin(), affinity(1));
    assert_eq!(back, Ok(vcpu(1)));
    let added = VcpuState::after_reset(affinity(1), false);
    assert_eq!(machine.save().vcpus[1], added);
    machine.finish();
}

/// Saves a VM that awaits the end of a level of a physical line. The line makes the level pending
/// again on the other host, and nothing else does.
#[test]
fn a_level_of_a_physical_line_is_not_latched() {
    let source = Machine::new(2);
    let [spi, physical] = [44, 144].map(|intid| IntId::spi(intid).unwrap());
    source.set_spi(0, 0x100, 44);
    source.vm.connect_spi(&source.pin(), spi, physical).unwrap();
    let physical = PhysicalInterrupt::Spi { intid: physical };
    source.vm.host().high.lock().unwrap().push(physical);
    let _ = source.vm.forward_spi(&source.pin(), spi).unwrap();
    assert!(source.spi_bit(0, 0x200, 44), "pending");

    let state = source.save();
    assert_eq!(state.spis[44 - 32].interrupt.flags & flags::LATCH, 0);
    let target = Machine::new(2);
    target.restore(&state).unwrap();
    assert_eq!(target.serve(0), []);
    assert_eq!(source.serve(0)[..1], [44]);
    source.finish();
    target.finish();
}

/// Saves while an LPI without mapping is still on a vCPU's list, and while it is off the list and
/// not freed yet.
#[test]
fn an_lpi_that_was_unmapped_is_not_saved() {
    for is_listed in [true, false] {
        let machine = Machine::new(2);
        let driver = map_two(&machine);
        machine.inject_msi(9, 0).unwrap();
        if !is_listed {
            machine.enter(1);
        }
        driver.discard(9, 0);

        let state = machine.save();
        let lpis: Vec<_> = state.lpis.iter().map(|lpi| lpi.intid).collect();
        assert_eq!(lpis, [8201]);
        machine.restore(&state).unwrap();
        assert_eq!(machine.serve(1), []);
        machine.finish();
    }
}
