//! `lpi_lifetime`: translation and injection against unmapping, and unmapping and remapping of an
//! INTID with its interrupt queued or in a list register. The CPU putting the last reference clears
//! the table's weak slot, once, and never with the INTID's successor in the slot.
//!
//! CVE-2026-74568, CVE-2026-72288 and CVE-2024-26598 are races of this protocol, re-created here as
//! mutants: a releaser erasing its successor from the table, an interrupt linked after its release,
//! and a translation with its interrupt freed underneath. A further known fault: a last put
//! requiring a lock held by the caller. loom reports a deadlock of this kind.

use loom::sync::Arc;
use loom_tests::{
    Machine, V0, acknowledge, check_serial, clear, discard, mapd, mapti, mapti_as, reclaim, sole,
    spawn, spawn_on, take,
};
use vgic::Injected;
use vgic::epoch::CpuPin;

/// Checks a single object behind both events' mappings: an injection of one coalesces with the
/// other's pending state.
fn one_object(machine: &Machine, pin: &CpuPin<'_>) {
    assert_eq!(machine.msi(pin, 0, 0), Some(Injected::Pending));
    assert_eq!(
        machine.msi(pin, 0, 1),
        Some(Injected::Coalesced),
        "two interrupts of one INTID"
    );
}

/// Races an MSI against `DISCARD`. The MSI is delivered or unmapped. No freed interrupt is
/// delivered, and none comes later.
#[test]
fn injection_against_discard() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        machine.command(&cpu.pin(), 0, discard(0));
        other.join();
        assert_eq!(machine.listed(), 0, "it is unmapped, and on a list");
        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        sole(machine).finish(&cpu);
    });
}

/// Races an MSI against `DISCARD` and `MAPTI` of the same INTID, with the old interrupt still in
/// flight.
#[test]
fn injection_against_remap() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        let pin = cpu.pin();
        machine.command(&pin, 0, discard(0));
        machine.command(&pin, 0, mapti(1));
        assert!(machine.msi(&pin, 0, 1).is_some());
        drop(pin);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` of a queued LPI against entry. The LPI is taken before or not at all.
#[test]
fn discard_while_queued() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, discard(0));
        });
        let early = machine.serve(&cpu, V0);
        other.join();
        assert!(early <= 1);
        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` against the put of a vCPU with the LPI in a list register. The list has the last
/// reference. The table slot is empty afterwards, and the INTID can be mapped anew.
#[test]
fn discard_in_a_list_register() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, discard(0));
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        assert_eq!(machine.listed(), 0);
        machine.advance(&cpu.pin());
        machine.command(&cpu.pin(), 0, mapti(0));
        machine.command(&cpu.pin(), 0, mapti(1));
        one_object(&machine, &cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` and `MAPTI` against the put of a vCPU with the LPI unseen in a list register.
/// The old mapping's pending state is not pending for the new mapping.
#[test]
fn remap_in_a_list_register() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.command(&pin, 0, discard(0));
            machine.command(&pin, 0, mapti(1));
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V0), 0, "it was unmapped");
        assert!(machine.msi(&cpu.pin(), 0, 1).is_some());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races the list's last put, at fold, against `MAPTI` of the INTID. The new mapping gets the old
/// interrupt or a new interrupt, and the table has that object.
#[test]
fn remap_against_the_last_put() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        machine.command(&cpu.pin(), 0, discard(0));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, mapti(1));
        });
        machine.exit(&cpu, V0);
        machine.advance(&cpu.pin());
        other.join();

        machine.put(&cpu, V0);
        machine.advance(&cpu.pin());
        machine.command(&cpu.pin(), 0, mapti(0));
        one_object(&machine, &cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races two CPUs advancing the VM and a remapping. The list's last put pushes the LPI on the free
/// list. The LPI is freed once, and its successor stays in the table.
#[test]
fn remap_against_the_free_list() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        machine.command(&cpu.pin(), 0, discard(0));
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.vm.advance(&pin).unwrap();
            machine.command(&pin, 0, mapti(1));
        });
        machine.vm.advance(&cpu.pin()).unwrap();
        other.join();

        machine.command(&cpu.pin(), 0, mapti(0));
        one_object(&machine, &cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a CPU that frees an LPI against the exit that leaves a second LPI to be freed. Each is
/// freed once, and none is forgotten.
#[test]
fn exit_against_the_free_list() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 0, mapti_as(1, 8193));
        for event in 0..2 {
            assert!(machine.msi(&cpu.pin(), 0, event).is_some());
            machine.enter(&cpu, V0);
            assert_eq!(take(&cpu), 1);
            machine.command(&cpu.pin(), 0, discard(event.into()));
            if event == 0 {
                machine.exit(&cpu, V0);
            }
        }

        let other = spawn(&machine, 1, |machine, cpu| {
            for _ in 0..2 {
                machine.vm.advance(&cpu.pin()).unwrap();
            }
        });
        machine.exit(&cpu, V0);
        other.join();

        machine.put(&cpu, V0);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` against the exit that puts the list's reference, the free of the LPI and a new
/// MSI on that CPU. An MSI that comes after the last put finds the event unmapped: the LPI may be
/// freed while the CPU is in the epoch.
#[test]
fn injection_against_the_last_put() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let [cpu, second] = [0, 1].map(|n| machine.cpu(n));
        // A CPU's first pin may let the epoch advance: before the race.
        for cpu in [&cpu, &second] {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        }
        machine.enter(&second, V0);
        assert_eq!(take(&second), 1);

        let other = spawn_on(&machine, second, |machine, cpu| {
            machine.exit(cpu, V0);
            let pin = cpu.pin();
            machine.vm.advance(&pin).unwrap();
            pin.collect_garbage();
            drop(pin);
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        machine.command(&cpu.pin(), 0, discard(0));
        cpu.pin().collect_garbage();
        let ((), second) = other.join_with_cpu();

        assert_eq!(machine.serve(&second, V0), 0, "it is unmapped");
        assert_eq!(machine.listed(), 0);
        drop(second);
        sole(machine).finish(&cpu);
    });
}

/// Races the end and the reclamation of two LPIs against the exit that folds both. The exit uses
/// neither after it is freed.
#[test]
fn reclamation_against_exit() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 0, mapti_as(1, 8193));
        for event in 0..2 {
            let _ = machine.msi(&cpu.pin(), 0, event);
        }
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 2);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, mapd(false));
            reclaim(cpu);
        });
        machine.exit(&cpu, V0);
        other.join();

        assert_eq!(machine.listed(), 0);
        machine.put(&cpu, V0);
        sole(machine).finish(&cpu);
    });
}

/// Races the end and the reclamation of two LPIs against the entry that folds the one, cleared, and
/// the put that folds the other, not ended by the guest. Neither is used after it is freed.
#[test]
fn reclamation_against_entry_and_put() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 0, mapti_as(1, 8193));
        for event in 0..2 {
            let _ = machine.msi(&cpu.pin(), 0, event);
        }
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.command(&cpu.pin(), 0, clear(0));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, mapd(false));
            reclaim(cpu);
        });
        machine.enter(&cpu, V0);
        let taken = acknowledge(&cpu);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert!(matches!(taken, 8193 | 1023), "{taken} was cleared");
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races the ends and the reclamation of two LPIs that a restore has made in one block. The block
/// is freed once, after the last use of either.
#[test]
fn reclamation_of_a_block() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 0, mapti_as(1, 8193));
        let state = machine.vm.save(&cpu.pin()).unwrap();
        machine.vm.restore(&cpu.pin(), &state).unwrap();

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
            machine.command(&cpu.pin(), 0, discard(0));
            reclaim(cpu);
        });
        machine.command(&cpu.pin(), 0, discard(1));
        reclaim(&cpu);
        other.join();
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD`, `MAPTI` and a new MSI against the guest's acknowledgement.
#[test]
fn remap_against_the_guest() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.command(&pin, 0, discard(0));
            machine.command(&pin, 0, mapti(1));
            assert!(machine.msi(&pin, 0, 1).is_some());
        });
        let early = machine.serve(&cpu, V0);
        other.join();

        let late = machine.serve(&cpu, V0);
        assert!(matches!(early + late, 1 | 2), "{early} + {late}");
        sole(machine).finish(&cpu);
    });
}
