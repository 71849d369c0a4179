//! `fold_prune`: the guest's end of an interrupt, and the fold and prune at exit, against injection
//! of that interrupt. Prune puts the list's reference on unlinking. No other step puts it.
//!
//! Known faults elsewhere: the list's reference put in fold with the interrupt still listed; an
//! edge raised again without a kick while the vCPU runs with the previous edge.

use loom::sync::Arc;
use loom_tests::{Machine, Other, V0, check, discard, sole, spawn, take};
use vgic::Injected;

/// Races an exit after the guest's EOI against a new edge. The new edge is delivered once more.
#[test]
fn exit_against_injection() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);

        let other = spawn(&machine, 1, |machine, cpu| {
            assert_eq!(machine.inject(&cpu.pin()), Injected::Pending);
        });
        machine.exit(&cpu, V0);
        other.join();

        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races exit and re-entry against a new edge. The guest finds the new edge, or its CPU is kicked.
#[test]
fn reentry_against_injection() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);

        let other = spawn(&machine, 1, |machine, cpu| machine.inject(&cpu.pin()));
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        assert_eq!(other.join(), Injected::Pending);

        assert!(found + machine.kicks() >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Injects two new edges after the guest's EOI, with the guest running on. One kick makes the guest
/// exit.
#[test]
fn injection_while_in_the_guest() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);

        let others = [1, 2].map(|n| {
            spawn(&machine, n, |machine, cpu| {
                let _ = machine.inject(&cpu.pin());
            })
        });
        others.into_iter().for_each(Other::join);

        assert_eq!(machine.kicks(), 1, "one IPI for the new edge");
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races an injection against exit and put, with the interrupt unseen in a list register. The
/// interrupt stays listed, with one reference. The two injections coalesce.
#[test]
fn put_against_injection() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| machine.inject(&cpu.pin()));
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        let _ = other.join();
        assert_eq!(machine.listed(), 1, "still listed");
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` and the prune of the LPI's last reference against an injector with an earlier
/// lookup. Prune frees the LPI.
#[test]
fn last_reference_in_prune() {
    check(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        machine.command(&cpu.pin(), 0, discard(0));
        machine.exit(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0);
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}
