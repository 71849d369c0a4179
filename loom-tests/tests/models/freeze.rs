//! `freeze`: a VM that is stopped for good, against interrupts raised meanwhile. Each raise is in
//! the state or too late for it, and never both.

use loom::sync::Arc;
use loom_tests::{LEVEL, Machine, SPI, V0, check_serial, int, sole, spawn};
use vgic::state::{InterruptState, LateInterrupt, VmState, flags};
use vgic::{EntryError, TeardownError};

/// Returns an LPI, an SPI or vCPU 0's PPI of a state.
fn saved(state: &VmState, intid: u32) -> InterruptState {
    match intid {
        8192.. => state.lpis[intid as usize - 8192].interrupt,
        32.. => state.spis[intid as usize - 32].interrupt,
        _ => state.vcpus[0].private[intid as usize],
    }
}

/// Returns how often an interrupt has been raised: in the state, and too late for it.
fn raises(state: &VmState, late: &[LateInterrupt], intid: u32) -> usize {
    let too_late = |late: &&LateInterrupt| late.intid == intid && late.flags & flags::LATCH != 0;
    usize::from(saved(state, intid).has(flags::LATCH)) + late.iter().filter(too_late).count()
}

/// Races a freeze against an SPI and an MSI of another CPU, then takes the late ones. Each raise
/// counts once.
#[test]
fn freeze_against_raises() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject_spi(&cpu.pin());
            let _ = machine.msi(&cpu.pin(), 0, 0);
        });
        let state = machine.vm.freeze(&cpu.pin()).unwrap();
        other.join();
        let late = machine.vm.take_late(&cpu.pin(), &state).unwrap();
        assert_eq!(raises(&state, &late, 8192), 1);
        assert_eq!(raises(&state, &late, SPI), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a freeze and a thaw against an SPI. The guest takes the SPI once.
#[test]
fn thaw_against_a_raise() {
    check_serial(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let spi = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject_spi(&cpu.pin());
        });
        let state = machine.vm.freeze(&cpu.pin()).unwrap();
        machine.vm.thaw(&cpu.pin(), &state).unwrap();
        spi.join();
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a freeze against a line that rises and falls. The level is the state's, unless it comes
/// too late.
#[test]
fn freeze_against_a_line() {
    check_serial(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let line = spawn(&machine, 1, |machine, cpu| {
            machine.set_line(&cpu.pin(), true);
            machine.set_line(&cpu.pin(), false);
        });
        let state = machine.vm.freeze(&cpu.pin()).unwrap();
        line.join();
        let late = machine.vm.take_late(&cpu.pin(), &state).unwrap();
        let fell = late
            .iter()
            .any(|late| late.intid == LEVEL && late.flags == 0);
        assert_eq!(fell, saved(&state, LEVEL).has(flags::LINE));
        sole(machine).finish(&cpu);
    });
}

/// Races a freeze against a command that another CPU executes. The command is executed, and its LPI
/// is pending or too late, exactly if the state is past the command.
#[test]
fn freeze_against_a_command() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.enable_its(&cpu.pin(), false);
        machine.command(&cpu.pin(), 0, int(0));
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.enable_its(&cpu.pin(), true);
        });
        let state = machine.vm.freeze(&cpu.pin()).unwrap();
        other.join();
        machine.advance(&cpu.pin());
        let late = machine.vm.take_late(&cpu.pin(), &state).unwrap();
        let is_past = state.its[0].creadr == state.its[0].cwriter;
        assert_eq!(raises(&state, &late, 8192), usize::from(is_past));
        sole(machine).finish(&cpu);
    });
}

/// Races a freeze against an entry. A frozen VM has no vCPU on a CPU.
#[test]
fn freeze_against_entry() {
    check_serial(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| {
            let entered = machine.vm.enter(&cpu.pin(), V0);
            if entered.is_ok() {
                machine.exit(cpu, V0);
                machine.put(cpu, V0);
            }
            entered
        });
        let frozen = machine.vm.freeze(&cpu.pin());
        match (other.join(), frozen) {
            (Ok(()), Ok(state)) | (Err(EntryError::TornDown), Ok(state)) => {
                machine.vm.thaw(&cpu.pin(), &state).unwrap();
            }
            (Ok(()), Err(TeardownError::Loaded(V0))) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
