//! `retarget`: `GICD_IROUTER`, `MOVI` and `MOVALL` against injection, with the old vCPU in the
//! guest, blocked, and off, and against delivery on the old vCPU.
//!
//! Known faults elsewhere: a queued interrupt moved without a notification of the new vCPU; a move
//! waiting for an old vCPU blocked, off or gone.

use loom::sync::Arc;
use loom_tests::{Machine, V0, V1, check_serial, movall, movi, sole, spawn, take};
use vgic::Blocked;

/// State of the old vCPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    InGuest,
    Blocked,
    Off,
}

/// The guest's way of moving the interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// An SPI, by its routing register.
    Router,
    /// An LPI, by its event.
    Movi,
    /// All pending LPIs of the old vCPU.
    Movall,
}

/// Moves the interrupt to blocked vCPU 1 during an injection. The final vCPU of the interrupt has
/// been notified, and takes the interrupt once.
fn moved_while_injected(how: Move, old: Old) {
    check_serial(3, move || {
        let machine = match how {
            Move::Router => Machine::new(2),
            Move::Movi | Move::Movall => Machine::with_lpi(2, 1),
        };
        let machine = Arc::new(machine);
        let (cpu, new) = (machine.cpu(0), machine.cpu(1));

        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);
        match old {
            Old::InGuest => {}
            Old::Blocked => {
                machine.exit(&cpu, V0);
                assert_eq!(machine.block(&cpu, V0), Blocked::Yes);
            }
            Old::Off => {
                machine.exit(&cpu, V0);
                machine.vm.power_off(&cpu.pin(), V0).unwrap();
            }
        }

        machine.enter(&new, V1);
        assert_eq!(take(&new), 0);
        machine.exit(&new, V1);
        assert_eq!(machine.block(&new, V1), Blocked::Yes);

        let other = spawn(&machine, 2, move |machine, cpu| {
            let _ = match how {
                Move::Router => Some(machine.inject_spi(&cpu.pin())),
                Move::Movi | Move::Movall => machine.msi(&cpu.pin(), 0, 0),
            };
        });

        match how {
            Move::Router => machine.route(&cpu.pin(), V1),
            Move::Movi => machine.command(&cpu.pin(), 0, movi(1)),
            Move::Movall => machine.command(&cpu.pin(), 0, movall()),
        }
        other.join();

        // MOVALL moves the interrupts pending at its execution. A later MSI still targets the old
        // vCPU.
        let (wakes, kicks) = (machine.wakes(), machine.kicks());
        machine.exit_or_power_on(&cpu, V0);
        let with_old = machine.serve(&cpu, V0);
        let with_new = machine.serve(&new, V1);
        assert_eq!(with_old + with_new, 1);
        if how == Move::Movall {
            let notified = wakes + kicks + usize::from(old == Old::Off);
            assert!(with_new == 0 || wakes >= 1, "the new vCPU sleeps on");
            assert!(
                with_old == 0 || notified >= 1,
                "the old vCPU was not notified"
            );
        } else {
            assert_eq!(with_new, 1, "it was routed away");
            assert!(wakes >= 1, "the new vCPU sleeps on");
        }
        sole(machine).finish(&cpu);
    });
}

macro_rules! models {
    ($($(#[$doc:meta])* $name:ident: $how:ident, $old:ident;)*) => {
        $($(#[$doc])* #[test] fn $name() { moved_while_injected(Move::$how, Old::$old); })*
    };
}

models! {
    /// `GICD_IROUTER`, the old vCPU in the guest.
    router_from_a_running_vcpu: Router, InGuest;
    /// `GICD_IROUTER`, the old vCPU in WFI.
    router_from_a_blocked_vcpu: Router, Blocked;
    /// `GICD_IROUTER`, the old vCPU off.
    router_from_a_vcpu_that_is_off: Router, Off;
    /// `MOVI`, the old vCPU in the guest.
    movi_from_a_running_vcpu: Movi, InGuest;
    /// `MOVI`, the old vCPU in WFI.
    movi_from_a_blocked_vcpu: Movi, Blocked;
    /// `MOVI`, the old vCPU off.
    movi_from_a_vcpu_that_is_off: Movi, Off;
    /// `MOVALL`, the old vCPU in the guest.
    movall_from_a_running_vcpu: Movall, InGuest;
    /// `MOVALL`, the old vCPU in WFI.
    movall_from_a_blocked_vcpu: Movall, Blocked;
    /// `MOVALL`, the old vCPU off.
    movall_from_a_vcpu_that_is_off: Movall, Off;
}

/// Races a retarget against delivery on the old vCPU. Exactly one vCPU takes the interrupt.
#[test]
fn retarget_against_the_old_vcpu() {
    check_serial(3, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.route(&cpu.pin(), V1);
        });
        let old = machine.serve(&cpu, V0);
        other.join();
        let late = machine.serve(&cpu, V0);
        assert_eq!(old + late + machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races retargets there and back from two CPUs, with the interrupt queued. The interrupt is on one
/// list, in any order of the writes.
#[test]
fn retarget_against_retarget() {
    check_serial(2, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.route(&cpu.pin(), V1);
        });
        machine.route(&cpu.pin(), V0);
        machine.route(&cpu.pin(), V1);
        machine.route(&cpu.pin(), V0);
        other.join();

        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0) + machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}
