//! `hotplug`: the removal of a vCPU against everything that may have found the vCPU before. No CPU
//! runs a removed vCPU, no interrupt stays on its list, and no SPI or LPI is lost.

use loom::sync::Arc;
use loom_tests::{Machine, SGI, V0, V1, check_serial, in_the_epoch, movi, sole, spawn, take};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{Affinity, IntId};
use vgic::sysreg::SysReg;
use vgic::{ConfigError, Cpu, RemoveError};

/// `GICD_CTLR` and `GICR_CTLR`.
const CTLR: u64 = 0;
/// `GICD_CTLR.RWP`.
const RWP: u64 = 1 << 31;
const IGROUPR0: u64 = 0x1_0080;
const ISENABLER0: u64 = 0x1_0100;

/// Returns the affinity of vCPU 1.
fn affinity() -> Affinity {
    Affinity::new(0, 0, 0, 1)
}

/// Powers vCPU 1 off, on a CPU of its own.
fn power_off(machine: &Machine) {
    let cpu = machine.cpu(9);
    machine.enter(&cpu, V1);
    machine.exit(&cpu, V1);
    machine.vm.power_off(&cpu.pin(), V1).unwrap();
}

/// Returns a VM with vCPU 1 powered off.
fn with_one_off() -> Arc<Machine> {
    let machine = Machine::new(2);
    power_off(&machine);
    Arc::new(machine)
}

fn remove(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    machine.vm.remove_vcpu(&cpu.pin(), V1).unwrap();
}

/// Asserts that no interrupt has stayed on the list of the vCPU that was removed.
fn assert_none_listed(machine: &Machine) {
    assert_eq!(
        machine.listed(),
        0,
        "an interrupt is on the list of a removed vCPU"
    );
}

/// Adds vCPU 1 again, and powers it on.
fn add(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    let added = machine.vm.add_vcpu(&cpu.pin(), affinity());
    assert_eq!(added, Ok(V1));
    assert!(machine.vm.power_on(V1));
}

/// Races a removal against a CPU that powers the vCPU on and enters. One of the two fails.
#[test]
fn removal_against_power_on() {
    check_serial(3, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let on = machine.vm.power_on(V1);
            if on {
                machine.enter(cpu, V1);
                machine.exit(cpu, V1);
                machine.put(cpu, V1);
            }
            on
        });
        let removed = machine.vm.remove_vcpu(&cpu.pin(), V1);
        let on = other.join();
        match removed {
            Ok(()) => assert!(!on, "a removed vCPU runs"),
            Err(error) => {
                assert!(matches!(
                    error,
                    RemoveError::PoweredOn(_) | RemoveError::Loaded(_)
                ));
                assert!(on);
            }
        }
        sole(machine).finish(&cpu);
    });
}

/// Races a removal against an injection of the vCPU's SPI. The SPI is on no list, and comes with
/// the vCPU that is added again.
#[test]
fn removal_against_an_spi() {
    check_serial(3, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        machine.route(&cpu.pin(), V1);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject_spi(&cpu.pin());
        });
        remove(&machine, &cpu);
        other.join();
        assert_none_listed(&machine);
        add(&machine, &cpu);
        assert_eq!(machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a removal against a write of IROUTER that names the vCPU, with the SPI pending. The SPI is
/// on no list, and comes with the vCPU that is added again.
#[test]
fn removal_against_a_route() {
    check_serial(3, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.route(&pin, V1);
        });
        remove(&machine, &cpu);
        other.join();
        assert_none_listed(&machine);
        add(&machine, &cpu);
        assert_eq!(machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a removal against the connection of one of the vCPU's PPIs. The vCPU that is added again
/// has no connection.
#[test]
fn removal_against_a_connection() {
    check_serial(3, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        let timer = IntId::ppi(27).unwrap();
        let other = spawn(&machine, 1, move |machine, cpu| {
            let _ = machine.vm.connect_ppi(&cpu.pin(), V1, timer, timer);
        });
        remove(&machine, &cpu);
        other.join();
        add(&machine, &cpu);
        assert_eq!(machine.vm.ppi_connection(V1, timer), Ok(None));
        sole(machine).finish(&cpu);
    });
}

/// Races a removal against a guest that enables the vCPU's SGI and sends the SGI, of Group 0 after
/// the removal. The SGI is on no list, and the vCPU that is added again does not get it.
#[test]
fn removal_against_an_sgi() {
    check_serial(2, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.gicr(&pin, V1, ISENABLER0, 1 << SGI);
            drop(pin);
            let value = 1 << 40 | u64::from(SGI) << 24;
            let sent = machine
                .vm
                .sysreg_write(&cpu.pin(), V0, SysReg::Sgi0r, value);
            assert_eq!(sent, Ok(()));
        });
        remove(&machine, &cpu);
        other.join();
        assert_none_listed(&machine);

        add(&machine, &cpu);
        machine.gicr(&cpu.pin(), V1, IGROUPR0, 1 << SGI);
        machine.gicr(&cpu.pin(), V1, ISENABLER0, 1 << SGI);
        assert_eq!(machine.serve(&cpu, V1), 0);
        sole(machine).finish(&cpu);
    });
}

/// Returns a VM with vCPU 1 powered off, and the LPI of event 0 in collection 1, of vCPU 1.
fn with_an_lpi_of_one_off() -> Arc<Machine> {
    let machine = Machine::with_lpi(2, 1);
    machine.on(96, |pin| machine.command(pin, 0, movi(1)));
    power_off(&machine);
    Arc::new(machine)
}

/// Maps collection 1 to vCPU 0, and returns the number of interrupts that vCPU 0 takes.
fn map_to_first(machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> usize {
    machine.advance(&cpu.pin());
    assert_none_listed(machine);
    machine.command(&cpu.pin(), 0, [0x09, 0, 1 << 63 | 1, 0]);
    machine.advance(&cpu.pin());
    machine.serve(cpu, V0)
}

/// Races a removal against an MSI for the vCPU. The MSI is refused, or taken where the guest maps
/// the collection next.
#[test]
fn removal_against_an_msi() {
    check_serial(3, || {
        let machine = with_an_lpi_of_one_off();
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.msi(&cpu.pin(), 0, 0).is_some()
        });
        remove(&machine, &cpu);
        let accepted = other.join();
        assert_eq!(map_to_first(&machine, &cpu), usize::from(accepted));
        sole(machine).finish(&cpu);
    });
}

/// Races a removal against a command that gives the vCPU a pending LPI. The command fails, or the
/// LPI is taken where the guest maps the collection next.
#[test]
fn removal_against_a_command() {
    check_serial(2, || {
        let machine = Machine::with_lpi(2, 1);
        power_off(&machine);
        let machine = Arc::new(machine);
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, movi(1));
        });
        remove(&machine, &cpu);
        other.join();
        machine.advance(&cpu.pin());
        // A MOVI that has failed has left the LPI with vCPU 0.
        let stayed = machine.serve(&cpu, V0);
        assert_eq!(stayed + map_to_first(&machine, &cpu), 1, "the LPI is lost");
        sole(machine).finish(&cpu);
    });
}

/// Races a removal against the addition of another vCPU to a VM with room for two. The new vCPU
/// has the place of the old one, or is refused.
#[test]
fn removal_against_an_addition() {
    check_serial(3, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        let new = Affinity::new(0, 0, 0, 2);
        let other = spawn(&machine, 1, move |machine, cpu| {
            machine.vm.add_vcpu(&cpu.pin(), new)
        });
        remove(&machine, &cpu);
        let added = other.join();
        assert!(matches!(added, Ok(V1) | Err(ConfigError::MaxVcpus(2))));
        let pin = cpu.pin();
        assert_eq!(machine.vm.find_vcpu(&pin, affinity()), None);
        assert_eq!(machine.vm.find_vcpu(&pin, new), added.ok());
        assert_eq!(machine.vm.power_on(V1), added.is_ok());
        drop(pin);
        sole(machine).finish(&cpu);
    });
}

/// Races a write that closes the groups against a vCPU with an SPI that is removed, added again and
/// entered. Once RWP reads as zero, the vCPU does not take the SPI.
#[test]
fn groups_against_a_vcpu_that_comes_back() {
    check_serial(2, || {
        let machine = with_one_off();
        let cpu = machine.cpu(0);
        machine.route(&cpu.pin(), V1);
        let _ = machine.inject_spi(&cpu.pin());
        let writer = spawn(&machine, 1, |machine, cpu| {
            machine.gicd(&cpu.pin(), CTLR, 0);
            machine.read_gicd(cpu, V0, CTLR) & RWP != 0
        });
        remove(&machine, &cpu);
        add(&machine, &cpu);
        machine.enter(&cpu, V1);
        let waiting = writer.join();
        assert!(waiting || take(&cpu) == 0, "an SPI of a closed group");
    });
}

/// Races a removal against a guest that has the vCPU's pending table read. The deferred work ends.
#[test]
fn removal_against_a_pending_table() {
    check_serial(2, || {
        let machine = with_an_lpi_of_one_off();
        let cpu = machine.cpu(0);
        machine.gicr(&cpu.pin(), V1, CTLR, 0);
        machine.advance(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.gicr(&pin, V1, CTLR, 1);
        });
        remove(&machine, &cpu);
        other.join();
        assert_eq!(map_to_first(&machine, &cpu), 0);
        sole(machine).finish(&cpu);
    });
}
