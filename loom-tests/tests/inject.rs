//! `inject`: injection against injection of the same interrupt, against entry, and against disabling.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use loom_tests::{Machine, V0, check, take};
use vgic::intid::CpuId;
use vgic::mmio::Width;

/// From two CPUs at once: one link, one reference, taken once.
#[test]
fn injection_against_injection() {
    check(3, || {
        let machine = Arc::new(Machine::new(1));
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.inject(&machine.domain.register(CpuId(1)).pin())
        });
        let cpu = machine.cpu(0);
        machine.inject(&cpu.pin());
        other.join().unwrap();
        assert_eq!(machine.serve(&cpu, V0), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// While the vCPU enters, runs and leaves: nothing is lost, nothing is taken twice.
#[test]
fn injection_against_entry_and_exit() {
    check(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.inject(&cpu.pin());
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.inject(&machine.domain.register(CpuId(1)).pin())
        });
        let early = machine.serve(&cpu, V0);
        other.join().unwrap();
        let late = machine.serve(&cpu, V0);
        assert!(matches!(early + late, 1 | 2), "{early} + {late}");
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// An interrupt that is disabled meanwhile stays pending and is on no list.
#[test]
fn injection_against_disable() {
    check(2, || {
        let machine = Arc::new(Machine::new(1));
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.inject(&machine.domain.register(CpuId(1)).pin())
        });
        let cpu = machine.cpu(0);
        let icenabler = machine.vm.config().redistributors[0].base + 0x1_0180;
        let _ = machine
            .vm
            .mmio_write(&cpu.pin(), icenabler, Width::Word, 1 << 20);
        other.join().unwrap();
        assert_eq!(machine.serve(&cpu, V0), 0);
        let totals = machine.domain.totals();
        assert_eq!(totals.list_gets, totals.list_puts, "it is on a list");
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// A register write that reconsiders the interrupt's place, while the vCPU takes it back from its list
/// register: whoever has the lock knows where it is.
#[test]
fn register_write_against_exit() {
    check(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.inject(&cpu.pin());
        machine.vm.enter(&cpu, &cpu.pin(), V0).unwrap();
        assert_eq!(take(&cpu), 1);
        let other = thread::spawn({
            let machine = machine.clone();
            move || {
                let local = machine.domain.register(CpuId(1));
                let priority = machine.vm.config().redistributors[0].base + 0x1_0400 + 20;
                let _ = machine
                    .vm
                    .mmio_write(&local.pin(), priority, Width::Byte, 0x80);
                machine.inject(&local.pin());
            }
        });
        machine.vm.exit(&cpu, &cpu.pin(), V0).unwrap();
        let late = machine.serve(&cpu, V0);
        other.join().unwrap();
        assert_eq!(late + machine.serve(&cpu, V0), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}
