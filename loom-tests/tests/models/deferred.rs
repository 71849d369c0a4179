//! `deferred`: work left to `Vgic::advance` by one or two CPUs, and taken over by one or two. Work
//! that is left has been noted: once nothing is noted, nothing is left.

use loom::sync::Arc;
use loom_tests::{
    Machine, V0, V1, check_serial, discard, in_the_epoch, int, mapti_second, reclaim, sole, spawn,
    spawn_on,
};
use vgic::internals::waiting_frees;

/// Races the last puts of two LPIs, on the CPUs of two vCPUs. Each CPU then frees LPIs, and one
/// reclaims the memory.
#[test]
fn two_frees_and_two_advances() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpus = [0, 1].map(|n| machine.cpu(n));
        let pin = cpus[0].pin();
        machine.command(&pin, 0, mapti_second(1));
        for event in [0, 1] {
            let _ = machine.msi(&pin, 0, event);
        }
        drop(pin);
        machine.enter(&cpus[0], V0);
        machine.enter(&cpus[1], V1);
        for event in [0, 1] {
            machine.command(&cpus[0].pin(), 0, discard(event));
        }

        machine.exit(&cpus[0], V0);
        machine.exit(&cpus[1], V1);

        let [cpu, second] = cpus;
        let other = spawn_on(&machine, second, |machine, cpu| {
            machine.put(cpu, V1);
            machine.vm.advance(&cpu.pin()).unwrap();
            reclaim(cpu);
        });
        machine.put(&cpu, V0);
        machine.vm.advance(&cpu.pin()).unwrap();
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(waiting_frees(&machine.vm), 0, "work that nobody does");
        sole(machine).finish(&cpu);
    });
}

/// Races the last put of an LPI against a CPU that takes over what is noted, perhaps nothing.
#[test]
fn free_against_an_idle_advance() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        machine.command(&cpu.pin(), 0, discard(0));
        machine.exit(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.vm.advance(&pin).unwrap();
        });
        machine.put(&cpu, V0);
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(waiting_frees(&machine.vm), 0, "work that nobody does");
        sole(machine).finish(&cpu);
    });
}

/// Races a write of `GITS_CWRITER` against a slice of the commands before it.
#[test]
fn command_against_a_slice() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.enable_its(&cpu.pin(), false);
        machine.command(&cpu.pin(), 0, int(1));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.enable_its(&cpu.pin(), true);
        });
        machine.command(&cpu.pin(), 0, int(0));
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1, "a command that nobody executes");
        sole(machine).finish(&cpu);
    });
}

/// Races the enabling of an ITS against a guest that reads `GITS_CTLR`. A read that shows the ITS
/// as enabled does not show it as quiescent.
#[test]
fn quiescent_against_enable() {
    const CTLR: u64 = 0;
    const ENABLED: u64 = 1 << 0;
    const QUIESCENT: u64 = 1 << 31;
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.enable_its(&cpu.pin(), false);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.enable_its(&cpu.pin(), true);
        });
        let ctlr = machine.read_gits(&cpu, CTLR);
        assert!(ctlr & ENABLED == 0 || ctlr & QUIESCENT == 0, "{ctlr:#x}");
        other.join();
        sole(machine).finish(&cpu);
    });
}

/// Races the reading of a pending table of two slices against the last slice of its writing. Every
/// LPI that was pending is pending again.
#[test]
fn scan_against_the_last_store() {
    const CTLR: u64 = 0;
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let pin = cpu.pin();
        machine.command(&pin, 0, mapti_second(0));
        for event in [0, 1] {
            let _ = machine.msi(&pin, 0, event);
        }
        machine.gicr(&pin, V0, CTLR, 0);
        drop(pin);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.vm.advance(&cpu.pin()).unwrap();
        });
        machine.gicr(&cpu.pin(), V0, CTLR, 1);
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 2, "a slice that nobody reads");
        sole(machine).finish(&cpu);
    });
}
