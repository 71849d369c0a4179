//! `its_registers`: commands, and the registers of an ITS that take no lock, against a guest's
//! polling on another CPU and against translation. A CPU that sees a register change sees what the
//! change stands for.

use loom::sync::Arc;
use loom_tests::{
    Machine, V0, check_serial, discard, in_the_epoch, int, mapti_second, sole, spawn,
};

/// `GITS_CTLR`.
const CTLR: u64 = 0;
const ENABLED: u64 = 1 << 0;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
/// `GITS_BASER0`, of the device table.
const BASER0: u64 = 0x100;

/// Races a guest that has a CPU write a command, and then `GITS_CWRITER`, against a slice of the
/// commands before on another CPU. The command is executed as the guest has written it.
#[test]
fn command_against_a_slice() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.enable_its(&cpu.pin(), false);
        machine.command(&cpu.pin(), 0, int(1));
        machine.race_for(&[machine.next_command(0)]);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.enable_its(&pin, true);
        });
        machine.command(&cpu.pin(), 0, int(0));
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1, "a command that nobody executes");
        sole(machine).finish(&cpu);
    });
}

/// Races two commands against a guest that polls `GITS_CREADR` on another CPU. A command that
/// `GITS_CREADR` has passed has had its effect on every CPU.
#[test]
fn poll_against_two_commands() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.place(0, discard(0));
        machine.place(0, mapti_second(0));

        let other = spawn(&machine, 1, |machine, cpu| {
            let _pin = in_the_epoch(cpu);
            let creadr = machine.read_gits(cpu, CREADR);
            if creadr >= machine.creadr_before(0, 1) {
                assert_eq!(machine.msi(&cpu.pin(), 0, 0), None, "it is discarded");
            }
            if creadr >= machine.creadr_before(0, 0) {
                assert!(machine.msi(&cpu.pin(), 0, 1).is_some(), "it is mapped");
            }
        });
        machine.execute(&cpu.pin(), 0);
        other.join();

        machine.advance(&cpu.pin());
        let _ = machine.msi(&cpu.pin(), 0, 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a guest that gives a disabled ITS a new queue with a command, and then enables the ITS,
/// against a CPU of the guest that waits for the ITS to be enabled. That CPU finds the new queue.
#[test]
fn new_queue_against_a_poll_of_enabled() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.enable_its(&cpu.pin(), false);

        let other = spawn(&machine, 1, |machine, cpu| {
            if machine.read_gits(cpu, CTLR) & ENABLED != 0 {
                let [cwriter, creadr] = [CWRITER, CREADR].map(|at| machine.read_gits(cpu, at));
                assert_eq!(cwriter, 32, "an offset in the old queue");
                assert!(creadr <= cwriter, "an offset in the old queue");
            }
        });
        machine.renew_queue(&cpu.pin());
        machine.command(&cpu.pin(), 0, int(0));
        machine.enable_its(&cpu.pin(), true);
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a guest that takes the device table of a disabled ITS away against a CPU of the guest that
/// finds the table gone, enables the ITS, and gets an MSI. The MSI is not translated by the old
/// table, although the LPI lives on in another ITS.
#[test]
fn msi_against_the_removal_of_a_table() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 2));
        let cpu = machine.cpu(0);
        machine.enable_its(&cpu.pin(), false);

        let other = spawn(&machine, 1, |machine, cpu| {
            if machine.read_gits(cpu, BASER0) == 0 {
                machine.enable_its(&cpu.pin(), true);
                assert_eq!(machine.msi(&cpu.pin(), 0, 0), None, "its table is gone");
            }
        });
        machine.gits_double(&cpu.pin(), BASER0, 0);
        other.join();

        machine.enable_its(&cpu.pin(), true);
        machine.advance(&cpu.pin());
        assert_eq!(machine.msi(&cpu.pin(), 0, 0), None);
        assert!(machine.msi(&cpu.pin(), 1, 0).is_some());
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
