//! `lpi_lifetime`: translation and injection against unmapping; unmapping and mapping of the same INTID while
//! its interrupt is queued or in a list register. The weak slot of the table is cleared once, by whoever
//! gave the last reference back, and never with the next interrupt of that INTID in it.
//!
//! CVE-2026-74568, CVE-2026-72288 and CVE-2024-26598 are races of this protocol, re-created here as
//! mutants: the releaser that erases its successor from the table, the interrupt that is put on a list
//! after it was freed, and the translation whose interrupt is freed under it. Of what else went wrong
//! elsewhere: a last put that needed a lock which its caller held; loom reports such a deadlock.

use loom::sync::Arc;
use loom_tests::{Machine, V0, check, discard, mapti, sole, spawn, take};
use vgic::Injected;
use vgic::epoch::CpuPin;

/// Both events are mapped to the LPI, and one object stands for it: what one makes pending, the other
/// merges with.
fn one_object(machine: &Machine, pin: &CpuPin<'_>) {
    assert_eq!(machine.msi(pin, 0, 0), Some(Injected::Pending));
    assert_eq!(
        machine.msi(pin, 0, 1),
        Some(Injected::Coalesced),
        "two interrupts of one INTID"
    );
}

/// An MSI against `DISCARD`: delivered or void, never a freed interrupt, never one that comes later.
#[test]
fn injection_against_discard() {
    check(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        machine.command(&cpu.pin(), 0, discard(0));
        other.join();
        assert_eq!(machine.listed(), 0, "it is unmapped, and on a list");
        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        sole(machine).finish(&cpu);
    });
}

/// The same INTID is mapped again while the old interrupt may still be on its way.
#[test]
fn injection_against_remap() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        let pin = cpu.pin();
        machine.command(&pin, 0, discard(0));
        machine.command(&pin, 0, mapti(1));
        assert!(machine.msi(&pin, 0, 1).is_some());
        drop(pin);
        other.join();
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Unmapped while it is queued, and the vCPU enters: it is taken before, or not at all.
#[test]
fn discard_while_queued() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, discard(0));
        });
        let early = machine.serve(&cpu, V0);
        other.join();
        assert!(early <= 1);
        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Unmapped while it is in a list register, which the vCPU gives back at the same time: the last reference
/// is the list's, and then the table is empty, so that the INTID can be mapped anew.
#[test]
fn discard_in_a_list_register() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, discard(0));
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();
        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        assert_eq!(machine.listed(), 0);
        machine.advance(&cpu.pin());
        machine.command(&cpu.pin(), 0, mapti(0));
        machine.command(&cpu.pin(), 0, mapti(1));
        one_object(&machine, &cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Unmapped and mapped again while it is in a list register, unseen, which the vCPU gives back at the same
/// time: what was pending for the old mapping is not pending for the new one.
#[test]
fn remap_in_a_list_register() {
    check(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.command(&pin, 0, discard(0));
            machine.command(&pin, 0, mapti(1));
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();
        assert_eq!(machine.serve(&cpu, V0), 0, "it was unmapped");
        assert!(machine.msi(&cpu.pin(), 0, 1).is_some());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Discarded, and mapped again, while the vCPU gives it back: the list's last put against the revival.
/// The new mapping gets the old interrupt or a new one, and the table knows it.
#[test]
fn remap_against_the_last_put() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        machine.command(&cpu.pin(), 0, discard(0));
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, mapti(1));
        });
        machine.exit(&cpu, V0);
        machine.advance(&cpu.pin());
        other.join();
        machine.put(&cpu, V0);
        machine.advance(&cpu.pin());
        machine.command(&cpu.pin(), 0, mapti(0));
        one_object(&machine, &cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// The list's last put leaves the interrupt to whoever advances the VM, and two CPUs do, while the INTID
/// is mapped anew: it is freed once, and its successor stays in the table.
#[test]
fn remap_against_the_dying() {
    check(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        machine.command(&cpu.pin(), 0, discard(0));
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.vm.advance(&pin);
            machine.command(&pin, 0, mapti(1));
        });
        machine.vm.advance(&cpu.pin());
        other.join();
        machine.command(&cpu.pin(), 0, mapti(0));
        one_object(&machine, &cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Discarded, mapped again and raised, while the vCPU takes it.
#[test]
fn remap_against_the_guest() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.command(&pin, 0, discard(0));
            machine.command(&pin, 0, mapti(1));
            assert!(machine.msi(&pin, 0, 1).is_some());
        });
        let early = machine.serve(&cpu, V0);
        other.join();
        let late = machine.serve(&cpu, V0);
        assert!(matches!(early + late, 1 | 2), "{early} + {late}");
        sole(machine).finish(&cpu);
    });
}
