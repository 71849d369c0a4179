//! `level`: changes of an input line against entry, fold and resampling. The guest's view of a
//! level is the line: no interrupt after the line has dropped, always an interrupt while the line
//! is high.
//!
//! Known faults elsewhere: the level kept in software and stale after the deactivation; an
//! interrupt repeated after its line has dropped.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Acquire, Release};
use loom_tests::{Machine, V0, check_serial, sole, spawn, take};

/// Races a drop of the line against the fold after the guest's EOI. No interrupt comes after the
/// drop.
#[test]
fn drop_against_fold() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.set_line(&cpu.pin(), true);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.set_line(&cpu.pin(), false);
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let again = take(&cpu);
        machine.exit(&cpu, V0);
        other.join();

        assert!(again <= 1);
        assert_eq!(machine.serve(&cpu, V0), 0, "the line is low");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a drop of the line against the entry. The interrupt is taken at most once, and never by a
/// guest that has been entered after its CPU learned of the drop.
#[test]
fn drop_against_entry() {
    check_serial(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.set_line(&cpu.pin(), true);
        let low = Arc::new(AtomicBool::new(false));

        let other = spawn(&machine, 1, {
            let low = low.clone();
            move |machine, cpu| {
                machine.set_line(&cpu.pin(), false);
                // Release: pairs with the Acquire below.
                low.store(true, Release);
            }
        });
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        // Acquire: the vCPU's CPU has learned of the drop. An entry without news may miss a drop
        // that it has not learned of.
        let before = low.load(Acquire);
        machine.enter(&cpu, V0);
        let taken = take(&cpu);
        assert!(taken <= usize::from(!before), "the line is low");
        machine.exit(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "the line is low");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a drop of the line against a put, with the interrupt unseen in a list register. The next
/// entry prunes the interrupt.
#[test]
fn drop_against_put() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.set_line(&cpu.pin(), true);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.set_line(&cpu.pin(), false);
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "the line is low");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a drop and a new rise of the line against the fold of the guest's EOI. The interrupt is
/// pending once more, and the device is resampled.
#[test]
fn new_occurrence_against_fold() {
    check_serial(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.set_line(&cpu.pin(), true);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.set_line(&cpu.pin(), false);
            machine.set_line(&cpu.pin(), true);
        });
        machine.exit(&cpu, V0);
        assert!(machine.resamples() >= 1, "the device is not asked");
        other.join();

        assert_eq!(machine.listed(), 1, "the line is high");
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1, "the line is high");
        machine.set_line(&cpu.pin(), false);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0, "the line is low");
        sole(machine).finish(&cpu);
    });
}
