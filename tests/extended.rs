//! The extended ranges of GICv3.1, through the library's public API: extended SPIs, INTIDs
//! 4096-5119, and extended PPIs, INTIDs 1056-1119.

mod common;

use common::{Call, GICD, GITS, Machine, TestHost, affinity, vcpu};
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::{NEOVERSE, SoftwareInterface};
use vgic::description::acpi;
use vgic::description::device_tree::{self, EDGE_RISING, LEVEL_HIGH, Value};
use vgic::epoch::Domain;
use vgic::intid::{CpuId, IntId};
use vgic::kvm::{Attribute, Device, Devices, Errno, control, group};
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{Blocked, Config, Cpu, EntryError, InjectError, PhysicalInterrupt, TeardownError, Vgic};

/// Blocks of extended SPIs in the distributor (IHI 0069, 12.9).
const IGROUPR: u64 = GICD + 0x1000;
const ISENABLER: u64 = GICD + 0x1200;
const ICENABLER: u64 = GICD + 0x1400;
const ISPENDR: u64 = GICD + 0x1600;
const ICPENDR: u64 = GICD + 0x1800;
const ISACTIVER: u64 = GICD + 0x1a00;
const ICACTIVER: u64 = GICD + 0x1c00;
const IPRIORITYR: u64 = GICD + 0x2000;
const ICFGR: u64 = GICD + 0x3000;
const IROUTER: u64 = GICD + 0x8000;

const SGI_BASE: u64 = 0x1_0000;

const SPI: u32 = 4096;
const PPI: u32 = 1056;

fn spi(intid: u32) -> IntId {
    IntId::spi(intid).unwrap()
}

fn ppi(intid: u32) -> IntId {
    IntId::ppi(intid).unwrap()
}

fn config(vcpus: usize, spis: u32, ppis: u32) -> Config {
    Config {
        spis: 64,
        extended_spis: spis,
        extended_ppis: ppis,
        ..Config::new((0..vcpus).map(affinity).collect())
    }
}

/// Returns a VM after the guest's set-up: every extended interrupt in Group 1 and enabled.
fn machine(vcpus: usize, spis: u32, ppis: u32) -> Machine {
    let machine = Machine::from_config(config(vcpus, spis, ppis));
    machine.set_up();
    for n in 0..u64::from(spis / 32) {
        machine.write(0, IGROUPR + 4 * n, u32::MAX);
        machine.write(0, ISENABLER + 4 * n, u32::MAX);
    }
    for vcpu in 0..vcpus {
        for n in 1..=u64::from(ppis / 32) {
            let base = machine.gicr(vcpu) + SGI_BASE + 4 * n;
            machine.write(0, base + 0x80, u32::MAX);
            machine.write(0, base + 0x100, u32::MAX);
        }
    }
    machine.vm.host().take_calls();
    machine
}

fn inject_ppi(machine: &Machine, n: usize, intid: u32) {
    let _ = machine
        .vm
        .inject_ppi(&machine.pin(), vcpu(n), ppi(intid))
        .unwrap();
}

/// Makes extended SPIs edge-triggered, 16 at a time.
fn edges(machine: &Machine, from: u32) {
    let at = ICFGR + u64::from((from - SPI) / 16 * 4);
    machine.write(0, at, 0xaaaa_aaaa);
}

#[test]
fn identification_registers_have_the_numbers() {
    for (spis, ppis, espi, ppi_num, id_bits) in [
        (0, 0, 0, 0, 9),
        (0, 32, 0, 1, 10),
        (0, 64, 0, 2, 10),
        (32, 0, 1 << 8, 0, 12),
        (64, 32, 1 << 27 | 1 << 8, 1, 12),
        (1024, 64, 31 << 27 | 1 << 8, 2, 12),
    ] {
        let machine = Machine::from_config(config(2, spis, ppis));
        let typer = machine.read(0, GICD + 4);
        assert_eq!(typer & (0x1f << 27 | 1 << 8), espi, "{spis} extended SPIs");
        assert_eq!(typer >> 19 & 0x1f, id_bits, "IDbits");
        assert_eq!(typer & 0x1f, 2, "ITLinesNumber is of the others");
        for n in 0..2 {
            let typer = machine.read(0, machine.gicr(n) + 8);
            assert_eq!(typer >> 27, ppi_num, "PPInum of {ppis} extended PPIs");
        }
        machine.finish();
    }
}

/// Writes and reads the first, the last and the first missing register of each block.
#[test]
fn registers_of_extended_spis_keep_what_is_written() {
    let machine = Machine::from_config(config(2, 96, 0));
    for (set, clear) in [
        (ISENABLER, ICENABLER),
        (ISPENDR, ICPENDR),
        (ISACTIVER, ICACTIVER),
    ] {
        for n in [0, 2] {
            machine.write(0, set + 4 * n, 0x8001_0100);
            machine.write(0, clear + 4 * n, 0x8000_0000);
            assert_eq!(machine.read(1, set + 4 * n), 0x0001_0100, "{set:#x} {n}");
            assert_eq!(
                machine.read(1, clear + 4 * n),
                0x0001_0100,
                "{clear:#x} {n}"
            );
        }
        for n in [1, 3, 31, 127] {
            assert_eq!(machine.read(0, set + 4 * n), 0, "{set:#x} {n}");
        }
        machine.write(0, set + 12, u32::MAX);
        assert_eq!(machine.read(0, set + 12), 0, "there are none");
    }

    machine.write(0, IGROUPR + 8, 0x1234_5678);
    assert_eq!(machine.read(0, IGROUPR + 8), 0x1234_5678);
    machine.write(0, IGROUPR + 12, u32::MAX);
    assert_eq!(machine.read(0, IGROUPR + 12), 0);

    machine.write(0, IPRIORITYR + 92, 0x17ff_a3c8);
    assert_eq!(machine.read(0, IPRIORITYR + 92), 0x10f8_a0c8, "five bits");
    machine.write_as(0, IPRIORITYR + 93, Width::Byte, 0x40);
    assert_eq!(machine.read(0, IPRIORITYR + 92), 0x10f8_40c8);
    assert_eq!(machine.read_as(0, IPRIORITYR + 95, Width::Byte), 0x10);
    machine.write(0, IPRIORITYR + 96, u32::MAX);
    assert_eq!(machine.read(0, IPRIORITYR + 96), 0);

    machine.write(0, ICFGR + 20, u32::MAX);
    assert_eq!(machine.read(0, ICFGR + 20), 0xaaaa_aaaa);
    assert_eq!(machine.read(0, ICFGR + 16), 0, "the other half of its 32");
    machine.write(0, ICFGR + 24, u32::MAX);
    assert_eq!(machine.read(0, ICFGR + 24), 0);

    let last = IROUTER + 95 * 8;
    assert_eq!(machine.read64(0, last), affinity(0).mpidr(), "after reset");
    machine.write64(0, last, 1 << 31 | affinity(1).mpidr());
    assert_eq!(machine.read64(0, last), affinity(1).mpidr());
    machine.write(0, last + 4, 0x55);
    assert_eq!(machine.read64(0, last), 0x55 << 32 | affinity(1).mpidr());
    machine.write64(0, last + 8, affinity(1).mpidr());
    assert_eq!(machine.read64(0, last + 8), 0, "there is none");

    // The others are as they were.
    for at in [0x84, 0x104, 0x204, 0x304, 0x420, 0xc08, 0x6100] {
        assert_eq!(machine.read(0, GICD + at), 0, "{at:#x}");
    }
    machine.finish();
}

#[test]
fn registers_of_extended_ppis_are_of_one_vcpu_each() {
    let machine = Machine::from_config(config(2, 0, 64));
    let [gicr, other] = [0, 1].map(|n| machine.gicr(n) + SGI_BASE);
    for (set, clear) in [(0x100, 0x180), (0x200, 0x280), (0x300, 0x380)] {
        for n in [1, 2] {
            machine.write(1, gicr + set + 4 * n, 0x8001_0100);
            machine.write(1, gicr + clear + 4 * n, 0x8000_0000);
            assert_eq!(machine.read(0, gicr + set + 4 * n), 0x0001_0100);
            assert_eq!(machine.read(0, gicr + clear + 4 * n), 0x0001_0100);
            assert_eq!(machine.read(0, other + set + 4 * n), 0);
        }
        for n in [0, 3, 31] {
            assert_eq!(machine.read(0, gicr + set + 4 * n), 0, "{set:#x} {n}");
        }
        machine.write(0, gicr + set + 12, u32::MAX);
        assert_eq!(machine.read(0, gicr + set + 12), 0, "there are none");
    }

    machine.write(0, gicr + 0x88, 0x1234_5678);
    assert_eq!(machine.read(0, gicr + 0x88), 0x1234_5678, "GICR_IGROUPR2E");
    machine.write(0, gicr + 0x45c, 0x17ff_a3c8);
    assert_eq!(machine.read(0, gicr + 0x45c), 0x10f8_a0c8, "IPRIORITYR23E");
    machine.write_as(0, gicr + 0x420, Width::Byte, 0x48);
    assert_eq!(machine.read(0, gicr + 0x420), 0x48, "IPRIORITYR8E");
    machine.write(0, gicr + 0xc14, u32::MAX);
    assert_eq!(machine.read(0, gicr + 0xc14), 0xaaaa_aaaa, "ICFGR5E");
    for at in [0x8c, 0x460, 0x4fc, 0xc18] {
        machine.write(0, gicr + at, u32::MAX);
        assert_eq!(machine.read(0, gicr + at), 0, "{at:#x}");
    }
    for at in [0x80, 0x100, 0x41c, 0xc04, 0xc10] {
        assert_eq!(machine.read(0, gicr + at), 0, "{at:#x}: as it was");
    }
    machine.finish();
}

#[test]
fn a_vm_without_the_ranges_reads_them_as_zero() {
    let machine = Machine::from_config(config(1, 0, 0));
    let gicr = machine.gicr(0) + SGI_BASE;
    let ppis = [0x84, 0x104, 0x184, 0x204, 0x308, 0x420, 0x45c, 0xc08, 0xc14].into_iter();
    let spis = (0x1000..0x4000)
        .step_by(4)
        .chain((0x8000..0xa000).step_by(4));
    for at in spis.map(|at| GICD + at).chain(ppis.map(|at| gicr + at)) {
        machine.write(0, at, u32::MAX);
        assert_eq!(machine.read(0, at), 0, "{at:#x}");
    }

    let pin = machine.pin();
    let none = Err(InjectError::UnknownInterrupt);
    for intid in [SPI, 5119] {
        assert_eq!(machine.vm.inject_spi(&pin, spi(intid)).map(|_| ()), none);
        assert_eq!(machine.vm.set_spi_line(&pin, spi(intid), true), none);
        assert_eq!(machine.vm.connect_spi(&pin, spi(intid), spi(40)), none);
    }
    for intid in [PPI, 1119] {
        let injected = machine.vm.inject_ppi(&pin, vcpu(0), ppi(intid));
        assert_eq!(injected.map(|_| ()), none);
        let connected = machine.vm.connect_ppi(&pin, vcpu(0), ppi(intid), ppi(20));
        assert_eq!(connected, none);
    }
    drop(pin);

    // Messages, and deactivations by number.
    machine.write(0, GICD + 0x40, SPI);
    machine.enter(0);
    machine.guest(0).write_ctlr(2).unwrap();
    machine.exit(0);
    machine.sysreg(0, SysReg::Dir, SPI.into());
    machine.sysreg(0, SysReg::Dir, PPI.into());
    machine.finish();
}

/// Tries INTIDs behind the SPIs and behind the extended SPIs of a VM with few of both.
#[test]
fn intids_beyond_the_last_of_a_range_are_nobodys() {
    let machine = machine(1, 32, 32);
    let pin = machine.pin();
    let none = Err(InjectError::UnknownInterrupt);
    for intid in [96, 1019, SPI + 32, 5119] {
        assert_eq!(
            machine.vm.inject_spi(&pin, spi(intid)).map(|_| ()),
            none,
            "{intid}"
        );
        assert_eq!(machine.vm.spi_line(spi(intid)).map(|_| ()), none, "{intid}");
    }
    for intid in [PPI + 32, 1119] {
        let injected = machine.vm.inject_ppi(&pin, vcpu(0), ppi(intid));
        assert_eq!(injected.map(|_| ()), none, "{intid}");
    }
    assert_eq!(
        machine.vm.inject_spi(&pin, ppi(PPI)).map(|_| ()),
        none,
        "a PPI"
    );
    let injected = machine.vm.inject_ppi(&pin, vcpu(0), spi(SPI));
    assert_eq!(injected.map(|_| ()), none, "an SPI");
    drop(pin);
    for at in [64, 4096 + 32, 5119, 1024, 1056, 1119, 5120, 8191] {
        machine.write(0, GICD + 0x40, at + 32 * u32::from(at == 64));
    }
    assert_eq!(machine.serve(0), []);
    machine.finish();
}

#[test]
fn extended_interrupts_are_delivered_by_priority() {
    let machine = machine(2, 64, 64);
    edges(&machine, SPI + 48);
    machine.write64(0, IROUTER + 63 * 8, affinity(1).mpidr());
    machine.write_as(0, IPRIORITYR + 63, Width::Byte, 0x40);
    let gicr = machine.gicr(1) + SGI_BASE;
    machine.write(0, gicr + 0xc14, 0xaaaa_aaaa);
    machine.write_as(0, gicr + 0x45f, Width::Byte, 0x20);
    machine.edge_spi(40, 1);
    machine.write_as(0, GICD + 0x428, Width::Byte, 0x30);
    machine.vm.host().take_calls();

    machine.enter(1);
    machine.inject_spi(SPI + 63);
    assert_eq!(machine.vm.host().take_calls(), [Call::Kick(1, 1)]);
    machine.inject_spi(40);
    inject_ppi(&machine, 1, 1119);
    machine.exit(1);
    assert_eq!(machine.serve(1), [1119, 40, SPI + 63]);
    assert_eq!(machine.serve(0), [], "each has its own");
    machine.finish();
}

#[test]
fn levels_of_extended_interrupts_follow_their_lines() {
    let machine = machine(1, 32, 32);
    let pin = machine.pin();
    let set_spi = |high| machine.vm.set_spi_line(&pin, spi(SPI + 31), high).unwrap();
    let set_ppi = |high| {
        machine
            .vm
            .set_ppi_line(&pin, vcpu(0), ppi(PPI), high)
            .unwrap()
    };
    set_spi(true);
    set_ppi(true);
    assert_eq!(machine.vm.spi_line(spi(SPI + 31)), Ok(true));
    assert_eq!(machine.vm.ppi_line(vcpu(0), ppi(PPI)), Ok(true));
    assert_eq!(machine.read(0, ISPENDR), 1 << 31);
    assert_eq!(machine.read(0, machine.gicr(0) + SGI_BASE + 0x204), 1);
    machine.write(0, ICPENDR, u32::MAX);
    assert_eq!(machine.read(0, ISPENDR), 1 << 31, "the line is high");

    machine.enter(0);
    let first = machine.guest(0).read_iar1();
    let both = [SPI + 31, PPI];
    assert!(both.contains(&first));
    set_spi(false);
    set_ppi(false);
    machine.guest(0).write_eoir1(first);
    machine.exit(0);
    let resample = Call::Resample(0, first);
    assert!(machine.vm.host().take_calls().contains(&resample));
    assert_eq!(machine.serve(0), [], "the other line has fallen");
    machine.finish();
}

#[test]
fn messages_reach_extended_spis() {
    let machine = machine(1, 32, 0);
    let (set, clear) = (GICD + 0x40, GICD + 0x48);
    machine.write(0, set, SPI + 7);
    assert_eq!(machine.read(0, ISPENDR), 1 << 7);
    machine.write_as(0, clear, Width::Half, u64::from(SPI + 7));
    assert_eq!(machine.read(0, ISPENDR), 0);
    machine.write_as(0, set, Width::Half, u64::from(SPI + 8));
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), SPI + 8);
    machine.write(0, clear, SPI + 8);
    machine.guest(0).write_eoir1(SPI + 8);
    machine.exit(0);
    assert_eq!(machine.block(0), Blocked::Yes);
    machine.finish();
}

#[test]
fn the_host_hears_of_the_guests_writes() {
    let machine = Machine::from_config(config(2, 32, 32));
    machine.write(0, ISENABLER, 1 << 3);
    machine.write(0, ICFGR, 0b10 << 6);
    machine.write64(0, IROUTER + 3 * 8, affinity(1).mpidr());
    machine.write(0, machine.gicr(1) + SGI_BASE + 0x104, 1 << 4);
    machine.write(0, machine.gicr(1) + SGI_BASE + 0xc08, 0b10 << 8);
    assert_eq!(
        machine.vm.host().take_calls(),
        [
            Call::Enabled(None, SPI + 3, true),
            Call::Configured(None, SPI + 3, true),
            Call::Routed(SPI + 3, Some(1)),
            Call::Enabled(Some(1), PPI + 4, true),
            Call::Configured(Some(1), PPI + 4, true),
        ]
    );
    machine.finish();
}

/// Deactivates a PPI and an SPI that were taken with EOImode 1, the SPI on another vCPU.
#[test]
fn a_trap_deactivates_extended_interrupts() {
    let machine = machine(2, 32, 32);
    edges(&machine, SPI);
    machine.enter(0);
    machine.guest(0).write_ctlr(2).unwrap();
    machine.exit(0);
    machine.enter(1);
    machine.guest(1).write_ctlr(2).unwrap();
    machine.exit(1);

    machine.inject_spi(SPI + 5);
    inject_ppi(&machine, 0, PPI + 6);
    machine.enter(0);
    for _ in 0..2 {
        let intid = machine.guest(0).read_iar1();
        machine.guest(0).write_eoir1(intid);
    }
    machine.exit(0);
    assert_eq!(machine.read(0, ISACTIVER), 1 << 5);
    machine.enter(1);
    assert!(machine.guest(1).write_dir(SPI + 5).is_err(), "it traps");
    machine.exit(1);
    // vCPU 1 has a PPI of the number too, which is not active.
    machine.sysreg(1, SysReg::Dir, u64::from(PPI + 6));
    machine.sysreg(1, SysReg::Dir, u64::from(SPI + 5));
    for n in 0..2 {
        machine.enter(n);
        machine.exit(n);
    }
    assert_eq!(machine.read(0, ISACTIVER), 0);
    let active = machine.gicr(0) + SGI_BASE + 0x304;
    assert_eq!(machine.read(0, active), 1 << 6);
    machine.sysreg(0, SysReg::Dir, u64::from(PPI + 6));
    assert_eq!(machine.read(0, active), 0);
    machine.finish();
}

/// Takes more than there are list registers, each more urgent than the one before, and ends them.
#[test]
fn more_extended_interrupts_than_list_registers() {
    let machine = machine(1, 32, 32);
    for n in 0..12_u32 {
        let priority = 0xf0 - u64::from(n) * 0x10;
        machine.write_as(0, IPRIORITYR + u64::from(n), Width::Byte, priority);
    }
    edges(&machine, SPI);
    for n in 0..12 {
        machine.inject_spi(SPI + n);
    }
    let expected: Vec<u32> = (0..12).rev().map(|n| SPI + n).collect();
    assert_eq!(machine.serve(0), expected);

    // One preempts another, and the first ones leave the list registers.
    machine.enter(0);
    for n in 0..12 {
        machine.inject_spi(SPI + n);
        machine.bounce(0);
        assert_eq!(machine.guest(0).read_iar1(), SPI + n);
    }
    for n in (0..12).rev() {
        machine.guest(0).write_eoir1(SPI + n);
        machine.bounce(0);
    }
    machine.exit(0);
    assert_eq!(machine.read(0, ISACTIVER), 0);
    machine.finish();
}

#[test]
fn physical_interrupts_of_the_ranges_are_forwarded() {
    let machine = machine(2, 32, 32);
    let (vm, pin) = (&machine.vm, machine.pin());
    vm.connect_spi(&pin, spi(SPI + 1), spi(5119)).unwrap();
    vm.connect_spi(&pin, spi(SPI + 2), spi(70)).unwrap();
    vm.connect_spi(&pin, spi(40), spi(SPI)).unwrap();
    vm.connect_ppi(&pin, vcpu(0), ppi(PPI), ppi(1119)).unwrap();
    vm.connect_ppi(&pin, vcpu(1), ppi(PPI), ppi(1119)).unwrap();
    let taken = Err(InjectError::AlreadyConnected);
    assert_eq!(vm.connect_spi(&pin, spi(SPI + 3), spi(5119)), taken);
    assert_eq!(
        vm.connect_ppi(&pin, vcpu(0), ppi(PPI + 1), ppi(1119)),
        taken
    );
    let none = Err(InjectError::UnknownInterrupt);
    assert_eq!(
        vm.connect_spi(&pin, spi(SPI + 3), ppi(1119)),
        none,
        "no CPU's"
    );
    assert_eq!(vm.spi_connection(spi(SPI + 1)), Ok(Some(spi(5119))));
    assert_eq!(vm.ppi_connection(vcpu(0), ppi(PPI)), Ok(Some(ppi(1119))));
    machine.set_spi(0, 0x100, 40);
    drop(pin);

    // On the way through list registers, the guest deactivates them.
    machine.enter(0);
    let pin = machine.pin();
    for intid in [SPI + 1, SPI + 2, 40] {
        let _ = vm.forward_spi(&pin, spi(intid)).unwrap();
    }
    let _ = vm.forward_ppi(&pin, vcpu(0), ppi(PPI)).unwrap();
    let elsewhere = vm.forward_ppi(&pin, vcpu(1), ppi(PPI));
    assert_eq!(elsewhere.map(|_| ()), Err(InjectError::NotLoaded));
    drop(pin);
    machine.bounce(0);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let intid = machine.guest(0).read_iar1();
        seen.push(intid);
        machine.guest(0).write_eoir1(intid);
    }
    seen.sort_unstable();
    assert_eq!(seen, [40, PPI, SPI + 1, SPI + 2]);
    let mut ended = machine.guest(0).take_deactivations();
    ended.sort_unstable();
    assert_eq!(ended, [70, 1119, SPI, 5119]);
    machine.exit(0);

    // A put gives the PPI back, and the end of the VM the SPI.
    let pin = machine.pin();
    let _ = vm.forward_ppi(&pin, vcpu(0), ppi(PPI)).unwrap();
    let _ = vm.forward_spi(&pin, spi(SPI + 1)).unwrap();
    machine.vm.host().take_calls();
    vm.vcpu_put(&pin, vcpu(0)).unwrap();
    let ppi = PhysicalInterrupt::Ppi {
        cpu: CpuId(0),
        intid: ppi(1119),
    };
    assert_eq!(machine.vm.host().take_calls(), [Call::Deactivate(ppi)]);
    vm.disconnect_ppi(&pin, vcpu(1), self::ppi(PPI)).unwrap();
    machine.put_all();
    vm.teardown(&pin).unwrap();
    let spi = PhysicalInterrupt::Spi { intid: spi(5119) };
    assert_eq!(machine.vm.host().take_calls(), [Call::Deactivate(spi)]);
}

/// Puts a vCPU that owns every extended PPI: each is released, whatever bit notes its connection.
#[test]
fn a_put_releases_every_extended_ppi() {
    let machine = machine(1, 0, 64);
    let (vm, pin) = (&machine.vm, machine.pin());
    for n in 0..64 {
        vm.connect_ppi(&pin, vcpu(0), ppi(PPI + n), ppi(PPI + 63 - n))
            .unwrap();
    }
    machine.enter(0);
    for n in 0..64 {
        let _ = vm.forward_ppi(&pin, vcpu(0), ppi(PPI + n)).unwrap();
    }
    machine.exit(0);
    machine.vm.host().take_calls();
    vm.vcpu_put(&pin, vcpu(0)).unwrap();
    let released = machine.vm.host().take_calls();
    let mut released: Vec<u32> = released
        .into_iter()
        .map(|call| match call {
            Call::Deactivate(physical) => physical.intid().raw(),
            other => panic!("{other:?}"),
        })
        .collect();
    released.sort_unstable();
    assert_eq!(released, (PPI..PPI + 64).collect::<Vec<_>>());
    drop(pin);
    machine.finish();
}

#[test]
fn a_cpu_without_the_range_refuses_the_vcpus() {
    let with = |extended_range, config: Config| {
        let domain = Domain::new();
        let vtr = Vtr {
            extended_range,
            ..NEOVERSE
        };
        let local = domain.register(CpuId(0)).unwrap();
        let cpu = Cpu::new(local, SoftwareInterface::new(vtr));
        let vm = Vgic::new(&domain, config, TestHost::default()).unwrap();
        let entered = vm.enter(&cpu.pin(), vcpu(0));
        if entered.is_err() {
            assert!(vm.vcpu_put(&cpu.pin(), vcpu(0)).is_err(), "on no CPU");
        }
        entered
    };
    let refused = Err(EntryError::ExtendedRange);
    assert_eq!(with(false, config(1, 32, 0)), refused);
    assert_eq!(with(false, config(1, 0, 32)), refused);
    assert_eq!(with(false, config(1, 0, 0)), Ok(()));
    assert_eq!(with(true, config(1, 32, 64)), Ok(()));
    assert_eq!(with(true, config(1, 0, 0)), Ok(()));
    assert!(!Vtr::decode(u64::MAX).extended_range);
    assert!(NEOVERSE.with_icc_ctlr(1 << 19).extended_range);
    assert!(!NEOVERSE.with_icc_ctlr(!(1 << 19)).extended_range);
}

/// Reads the guest's own `ICC_CTLR_EL1.ExtRange`, which is the CPU's, also where it traps.
#[test]
fn a_guest_reads_the_range_of_its_cpu() {
    for (extended_range, traps_dir) in [(true, true), (true, false), (false, true), (false, false)]
    {
        let vtr = Vtr {
            extended_range,
            traps_dir,
            ..NEOVERSE
        };
        let machine = Machine::with_vtr(Domain::new().into(), 0, config(1, 0, 0), vtr);
        machine.enter(0);
        let value = machine.guest(0).read_ctlr().unwrap_or_else(|_| {
            let read = machine
                .vm
                .sysreg_read(&machine.pin(), vcpu(0), SysReg::Ctlr);
            read.unwrap()
        });
        assert_eq!(value >> 19 & 1 != 0, extended_range);
        machine.exit(0);
        machine.finish();
    }
}

#[test]
fn a_reset_is_of_extended_interrupts_too() {
    let machine = machine(2, 32, 32);
    let before = Machine::from_config(config(2, 32, 32));
    machine.write64(0, IROUTER, affinity(1).mpidr());
    edges(&machine, SPI);
    machine.inject_spi(SPI);
    machine.write(0, ISACTIVER, 2);
    inject_ppi(&machine, 1, PPI);
    machine.put_all();
    assert!(machine.save() != before.save());
    machine.vm.reset(&machine.pin()).unwrap();
    for n in 1..2 {
        machine.vm.power_on(vcpu(n));
    }
    assert!(machine.save() == before.save());
    machine.finish();
    before.finish();
}

#[test]
fn an_extended_ppi_goes_with_its_vcpu() {
    let machine = machine(2, 32, 32);
    inject_ppi(&machine, 1, PPI);
    edges(&machine, SPI);
    machine.write64(0, IROUTER, affinity(1).mpidr());
    machine.inject_spi(SPI);
    machine.power_off(1);
    machine.vm.remove_vcpu(&machine.pin(), vcpu(1)).unwrap();
    assert_eq!(machine.read(0, machine.gicr(1) + SGI_BASE + 0x204), 0);
    let added = machine.vm.add_vcpu(&machine.pin(), affinity(1));
    assert_eq!(added, Ok(vcpu(1)));
    let gicr = machine.gicr(1) + SGI_BASE;
    for at in [0x84, 0x104, 0x204, 0x304] {
        assert_eq!(machine.read(0, gicr + at), 0, "{at:#x}");
    }
    machine.vm.power_on(vcpu(1));
    machine.enter(1);
    machine.guest(1).write_igrpen1(true);
    machine.guest(1).write_pmr(0xf8).unwrap();
    machine.exit(1);
    assert_eq!(machine.serve(1), [SPI], "by its router");
    machine.finish();
}

#[test]
fn kvm_has_no_extended_interrupts() {
    let extended = config(1, 32, 0).with_its(GITS);
    let machine = Machine::from_config(extended.clone());
    let mut saved = Devices::of(extended.clone(), NEOVERSE, machine.save());
    machine.finish();
    let mut made = Devices::new(config(1, 0, 32), NEOVERSE);
    for devices in [&mut saved, &mut made] {
        for (group, attr) in [
            (group::DIST_REGS, 0),
            (group::DIST_REGS, 0x1200),
            (group::NR_IRQS, 0),
            (group::CTRL, control::INIT),
        ] {
            let attribute = Attribute {
                device: Device::Gic,
                group,
                attr,
            };
            assert_eq!(devices.has(attribute), Err(Errno::Nxio));
            assert_eq!(devices.get(attribute, &mut 0), Err(Errno::Nxio));
            let host = TestHost::default();
            assert_eq!(devices.set(attribute, 0, &host), Err(Errno::Nxio));
        }
    }
    assert_eq!(saved.finish().map(|_| ()), Err(Errno::Nxio));

    // Without the ranges, their registers are none of KVM's.
    let plain = Machine::from_config(config(1, 0, 0));
    let devices = Devices::of(config(1, 0, 0), NEOVERSE, plain.save());
    for (group, attr) in [
        (group::DIST_REGS, 0x1200),
        (group::DIST_REGS, 0x8000),
        (group::REDIST_REGS, SGI_BASE + 0x104),
    ] {
        let attribute = Attribute {
            device: Device::Gic,
            group,
            attr,
        };
        assert_eq!(devices.has(attribute), Err(Errno::Nxio), "{attr:#x}");
    }
    plain.finish();
}

#[test]
fn a_dump_shows_extended_interrupts() {
    let machine = machine(1, 32, 64);
    edges(&machine, SPI);
    machine.inject_spi(SPI + 2);
    inject_ppi(&machine, 0, 1119);
    let text = machine.vm.dump(&machine.pin()).to_string();
    let first = "SPIs 64, extended SPIs 4096-4127, extended PPIs 1056-1119\n";
    assert!(text.contains(first), "{text}");
    assert!(
        text.contains("  SPI 4098: priority 0x00, group 1;"),
        "{text}"
    );
    assert!(
        text.contains("  PPI 1119: priority 0x00, group 1, pending;"),
        "{text}"
    );
    let debug = format!("{:?}", machine.vm);
    assert!(
        debug.contains("extended_spis: 32, extended_ppis: 64"),
        "{debug}"
    );
    machine.finish();
}

#[test]
fn a_description_names_extended_interrupts() {
    for (intid, cells) in [
        (spi(32), [0, 0, LEVEL_HIGH]),
        (spi(1019), [0, 987, LEVEL_HIGH]),
        (ppi(16), [1, 0, LEVEL_HIGH]),
        (ppi(31), [1, 15, LEVEL_HIGH]),
        (spi(SPI), [2, 0, LEVEL_HIGH]),
        (spi(5119), [2, 1023, LEVEL_HIGH]),
        (ppi(PPI), [3, 0, LEVEL_HIGH]),
        (ppi(1119), [3, 63, LEVEL_HIGH]),
    ] {
        assert_eq!(device_tree::interrupt(intid, LEVEL_HIGH), cells);
    }
    assert_eq!(device_tree::interrupt(spi(SPI + 4), EDGE_RISING), [2, 4, 1]);

    let config = Config {
        maintenance: ppi(1057),
        ..config(1, 0, 32)
    };
    let node = device_tree::gic_node(&config, 1);
    let cells = Value::Cells(vec![3, 1, 4]);
    assert_eq!(node.property("interrupts"), Some(&cells));
    // After 8 bytes, and the 24 of the GICD structure.
    let gsiv = &acpi::madt(&config)[8 + 24 + 56..][..4];
    assert_eq!(gsiv, 1057_u32.to_le_bytes());
}

/// Reads the state of an extended SPI in another vCPU's list register, which takes a second try.
#[test]
fn the_state_in_a_list_register_is_read() {
    let machine = machine(2, 32, 0);
    edges(&machine, SPI);
    machine.write64(0, IROUTER, affinity(1).mpidr());
    machine.inject_spi(SPI);
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), SPI);
    let read = || machine.access(0, ISACTIVER, Width::Word, None);
    assert_eq!(read(), MmioOutcome::Retry);
    machine.bounce(1);
    assert_eq!(read(), MmioOutcome::Done(1));
    machine.guest(1).write_eoir1(SPI);
    machine.exit(1);
    machine.finish();
}

#[test]
fn a_frozen_vm_tells_of_late_extended_interrupts() {
    let machine = machine(2, 32, 32);
    edges(&machine, SPI);
    machine.inject_spi(SPI + 1);
    machine.put_all();
    let state = machine.vm.freeze(&machine.pin()).unwrap();
    machine.inject_spi(SPI + 2);
    inject_ppi(&machine, 1, PPI + 3);
    let line = machine
        .vm
        .set_ppi_line(&machine.pin(), vcpu(0), ppi(PPI + 4), true);
    line.unwrap();
    let late = machine.vm.take_late(&machine.pin(), &state).unwrap();
    let intids: Vec<u32> = late.iter().map(|late| late.intid).collect();
    assert_eq!(intids, [SPI + 2, PPI + 4, PPI + 3]);

    let target = self::machine(2, 32, 32);
    target.restore(&state).unwrap();
    for late in late {
        target.vm.inject_late(&target.pin(), late).unwrap();
    }
    target.enter(0);
    let mut served: Vec<u32> = (0..3)
        .map(|_| {
            let intid = target.guest(0).read_iar1();
            if intid == PPI + 4 {
                let line = target
                    .vm
                    .set_ppi_line(&target.pin(), vcpu(0), ppi(intid), false);
                line.unwrap();
            }
            target.guest(0).write_eoir1(intid);
            target.bounce(0);
            intid
        })
        .collect();
    target.exit(0);
    served.sort_unstable();
    assert_eq!(served, [PPI + 4, SPI + 1, SPI + 2]);
    assert_eq!(target.serve(1), [PPI + 3]);
    target.finish();

    // The move fails: what the freeze has taken is pending again.
    machine.vm.thaw(&machine.pin(), &state).unwrap();
    assert_eq!(machine.read(0, ISPENDR), 2);
    let again = machine.vm.thaw(&machine.pin(), &state);
    assert_eq!(again, Err(TeardownError::NotFrozen));
    machine.finish();
}
