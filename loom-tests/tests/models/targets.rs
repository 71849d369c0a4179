//! `targets`: CPU interfaces of a GICv2 that open and close, against each other and against a
//! device, with an SPI of two or three targets. The SPI is at one that takes it.

use loom::sync::Arc;
use loom_tests::{Machine, SPI, V0, V1, V2, check, sole, spawn, spawn_on};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{IntId, VcpuId};
use vgic::mmio::Width;

const CTLR: u64 = 0x00;
const PMR: u64 = 0x04;
const IAR: u64 = 0x0c;
const EOIR: u64 = 0x10;
const OPEN: u64 = 0xf0;
const CLOSED: u64 = 0;
/// `GICD_ISENABLER1`, `GICD_ICFGR2`, `GICD_ITARGETSR<n>`.
const ISENABLER1: u64 = 0x104;
const ICFGR2: u64 = 0xc08;
const ITARGETSR: u64 = 0x800;
/// The SPI's byte.
const TARGETS: u64 = ITARGETSR + SPI as u64;

/// Loads a vCPU onto `cpu`, out of the guest, with this priority mask.
fn load(machine: &Machine, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId, mask: u64) {
    machine.enter(cpu, vcpu);
    machine.exit(cpu, vcpu);
    machine.gicc(cpu, vcpu, PMR, mask);
    machine.gicc(cpu, vcpu, CTLR, 1);
}

/// Returns a VM with a GICv2 and two vCPUs, each with its CPU, the first open and the second
/// closed, and an SPI of both.
fn started() -> (Arc<Machine>, [Cpu<SoftwareInterface>; 2]) {
    started_with([(V0, true), (V1, false)])
}

/// Returns a VM with a GICv2 and these vCPUs, each with its CPU, open or not, and an SPI of all of
/// them.
fn started_with<const N: usize>(
    vcpus: [(VcpuId, bool); N],
) -> (Arc<Machine>, [Cpu<SoftwareInterface>; N]) {
    let machine = Arc::new(Machine::with_gicv2(N as u8));
    let cpus = vcpus.map(|(vcpu, is_open)| {
        let cpu = machine.cpu(vcpu.index() as u16);
        load(&machine, &cpu, vcpu, if is_open { OPEN } else { CLOSED });
        cpu
    });
    let cpu = &cpus[0];
    machine.gicd_of(cpu, V0, ICFGR2, Width::Word, 2 << (2 * (SPI - 32)));
    machine.gicd_of(cpu, V0, ISENABLER1, Width::Word, 1 << (SPI - 32));
    machine.gicd_of(cpu, V0, TARGETS, Width::Byte, (1 << N) - 1);
    (machine, cpus)
}

/// Makes the SPI pending.
fn raise(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    let spi = IntId::spi(SPI).unwrap();
    let _ = machine.vm.inject_spi(&cpu.pin(), spi).unwrap();
}

/// Enters and exits, acknowledges and ends. Returns how many times the SPI was signalled.
fn take(machine: &Machine, cpu: &Cpu<SoftwareInterface>, vcpu: VcpuId) -> usize {
    let mut taken = 0;
    // An interrupt that moves leaves its CPU at one exit and enters the other at the next.
    for _ in 0..2 {
        machine.enter(cpu, vcpu);
        machine.exit(cpu, vcpu);
        while machine.read_gicc(cpu, vcpu, IAR) == u64::from(SPI) {
            machine.gicc(cpu, vcpu, EOIR, SPI.into());
            taken += 1;
        }
    }
    taken
}

/// Takes the SPI wherever it is, and checks that the VM ends with nothing. Returns how many times
/// each vCPU has taken it.
fn take_all<const N: usize>(
    machine: Arc<Machine>,
    cpus: &[Cpu<SoftwareInterface>; N],
) -> [usize; N] {
    let vcpus = [V0, V1, V2];
    let mut taken = [0; N];
    for _ in 0..2 {
        for (taken, (cpu, vcpu)) in taken.iter_mut().zip(cpus.iter().zip(vcpus)) {
            *taken += take(&machine, cpu, vcpu);
        }
    }
    for (cpu, vcpu) in cpus.iter().zip(vcpus) {
        machine.put(cpu, vcpu);
    }
    sole(machine).finish(&cpus[0]);
    taken
}

/// Races a vCPU that closes its interface against another that opens its own. The SPI, pending
/// before, is taken by the second.
#[test]
fn one_closes_as_the_other_opens() {
    check(2, || {
        let (machine, [cpu, second]) = started();
        raise(&machine, &cpu);
        let other = spawn_on(&machine, second, |machine, cpu| {
            machine.gicc(cpu, V1, PMR, OPEN);
        });
        machine.gicc(&cpu, V0, PMR, CLOSED);
        let ((), second) = other.join_with_cpu();
        assert_eq!(take_all(machine, &[cpu, second]), [0, 1]);
    });
}

/// Races a vCPU that closes its interface against another that adds a second target, itself. The
/// SPI, pending before, is taken by the second.
#[test]
fn one_closes_as_a_target_is_added() {
    check(2, || {
        let (machine, [cpu, second]) = started();
        machine.gicc(&second, V1, PMR, OPEN);
        machine.gicd_of(&cpu, V0, TARGETS, Width::Byte, 0b01);
        raise(&machine, &cpu);
        let other = spawn_on(&machine, second, |machine, cpu| {
            machine.gicd_of(cpu, V1, TARGETS, Width::Byte, 0b11);
        });
        machine.gicc(&cpu, V0, PMR, CLOSED);
        let ((), second) = other.join_with_cpu();
        assert_eq!(take_all(machine, &[cpu, second]), [0, 1]);
    });
}

/// Races a device against a vCPU that closes its interface, with another open. The SPI is taken
/// once, by the other.
#[test]
fn one_closes_against_a_device() {
    check(2, || {
        let (machine, cpus) = started();
        machine.gicc(&cpus[1], V1, PMR, OPEN);
        let device = spawn(&machine, 2, raise);
        machine.gicc(&cpus[0], V0, PMR, CLOSED);
        device.join();
        assert_eq!(take_all(machine, &cpus), [0, 1]);
    });
}

/// Races two vCPUs that close their interfaces, with a third open. The SPI, pending before at the
/// first, is taken by the third.
#[test]
fn two_close() {
    check(2, || {
        let (machine, [cpu, second, third]) = started_with([V0, V1, V2].map(|vcpu| (vcpu, true)));
        raise(&machine, &cpu);
        let other = spawn_on(&machine, second, |machine, cpu| {
            machine.gicc(cpu, V1, PMR, CLOSED);
        });
        machine.gicc(&cpu, V0, PMR, CLOSED);
        let ((), second) = other.join_with_cpu();
        assert_eq!(take_all(machine, &[cpu, second, third]), [0, 0, 1]);
    });
}
