//! `enable_lpis`: `GICR_CTLR.EnableLPIs` = 0 on a vCPU against the vCPU's prune, and against
//! retargeting and remapping of its LPIs. The vCPU's LPIs are held back, not lost. Each is
//! unlinked, moved and delivered at most once.
//!
//! CVE-2026-72289 is a race of this protocol, re-created here as a mutant: a CPU unlinks a
//! migrating interrupt and unlocks the list, and another CPU unlinks the interrupt a second time. A
//! further known fault: LPIs delivered with EnableLPIs = 0.

use loom::sync::Arc;
use loom_tests::{
    Machine, Observation, V0, V1, check_serial, discard, mapti, movi, sole, spawn, take,
};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::internals;

/// `GICR_CTLR`.
const CTLR: u64 = 0;
const RWP: u64 = 1 << 3;
const PENDBASER_HIGH: u64 = 0x7c;
const PTZ_HIGH: u64 = 1 << 30;

/// Races EnableLPIs = 0 against exit and re-entry, with the LPI in a list register. Once `RWP`
/// reads as zero, the guest does not get the LPI. Once LPIs are enabled again, the guest gets the
/// LPI.
#[test]
fn disable_against_reentry() {
    check_serial(5, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        let disabled = Observation::default();

        let other = spawn(&machine, 1, {
            let disabled = disabled.clone();
            move |machine, cpu| {
                machine.gicr(&cpu.pin(), V0, CTLR, 0);
                let waiting = machine.read_gicr(cpu, V0, CTLR) & RWP != 0;
                disabled.make(!waiting);
            }
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let held_back = disabled.is_made();
        let early = take(&cpu);
        assert!(early == 0 || !held_back, "an LPI with EnableLPIs = 0");
        other.join();

        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        machine.advance(&cpu.pin());
        assert_eq!(machine.read_gicr(&cpu, V0, CTLR) & RWP, 0);
        assert_eq!(take(&cpu), 0, "an LPI with EnableLPIs = 0");
        machine.exit(&cpu, V0);
        machine.gicr(&cpu.pin(), V0, CTLR, 1);
        machine.put(&cpu, V0);
        assert_eq!(early + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races staging against EnableLPIs = 0: a CPU stages the LPI for its own vCPU, which then
/// re-enters. Once `RWP` reads as zero, the guest does not get the LPI.
#[test]
fn disable_against_staging() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let disabled = Observation::default();

        let other = spawn(&machine, 1, {
            let disabled = disabled.clone();
            move |machine, cpu| {
                machine.gicr(&cpu.pin(), V0, CTLR, 0);
                let waiting = machine.read_gicr(cpu, V0, CTLR) & RWP != 0;
                disabled.make(!waiting);
            }
        });
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        let held_back = disabled.is_made();
        let early = take(&cpu);
        assert!(early == 0 || !held_back, "an LPI with EnableLPIs = 0");
        other.join();

        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0, "an LPI with EnableLPIs = 0");
        machine.exit(&cpu, V0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0, "an LPI with EnableLPIs = 0");
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        sole(machine).finish(&cpu);
    });
}

/// Races `MOVI` to another vCPU against EnableLPIs = 0 on the old vCPU, with the LPI in a list
/// register there. The new vCPU gets the LPI.
#[test]
fn disable_against_retarget() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, movi(1));
        });
        machine.exit(&cpu, V0);
        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0, "an LPI with EnableLPIs = 0");
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.serve(&cpu, V1), 1);
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races `MOVI` against EnableLPIs = 0 and `GICR_INVLPIR`, with the LPI queued on a vCPU. Both
/// requeue the LPI, on two CPUs. The LPI is unlinked once.
#[test]
fn disable_against_two_moves() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, movi(1));
        });
        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        machine.configure_lpi(0x81);
        machine.gicr(&cpu.pin(), V0, 0xa0, 8192); // INVLPIR
        other.join();

        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 0);
        assert_eq!(machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races `DISCARD` and `MAPTI` against the fold on a vCPU with EnableLPIs = 0. Only an MSI of the
/// new mapping is delivered.
#[test]
fn disable_against_remap() {
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
        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0, "an LPI with EnableLPIs = 0");
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        machine.gicr(&cpu.pin(), V0, CTLR, 1);
        assert_eq!(machine.serve(&cpu, V0), 0, "it was unmapped");
        assert!(machine.msi(&cpu.pin(), 0, 1).is_some());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 1 against an MSI. The MSI is delivered.
#[test]
fn enable_against_injection() {
    check_serial(5, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        machine.exit(&cpu, V0);
        machine.gicr(&cpu.pin(), V0, CTLR, 1);
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        other.join();

        assert!(found + machine.kicks() >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 0 on a CPU against EnableLPIs = 1 on another. The deferred work ends.
#[test]
fn disable_against_enable() {
    check_serial(5, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        machine.gicr(&cpu.pin(), V0, PENDBASER_HIGH, 0); // Clears PTZ: advance has a table to read.
        machine.advance(&cpu.pin());

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, CTLR, 1);
        });
        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        other.join();

        machine.gicr(&cpu.pin(), V0, CTLR, 0);
        for _ in 0..8 {
            machine.vm.advance(&cpu.pin()).unwrap();
        }
        assert!(!machine.vm.has_deferred(), "work that does not end");
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 0 against the vCPU's leaving its CPU, with the LPI in a list register. Either
/// the CPU that disables LPIs or the one that puts the vCPU writes the pending table, and RWP ends.
#[test]
fn store_against_put() {
    check_serial(5, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, CTLR, 0);
        });
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        assert_stored(machine, &cpu);
    });
}

/// Races EnableLPIs = 0 against a vCPU that looks for pending interrupts, and leaves its CPU. Once
/// `RWP` reads as zero, the LPI's pending state is in the table alone, whichever CPU writes the
/// table.
#[test]
fn store_against_look_and_put() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        assert!(machine.on(2, |pin| machine.msi(pin, 0, 0)).is_some());

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            // The entry into the epoch is a fence, and would order the look at the LPI by itself.
            let _ = internals::guard(&pin);
            machine.gicr(&pin, V0, CTLR, 0);
            let _ = machine.read_gicr(cpu, V0, CTLR);
        });
        let _ = machine.vm.has_pending(&cpu.pin(), V0).unwrap();
        machine.put(&cpu, V0);
        other.join();

        assert_stored(machine, &cpu);
    });
}

/// Checks that the LPI's pending state is in the pending table alone, once `RWP` of a vCPU on no
/// CPU reads as zero.
fn assert_stored(machine: Arc<Machine>, cpu: &Cpu<SoftwareInterface>) {
    for _ in 0..4 {
        machine.vm.advance(&cpu.pin()).unwrap();
    }
    assert_eq!(machine.read_gicr(cpu, V0, CTLR) & RWP, 0, "never written");
    assert!(machine.is_in_table());
    // With PTZ nothing comes back: the pending state is in the table alone.
    machine.gicr(&cpu.pin(), V0, PENDBASER_HIGH, PTZ_HIGH);
    machine.gicr(&cpu.pin(), V0, CTLR, 1);
    assert_eq!(machine.serve(cpu, V0), 0);
    sole(machine).finish(cpu);
}

/// Races EnableLPIs = 0 on a vCPU against the fold on another vCPU, with an LPI that was moved from
/// the one to the other in a list register. Once `RWP` reads as zero, the pending state is in the
/// table alone, or the guest has taken the LPI.
#[test]
fn store_against_a_move() {
    check_serial(5, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);
        machine.command(&cpu.pin(), 0, movi(1));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V1, CTLR, 0);
            let stored = machine.read_gicr(cpu, V1, CTLR) & RWP == 0;
            assert!(!stored || machine.is_in_table(), "not in the table");
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0, "it was moved");
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        other.join();

        // A guest that polls does a slice each time.
        let _ = machine.read_gicr(&cpu, V1, CTLR);
        assert_eq!(machine.read_gicr(&cpu, V1, CTLR) & RWP, 0, "never written");
        assert!(machine.is_in_table());
        sole(machine).finish(&cpu);
    });
}
