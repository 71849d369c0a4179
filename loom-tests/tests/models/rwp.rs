//! `rwp`: `GICD_CTLR.RWP` against the folds of two vCPUs and the writes of two CPUs. Once RWP reads
//! as zero, no vCPU in the guest takes an interrupt that was disabled before.

use loom::sync::Arc;
use loom_tests::{Machine, SPI, V0, V1, check, sole, spawn, take};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{IntId, VcpuId};

/// `GICD_CTLR`.
const CTLR: u64 = 0;
/// `GICD_CTLR.RWP`.
const RWP: u64 = 1 << 31;
const IGROUPR: u64 = 0x084;
const ISENABLER: u64 = 0x104;
const ICENABLER: u64 = 0x184;
const ICFGR: u64 = 0xc08;
const IROUTER: u64 = 0x6000;

/// The second SPI, of vCPU 1.
const OTHER: u32 = SPI + 1;

/// A vCPU that is on no CPU.
const READER: VcpuId = match VcpuId::new(2) {
    Some(id) => id,
    None => unreachable!(),
};

/// Returns the bit of an SPI in its 32-bit registers.
const fn bit(spi: u32) -> u64 {
    1 << (spi % 32)
}

/// Returns a VM with vCPU 0 and vCPU 1 in the guest on a CPU each, and an SPI in a list register of
/// each.
fn two_awaited() -> (Arc<Machine>, [Cpu<SoftwareInterface>; 2]) {
    let machine = Arc::new(Machine::new(3));
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
    machine.read_gicd(cpu, READER, CTLR) & RWP != 0
}

/// Races two disables, of an interrupt of each vCPU, against exit and re-entry of one of them. The
/// other is in the guest all the time, and RWP waits for it.
#[test]
fn two_writers_and_two_vcpus() {
    check(3, || {
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
