//! The redistributors' frames, PPIs and SGIs, through the library's public API.

mod common;

use common::{Call, GICD, GICR, Machine, affinity, vcpu};
use vgic::config::RedistributorRegion;
use vgic::intid::{Affinity, IntId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{Blocked, Config};

const SGI_BASE: u64 = 0x1_0000;
const ISENABLER0: u64 = SGI_BASE + 0x100;
const ICENABLER0: u64 = SGI_BASE + 0x180;
const ISPENDR0: u64 = SGI_BASE + 0x200;
const ICPENDR0: u64 = SGI_BASE + 0x280;
const ISACTIVER0: u64 = SGI_BASE + 0x300;
const ICACTIVER0: u64 = SGI_BASE + 0x380;
const RWP: u32 = 1 << 3;

/// Enables every SGI of every vCPU.
fn enable_sgis(machine: &Machine) {
    for n in 0..machine.vm.vcpu_count() {
        machine.write(n, machine.gicr(n) + ISENABLER0, 0xffff);
    }
}

/// Returns the value of `ICC_SGI1R_EL1` for one target.
fn sgi_to(affinity: Affinity, intid: u64) -> u64 {
    let [aff3, aff2, aff1, aff0] = affinity.packed().to_be_bytes().map(u64::from);
    aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | intid << 24 | aff1 << 16 | 1 << (aff0 & 0xf)
}

#[test]
fn typer_describes_each_vcpu() {
    let machine = Machine::bare(20);
    for n in 0..20 {
        let typer = machine.read64(19 - n, machine.gicr(n) + 8);
        assert_eq!(typer >> 32, u64::from(affinity(n).packed()));
        assert_eq!(typer >> 8 & 0xffff, n as u64, "Processor_Number");
        assert_eq!(typer >> 4 & 1, u64::from(n == 19), "Last");
        assert_eq!(typer & 1, 1, "PLPIS");
        assert_eq!(typer >> 24 & 3, 0, "CommonLPIAff");
        assert_eq!(machine.read(0, machine.gicr(n) + 8), typer as u32);
        assert_eq!(machine.read(0, machine.gicr(n) + 12), (typer >> 32) as u32);
    }
    machine.finish();
}

#[test]
fn several_regions_follow_each_other() {
    let machine = Machine::from_config(Config {
        redistributors: vec![
            RedistributorRegion {
                base: 0x4000_0000_0000,
                count: 2,
            },
            RedistributorRegion {
                base: 0x0900_0000,
                count: 3,
            },
        ],
        ..Config::new((0..4).map(affinity).collect())
    });

    let last: Vec<u64> = (0..4)
        .map(|n| machine.read64(0, machine.gicr(n) + 8) >> 4 & 1)
        .collect();
    assert_eq!(last, [0, 1, 0, 1], "of the region, and of the vCPUs");

    assert_eq!(machine.gicr(2), 0x0900_0000);
    machine.write(0, machine.gicr(3) + ISENABLER0, 1 << 20);
    assert_eq!(machine.read(1, 0x0902_0000 + ISENABLER0), 1 << 20);
    assert_eq!(machine.read(1, machine.gicr(1) + ISENABLER0), 0);

    // Space without a vCPU reads as zero. Addresses beyond the region are unclaimed.
    assert_eq!(machine.read(0, 0x0904_0000 + 0xffe8), 0);
    machine.write(0, 0x0904_0000 + ISENABLER0, 1);
    assert_eq!(
        machine.access(0, 0x0906_0000, Width::Word, None),
        MmioOutcome::Unclaimed
    );
    machine.finish();
}

#[test]
fn waker_follows_the_guest() {
    let machine = Machine::bare(1);
    assert_eq!(machine.read(0, GICR + 0x14), 0b110, "asleep after reset");
    machine.write(0, GICR + 0x14, 0);
    assert_eq!(machine.read(0, GICR + 0x14), 0);
    machine.write(0, GICR + 0x14, u32::MAX);
    assert_eq!(machine.read(0, GICR + 0x14), 0b110);
    machine.finish();
}

/// Puts a redistributor to sleep by `GICR_WAKER.ProcessorSleep`. All interrupts that arrive there
/// assert its wake request (IHI 0069, 11.1 and 12.11). The CPU interface has no say.
#[test]
fn a_sleeping_redistributor_asks_for_wake_up_whatever_the_cpu_interface_says() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    let waker = machine.gicr(1) + 0x14;

    machine.enter(1);
    machine.guest(1).write_igrpen1(false);
    machine.guest(1).write_pmr(0).unwrap();
    machine.exit(1);
    machine.inject_spi(40);
    assert_eq!(machine.block(1), Blocked::Yes, "awake, and held back");

    machine.vm.host().take_calls();
    machine.write(0, waker, 2);
    assert_eq!(machine.vm.host().take_calls(), [Call::Wake(1)]);
    assert_eq!(machine.block(1), Blocked::No, "asleep");

    // The interrupt's own state, and the distributor's group enable, still count.
    for (off, on) in [
        ((GICD, 0x10), (GICD, 0x13)),
        ((GICD + 0x184, 1 << 8), (GICD + 0x104, 1 << 8)),
        ((GICD + 0x304, 1 << 8), (GICD + 0x384, 1 << 8)),
    ] {
        machine.write(0, off.0, off.1);
        assert_eq!(machine.block(1), Blocked::Yes, "{off:x?}");
        machine.vm.host().take_calls();
        machine.write(0, on.0, on.1);
        assert!(machine.vm.host().take_calls().contains(&Call::Wake(1)));
        assert_eq!(machine.block(1), Blocked::No, "{on:x?}");
    }

    machine.write(0, waker, 0);
    assert_eq!(machine.block(1), Blocked::Yes, "awake again");
    machine.write(0, GICD + 0x284, 1 << 8);

    // One that comes while the vCPU sleeps.
    machine.write(0, waker, 2);
    assert_eq!(machine.block(1), Blocked::Yes, "nothing pending");
    machine.vm.host().take_calls();
    machine.inject_spi(40);
    assert_eq!(machine.vm.host().take_calls(), [Call::Wake(1)]);
    assert_eq!(machine.block(1), Blocked::No);
    machine.finish();
}

#[test]
fn every_set_has_its_clear_on_every_vcpu() {
    let machine = Machine::new(2);
    for owner in 0..2 {
        let base = machine.gicr(owner);
        for bit in [0, 15, 16, 27, 31] {
            for (set, clear) in [
                (ISENABLER0, ICENABLER0),
                (ISPENDR0, ICPENDR0),
                (ISACTIVER0, ICACTIVER0),
            ] {
                machine.write(1 - owner, base + set, 1 << bit);
                assert_eq!(machine.read(owner, base + set), 1 << bit, "{set:#x} {bit}");
                machine.write(owner, base + clear, 1 << bit);
                assert_eq!(machine.read(1 - owner, base + clear), 0);
            }
            let calls = machine.vm.host().take_calls();
            let told = calls.contains(&Call::Enabled(Some(owner), bit, true));
            assert_eq!(told, bit >= 16, "the host hears of PPIs only");
        }
    }

    // Priorities by byte and word, with five bits.
    machine.write(0, GICR + SGI_BASE + 0x41c, u32::MAX);
    machine.write_as(0, GICR + SGI_BASE + 0x41d, Width::Byte, 0x44);
    assert_eq!(machine.read(0, GICR + SGI_BASE + 0x41c), 0xf8f8_40f8);

    // SGIs are always edge-triggered. PPIs are configurable.
    machine.write(0, GICR + SGI_BASE + 0xc00, 0);
    assert_eq!(machine.read(0, GICR + SGI_BASE + 0xc00), 0xaaaa_aaaa);
    assert_eq!(machine.read(0, GICR + SGI_BASE + 0xc04), 0);
    machine.write(0, GICR + SGI_BASE + 0xc04, 2 << 22);
    assert_eq!(machine.read(0, GICR + SGI_BASE + 0xc04), 2 << 22);
    assert_eq!(
        machine.vm.host().take_calls(),
        [Call::Configured(Some(0), 27, true)]
    );

    machine.write(0, GICR + SGI_BASE + 0x80, 5);
    assert_eq!(machine.read(0, GICR + SGI_BASE + 0x80), 5);
    for at in [0xd00, 0xe00] {
        machine.write(0, GICR + SGI_BASE + at, u32::MAX);
        assert_eq!(machine.read(0, GICR + SGI_BASE + at), 0);
    }
    machine.finish();
}

#[test]
fn a_rising_line_of_an_edge_triggered_ppi_is_an_edge() {
    let machine = Machine::new(2);
    let ppi = IntId::ppi(27).unwrap();
    let line = |high| {
        let pin = machine.pin();
        machine.vm.set_ppi_line(&pin, vcpu(1), ppi, high).unwrap();
    };
    let redistributor = machine.gicr(1);
    machine.write(1, redistributor + ISENABLER0, 1 << 27);
    machine.write(1, redistributor + SGI_BASE + 0xc04, 0b10 << 22);

    line(true);
    line(false);
    assert_eq!(machine.read(0, redistributor + ISPENDR0), 1 << 27);
    assert_eq!(machine.serve(0), []);
    assert_eq!(machine.serve(1), [27]);
    line(true);
    line(true);
    assert_eq!(machine.serve(1), [27]);
    line(false);
    assert_eq!(machine.serve(1), []);
    machine.finish();
}

#[test]
fn a_ppi_belongs_to_its_vcpu() {
    let machine = Machine::new(2);
    let timer = IntId::ppi(27).unwrap();
    let line = |n, high| {
        machine
            .vm
            .set_ppi_line(&machine.pin(), vcpu(n), timer, high)
            .unwrap();
    };
    for n in 0..2 {
        machine.write(n, machine.gicr(n) + ISENABLER0, 1 << 27);
    }

    line(1, true);
    assert_eq!(machine.serve(0), []);
    machine.vm.host().take_calls();
    machine.enter(1);
    assert_eq!(machine.guest(1).read_iar1(), 27);
    line(1, false);
    machine.guest(1).write_eoir1(27);
    machine.exit(1);
    assert_eq!(machine.vm.host().take_calls(), [Call::Resample(1, 27)]);
    assert_eq!(machine.serve(1), []);

    // RWP is set in the one redistributor concerned.
    line(1, true);
    machine.enter(1);
    machine.write(0, machine.gicr(1) + ICENABLER0, 1 << 27);
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, RWP);
    assert_eq!(machine.read(0, machine.gicr(0)) & RWP, 0);
    assert_eq!(machine.read(0, GICD) >> 31, 0);

    machine.bounce(1);
    assert_eq!(machine.read(0, machine.gicr(1)) & RWP, 0);
    assert_eq!(machine.guest(1).read_iar1(), 1023);
    machine.finish();
}

#[test]
fn sgis_reach_whom_they_name() {
    let affinities: Vec<Affinity> = [
        (0, 0, 0, 0),
        (0, 0, 0, 15),
        (0, 0, 0, 16),
        (0, 0, 0, 255),
        (0, 0, 1, 0),
        (0, 7, 0, 0),
        (9, 0, 0, 0),
        (255, 254, 253, 252),
    ]
    .map(|(a3, a2, a1, a0)| Affinity::new(a3, a2, a1, a0))
    .into();

    let machine = Machine::from_config(Config::new(affinities.clone()));
    machine.set_up();
    enable_sgis(&machine);

    for sender in 0..affinities.len() {
        for (target, affinity) in affinities.iter().enumerate() {
            let intid = (sender + target) as u64 & 0xf;
            machine.sysreg(sender, SysReg::Sgi1r, sgi_to(*affinity, intid));
            for other in 0..affinities.len() {
                let expected: &[u32] = if other == target {
                    &[intid as u32]
                } else {
                    &[]
                };
                assert_eq!(machine.serve(other), expected, "{sender} to {affinity:?}");
            }
        }
    }

    // Targets without a vCPU.
    for absent in [(0, 0, 0, 1), (0, 0, 2, 0), (1, 1, 1, 1)] {
        let (a3, a2, a1, a0) = absent;
        machine.sysreg(0, SysReg::Sgi1r, sgi_to(Affinity::new(a3, a2, a1, a0), 3));
    }
    assert!((0..affinities.len()).all(|n| machine.serve(n).is_empty()));
    machine.finish();
}

#[test]
fn a_target_list_and_a_broadcast() {
    let machine = Machine::new(40);
    enable_sgis(&machine);

    // vCPUs 16-31 have Aff1 = 1: all except two.
    let list: u64 = 0xffff & !(1 << 3 | 1 << 7);
    machine.sysreg(0, SysReg::Sgi1r, 9 << 24 | 1 << 16 | list);
    for n in 0..40 {
        let named = (16..32).contains(&n) && n != 19 && n != 23;
        assert_eq!(
            machine.serve(n),
            if named { vec![9] } else { vec![] },
            "{n}"
        );
    }

    machine.sysreg(5, SysReg::Sgi1r, 1 << 40 | 2 << 24 | 0xffff);
    for n in 0..40 {
        assert_eq!(
            machine.serve(n),
            if n == 5 { vec![] } else { vec![2] },
            "{n}"
        );
    }
    machine.finish();
}

#[test]
fn sgis_respect_group_enable_and_coalesce() {
    let machine = Machine::new(2);
    let one = sgi_to(affinity(1), 4);
    machine.sysreg(0, SysReg::Sgi1r, one);
    assert_eq!(machine.serve(1), [], "disabled");
    assert_eq!(machine.read(0, machine.gicr(1) + ISPENDR0), 1 << 4);

    enable_sgis(&machine);
    machine.sysreg(0, SysReg::Sgi1r, one);
    assert_eq!(machine.serve(1), [4], "twice is once");

    // SGI0R and ASGI1R generate Group 0 SGIs only, SGI1R Group 1 SGIs only.
    machine.sysreg(0, SysReg::Sgi0r, one);
    machine.sysreg(0, SysReg::Asgi1r, one);
    assert_eq!(machine.serve(1), []);

    machine.write(1, machine.gicr(1) + SGI_BASE + 0x80, !(1 << 4));
    machine.sysreg(0, SysReg::Sgi1r, one);
    assert_eq!(machine.read(0, machine.gicr(1) + ISPENDR0), 0);
    for register in [SysReg::Sgi0r, SysReg::Asgi1r] {
        machine.sysreg(0, register, one);
        machine.enter(1);
        machine.guest(1).write_igrpen0(true);
        assert_eq!(machine.guest(1).read_iar0(), 4);
        machine.guest(1).write_eoir0(4);
        machine.exit(1);
    }
    machine.finish();
}

#[test]
fn sgis_kick_the_running_wake_the_blocked_and_wait_for_the_rest() {
    let machine = Machine::new(5);
    enable_sgis(&machine);

    machine.enter(1);
    assert_eq!(machine.block(2), Blocked::Yes);
    let cpu = &machine.cpus[3];
    machine.vm.vcpu_put(&cpu.pin(), vcpu(3)).unwrap();
    // vCPU 4 is out of the guest for an exit.
    machine.vm.host().take_calls();
    machine.sysreg(0, SysReg::Sgi1r, 1 << 40);
    assert_eq!(
        machine.vm.host().take_calls(),
        [Call::Kick(1, 1), Call::Wake(2), Call::Kick(4, 4)]
    );

    machine.sysreg(0, SysReg::Sgi1r, 1 << 40 | 1 << 24);
    assert_eq!(machine.vm.host().take_calls(), [], "notified already");

    machine.exit(1);
    for n in 1..5 {
        assert_eq!(machine.serve(n), [0, 1]);
    }
    machine.finish();
}

#[test]
fn registers_are_decoded_from_the_syndrome() {
    for (op2, register) in [
        (1, Some(SysReg::Dir)),
        (5, Some(SysReg::Sgi1r)),
        (6, Some(SysReg::Asgi1r)),
        (7, Some(SysReg::Sgi0r)),
        (3, Some(SysReg::Rpr)),
        (2, None),
    ] {
        assert_eq!(SysReg::decode(3, 0, 12, 11, op2), register);
    }
    assert_eq!(SysReg::decode(3, 0, 4, 6, 0), Some(SysReg::Pmr));
    assert_eq!(SysReg::decode(3, 0, 12, 12, 4), Some(SysReg::Ctlr));
    assert_eq!(SysReg::decode(3, 0, 12, 12, 5), Some(SysReg::Sre));
    assert_eq!(SysReg::decode(3, 0, 12, 10, 5), None);
    let machine = Machine::new(1);
    let read = |register| {
        machine
            .vm
            .sysreg_read(&machine.cpus[0].pin(), vcpu(0), register)
    };
    assert_eq!(read(SysReg::Sre), Some(7));
    assert_eq!(read(SysReg::Sgi1r), None);
    machine.sysreg(0, SysReg::Sre, 0);
    machine.finish();
}
