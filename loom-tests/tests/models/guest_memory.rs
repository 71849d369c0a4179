//! `guest_memory`: the LPI tables that a guest and the library write in guest memory, against the
//! work that other CPUs do with the tables. The library reads tables as the guest has written them
//! before the register that names or enables the tables. A guest that sees the work done reads
//! tables as the library has written them.

use loom::sync::Arc;
use loom_tests::{
    Machine, V0, V1, check_serial, config_byte, in_the_epoch, inv, mapti_second, movi,
    pending_byte, sole, spawn, take,
};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::VcpuId;

/// `GICR_CTLR`.
const CTLR: u64 = 0;
const ENABLE_LPIS: u64 = 1 << 0;
const RWP: u64 = 1 << 3;
const PROPBASER: u64 = 0x70;
const PENDBASER: u64 = 0x78;
const INVLPIR: u64 = 0xa0;
const SYNCR: u64 = 0xc0;

/// The LPI whose pending state is in the first slice of a pending table.
const FIRST: u64 = 8192;
/// The LPI whose pending state is in the second slice of a pending table.
const SECOND: u64 = 8208;
/// The pending table that no redistributor has.
const TABLE: u64 = 0x2_0000;
/// The configuration table that the redistributors do not have.
const NEW_PROPERTIES: u64 = 0x5000;
/// A configuration byte: enabled, priority 0xa0.
const ON: u8 = 0xa1;

/// Returns a VM with the LPI of each slice mapped to a vCPU, and a CPU of the VM.
fn two_lpis(vcpus: u8, targets: [u64; 2]) -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let machine = Arc::new(Machine::with_lpi(vcpus, 1));
    let cpu = machine.cpu(0);
    let pin = cpu.pin();
    machine.command(&pin, 0, mapti_second(targets[1]));
    machine.command(&pin, 0, movi(targets[0]));
    drop(pin);
    (machine, cpu)
}

/// Writes a vCPU's `GICR_CTLR.EnableLPIs`.
fn enable_lpis(machine: &Machine, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, on: bool) {
    machine.gicr(&cpu.pin(), vcpu, CTLR, on.into());
}

/// Races a guest that writes both tables, their addresses and EnableLPIs, against a CPU of the
/// guest that polls RWP and `GICR_SYNCR`, and so does a part of the reading. Both LPIs are enabled
/// and pending.
#[test]
fn new_tables_against_a_poll() {
    check_serial(2, || {
        let (machine, cpu) = two_lpis(1, [0, 0]);
        enable_lpis(&machine, &cpu, V0, false);
        let configuration = [FIRST, SECOND].map(|lpi| NEW_PROPERTIES + lpi - 8192);
        let pending = [FIRST, SECOND].map(|lpi| pending_byte(TABLE, lpi));
        for gpa in configuration {
            machine.write_byte(gpa, 0);
        }
        machine.race_for(&[configuration, pending].concat());

        let other = spawn(&machine, 1, move |machine, cpu| {
            let pin = cpu.pin();
            for (configuration, pending) in configuration.into_iter().zip(pending) {
                machine.write_byte(configuration, ON);
                machine.write_byte(pending, 1);
            }
            machine.gicr_double(&pin, V0, PROPBASER, NEW_PROPERTIES | 13);
            machine.gicr_double(&pin, V0, PENDBASER, TABLE);
            machine.gicr(&pin, V0, CTLR, ENABLE_LPIS);
        });
        machine.read_gicr(&cpu, V0, SYNCR);
        machine.read_gicr(&cpu, V0, CTLR);
        other.join();

        machine.advance(&cpu.pin());
        assert_eq!(machine.serve(&cpu, V0), 2, "an old table was read");
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 0 against a CPU that does deferred work, and against a CPU of the guest that
/// polls RWP. Once EnableLPIs and RWP read as zero, the table has both pending states.
#[test]
fn store_against_a_poll() {
    check_serial(2, || {
        let (machine, cpu) = two_lpis(1, [0, 0]);
        for event in [0, 1] {
            let _ = machine.msi(&cpu.pin(), 0, event);
        }
        let pending = [FIRST, SECOND].map(|lpi| pending_byte(0, lpi));
        machine.race_for(&pending);

        let others = [
            spawn(&machine, 1, |machine, cpu| {
                enable_lpis(machine, cpu, V0, false);
            }),
            spawn(&machine, 2, |machine, cpu| {
                machine.vm.advance(&cpu.pin()).unwrap();
            }),
        ];
        let ctlr = machine.read_gicr(&cpu, V0, CTLR);
        if ctlr & (ENABLE_LPIS | RWP) == 0 {
            let table = pending.map(|gpa| machine.read_byte(gpa) & 1);
            assert_eq!(table, [1, 1], "not in the table");
        }
        for other in others {
            other.join();
        }

        machine.advance(&cpu.pin());
        assert_eq!(machine.read_gicr(&cpu, V0, CTLR) & RWP, 0);
        assert_eq!(machine.serve(&cpu, V0), 0, "EnableLPIs is 0");
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 0 on two vCPUs, on two CPUs that each do deferred work. Each pending state is
/// in its vCPU's table.
#[test]
fn two_stores_against_two_advances() {
    check_serial(2, || {
        let (machine, cpu) = two_lpis(2, [0, 1]);
        let pin = cpu.pin();
        enable_lpis(&machine, &cpu, V1, false);
        machine.gicr_double(&pin, V1, PENDBASER, TABLE);
        enable_lpis(&machine, &cpu, V1, true);
        machine.advance(&pin);
        for event in [0, 1] {
            let _ = machine.msi(&pin, 0, event);
        }
        drop(pin);

        let other = spawn(&machine, 1, |machine, cpu| {
            enable_lpis(machine, cpu, V1, false);
            machine.vm.advance(&cpu.pin()).unwrap();
        });
        enable_lpis(&machine, &cpu, V0, false);
        machine.vm.advance(&cpu.pin()).unwrap();
        other.join();

        machine.advance(&cpu.pin());
        let tables = [pending_byte(0, FIRST), pending_byte(TABLE, SECOND)];
        assert_eq!(tables.map(|gpa| machine.read_byte(gpa)), [1, 1]);
        for vcpu in [V0, V1] {
            assert_eq!(machine.read_gicr(&cpu, vcpu, CTLR) & RWP, 0);
        }
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 1 against a poll of RWP that finds the writing of the pending table waiting
/// for a fold on another vCPU. The table is read to its end.
#[test]
fn scan_against_a_store_that_waits() {
    check_serial(1, || {
        let (machine, cpu) = two_lpis(2, [0, 1]);
        let pin = cpu.pin();
        let _ = machine.msi(&pin, 0, 0);
        drop(pin);
        machine.enter(&cpu, V0);
        machine.command(&cpu.pin(), 0, movi(1));
        enable_lpis(&machine, &cpu, V1, false);
        machine.advance(&cpu.pin());
        assert_ne!(machine.read_gicr(&cpu, V1, CTLR) & RWP, 0, "V0 has it");
        machine.write_byte(pending_byte(0, SECOND), 1);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.read_gicr(cpu, V1, CTLR);
        });
        enable_lpis(&machine, &cpu, V1, true);
        other.join();

        machine.advance(&cpu.pin());
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V1), 2, "a slice that nobody reads");
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 0, 1 and 0 against the vCPU's leaving its CPU, with the LPI in a list
/// register, and its entry on another CPU. The pending state is in the table at the end.
#[test]
fn two_stores_against_put_and_entry() {
    check_serial(1, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.race_for(&[pending_byte(0, FIRST)]);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            for on in [false, true, false] {
                enable_lpis(machine, cpu, V0, on);
            }
        });
        let second = machine.cpu(2);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);
        machine.enter(&second, V0);
        other.join();

        machine.exit(&second, V0);
        machine.put(&second, V0);
        machine.advance(&cpu.pin());
        assert_eq!(machine.read_gicr(&cpu, V0, CTLR) & RWP, 0, "never written");
        assert!(machine.is_in_table());
        assert_eq!(machine.serve(&cpu, V0), 0, "EnableLPIs is 0");
        sole(machine).finish(&cpu);
    });
}

/// Races a guest that enables an LPI in the table, and then writes a redistributor's register,
/// against the mapping of the LPI on another CPU. The LPI is enabled.
fn write_against_mapping(register: u64, value: u64, enabled: bool) {
    check_serial(2, move || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        if !enabled {
            enable_lpis(&machine, &cpu, V0, false);
        }
        machine.write_byte(config_byte(SECOND), 0);
        machine.race_for(&[config_byte(SECOND)]);

        let other = spawn(&machine, 1, move |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.write_byte(config_byte(SECOND), ON);
            machine.gicr(&pin, V0, register, value);
        });
        machine.command(&cpu.pin(), 0, mapti_second(0));
        other.join();

        machine.advance(&cpu.pin());
        let _ = machine.msi(&cpu.pin(), 0, 1);
        assert_eq!(machine.serve(&cpu, V0), 1, "an old byte counts");
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 1 against the mapping of an LPI.
#[test]
fn enable_against_mapping() {
    write_against_mapping(CTLR, ENABLE_LPIS, false);
}

/// Races an invalidation by INTID against the mapping of the LPI.
#[test]
fn invalidation_against_mapping() {
    write_against_mapping(INVLPIR, SECOND, true);
}

/// Races `GICR_INVLPIR` against `INV` of the same LPI, after the guest has enabled the LPI in the
/// table. The LPI is enabled.
#[test]
fn invalidation_against_invalidation() {
    check_serial(4, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.configure_lpi(0);
        machine.gicr(&cpu.pin(), V0, INVLPIR, FIRST);
        machine.race_for(&[config_byte(FIRST)]);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.gicr(&pin, V0, INVLPIR, FIRST);
        });
        let pin = in_the_epoch(&cpu);
        machine.configure_lpi(ON);
        machine.command(&pin, 0, inv(0));
        drop(pin);
        other.join();

        let _ = machine.msi(&cpu.pin(), 0, 0);
        assert_eq!(machine.serve(&cpu, V0), 1, "an old byte counts");
        sole(machine).finish(&cpu);
    });
}

/// Races EnableLPIs = 1, after a new `GICR_PENDBASER`, against EnableLPIs = 0 by another CPU. The
/// old table is left alone.
#[test]
fn disable_by_another_cpu() {
    check_serial(2, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        enable_lpis(&machine, &cpu, V0, false);
        machine.advance(&cpu.pin());
        let _ = machine.msi(&cpu.pin(), 0, 0);
        assert!(!machine.is_in_table());

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.gicr_double(&pin, V0, PENDBASER, TABLE | 1 << 62);
            machine.gicr(&pin, V0, CTLR, ENABLE_LPIS);
        });
        let pin = in_the_epoch(&cpu);
        machine.gicr(&pin, V0, CTLR, 0);
        drop(pin);
        other.join();

        machine.advance(&cpu.pin());
        assert!(!machine.is_in_table(), "the old table is written");
    });
}

/// Races an invalidation against another one, after the guest has disabled the LPI in the table.
/// Once the invalidation is done, the LPI is not taken.
#[test]
fn invalidation_that_disables() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(1, 1));
        let cpu = machine.cpu(0);
        machine.race_for(&[config_byte(FIRST)]);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.configure_lpi(0);
            machine.gicr(&pin, V0, INVLPIR, FIRST);
            let busy = machine.read_gicr(cpu, V0, SYNCR) != 0;
            let _ = machine.msi(&pin, 0, 0);
            drop(pin);
            machine.enter(cpu, V0);
            let taken = take(cpu);
            assert!(busy || taken == 0, "a disabled LPI is taken");
        });
        let pin = in_the_epoch(&cpu);
        machine.gicr(&pin, V0, INVLPIR, FIRST);
        drop(pin);
        other.join();
    });
}
