//! `direct`: MSIs that a GICv4 delivers, against blocks, doorbells, a change of CPU and a change
//! of the path. No wake-up and no MSI is lost.
//!
//! The vCPU's CPU is CPU 0 unless a model says otherwise. Any CPU takes a doorbell or a physical
//! LPI. A virtual LPI that is pending in a virtual PE that is resident reaches the guest by
//! itself.

use loom::sync::Arc;
use loom_tests::{Machine, V0, check_serial, mapti_second, sole, spawn};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::{Blocked, Cpu, EntryError};

/// Returns a machine with a direct vCPU, which has entered the guest and left it on CPU 0.
fn started() -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let machine = Machine::direct();
    let cpu = machine.cpu(0);
    enter_and_exit(&machine, &cpu);
    (Arc::new(machine), cpu)
}

/// Returns a machine as [`started`] does, whose vCPU becomes direct (`on`), or ceases to be.
fn changing(on: bool) -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let (machine, cpu) = started();
    machine.set_direct(&cpu.pin(), !on);
    (machine, cpu)
}

/// Returns a machine as [`started`] does, whose vCPU has never been direct.
fn indirect() -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let machine = Machine::with_gicv4();
    let cpu = machine.cpu(0);
    enter_and_exit(&machine, &cpu);
    (Arc::new(machine), cpu)
}

/// Returns a machine as [`started`] does, with a GICv4.1 and virtual SGIs.
fn started_on_v4_1() -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let machine = Machine::direct_on_v4_1();
    let cpu = machine.cpu(0);
    enter_and_exit(&machine, &cpu);
    (Arc::new(machine), cpu)
}

/// Lets the guest take what is pending. Returns the number taken.
fn enter_and_exit(machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> usize {
    machine.enter(cpu, V0);
    let taken = machine.take(cpu);
    machine.exit(cpu, V0);
    taken
}

/// Blocks the vCPU, which is known to have nothing to do.
fn sleep(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    assert_eq!(machine.block(cpu, V0), Blocked::Yes);
    machine.handle(&cpu.pin());
}

/// Sends MSIs of the device, and handles after each what the hardware reports.
fn send(machine: &Machine, cpu: &Cpu<SoftwareInterface>, events: &[usize]) {
    for event in events {
        machine.send(*event);
        machine.handle(&cpu.pin());
    }
}

/// Sends an MSI, and has the vCPU become direct (`on`), or cease to be.
fn send_and_change(machine: &Machine, cpu: &Cpu<SoftwareInterface>, on: bool) {
    send(machine, cpu, &[0]);
    machine.set_direct(&cpu.pin(), on);
    machine.handle(&cpu.pin());
}

/// Checks that a vCPU with `left` interrupts to take stays awake, or has been woken since there
/// were `before` wakes. Lets the guest take the interrupts.
fn check_awake(
    machine: &Machine,
    cpu: &Cpu<SoftwareInterface>,
    blocked: Blocked,
    before: usize,
    left: usize,
) {
    let asleep = blocked == Blocked::Yes && machine.wakes() == before;
    assert!(!asleep || left == 0, "asleep for ever");
    assert_eq!(machine.serve(cpu, V0), left);
}

/// Races a direct MSI against a block. The vCPU stays awake, or is woken.
#[test]
fn msi_against_block() {
    msis_against_block(4, &[0]);
}

/// Races two direct MSIs against a block. The second one is not lost either.
#[test]
fn two_msis_against_block() {
    msis_against_block(3, &[0, 1]);
}

fn msis_against_block(preemptions: usize, events: &'static [usize]) {
    check_serial(preemptions, move || {
        let (machine, cpu) = started();
        machine.command(&cpu.pin(), 0, mapti_second(0));

        let other = spawn(&machine, 1, |machine, cpu| send(machine, cpu, events));
        let blocked = machine.block(&cpu, V0);
        machine.handle(&cpu.pin());
        other.join();

        check_awake(&machine, &cpu, blocked, 0, events.len());
        sole(machine).finish(&cpu);
    });
}

/// Races a direct MSI for a blocked vCPU against a second block, as of a hypervisor that looks for
/// work again before the vCPU's CPU sleeps. The vCPU stays awake, or is woken.
#[test]
fn msi_against_a_second_block() {
    check_serial(4, || {
        let (machine, cpu) = started();
        sleep(&machine, &cpu);

        let other = spawn(&machine, 1, |machine, cpu| send(machine, cpu, &[0]));
        machine.handle(&cpu.pin());
        let before = machine.wakes();
        let blocked = machine.block(&cpu, V0);
        machine.handle(&cpu.pin());
        other.join();

        check_awake(&machine, &cpu, blocked, before, 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a doorbell that is taken late, and an MSI of another event, against the entry and the
/// next block of a vCPU that was put without a block. The handler of the late doorbell may disable
/// the doorbell.
#[test]
fn late_doorbell_against_block() {
    check_serial(4, || {
        let (machine, cpu) = started();
        machine.command(&cpu.pin(), 0, mapti_second(0));
        sleep(&machine, &cpu);
        enter_and_exit(&machine, &cpu);
        machine.put(&cpu, V0);
        machine.send(0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.handle(&cpu.pin());
            send(machine, cpu, &[1]);
        });
        let taken = enter_and_exit(&machine, &cpu);
        let before = machine.wakes();
        let blocked = machine.block(&cpu, V0);
        machine.handle(&cpu.pin());
        other.join();

        check_awake(&machine, &cpu, blocked, before, 2 - taken);
        sole(machine).finish(&cpu);
    });
}

/// Races a doorbell that is taken late, an MSI with a doorbell of its own, and the next block of
/// the vCPU, on three CPUs.
#[test]
fn two_doorbells_against_block() {
    check_serial(2, || {
        let (machine, cpu) = started();
        machine.command(&cpu.pin(), 0, mapti_second(0));
        sleep(&machine, &cpu);
        machine.send(0);

        let handler = spawn(&machine, 1, |machine, cpu| machine.handle(&cpu.pin()));
        let device = spawn(&machine, 2, |machine, cpu| send(machine, cpu, &[1]));
        let taken = enter_and_exit(&machine, &cpu);
        let before = machine.wakes();
        let blocked = machine.block(&cpu, V0);
        machine.handle(&cpu.pin());
        handler.join();
        device.join();

        check_awake(&machine, &cpu, blocked, before, 2 - taken);
        sole(machine).finish(&cpu);
    });
}

/// Races a direct MSI for a blocked vCPU, which was put on CPU 0, against an entry on CPU 1 and
/// the next block.
#[test]
fn msi_against_entry_elsewhere() {
    check_serial(4, || {
        let (machine, cpu) = started();
        sleep(&machine, &cpu);
        machine.put(&cpu, V0);

        let cpu = machine.cpu(1);
        let other = spawn(&machine, 2, |machine, cpu| send(machine, cpu, &[0]));
        let taken = enter_and_exit(&machine, &cpu);
        let before = machine.wakes();
        let blocked = machine.block(&cpu, V0);
        machine.handle(&cpu.pin());
        other.join();

        check_awake(&machine, &cpu, blocked, before, 1 - taken);
        sole(machine).finish(&cpu);
    });
}

/// Races a put on CPU 0 against an entry on CPU 1. The virtual PE of the vCPU is resident on the
/// CPU that has the vCPU in the guest.
#[test]
fn put_against_entry_elsewhere() {
    check_serial(4, || {
        let (machine, cpu) = started();

        let other = spawn(&machine, 1, |machine, cpu| {
            match machine.vm.enter(&cpu.pin(), V0) {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error, EntryError::OnAnotherCpu(V0));
                    false
                }
            }
        });
        machine.put(&cpu, V0);
        let (entered, second) = other.join_with_cpu();

        send(&machine, &second, &[0]);
        if entered {
            assert_eq!(machine.take(&second), 1, "resident elsewhere");
            machine.exit(&second, V0);
        } else {
            assert_eq!(enter_and_exit(&machine, &second), 1);
        }
        machine.put(&second, V0);
        sole(machine).finish(&second);
    });
}

/// Races MSIs of two events against a change from the hardware to list registers.
#[test]
fn msis_against_the_way_to_list_registers() {
    msis_against_a_change(false);
}

/// Races MSIs of two events against a change from list registers to the hardware.
#[test]
fn msis_against_the_way_to_hardware() {
    msis_against_a_change(true);
}

/// Races MSIs of two events against a change of the events' path, on the CPU of the vCPU. The
/// guest takes each MSI once.
fn msis_against_a_change(on: bool) {
    check_serial(2, move || {
        let (machine, cpu) = started();
        machine.command(&cpu.pin(), 0, mapti_second(0));
        if on {
            machine.set_direct(&cpu.pin(), false);
        }

        let other = spawn(&machine, 1, |machine, cpu| send(machine, cpu, &[0, 1]));
        machine.set_direct(&cpu.pin(), on);
        machine.handle(&cpu.pin());
        let taken = enter_and_exit(&machine, &cpu);
        other.join();

        assert_eq!(taken + machine.serve(&cpu, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// Races an MSI, and the change to list registers, against a block. The vCPU stays awake, or is
/// woken.
#[test]
fn way_to_list_registers_against_block() {
    against_block(
        || changing(false),
        |machine, cpu| send_and_change(machine, cpu, false),
    );
}

/// Races an MSI, and the change to the hardware, against a block. The vCPU stays awake, or is
/// woken.
#[test]
fn way_to_hardware_against_block() {
    against_block(
        || changing(true),
        |machine, cpu| send_and_change(machine, cpu, true),
    );
}

/// Races the making of the virtual PE, and an MSI, against a block. The vCPU stays awake, or is
/// woken.
#[test]
fn first_change_against_block() {
    against_block(indirect, |machine, cpu| {
        machine.set_direct(&cpu.pin(), true);
        send(machine, cpu, &[0]);
    });
}

/// Races a direct MSI against a block, on a GICv4.1: the virtual PE asks for its doorbell as it
/// leaves. The vCPU stays awake, or is woken.
#[test]
fn msi_against_block_with_a_default_doorbell() {
    against_block(started_on_v4_1, |machine, cpu| send(machine, cpu, &[0]));
}

/// Races a virtual SGI against a block. The vCPU stays awake, or is woken.
#[test]
fn virtual_sgi_against_block() {
    against_block(started_on_v4_1, |machine, cpu| {
        machine.send_sgi(&cpu.pin());
        machine.handle(&cpu.pin());
    });
}

/// Races an SGI against the entry from which on SGIs are virtual. The guest takes the SGI at once,
/// or after a kick.
#[test]
fn sgi_against_the_first_virtual_one() {
    against_entry(
        || {
            let machine = Machine::direct_on_v4_1();
            let cpu = machine.cpu(0);
            (Arc::new(machine), cpu)
        },
        |machine, cpu| {
            machine.send_sgi(&cpu.pin());
            machine.handle(&cpu.pin());
        },
    );
}

/// Races a virtual SGI, and the change to list registers, against a block. The vCPU stays awake, or
/// is woken.
#[test]
fn way_of_sgis_to_list_registers_against_block() {
    against_block(started_on_v4_1, |machine, cpu| {
        machine.set_direct(&cpu.pin(), false);
        machine.send_sgi(&cpu.pin());
        machine.handle(&cpu.pin());
    });
}

/// Races the enabling of a pending virtual SGI against a block. The vCPU stays awake, or is woken.
#[test]
fn a_change_of_a_virtual_sgi_against_block() {
    against_block(pending_and_disabled, |machine, cpu| {
        machine.enable_sgi(&cpu.pin(), true);
        machine.handle(&cpu.pin());
    });
}

/// Races the enabling of a pending virtual SGI against an entry. The guest takes the SGI at once,
/// or after a kick.
#[test]
fn a_change_of_a_virtual_sgi_against_entry() {
    against_entry(pending_and_disabled, |machine, cpu| {
        machine.enable_sgi(&cpu.pin(), true);
        machine.handle(&cpu.pin());
    });
}

/// Returns a machine as [`started_on_v4_1`] does, with the SGI pending and disabled.
fn pending_and_disabled() -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let machine = Machine::direct_on_v4_1();
    let cpu = machine.cpu(0);
    machine.enable_sgi(&cpu.pin(), false);
    enter_and_exit(&machine, &cpu);
    machine.send_sgi(&cpu.pin());
    (Arc::new(machine), cpu)
}

fn against_block(
    start: impl Fn() -> (Arc<Machine>, Cpu<SoftwareInterface>) + Send + Sync + 'static,
    work: impl Fn(&Machine, &Cpu<SoftwareInterface>) + Copy + Send + Sync + 'static,
) {
    check_serial(3, move || {
        let (machine, cpu) = start();
        let other = spawn(&machine, 1, move |machine, cpu| work(machine, cpu));
        let blocked = machine.block(&cpu, V0);
        machine.handle(&cpu.pin());
        other.join();

        check_awake(&machine, &cpu, blocked, 0, 1);
        sole(machine).finish(&cpu);
    });
}

/// Races an MSI, and the change to list registers, against an entry. The guest takes the MSI once,
/// at once or after a kick.
#[test]
fn way_to_list_registers_against_entry() {
    against_entry(
        || changing(false),
        |machine, cpu| send_and_change(machine, cpu, false),
    );
}

/// Races an MSI, and the change to the hardware, against an entry. The guest takes the MSI once,
/// at once or after a kick.
#[test]
fn way_to_hardware_against_entry() {
    against_entry(
        || changing(true),
        |machine, cpu| send_and_change(machine, cpu, true),
    );
}

/// Races the making of the virtual PE, and an MSI, against an entry. The guest takes the MSI at
/// once or after a kick.
#[test]
fn first_change_against_entry() {
    against_entry(indirect, |machine, cpu| {
        machine.set_direct(&cpu.pin(), true);
        send(machine, cpu, &[0]);
    });
}

fn against_entry(
    start: impl Fn() -> (Arc<Machine>, Cpu<SoftwareInterface>) + Send + Sync + 'static,
    work: impl Fn(&Machine, &Cpu<SoftwareInterface>) + Copy + Send + Sync + 'static,
) {
    check_serial(3, move || {
        let (machine, cpu) = start();
        let other = spawn(&machine, 1, move |machine, cpu| work(machine, cpu));
        machine.enter(&cpu, V0);
        let mut taken = machine.take(&cpu);
        other.join();

        taken += machine.take(&cpu);
        assert!(
            taken == 1 || machine.kicks() >= 1,
            "the guest would run for ever"
        );
        machine.exit(&cpu, V0);
        assert_eq!(taken + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
