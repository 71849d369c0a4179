//! The duties in docs/embedder-duties.md that no other test holds: a vCPU that is put while it is
//! blocked or can run, and goes on elsewhere.

mod common;

use common::{Call, Machine, vcpu};
use vgic::Blocked;

/// Returns a VM with an edge-triggered SPI 40 for vCPU 0, which is on CPU 0 and out of the guest.
fn machine() -> Machine {
    let machine = Machine::new(2);
    machine.edge_spi(40, 0);
    machine.enter(0);
    machine.exit(0);
    machine.vm.host().take_calls();
    machine
}

fn put(machine: &Machine, cpu: usize) {
    let pin = machine.cpus[cpu].pin();
    machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
}

/// Enters vCPU 0 on CPU 1, which has put its own, and lets the guest take what there is.
fn take_on_cpu_1(machine: &Machine) -> u32 {
    let pin = machine.cpus[1].pin();
    let _ = machine.vm.vcpu_put(&pin, vcpu(1));
    machine.vm.enter(&pin, vcpu(0)).unwrap();
    let guest = machine.guest(1);
    let intid = guest.read_iar1();
    guest.write_eoir1(intid);
    machine.vm.exit(&pin, vcpu(0)).unwrap();
    machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
    intid
}

#[test]
fn a_vcpu_that_is_put_while_blocked_is_woken_once() {
    let machine = machine();
    assert_eq!(machine.block(0), Blocked::Yes);
    put(&machine, 0);
    machine.inject_spi(40);
    machine.inject_spi(40);
    assert_eq!(machine.vm.host().take_calls(), [Call::Wake(0)]);
    assert_eq!(take_on_cpu_1(&machine), 40);
    machine.finish();
}

#[test]
fn a_vcpu_that_is_put_while_it_can_run_is_not_woken_and_loses_nothing() {
    let machine = machine();
    put(&machine, 0);
    machine.inject_spi(40);
    assert_eq!(machine.vm.host().take_calls(), []);
    assert_eq!(take_on_cpu_1(&machine), 40);
    machine.finish();
}

#[test]
fn a_blocked_vcpu_that_is_looked_at_is_still_woken() {
    let machine = machine();
    let look = || machine.vm.has_pending(&machine.pin(), vcpu(0));
    assert_eq!(machine.block(0), Blocked::Yes);
    assert_eq!(look(), Ok(false));
    machine.inject_spi(40);
    assert_eq!(machine.vm.host().take_calls(), [Call::Wake(0)]);
    assert_eq!(look(), Ok(true));
    machine.finish();
}

/// Tears the VM down while a vCPU sleeps. No CPU can enter the vCPU, and nobody is told to.
#[test]
fn no_vcpu_is_woken_after_the_teardown() {
    let machine = machine();
    assert_eq!(machine.block(0), Blocked::Yes);
    machine.put_all();
    let _ = machine.vm.teardown(&machine.pin()).unwrap();
    machine.inject_spi(40);
    assert_eq!(machine.vm.host().take_calls(), []);
}

#[test]
fn an_entry_elsewhere_ends_the_blocking_and_kicks_go_there() {
    let machine = machine();
    assert_eq!(machine.block(0), Blocked::Yes);
    put(&machine, 0);
    let pin = machine.cpus[1].pin();
    let _ = machine.vm.vcpu_put(&pin, vcpu(1));
    machine.vm.enter(&pin, vcpu(0)).unwrap();
    machine.inject_spi(40);
    assert_eq!(machine.vm.host().take_calls(), [Call::Kick(1, 0)]);
    machine.vm.exit(&pin, vcpu(0)).unwrap();
    machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
    drop(pin);
    machine.finish();
}
