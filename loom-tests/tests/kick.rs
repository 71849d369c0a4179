//! `kick`: publishing against entry and against blocking: no wake-up is lost, and there is at most one IPI
//! for each stay in the guest.
#![cfg(loom)]

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc;
use loom::thread;
use loom_tests::{Machine, V0, check, take};
use vgic::Blocked;
use vgic::intid::{CpuId, IntId};

/// Either the entry finds the interrupt, or the producer kicks.
#[test]
fn publish_against_entry() {
    check(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.inject(&machine.domain.register(CpuId(1)).pin())
        });
        machine.vm.enter(&cpu, &cpu.pin(), V0).unwrap();
        let found = take(&cpu);
        // The guest goes on and on, until an IPI makes it leave.
        other.join().unwrap();
        let kicks = machine.vm.host().kicks.load(Relaxed);
        assert!(found + kicks >= 1, "the guest would run for ever");
        machine.vm.exit(&cpu, &cpu.pin(), V0).unwrap();
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// Two producers of different interrupts: one IPI.
#[test]
fn one_ipi_for_two() {
    check(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.vm.enter(&cpu, &cpu.pin(), V0).unwrap();
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.inject(&machine.domain.register(CpuId(1)).pin())
        });
        let local = machine.domain.register(CpuId(2));
        let _ = machine
            .vm
            .inject_ppi(&local.pin(), V0, IntId::ppi(20).unwrap())
            .unwrap();
        machine.inject_spi(&local.pin());
        other.join().unwrap();
        assert_eq!(machine.vm.host().kicks.load(Relaxed), 1);
        machine.vm.exit(&cpu, &cpu.pin(), V0).unwrap();
        assert_eq!(machine.serve(&cpu, V0), 2);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// Either the vCPU does not go to sleep, or it is woken.
#[test]
fn publish_against_block() {
    check(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.vm.enter(&cpu, &cpu.pin(), V0).unwrap();
        assert_eq!(take(&cpu), 0);
        machine.vm.exit(&cpu, &cpu.pin(), V0).unwrap();
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.inject(&machine.domain.register(CpuId(1)).pin())
        });
        let blocked = machine.vm.block(&cpu, &cpu.pin(), V0).unwrap();
        other.join().unwrap();
        let wakes = machine.vm.host().wakes.load(Relaxed);
        assert_eq!(wakes, usize::from(blocked == Blocked::Yes));
        assert_eq!(machine.serve(&cpu, V0), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}
