//! `fold_prune`: the guest's end of an interrupt, and its fold and prune at the exit, against injection of the
//! same one. The list's reference is dropped where the interrupt is unlinked, in prune, and nowhere
//! else.
//!
//! Of what went wrong elsewhere: the list's reference dropped in fold, while the interrupt was still
//! listed; an edge raised again while the vCPU was in the guest with the last one, and no kick for it.

use loom::sync::Arc;
use loom_tests::{Machine, Other, V0, check, discard, sole, spawn, take};
use vgic::Injected;

/// The guest has finished with it and exits, another edge comes: it is one more.
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

/// The same while the vCPU goes back into the guest: it finds the new edge there, or is made to leave for
/// it.
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

/// The guest has finished with it and does not leave by itself: a new edge makes it leave, since nothing
/// else would.
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

/// Taken back unseen, while it is injected again: it stays listed, with its one reference, and the two
/// injections are one.
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

/// An LPI that is no longer mapped dies in prune, with the list's reference, and an injector that looked
/// it up before changes nothing about that.
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
