//! `its_pair`: two ITSes mapping the same LPI, each under its own command lock, on two CPUs at
//! once. Each mapping has a reference. The LPI is freed with the last reference, once.
//!
//! CVE-2026-46316 is a race of this protocol, re-created here as a mutant: two drains of the same
//! mappings at once, each putting the one reference. A further known fault: a lookup by INTID finds
//! nothing because the other ITS has unmapped the LPI.

use loom::sync::Arc;
use loom_tests::{Machine, V0, V1, check_serial, discard, mapd, mapti, movall, sole, spawn, take};
use vgic::Injected;

/// Races `DISCARD` against `DISCARD` of both ITSes' mappings. The LPI is gone, and can be mapped
/// anew.
#[test]
fn discard_against_discard() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 1, discard(0));
        });
        machine.command(&cpu.pin(), 0, discard(0));
        other.join();

        let pin = cpu.pin();
        assert_eq!(machine.msi(&pin, 0, 0), None);
        assert_eq!(machine.msi(&pin, 1, 0), None);
        machine.command(&pin, 0, mapti(0));
        machine.command(&pin, 1, mapti(0));
        assert_eq!(machine.msi(&pin, 0, 0), Some(Injected::Pending));
        assert_eq!(machine.msi(&pin, 1, 0), Some(Injected::Coalesced));
        drop(pin);
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` of one ITS against an MSI through the other. The MSI is delivered: one mapping
/// is left.
#[test]
fn discard_against_injection() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 1, discard(0));
        });
        let injected = machine.msi(&cpu.pin(), 0, 0);
        other.join();

        assert_eq!(injected, Some(Injected::Pending));
        // Either unmapping withdraws the pending state. A later injection is delivered.
        let first = machine.serve(&cpu, V0);
        assert_eq!(machine.listed(), 0);
        assert!(machine.msi(&cpu.pin(), 0, 0).is_some(), "it is mapped");
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert!(first <= 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` of the last mapping of one ITS against `MAPTI` of the other. One interrupt of
/// the INTID exists afterwards.
#[test]
fn discard_against_mapping() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 1, discard(0));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 1, mapti(0));
        });
        machine.command(&cpu.pin(), 0, discard(0));
        other.join();

        machine.command(&cpu.pin(), 0, mapti(1));
        assert_eq!(machine.msi(&cpu.pin(), 1, 0), Some(Injected::Pending));
        assert_eq!(
            machine.msi(&cpu.pin(), 0, 1),
            Some(Injected::Coalesced),
            "two interrupts of one INTID"
        );
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `MAPTI` of both ITSes over an LPI without references that waits to be freed. One interrupt
/// of the INTID exists afterwards, and each ITS finds it complete.
#[test]
fn mapping_against_mapping() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        for its in 0..2 {
            machine.command(&cpu.pin(), its, discard(0));
        }
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 1, mapti(0));
        });
        machine.command(&cpu.pin(), 0, mapti(0));
        other.join();

        assert_eq!(machine.msi(&cpu.pin(), 0, 0), Some(Injected::Pending));
        assert_eq!(
            machine.msi(&cpu.pin(), 1, 0),
            Some(Injected::Coalesced),
            "two interrupts of one INTID"
        );
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `MOVALL` against the unmapping (`MAPD`) of the other ITS's device. `MOVALL` walks the LPIs
/// being unmapped.
#[test]
fn movall_against_unmapping() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(2, 2));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.command(&cpu.pin(), 0, discard(0));
        let _ = machine.msi(&cpu.pin(), 1, 0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 1, mapd(false));
        });
        machine.command(&cpu.pin(), 0, movall());
        other.join();

        assert_eq!(machine.listed(), 0);
        assert_eq!(machine.serve(&cpu, V0) + machine.serve(&cpu, V1), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races `MAPD` of a device against an advance of the same queue on another CPU. One CPU drains the
/// mappings, once. The other ITS's mapping of the LPI lives on.
#[test]
fn drain_against_drain() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);
        machine.place(0, mapd(false));

        let other = spawn(&machine, 1, |machine, cpu| machine.execute(&cpu.pin(), 0));
        machine.execute(&cpu.pin(), 0);
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(machine.msi(&cpu.pin(), 0, 0), None);
        assert_eq!(
            machine.msi(&cpu.pin(), 1, 0),
            Some(Injected::Pending),
            "freed while it is mapped"
        );
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
