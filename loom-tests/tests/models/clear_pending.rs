//! `clear_pending`: `ICPENDR` and `CLEAR` against injection, entry and fold. The write clears every
//! pending state set before, in the state word or in a list register. The write clears no later
//! injection.

use loom::sync::Arc;
use loom_tests::{Machine, PPI, V0, check_serial, clear, sole, spawn, take};

/// `GICR_ICPENDR0`.
const ICPENDR: u64 = 0x1_0280;

/// Races ICPENDR against exit and put, with the PPI unseen in a list register. The guest never gets
/// the PPI.
#[test]
fn icpendr_against_put() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, ICPENDR, 1 << PPI);
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "it was cleared");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races ICPENDR against entry, acknowledgement and exit. The guest takes the PPI before the write
/// or not at all.
#[test]
fn icpendr_against_the_guest() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, ICPENDR, 1 << PPI);
        });
        machine.enter(&cpu, V0);
        let taken = take(&cpu);
        machine.exit(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "it was cleared");
        assert!(taken <= 1);
        sole(machine).finish(&cpu);
    });
}

/// Races ICPENDR and a new injection on one CPU against exit and put, with the old edge in a list
/// register. The old edge is cleared, the new edge is delivered.
#[test]
fn icpendr_and_injection_against_put() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.gicr(&pin, V0, ICPENDR, 1 << PPI);
            let _ = machine.inject(&pin);
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.listed(), 1);
        // Fill and fold the interrupt once more, unseen by the guest.
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 1, "the new edge is lost");
        sole(machine).finish(&cpu);
    });
}

/// Races ICPENDR against an injection. Either order is valid, and the list agrees with the
/// delivery.
#[test]
fn icpendr_against_injection() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, ICPENDR, 1 << PPI);
        });
        let _ = machine.inject(&cpu.pin());
        other.join();
        let listed = machine.listed();
        assert_eq!(machine.serve(&cpu, V0) as u64, listed);
        sole(machine).finish(&cpu);
    });
}

/// Races `CLEAR` of an LPI against entry, exit and put of a guest without an acknowledgement. The
/// guest never gets the LPI.
#[test]
fn clear_against_entry_and_put() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, clear(0));
        });
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "it was cleared");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}
