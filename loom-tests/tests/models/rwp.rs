//! `rwp`: `GICD_CTLR.RWP` and `GICR_CTLR.RWP` against the folds of two vCPUs and the writes of two
//! CPUs. Once a guest has seen an interrupt disabled, and then RWP as zero, no vCPU in the guest
//! takes the interrupt.

use loom::sync::Arc;
use loom_tests::{
    Machine, SGI, SPI, V0, V1, acknowledge, check_serial, in_the_epoch, sole, spawn, take,
};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{Affinity, IntId};

/// `GICD_CTLR` and `GICR_CTLR`.
const CTLR: u64 = 0;
/// `GICD_CTLR.RWP`.
const RWP: u64 = 1 << 31;
/// `GICD_CTLR.EnableGrp0` and `EnableGrp1`.
const GROUPS: u64 = 3;
/// `GICR_CTLR.RWP`.
const GICR_RWP: u64 = 1 << 3;
/// `GICR_CTLR.EnableLPIs`.
const ENABLE_LPIS: u64 = 1;
const IGROUPR: u64 = 0x084;
const ISENABLER: u64 = 0x104;
const ICENABLER: u64 = 0x184;
const IPRIORITYR: u64 = 0x400 + SPI as u64;
const PRIORITIES: u64 = 0xa0a0_a0a0;
const ICFGR: u64 = 0xc08;
const IROUTER: u64 = 0x6000;

/// The second SPI, of vCPU 1.
const OTHER: u32 = SPI + 1;

/// Returns the bit of an SPI in its 32-bit registers.
const fn bit(spi: u32) -> u64 {
    1 << (spi % 32)
}

/// Returns a VM with vCPU 0 and vCPU 1 in the guest on a CPU each, and an SPI in a list register of
/// each.
fn two_awaited() -> (Arc<Machine>, [Cpu<SoftwareInterface>; 2]) {
    let machine = Arc::new(Machine::new(2));
    let cpus = [0, 1].map(|n| machine.cpu(n));
    let pin = cpus[1].pin();
    let both = bit(SPI) | bit(OTHER);
    machine.gicd(&pin, IGROUPR, both);
    machine.gicd(&pin, ICFGR, 0b1010 << (2 * (SPI % 16)));
    machine.gicd(&pin, IROUTER + 8 * u64::from(OTHER), 1);
    machine.gicd(&pin, ISENABLER, both);
    for spi in [SPI, OTHER] {
        let _ = machine
            .vm
            .inject_spi(&pin, IntId::spi(spi).unwrap())
            .unwrap();
    }
    drop(pin);
    machine.enter(&cpus[0], V0);
    machine.enter(&cpus[1], V1);
    (machine, cpus)
}

/// Returns true if `GICD_CTLR.RWP` reads as one.
fn waits(machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
    machine.read_gicd(cpu, V1, CTLR) & RWP != 0
}

/// Races two disables, of an interrupt of each vCPU, against exit and re-entry of one of them. The
/// other is in the guest all the time, and RWP waits for it.
#[test]
fn two_writers_and_two_vcpus() {
    check_serial(3, || {
        let (machine, cpus) = two_awaited();

        let first = spawn(&machine, 2, |machine, cpu| {
            machine.gicd(&cpu.pin(), ICENABLER, bit(SPI));
        });
        let second = spawn(&machine, 3, |machine, cpu| {
            machine.gicd(&cpu.pin(), ICENABLER, bit(OTHER));
            waits(machine, cpu)
        });
        machine.exit(&cpus[0], V0);
        machine.enter(&cpus[0], V0);
        first.join();
        let waiting = second.join();

        assert!(waiting || take(&cpus[1]) == 0, "a disabled SPI is taken");
        assert!(waits(&machine, &cpus[0]), "vCPU 1 has not left the guest");
        for (cpu, vcpu) in cpus.iter().zip([V0, V1]) {
            machine.exit(cpu, vcpu);
            machine.enter(cpu, vcpu);
            assert_eq!(take(cpu), 0, "a disabled SPI is taken");
            machine.exit(cpu, vcpu);
            machine.put(cpu, vcpu);
        }
        assert!(!waits(&machine, &cpus[0]), "RWP does not end");
        sole(machine).finish(&cpus[0]);
    });
}

/// Races two disables of one interrupt. RWP waits for the vCPU also for the writer that finds the
/// interrupt disabled.
#[test]
fn two_writers_of_one_interrupt() {
    check_serial(3, || {
        let (machine, cpus) = two_awaited();
        let first = spawn(&machine, 2, |machine, cpu| {
            machine.gicd(&cpu.pin(), ICENABLER, bit(SPI));
        });
        machine.gicd(&cpus[1].pin(), ICENABLER, bit(SPI));
        assert!(waits(&machine, &cpus[1]), "vCPU 0 has not left the guest");
        first.join();
        assert!(waits(&machine, &cpus[1]));
    });
}

/// Races a disable against a read by a CPU that knows nothing of the disable. The look of that CPU
/// is none for a reader that does.
#[test]
fn a_reader_that_has_not_seen_the_write() {
    check_serial(3, || {
        let (machine, cpus) = two_awaited();
        let writer = spawn(&machine, 2, |machine, cpu| {
            machine.gicd(&cpu.pin(), ICENABLER, bit(SPI));
        });
        let reader = spawn(&machine, 3, |machine, cpu| {
            waits(machine, cpu);
        });
        writer.join();
        assert!(waits(&machine, &cpus[1]), "vCPU 0 has not left the guest");
        reader.join();
    });
}

/// Races two writes that close the groups against exit and re-entry of one of two vCPUs.
#[test]
fn two_writers_of_the_groups() {
    check_serial(2, || {
        let (machine, cpus) = two_awaited();

        let first = spawn(&machine, 2, |machine, cpu| {
            machine.gicd(&cpu.pin(), CTLR, 0);
        });
        let second = spawn(&machine, 3, |machine, cpu| {
            machine.gicd(&cpu.pin(), CTLR, 0);
            waits(machine, cpu)
        });
        machine.exit(&cpus[0], V0);
        machine.enter(&cpus[0], V0);
        first.join();
        assert!(second.join(), "vCPU 1 has not left the guest");
    });
}

/// Races a write that closes the groups against a guest that reads both the groups and RWP.
#[test]
fn groups_against_a_reader() {
    check_serial(3, || {
        let (machine, cpus) = two_awaited();
        let writer = spawn(&machine, 2, |machine, cpu| {
            machine.gicd(&cpu.pin(), CTLR, 0);
        });
        let ctlr = machine.read_gicd(&cpus[0], V1, CTLR);
        assert!(ctlr & (GROUPS | RWP) != 0, "no vCPU has left the guest");
        writer.join();
        assert!(waits(&machine, &cpus[0]));
    });
}

/// Races two writes that clear EnableLPIs against each other, with an LPI in a list register.
#[test]
fn two_writers_of_enable_lpis() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let _ = machine.msi(&cpu.pin(), 0, 0);
        machine.enter(&cpu, V0);

        let writer = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, CTLR, 0);
        });
        let reader = spawn(&machine, 2, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, CTLR, 0);
            machine.read_gicr(cpu, V0, CTLR)
        });
        let ctlr = machine.read_gicr(&cpu, V0, CTLR);
        writer.join();
        for ctlr in [ctlr, reader.join()] {
            assert!(
                ctlr & (ENABLE_LPIS | GICR_RWP) != 0,
                "vCPU 0 has not left the guest"
            );
        }
    });
}

/// Races a guest that sets priorities, and then opens the groups, against a guest that reads both
/// in the opposite order.
#[test]
fn registers_are_written_in_order() {
    check_serial(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let reader = spawn(&machine, 1, |machine, cpu| {
            if machine.read_gicd(cpu, V0, CTLR) & GROUPS == GROUPS {
                let priorities = machine.read_gicd(cpu, V0, IPRIORITYR);
                assert_eq!(priorities, PRIORITIES, "the later write came first");
            }
        });
        machine.gicd(&cpu.pin(), IPRIORITYR, PRIORITIES);
        machine.gicd(&cpu.pin(), CTLR, GROUPS);
        reader.join();
        sole(machine).finish(&cpu);
    });
}

/// Returns a VM with vCPU 0, room for vCPU 1, and the SPI pending and routed to vCPU 1.
fn one_to_be_added() -> Arc<Machine> {
    let machine = Machine::with_room();
    machine.on(97, |pin| {
        machine.route(pin, V1);
        let _ = machine.inject_spi(pin);
    });
    Arc::new(machine)
}

/// Adds vCPU 1, and enters it.
fn add_and_enter(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    let added = machine.vm.add_vcpu(&cpu.pin(), Affinity::new(0, 0, 0, 1));
    assert_eq!(added, Ok(V1));
    machine.vm.power_on(V1);
    machine.enter(cpu, V1);
}

/// Races a write that closes the groups against the addition and entry of a vCPU with an SPI. Once
/// RWP reads as zero, the new vCPU does not take the SPI: the writer has recalled the vCPU, or its
/// entry finds the groups closed.
#[test]
fn groups_against_a_vcpu_that_is_added() {
    check_serial(2, || {
        let machine = one_to_be_added();
        let cpu = machine.cpu(0);
        let writer = spawn(&machine, 1, |machine, cpu| {
            machine.gicd(&cpu.pin(), CTLR, 0);
            machine.read_gicd(cpu, V0, CTLR) & RWP != 0
        });
        add_and_enter(&machine, &cpu);
        let waiting = writer.join();
        assert!(waiting || take(&cpu) == 0, "an SPI of a closed group");
    });
}

/// Races a write that opens Group 0 against the addition and entry of a vCPU with an SPI, and a
/// write that closes the groups. The first writer may recall vCPUs for the second, and has counted
/// the vCPUs earlier.
#[test]
fn two_writers_of_the_groups_of_an_added_vcpu() {
    check_serial(2, || {
        let machine = one_to_be_added();
        let (cpu, elsewhere) = (machine.cpu(0), machine.cpu(2));
        let other = spawn(&machine, 1, move |machine, cpu| {
            add_and_enter(machine, &elsewhere);
            machine.gicd(&cpu.pin(), CTLR, 0);
            let waiting = machine.read_gicd(cpu, V0, CTLR) & RWP != 0;
            (waiting, elsewhere)
        });
        machine.gicd(&cpu.pin(), CTLR, GROUPS);
        let (waiting, elsewhere) = other.join();

        let closed = machine.read_gicd(&cpu, V0, CTLR) & GROUPS == 0;
        assert!(
            waiting || !closed || take(&elsewhere) == 0,
            "an SPI of a closed group"
        );
    });
}

/// Races a write that closes the groups against the addition of a vCPU, which other CPUs set up and
/// enter as soon as they find it.
#[test]
fn groups_against_a_vcpu_that_another_cpu_enters() {
    check_serial(1, || {
        let machine = Arc::new(Machine::with_room());
        let cpu = machine.cpu(0);
        let pin = in_the_epoch(&cpu);
        let adder = spawn(&machine, 1, |machine, cpu| {
            let pin = in_the_epoch(cpu);
            loom::thread::yield_now();
            let added = machine.vm.add_vcpu(&pin, Affinity::new(0, 0, 0, 1));
            assert_eq!(added, Ok(V1));
        });
        let writer = spawn(&machine, 3, |machine, cpu| {
            machine.gicd(&cpu.pin(), CTLR, 0);
            machine.read_gicd(cpu, V0, CTLR) & RWP != 0
        });
        let entry = spawn(&machine, 2, |machine, cpu| {
            loom::thread::yield_now();
            if !machine.vm.power_on(V1) {
                return false;
            }
            machine.enter(cpu, V1);
            true
        });
        loom::thread::yield_now();
        let private = 1 << SGI;
        machine.gicr(&pin, V1, 0x1_0080, private); // IGROUPR0
        machine.gicr(&pin, V1, 0x1_0100, private); // ISENABLER0
        machine.broadcast(&cpu, V0);
        drop(pin);
        let (entered, elsewhere) = entry.join_with_cpu();
        let waiting = writer.join();
        adder.join();
        // A later read, which sees every CPU's work.
        let waiting = waiting || machine.read_gicd(&cpu, V0, CTLR) & RWP != 0;
        let taken = acknowledge(&elsewhere);
        assert!(
            !entered || waiting || taken != SGI,
            "an interrupt of a closed group"
        );
    });
}
