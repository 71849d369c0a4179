//! `teardown`: the end of a VM, and of a vCPU, against injections in flight. No edge is lost while
//! the VM lives. No reference is left at its end, in any state.
//!
//! Known faults elsewhere: a vCPU destroyed with interrupts on its list; a teardown concurrent with
//! injections in flight.

use loom::sync::Arc;
use loom_tests::{Machine, V0, V1, check, discard, sole, spawn, take};

/// Tears the VM down on the last CPU using it, right after an injection and a `DISCARD`.
#[test]
fn the_last_one_takes_it_apart() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
            let _ = machine.inject(&cpu.pin());
        });
        machine.command(&cpu.pin(), 0, discard(0));
        other.join();
        sole(machine).finish(&cpu);
    });
}

/// Drops a VM with interrupts in its vCPU's list registers, without a teardown call. The interrupts
/// are found and every reference is put.
#[test]
fn dropped_with_list_registers_in_use() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
            let _ = machine.inject(&cpu.pin());
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        other.join();

        let Machine { domain, vm, .. } = sole(machine);
        drop(vm);
        drop(domain);
    });
}

/// Races a power-off against injections, with an interrupt in a list register. The vCPU takes every
/// interrupt after a power-on, on another CPU.
#[test]
fn power_off_against_injection() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let (cpu, elsewhere) = (machine.cpu(0), machine.cpu(1));
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 2, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
            let _ = machine.inject_spi(&cpu.pin());
        });
        machine.exit(&cpu, V0);
        machine.vm.power_off(&cpu.pin(), V0).unwrap();
        other.join();

        assert_eq!(machine.listed(), 2, "a vCPU that is off lost interrupts");
        machine.vm.power_on(V0);
        assert_eq!(machine.serve(&elsewhere, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// Races a power-off against a retarget of the interrupt in a list register. The other vCPU gets
/// the interrupt.
#[test]
fn power_off_against_retarget() {
    check(3, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| machine.route(&cpu.pin(), V1));
        machine.exit(&cpu, V0);
        machine.vm.power_off(&cpu.pin(), V0).unwrap();
        other.join();

        assert_eq!(
            machine.serve(&cpu, V1),
            1,
            "it stayed with a vCPU that is off"
        );
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a put against an injection and an entry on another CPU.
#[test]
fn put_against_injection_and_entry() {
    check(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);

        let injector = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let elsewhere = spawn(&machine, 2, |machine, cpu| {
            if machine.vm.enter(&cpu.pin(), V0).is_err() {
                return 0;
            }
            let taken = take(cpu);
            machine.exit(cpu, V0);
            machine.put(cpu, V0);
            taken
        });
        machine.put(&cpu, V0);
        injector.join();
        let taken = elsewhere.join();

        assert_eq!(taken + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
