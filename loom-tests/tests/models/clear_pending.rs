//! `clear_pending`: `ICPENDR` and `CLEAR` against injection, entry and fold. Once the write is done, what was
//! pending before it is gone, wherever it was, and what comes after it is not.

use loom::sync::Arc;
use loom_tests::{Machine, PPI, V0, check, clear, sole, spawn, take};

/// `GICR_ICPENDR0`.
const ICPENDR: u64 = 0x1_0280;

/// While it is in a list register, unseen, and the vCPU leaves the guest and its CPU.
#[test]
fn icpendr_against_put() {
    check(5, || {
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

/// While the vCPU enters, takes it, and leaves: taken before, or gone.
#[test]
fn icpendr_against_the_guest() {
    check(5, || {
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

/// Cleared in a list register, and injected again by the same CPU, while the vCPU gives it back: the new
/// edge is not cleared with the old one.
#[test]
fn icpendr_and_injection_against_put() {
    check(5, || {
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
        // Into a list register and back unseen once more.
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 1, "the new edge is lost");
        sole(machine).finish(&cpu);
    });
}

/// Against an injection: before or after it, and the lists agree.
#[test]
fn icpendr_against_injection() {
    check(5, || {
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

/// `CLEAR` of an LPI while the vCPU enters and leaves its CPU without having seen it.
#[test]
fn clear_against_entry_and_put() {
    check(4, || {
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
