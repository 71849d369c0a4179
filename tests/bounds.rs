//! Bounded time: the largest work of one trap, entry or slice, in the library's own steps and in
//! reads of guest memory, for any preparation by the guest. The bounds are those of SECURITY.md.
#![cfg(all(debug_assertions, not(miri)))]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use common::its::{Driver, PROPERTIES};
use common::{GICD, GITS, Machine, RAM, affinity, vcpu};
use vgic::sysreg::SysReg;
use vgic::trace::steps;
use vgic::{Blocked, Config};

/// Bounds of each kind of operation: steps, and reads of guest memory.
const BOUNDS: [(&str, u64, u64); 15] = [
    ("register of 32 interrupts", 400, 0),
    ("IPRIORITYR, IROUTER, other registers", 50, 0),
    ("GICD_CTLR", 1_000, 0),
    ("SGI to all", 5_000, 0),
    ("ITS register, or a slice of its commands", 2_500, 160),
    ("GICR_INVALLR, or a slice of it", 4_000, 256),
    ("GICR_CTLR, or a slice of a pending table", 9_000, 257),
    ("injection", 30, 0),
    ("entry", 200, 0),
    ("exit", 100, 0),
    ("ICC_DIR_EL1", 50, 0),
    ("put, block, power", 100, 0),
    ("add_vcpu", 8_000, 0),
    ("remove_vcpu", 16_000, 0),
    (ADVANCE, 22_500, 673),
];

const ITS: &str = "ITS register, or a slice of its commands";
const LIFE: &str = "put, block, power";
/// The bound of a VM with one ITS.
const ADVANCE: &str = "advance, with everything deferred";

const SPIS: u64 = 988;
const VCPUS: usize = 4095;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const QUEUE: u64 = RAM + 0x40_0000;
const QUEUE_COMMANDS: u64 = 0x10_0000 / 32;
/// A device table with room for the largest size.
const DEVICES: u64 = RAM + 0x80_0000;
const VALID: u64 = 1 << 63;

/// The largest work measured of each kind of operation.
#[derive(Default)]
struct Meter(RefCell<BTreeMap<&'static str, (u64, u64)>>);

impl Meter {
    fn measure<R>(
        &self,
        machine: &Machine,
        kind: &'static str,
        operation: impl FnOnce() -> R,
    ) -> R {
        let reads = &machine.vm.host().reads;

        let before = (steps(), reads.load(Ordering::Relaxed));
        let result = operation();
        let (taken, read) = (steps() - before.0, reads.load(Ordering::Relaxed) - before.1);
        let (_, most, most_read) = BOUNDS.into_iter().find(|(name, ..)| *name == kind).unwrap();

        assert!(taken <= most, "{kind}: {taken} steps, at most {most}");
        assert!(
            read <= most_read,
            "{kind}: {read} reads, at most {most_read}"
        );

        let mut worst = self.0.borrow_mut();
        let worst = worst.entry(kind).or_default();
        *worst = (worst.0.max(taken), worst.1.max(read));
        machine.vm.host().take_calls();
        result
    }

    /// Measures a trap: an exit, a write, and an entry.
    fn write(&self, machine: &Machine, kind: &'static str, gpa: u64, value: u64) {
        self.measure(machine, kind, || machine.write(0, gpa, value as u32));
    }

    fn report(&self) {
        for (kind, (steps, reads)) in self.0.borrow().iter() {
            println!("{kind}: at most {steps} steps, {reads} reads");
        }
    }
}

/// Does at most `limit` slices of deferred work. Returns whether the work is done.
fn advance(meter: &Meter, machine: &Machine, kind: &'static str, limit: usize) -> bool {
    for _ in 0..limit {
        if !machine.vm.has_deferred() {
            return true;
        }
        meter.measure(machine, kind, || {
            machine.vm.advance(&machine.pin()).unwrap()
        });
    }
    false
}

/// Fills a 1 MiB queue with `command` of each place, and resets the queue for an execution from the
/// start.
fn fill_queue(machine: &Machine, command: impl Fn(u64) -> [u64; 4]) {
    for n in 0..QUEUE_COMMANDS - 1 {
        let bytes: Vec<u8> = command(n)
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        machine.vm.host().write_ram(QUEUE + n * 32, &bytes);
    }
    machine.write(0, GITS, 0);
    machine.write64(0, GITS + 0x80, VALID | QUEUE | 0xff);
    machine.write(0, GITS, 1);
}

/// Writes GITS_CWRITER for a full queue, polls as the guest, and advances as the hypervisor.
fn run_queue(meter: &Meter, machine: &Machine, slices: usize) -> bool {
    let end = (QUEUE_COMMANDS - 1) * 32;
    meter.measure(machine, ITS, || machine.write64(0, GITS + 0x88, end));
    for _ in 0..20 {
        meter.measure(machine, ITS, || machine.read64(0, GITS + 0x90));
    }
    advance(meter, machine, ITS, slices)
}

#[test]
fn storms_on_the_distributor_of_4095_vcpus() {
    let meter = Meter::default();
    let machine = Machine::from_config(Config::new((0..VCPUS).map(affinity).collect()));
    machine.set_up();
    for n in 0..VCPUS {
        machine.enter(n);
    }

    let banks = 1..SPIS / 32 + 1;
    // All SPIs are pending, spread over the vCPUs.
    for intid in 32..32 + SPIS {
        let router = GICD + 0x6000 + intid * 8;
        let target = affinity(intid as usize * 4 % VCPUS).mpidr();
        let kind = "IPRIORITYR, IROUTER, other registers";
        meter.measure(&machine, kind, || machine.write64(0, router, target));
        meter.write(&machine, kind, GICD + 0x400 + (intid & !3), intid << 3);
    }

    let kind = "register of 32 interrupts";
    for block in [ISENABLER, ISPENDR, 0x300] {
        banks
            .clone()
            .for_each(|n| meter.write(&machine, kind, GICD + block + 4 * n, u64::MAX));
    }

    for round in 0..8 {
        for n in 0..VCPUS {
            machine.exit(n);
            meter.measure(&machine, "entry", || machine.enter(n));
        }
        for n in banks.clone() {
            for at in [
                0x80 + 4 * n,
                0xc00 + 8 * n,
                ISENABLER + 4 * n,
                ISPENDR + 4 * n,
                ICENABLER + 4 * n,
            ] {
                let value = if round % 2 == 0 {
                    u64::MAX
                } else {
                    0xaaaa_aaaa
                };
                meter.write(&machine, kind, GICD + at, value);
                let _ = meter.measure(&machine, kind, || {
                    machine.access(0, GICD + at, vgic::mmio::Width::Word, None)
                });
            }
            for at in [0x280, 0x380] {
                meter.write(&machine, kind, GICD + at + 4 * n, u64::MAX);
            }
        }

        let groups = round % 4;
        meter.write(&machine, "GICD_CTLR", GICD, groups);
        meter.measure(&machine, "GICD_CTLR", || machine.read(0, GICD));
        assert!(advance(&meter, &machine, "GICD_CTLR", 100));
        // The first vCPU to be waited for is the last one.
        for n in 0..VCPUS - 1 {
            machine.exit(n);
            machine.enter(n);
        }
        for _ in 0..VCPUS / 64 + 2 {
            let ctlr = meter.measure(&machine, "GICD_CTLR", || machine.read(0, GICD));
            assert_ne!(ctlr & 1 << 31, 0, "the last vCPU is in the guest");
        }
        machine.exit(VCPUS - 1);
        machine.enter(VCPUS - 1);
        let ctlr = meter.measure(&machine, "GICD_CTLR", || machine.read(0, GICD));
        assert_eq!(ctlr & 1 << 31, 0, "every vCPU has left the guest");
        for intid in 0..16 {
            let value = intid << 24 | 1 << 40;
            meter.measure(&machine, "SGI to all", || {
                machine.sysreg(0, SysReg::Sgi1r, value)
            });
        }
        assert!(advance(&meter, &machine, "SGI to all", 16 * 8));
    }

    // Every vCPU blocks, is put and is powered off.
    for n in 0..VCPUS {
        machine.exit(n);
        let (cpu, vm) = (&machine.cpus[n], &machine.vm);
        // Debug builds check the list of a vCPU being put: the lists are short at this point.
        let life: [&dyn Fn() -> bool; 6] = [
            &|| vm.block(&cpu.pin(), vcpu(n)).is_ok(),
            &|| vm.vcpu_put(&cpu.pin(), vcpu(n)).is_ok(),
            &|| vm.enter(&cpu.pin(), vcpu(n)).is_ok(),
            &|| vm.exit(&cpu.pin(), vcpu(n)).is_ok(),
            &|| vm.power_off(&cpu.pin(), vcpu(n)).is_ok(),
            &|| vm.power_on(vcpu(n)),
        ];
        for step in life {
            assert!(meter.measure(&machine, LIFE, step));
        }
    }

    meter.report();
    machine.finish();
}

/// Routes every SPI to a vCPU not yet added, adds the vCPU, deactivates every interrupt, and
/// removes the vCPU.
#[test]
fn a_vcpu_is_added_ends_what_it_likes_and_is_removed() {
    let meter = Meter::default();
    let mut config = Config::new(vec![affinity(0)]).with_its(GITS);
    config.max_vcpus = 2;
    config.redistributors[0].count = 2;
    let machine = Machine::from_config(config);
    machine.set_up();

    for register in 1..SPIS / 32 + 1 {
        machine.write(0, GICD + ISENABLER + 4 * register, u32::MAX);
        machine.write(0, GICD + ISPENDR + 4 * register, u32::MAX);
    }
    for intid in 32..32 + SPIS {
        machine.write64(0, GICD + 0x6000 + intid * 8, affinity(1).mpidr());
    }

    let added = meter.measure(&machine, "add_vcpu", || {
        machine.vm.add_vcpu(&machine.pin(), affinity(1))
    });
    assert_eq!(added, Ok(vcpu(1)));

    machine.enter(0);
    // EOImode 1: an EOI is only a priority drop.
    machine.guest(0).write_ctlr(2).unwrap();
    machine.exit(0);

    // Every interrupt is active and pending.
    for register in 0..SPIS / 32 + 1 {
        machine.write(0, GICD + 0x300 + 4 * register, u32::MAX);
    }
    for intid in 0..SPIS + 32 {
        meter.measure(&machine, "ICC_DIR_EL1", || {
            machine.sysreg(0, SysReg::Dir, intid)
        });
    }

    // Every SPI is on the list of the vCPU that is removed, and so are its own interrupts.
    for register in 0..SPIS / 32 + 1 {
        let private = machine.gicr(1) + 0x1_0000;
        for (block, gicr) in [(ISENABLER, private), (ISPENDR, private)] {
            machine.write(0, gicr + block, u32::MAX);
            machine.write(0, GICD + block + 4 * register, u32::MAX);
        }
    }
    meter
        .measure(&machine, "remove_vcpu", || {
            machine.vm.remove_vcpu(&machine.pin(), vcpu(1))
        })
        .unwrap();
    assert!(advance(&meter, &machine, ITS, 10));

    meter.report();
    machine.finish();
}

/// Measures the registers of extended interrupts with every one of them pending and active on vCPUs
/// with full lists, their deactivation, and a vCPU's lists with as many PPIs as there may be.
#[test]
fn registers_of_extended_interrupts() {
    let meter = Meter::default();
    let machine = Machine::from_config(Config {
        extended_spis: 1024,
        extended_ppis: 64,
        ..Config::new((0..2).map(affinity).collect())
    });
    machine.set_up();
    let blocks = (0..7).map(|n| {
        (
            GICD + 0x1000 + 0x200 * n,
            GICD + 0x1000 + 0x200 * n + 4 * 31,
        )
    });
    let private = machine.gicr(1) + 0x1_0000;
    let ppis = (0..7).map(|n| (private + 0x84 + 0x80 * n, private + 0x88 + 0x80 * n));
    let blocks: Vec<_> = blocks.chain(ppis).collect();
    for spi in 0..1024 {
        let router = GICD + 0x8000 + 8 * spi;
        machine.write64(0, router, affinity(1).mpidr());
    }

    // In the order of the blocks: groups, enables, pending states, active states.
    for on in [0, 1] {
        for (first, last) in blocks.iter().copied() {
            for register in (first..=last).step_by(4) {
                let bits = if on == 0 { u32::MAX } else { 0x5555_aaaa };
                meter.write(&machine, "register of 32 interrupts", register, bits.into());
            }
        }
        machine.enter(1);
        for register in (GICD + 0x1600..GICD + 0x1680).step_by(4) {
            meter.write(
                &machine,
                "register of 32 interrupts",
                register,
                u32::MAX.into(),
            );
        }
        machine.exit(1);
    }
    for at in [0x2000, 0x23fc, 0x8000, 0x9ffc] {
        let kind = "IPRIORITYR, IROUTER, other registers";
        meter.write(&machine, kind, GICD + at, u32::MAX.into());
    }

    machine.enter(0);
    machine.guest(0).write_ctlr(2).unwrap();
    machine.exit(0);
    for intid in (4096..5120).chain(1056..1120) {
        meter.measure(&machine, "ICC_DIR_EL1", || {
            machine.sysreg(0, SysReg::Dir, intid)
        });
    }

    meter.measure(&machine, "entry", || machine.enter(1));
    meter.measure(&machine, "exit", || machine.exit(1));
    meter.measure(&machine, LIFE, || {
        (machine.vm.vcpu_put(&machine.cpus[1].pin(), vcpu(1))).unwrap();
    });
    meter.report();
    machine.finish();
}

/// Returns a VM with 65,536 LPIs, after the guest's set-up.
fn with_most_lpis(vcpus: usize, device_bits: u8) -> Machine {
    let mut config = Config::new((0..vcpus).map(affinity).collect()).with_its(GITS);
    config.lpis = 0x1_0000;
    config.its[0].device_bits = device_bits;
    let machine = Machine::from_config(config);
    machine.set_up();
    machine
}

/// Measures the longest commands, with devices and events as far apart as possible.
#[test]
fn full_queues_of_the_longest_commands() {
    let machine = with_most_lpis(4, 16);
    let _driver = Driver::new(&machine);
    machine.write(0, GITS, 0);
    // 64 KiB pages: the device table has room for 16 bits of DeviceID.
    machine.write64(0, GITS + 0x100, VALID | 0x200 | DEVICES | 7);
    machine.write(0, GITS, 1);
    machine.advance();
    run_longest_commands(machine, |n| n * 257 % 0x1_0000);
}

/// Measures the longest commands with 32-bit DeviceIDs. Every device has a path of three table
/// nodes of its own.
#[test]
fn full_queues_of_the_longest_commands_with_32_bit_device_ids() {
    let machine = with_most_lpis(4, 32);
    let _driver = Driver::new(&machine);
    machine.write(0, GITS, 0);
    // A page of the second level has 2^13 entries. All first-level entries share one page.
    let device = |n: u64| n * 0x0101_0101 % 0x1_0000_0000;
    for n in 0..255 {
        let entry = VALID | (DEVICES + 0x40_0000);
        let at = DEVICES + (device(n) >> 13) * 8;
        machine.vm.host().write_ram(at, &entry.to_le_bytes());
    }
    machine.write64(0, GITS + 0x100, VALID | 1 << 62 | 0x200 | DEVICES | 63);
    machine.write(0, GITS, 1);
    machine.advance();
    run_longest_commands(machine, device);
}

fn run_longest_commands(machine: Machine, device: impl Fn(u64) -> u64) {
    let meter = Meter::default();
    let stop = || {
        // A new queue is accepted after the end of the command in progress.
        machine.write(0, GITS, 0);
        assert!(advance(&meter, &machine, ITS, 10_000));
    };

    stop();
    fill_queue(&machine, |n| match n {
        0 => [0x09, 0, VALID, 0],
        1..255 => [0x08 | device(n) << 32, 9, VALID, 0],
        _ => {
            let (n, event) = (1 + n % 254, n / 254 * 7 % 1024);
            [
                0x0a | device(n) << 32,
                event | (8192 + (n * 251 + event) % 0x1_0000) << 32,
                0,
                0,
            ]
        }
    });

    assert!(
        run_queue(&meter, &machine, 20_000),
        "some thousands of events are mapped"
    );

    for n in 2..255 {
        machine.inject_msi(device(n) as u32, 7).unwrap();
    }
    for n in 0..4 {
        machine.enter(n);
    }

    // Each of these commands visits every event. The queue takes long, and no CPU waits.
    for command in [
        [0x0d, 0, 0, 0],
        [0x0e, 0, 0, 1 << 16],
        [0x09, 0, VALID, 0],
        [0x03 | device(3) << 32, 7, 0, 0],
    ] {
        stop();
        fill_queue(&machine, |_| command);
        run_queue(&meter, &machine, 200);
    }

    // A collection moving with every command.
    stop();
    fill_queue(&machine, |n| [0x09, 0, VALID | (n % 4) << 16, 0]);
    run_queue(&meter, &machine, 200);

    // Devices mapped anew: each command searches for all events of the device.
    stop();
    fill_queue(&machine, |n| {
        [0x08 | device(1 + n % 254) << 32, 9, VALID, 0]
    });
    run_queue(&meter, &machine, 200);

    // The device table goes, and every device at once.
    stop();
    meter.measure(&machine, ITS, || machine.write64(0, GITS + 0x100, 0));
    assert!(advance(&meter, &machine, ITS, 5_000));
    meter.report();
    machine.finish();
}

#[test]
fn a_vcpu_with_65536_pending_lpis() {
    let meter = Meter::default();
    let machine = with_most_lpis(2, 16);
    let driver = Driver::new(&machine);
    for intid in 0..0x1_0000 {
        let byte = ((intid % 32) as u8) << 3 | 1;
        machine.vm.host().write_ram(PROPERTIES + intid, &[byte]);
    }

    driver.mapd(0, 16);
    for half in 0..3 {
        machine.write(0, GITS, 0);
        machine.advance();
        fill_queue(&machine, |n| {
            let event = (half * (QUEUE_COMMANDS - 1) + n) % 0x1_0000;
            [0x0a, event | (8192 + event) << 32, 0, 0]
        });
        assert!(run_queue(&meter, &machine, 10_000));
    }

    machine.enter(0);
    for event in 0..0x1_0000 {
        meter.measure(&machine, "injection", || {
            machine.inject_msi(0, event).unwrap()
        });
    }

    for _ in 0..200 {
        meter.measure(&machine, "exit", || machine.exit(0));
        meter.measure(&machine, "entry", || machine.enter(0));
        let intid = machine.guest(0).read_iar1();
        assert!(intid >= 8192);
        machine.guest(0).write_eoir1(intid);
    }

    // All LPIs move to another vCPU, and back.
    let stop = || {
        machine.write(0, GITS, 0);
        assert!(advance(&meter, &machine, ITS, 10_000));
    };
    stop();
    fill_queue(&machine, |n| [0x0e, 0, (n & 1) << 16, (n & 1 ^ 1) << 16]);
    run_queue(&meter, &machine, 1_300);
    stop();

    // The vCPU executes WFI.
    meter.measure(&machine, "exit", || machine.exit(0));
    let cpu = &machine.cpus[0];
    let blocked = meter.measure(&machine, LIFE, || machine.vm.block(&cpu.pin(), vcpu(0)));
    assert_eq!(blocked, Ok(Blocked::No));
    meter.measure(&machine, "entry", || machine.enter(0));

    // Every kind of long work at once.
    fill_queue(&machine, |_| [0x0d, 0, 0, 0]);
    machine.write64(0, GITS + 0x88, (QUEUE_COMMANDS - 1) * 32);
    for n in [0, 1] {
        machine.write(n, machine.gicr(n), 0);
        machine.write(n, machine.gicr(n), 1);
    }
    for _ in 0..300 {
        meter.measure(&machine, ADVANCE, || {
            machine.vm.advance(&machine.pin()).unwrap()
        });
    }

    stop();
    let kind = "GICR_CTLR, or a slice of a pending table";
    for enable in [0, 1] {
        meter.write(&machine, kind, machine.gicr(0), enable);
        assert!(advance(&meter, &machine, kind, 1_000));
        meter.measure(&machine, "exit", || machine.exit(0));
        meter.measure(&machine, "entry", || machine.enter(0));
        // The vCPU has folded: every LPI that is pending is stored.
        assert!(advance(&meter, &machine, kind, 1_000));
    }

    let kind = "GICR_INVALLR, or a slice of it";
    // Every LPI changes its priority, and then is disabled.
    for shift in [1, 0] {
        for intid in 0..0x1_0000 {
            let byte = ((intid % 31) as u8) << 3 | shift;
            machine.vm.host().write_ram(PROPERTIES + intid, &[byte]);
        }
        meter.write(&machine, kind, machine.gicr(0) + 0xb0, 0);
        assert!(advance(&meter, &machine, kind, 1_000));
        meter.measure(&machine, "exit", || machine.exit(0));
        meter.measure(&machine, "entry", || machine.enter(0));
    }

    // The device is unmapped, with all of its LPIs.
    machine.exit(0);
    machine.vm.vcpu_put(&machine.pin(), vcpu(0)).unwrap();
    machine.write(0, GITS, 0);
    machine.advance();
    fill_queue(&machine, |_| [0x08, 0, 0, 0]);
    assert!(run_queue(&meter, &machine, 10_000));
    meter.report();
    machine.finish();
}
