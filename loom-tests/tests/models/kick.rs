//! `kick`: publishing against entry, against blocking, and against a change of CPU: no wake-up is lost, and
//! there is at most one IPI for each stay in the guest.
//!
//! Of what went wrong elsewhere: a producer that looks where the vCPU is before it publishes; a WFI
//! decided on a stale view of what is pending.

use loom::sync::Arc;
use loom_tests::{Machine, V0, check, sole, spawn, take};
use vgic::{Blocked, EntryError};

/// Either the entry finds the interrupt, or the producer kicks.
#[test]
fn publish_against_entry() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        // The guest goes on and on, until an IPI makes it leave.
        other.join();
        let kicks = machine.kicks();
        assert!(found + kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// The same for a vCPU that has been in the guest on this CPU, and looks at its list only if it is told to.
#[test]
fn publish_against_reentry() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);
        machine.exit(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        other.join();
        let kicks = machine.kicks();
        assert!(found + kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Two producers of different interrupts: one IPI.
#[test]
fn one_ipi_for_two() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let _ = machine.inject_spi(&cpu.pin());
        other.join();
        assert_eq!(machine.kicks(), 1);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// While the vCPU leaves and enters again: an IPI for each stay at most, and no interrupt is left behind.
#[test]
fn one_ipi_for_each_stay() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            let _ = machine.inject(&pin);
            let _ = machine.inject_spi(&pin);
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        other.join();
        let kicks = machine.kicks();
        assert!(kicks <= 2, "{kicks} IPIs for two stays");
        assert!(found == 2 || kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// Either the vCPU does not go to sleep, or it is woken.
#[test]
fn publish_against_block() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);
        machine.exit(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let blocked = machine.block(&cpu, V0);
        other.join();
        assert_eq!(machine.wakes(), usize::from(blocked == Blocked::Yes));
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// A vCPU that leaves one CPU and enters another: one has its registers at a time, and what the first
/// saved is what the second loads.
#[test]
fn put_against_entry_elsewhere() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        let _ = machine.inject(&cpu.pin());
        machine.exit(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            match machine.vm.enter(cpu, &cpu.pin(), V0) {
                Ok(()) => {
                    let taken = take(cpu);
                    machine.exit(cpu, V0);
                    machine.put(cpu, V0);
                    taken
                }
                Err(error) => {
                    assert_eq!(error, EntryError::OnAnotherCpu(V0));
                    0
                }
            }
        });
        machine.put(&cpu, V0);
        let taken = other.join();
        assert_eq!(taken + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
