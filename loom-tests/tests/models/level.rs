//! `level`: changes of an input line against entry, fold and re-sampling. What the guest sees of a level is
//! the line: never an interrupt whose line has dropped, never none while it is high.
//!
//! Of what went wrong elsewhere: the level kept in software and stale after the deactivation; an
//! interrupt that comes again and again after its line has dropped.

use loom::sync::Arc;
use loom_tests::{Machine, Observation, V0, check, sole, spawn, take};

/// The guest is done with it, and the device lowers its line: no interrupt after that.
#[test]
fn drop_against_fold() {
    check(5, || {
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

/// The line drops before the guest has seen it: taken once at most, and not once it is low.
#[test]
fn drop_against_entry() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.set_line(&cpu.pin(), true);
        let low = Observation::default();
        let other = spawn(&machine, 1, {
            let low = low.clone();
            move |machine, cpu| {
                machine.set_line(&cpu.pin(), false);
                low.make(true);
            }
        });
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let before = low.is_made();
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

/// The line drops while the interrupt waits in a list register, unseen: the next entry takes it back.
#[test]
fn drop_against_put() {
    check(5, || {
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

/// The line drops and rises again while the guest's end of the first occurrence is folded: it is pending
/// once more, and the device is asked to look.
#[test]
fn new_occurrence_against_fold() {
    check(5, || {
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
