//! `its_pair`: two ITSes that map the same LPI, each under its own command lock, on two CPUs at once. Each
//! mapping has its reference; the interrupt dies with the last, once.
//!
//! CVE-2026-46316 is a race of this protocol, re-created here as a mutant: two drains of the same
//! mappings at the same time, each of which gives back the one reference. Of what else went wrong: a
//! lookup by INTID that found nothing, because the other ITS had unmapped the LPI.

use loom::sync::Arc;
use loom_tests::{Machine, V0, V1, check, discard, mapd, mapti, movall, sole, spawn};
use vgic::Injected;

/// Both unmap it: it is gone, and can be mapped anew.
#[test]
fn discard_against_discard() {
    check(4, || {
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

/// One unmaps it, and a device of the other raises it: it is delivered, since one mapping is left.
#[test]
fn discard_against_injection() {
    check(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 1, discard(0));
        });
        let injected = machine.msi(&cpu.pin(), 0, 0);
        other.join();
        assert_eq!(injected, Some(Injected::Pending));
        // What is pending is withdrawn with either mapping; what comes later is not.
        let first = machine.serve(&cpu, V0);
        assert_eq!(machine.listed(), 0);
        assert!(machine.msi(&cpu.pin(), 0, 0).is_some(), "it is mapped");
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert!(first <= 1);
        sole(machine).finish(&cpu);
    });
}

/// One unmaps its last mapping while the other maps it: there is one interrupt of that INTID afterwards.
#[test]
fn discard_against_mapping() {
    check(4, || {
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

/// `MOVALL` walks the LPIs while the other ITS, whose device goes, unmaps what it finds.
#[test]
fn movall_against_unmapping() {
    check(4, || {
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

/// A device goes (`MAPD`) while another CPU advances the same queue: its mappings are drained by one of
/// them, once, and the other ITS's mapping of the LPI lives on.
#[test]
fn drain_against_drain() {
    check(4, || {
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
