//! Exact numbers of accesses to the list registers and other ICH registers in entry and exit: the
//! library is tuned for these numbers.

mod common;

use common::Machine;
use common::its::Driver;
use vgic::cpu_interface::software::Accesses;

const EVENTS: u64 = 1024;

fn machine() -> Machine {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(0, 10);
    for event in 0..EVENTS {
        its.map(0, event, 8192 + event, 0);
    }
    // Loads vCPU 0 onto its CPU.
    machine.enter(0);
    machine.exit(0);
    machine
}

/// Returns the accesses made by `operation` on CPU 0.
fn accesses(machine: &Machine, operation: impl FnOnce()) -> Accesses {
    let before = machine.guest(0).accesses();
    operation();
    machine.guest(0).accesses() - before
}

fn inject(machine: &Machine, count: u32) {
    for event in 0..count {
        machine.inject_msi(0, event).unwrap();
    }
}

/// Lets the guest take and end the interrupts in the list registers. Returns their number.
fn guest(machine: &Machine) -> u32 {
    let mut taken = 0;
    loop {
        let intid = machine.guest(0).read_iar1();
        if intid == 1023 {
            return taken;
        }
        machine.guest(0).write_eoir1(intid);
        taken += 1;
    }
}

#[test]
fn nothing_pending_touches_nothing() {
    let machine = machine();
    let entered = accesses(&machine, || machine.enter(0));
    let left = accesses(&machine, || machine.exit(0));
    assert_eq!((entered, left), Default::default());
    machine.finish();
}

#[test]
fn one_new_interrupt_is_a_write_and_a_read() {
    let machine = machine();
    inject(&machine, 1);
    let entered = accesses(&machine, || machine.enter(0));
    let expected = Accesses {
        lr_writes: 1,
        // For an exit without an ERET in between.
        barriers: 1,
        ..Accesses::default()
    };
    assert_eq!(entered, expected);

    assert_eq!(guest(&machine), 1);
    let left = accesses(&machine, || machine.exit(0));
    let expected = Accesses {
        elrsr_reads: 1,
        ..Accesses::default()
    };
    assert_eq!(left, expected);
    machine.finish();
}

#[test]
fn registers_that_stay_are_only_read() {
    let machine = machine();
    for pending in 1..=4 {
        inject(&machine, pending);
        machine.enter(0);
        let expected = Accesses {
            elrsr_reads: 1,
            ..Accesses::default()
        };
        let again = accesses(&machine, || machine.bounce(0));
        assert_eq!(again, expected, "{pending} pending");
        assert_eq!(guest(&machine), pending);
        machine.exit(0);
    }
    machine.finish();
}

/// Checks a re-entry with more pending than list registers: no watched event has happened.
#[test]
fn registers_that_are_not_enough_are_only_read() {
    let machine = machine();
    inject(&machine, 64);
    machine.enter(0);
    let expected = Accesses {
        elrsr_reads: 1,
        misr_reads: 1,
        ..Accesses::default()
    };

    let again = accesses(&machine, || machine.bounce(0));
    assert_eq!(again, expected);

    let mut taken = 0;
    while let now @ 1.. = guest(&machine) {
        taken += now;
        machine.bounce(0);
    }
    assert_eq!(taken, 64);
    machine.exit(0);
    machine.finish();
}

/// Checks a constant cost for any number of pending interrupts: the list registers, and the request
/// of a maintenance interrupt.
#[test]
fn entry_and_exit_cost_what_the_list_registers_cost() {
    for pending in [0, 1, 4, 5, 64, 1024] {
        let machine = machine();
        inject(&machine, pending);
        let loaded = u64::from(pending.min(4));
        let overflows = u64::from(pending > 4);

        let expected = Accesses {
            lr_writes: loaded,
            // The guest's group enables, and NPIE.
            vmcr_reads: overflows,
            hcr_writes: overflows,
            barriers: u64::from(pending > 0),
            ..Accesses::default()
        };

        let entered = accesses(&machine, || machine.enter(0));
        assert_eq!(entered, expected, "entry with {pending} pending");
        assert_eq!(u64::from(guest(&machine)), loaded);

        let expected = Accesses {
            elrsr_reads: u64::from(loaded > 0),
            // MISR shows a newly enabled group with interrupts outside the list registers.
            misr_reads: overflows,
            // The guest has taken all: NPIE would keep the maintenance interrupt asserted.
            hcr_writes: overflows,
            ..Accesses::default()
        };

        let left = accesses(&machine, || machine.exit(0));
        assert_eq!(left, expected, "exit with {pending} pending");
        machine.finish();
    }
}
