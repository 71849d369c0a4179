//! Exact numbers of accesses to the list registers and other ICH registers in entry and exit: the
//! library is tuned for these numbers.

mod common;

use common::its::Driver;
use common::{Machine, vcpu};
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
    accesses_on(machine, 0, operation)
}

/// Returns the accesses made by `operation` on CPU `cpu`.
fn accesses_on(machine: &Machine, cpu: usize, operation: impl FnOnce()) -> Accesses {
    let before = machine.guest(cpu).accesses();
    operation();
    machine.guest(cpu).accesses() - before
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

/// Returns a machine whose CPU 1 has no vCPU.
fn machine_with_a_free_cpu() -> Machine {
    let machine = machine();
    machine
        .vm
        .vcpu_put(&machine.cpus[1].pin(), vcpu(1))
        .unwrap();
    machine
}

/// Exits and puts vCPU 0 on CPU `from`, and enters it on CPU `to`. Returns the accesses on either.
fn move_vcpu_0(machine: &Machine, from: usize, to: usize) -> (Accesses, Accesses) {
    let put = accesses_on(machine, from, || {
        let pin = machine.cpus[from].pin();
        machine.vm.exit(&pin, vcpu(0)).unwrap();
        machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
    });
    let entered = accesses_on(machine, to, || {
        machine.vm.enter(&machine.cpus[to].pin(), vcpu(0)).unwrap();
    });
    (put, entered)
}

/// Checks a move with nothing in the list registers: six accesses, and no barrier.
#[test]
fn a_move_costs_the_registers_that_the_guest_writes() {
    let machine = machine_with_a_free_cpu();
    machine.enter(0);
    let saved = Accesses {
        vmcr_reads: 1,
        // AP0R0 and AP1R0: a guest writes them without a trap.
        apr_reads: 2,
        hcr_writes: 1,
        ..Accesses::default()
    };
    let restored = Accesses {
        vmcr_writes: 1,
        hcr_writes: 1,
        ..Accesses::default()
    };
    // To another CPU, back, and off its CPU and on again.
    for (from, to) in [(0, 1), (1, 0), (0, 0)] {
        let (put, entered) = move_vcpu_0(&machine, from, to);
        assert_eq!(put, saved, "from CPU {from}");
        assert_eq!(entered, restored, "to CPU {to}");
    }

    machine.exit(0);
    machine.finish();
}

/// Checks a move with an LPI active: its priority goes along. Outside a list register an LPI has no
/// active state.
#[test]
fn a_move_takes_an_active_priority_along() {
    let machine = machine_with_a_free_cpu();
    inject(&machine, 1);
    machine.enter(0);
    let intid = machine.guest(0).read_iar1();
    let (put, entered) = move_vcpu_0(&machine, 0, 1);

    let saved = Accesses {
        elrsr_reads: 1,
        lr_reads: 1,
        lr_writes: 1,
        vmcr_reads: 1,
        apr_reads: 2,
        apr_writes: 2,
        hcr_writes: 1,
        ..Accesses::default()
    };
    assert_eq!(put, saved);
    let restored = Accesses {
        vmcr_writes: 1,
        apr_writes: 2,
        hcr_writes: 1,
        ..Accesses::default()
    };
    assert_eq!(entered, restored);

    machine.guest(1).write_eoir1(intid);
    let (put, _) = move_vcpu_0(&machine, 1, 0);
    assert_eq!(put.apr_writes, 0, "nothing is active");
    machine.exit(0);
    machine.finish();
}
