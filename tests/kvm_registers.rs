//! `vgic::kvm`: each register is held against the guest's own accesses, and what there is not or
//! cannot be against KVM's error numbers.

mod common;

use common::attributes::{ITS, attribute, command, gic, icc, of_vcpu};
use common::its::Driver;
use common::kvm::{VALID, config, get, its, moved, save, use_everything};
use common::{GICD, GITS, Machine, affinity};
use vgic::Config;
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::ItsId;
use vgic::kvm::{Attribute, Device, Devices, Errno, address, control, group};
use vgic::state::{VmState, flags};

#[test]
fn attributes_that_there_are_not() {
    let machine = Machine::bare(2);
    let devices = save(&machine);
    let nxio = [
        gic(group::ADDR, 0),
        gic(group::ADDR, address::ITS),
        its(group::ADDR, address::DIST),
        of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 0)),
        gic(group::CTRL, control::SAVE_TABLES),
        its(group::CTRL, control::SAVE_PENDING_TABLES),
        gic(group::CTRL, 9),
        gic(group::ITS_REGS, 0),
        its(group::ITS_REGS, 0x10),
        its(group::ITS_REGS, 0x140),
        attribute(Device::Its(ItsId(1)), group::ITS_REGS, 0),
        its(group::DIST_REGS, 0),
        its(group::REDIST_REGS, 0),
        its(group::CPU_SYSREGS, icc(4, 6, 0)),
        its(group::LEVEL_INFO, 0),
        its(group::NR_IRQS, 0),
        gic(2, 0),
        gic(u32::MAX, u64::MAX),
    ];
    for attribute in nxio {
        let mut value = 0;
        let got = devices.get(attribute, &mut value);
        assert_eq!(got, Err(Errno::Nxio), "{attribute:x?}");
        assert_eq!(devices.has(attribute), Err(Errno::Nxio), "{attribute:x?}");
    }
    let inval = [
        of_vcpu(group::REDIST_REGS, affinity(2), 0),
        of_vcpu(group::CPU_SYSREGS, affinity(2), icc(4, 6, 0)),
        of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 8, 5)), // AP0R1, with 5 bits of preemption
        gic(group::LEVEL_INFO, 33),
        gic(group::LEVEL_INFO, 1 << 10),
        its(group::ITS_REGS, 0x81),
        its(group::ITS_REGS, 0x84),
        its(group::ITS_REGS, 1),
        its(group::ITS_REGS, 2),
        its(group::ITS_REGS, 0xffd1),
    ];
    for attribute in inval {
        let mut value = 0;
        let got = devices.get(attribute, &mut value);
        assert_eq!(got, Err(Errno::Inval), "{attribute:x?}");
    }
    machine.finish();
}

#[test]
fn values_that_cannot_be() {
    let machine = Machine::new(2);
    let _driver = Driver::new(&machine);
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let before = devices.clone().finish().unwrap();
    let ctlr = of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 4));
    let mut properties = 0;
    devices.get(ctlr, &mut properties).unwrap();
    let refused = [
        (gic(group::DIST_REGS, 8), 0x7600_1000, Errno::Inval), // the library's own IIDR
        (gic(group::DIST_REGS, 8), 0x4b00_143b, Errno::Inval),
        (gic(group::DIST_REGS, 8), 0x4b00_443b, Errno::Inval),
        (gic(group::DIST_REGS, 8), 0x4b00_343a, Errno::Inval),
        (gic(group::DIST_REGS, 0xc), 1, Errno::Inval), // TYPER2
        (ctlr, properties + (1 << 8), Errno::Inval),   // more bits of priority
        (ctlr, properties | 1 << 14, Errno::Inval),    // SErrors
        (
            of_vcpu(group::CPU_SYSREGS, affinity(0), icc(12, 12, 5)),
            0,
            Errno::Inval,
        ), // SRE
        (its(group::ITS_REGS, 4), 0x4b00_143b, Errno::Inval), // revision 1 of the tables
        (its(group::ITS_REGS, 0x90), 0, Errno::Busy),  // CREADR of an ITS that is enabled
        (command(ITS, control::RESTORE_TABLES), 0, Errno::Exist),
    ];
    for (attribute, value, error) in refused {
        let set = devices.set(attribute, value, host);
        assert_eq!(set, Err(error), "{attribute:x?}");
    }
    // Without effect.
    let ignored = [
        (gic(group::DIST_REGS, 8), 0x4b00_243b), // an older revision of KVM's
        (gic(group::DIST_REGS, 4), 0),
        (gic(group::DIST_REGS, 0x288), 0xffff_ffff), // ICPENDR
        (gic(group::DIST_REGS, 0x80), 0),            // IGROUPR of SGIs and PPIs
        (its(group::ITS_REGS, 0x100), 0),            // BASER of an ITS that is enabled
        (its(group::ITS_REGS, 0x80), 0),
        (of_vcpu(group::REDIST_REGS, affinity(0), 0x78), 0), // PENDBASER while LPIs are enabled
        (gic(group::LEVEL_INFO, 992), 0xf000_0000),          // beyond the last SPI
    ];
    for (attribute, value) in ignored {
        devices.set(attribute, value, host).unwrap();
    }
    assert!(devices.clone().finish().unwrap() == before);

    devices.set(its(group::ITS_REGS, 0), 0, host).unwrap();
    let queue = its(group::ITS_REGS, 0x90);
    assert_eq!(
        devices.set(queue, 0x1_0000, host),
        Err(Errno::Inval),
        "beyond the queue"
    );
    devices.set(command(ITS, control::RESET), 0, host).unwrap();
    let (_, state) = devices.finish().unwrap();
    assert_eq!(state.its, VmState::after_reset(machine.vm.config()).its);
    machine.finish();
}

/// Reads and writes whole frames, as crosvm does.
#[test]
fn registers_that_there_are_not_are_zero() {
    let machine = Machine::bare(2);
    let mut devices = save(&machine);
    let host = machine.vm.host();
    for attribute in [
        gic(group::DIST_REGS, 1),
        of_vcpu(group::REDIST_REGS, affinity(0), 1),
        gic(group::DIST_REGS, 0x105),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x1_0101),
        gic(group::DIST_REGS, 0x14),
        gic(group::DIST_REGS, 0x82),
        gic(group::DIST_REGS, 0x1_0000),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x18),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x1_0084),
        of_vcpu(group::REDIST_REGS, affinity(0), 0x1_0082),
    ] {
        assert_eq!(devices.has(attribute), Err(Errno::Nxio), "{attribute:x?}");
        let mut value = !0;
        devices.get(attribute, &mut value).unwrap();
        assert_eq!(value, 0, "{attribute:x?}");
        let before = devices.clone();
        devices.set(attribute, u64::MAX, host).unwrap();
        assert!(devices == before, "{attribute:x?}");
    }
    for attribute in [0xc, 0x10, 0x800, 0xbfc, 0xd04, 0xffd0, 0xfffc]
        .map(|at| gic(group::DIST_REGS, at))
        .into_iter()
        .chain(
            [0x10, 0xa0, 0xb0, 0xc0, 0x1_0d00, 0x1_0e00]
                .map(|at| of_vcpu(group::REDIST_REGS, affinity(0), at)),
        )
    {
        assert_eq!(devices.has(attribute), Ok(()), "{attribute:x?}");
    }

    let (_, before) = devices.clone().finish().unwrap();
    let distributor = (0..0x1_0000).map(|at| gic(group::DIST_REGS, at));
    let redistributor = (0..0x2_0000).map(|at| of_vcpu(group::REDIST_REGS, affinity(1), at));
    for attribute in distributor.chain(redistributor).step_by(4) {
        let mut value = 0;
        devices.get(attribute, &mut value).unwrap();
        devices.set(attribute, value, host).unwrap();
    }
    assert!(devices.finish().unwrap().1 == before);
    machine.finish();
}

#[test]
fn a_read_pointer_is_in_the_queue() {
    let machine = Machine::from_config(config());
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let creadr = its(group::ITS_REGS, 0x90);
    devices.set(creadr, 0x1f, host).unwrap();
    assert_eq!(devices.set(creadr, 0x20, host), Err(Errno::Inval), "none");
    let queue = VALID | 0x4001_0000;
    devices
        .set(its(group::ITS_REGS, 0x80), queue, host)
        .unwrap();
    assert_eq!(devices.set(creadr, 0x1000, host), Err(Errno::Inval));
    devices.set(creadr, 0xfe0, host).unwrap();
    let (_, state) = devices.finish().unwrap();
    machine.vm.restore(&machine.pin(), &state).unwrap();
    machine.finish();
}

/// Returns the offsets at which the attributes of a frame have other values than the guest reads,
/// with both.
fn differences(
    machine: &Machine,
    devices: &Devices,
    base: u64,
    attribute: impl Fn(u64) -> Attribute,
    size: u64,
) -> Vec<(u64, u64, u64)> {
    let read = |at| {
        let mut value = 0;
        devices.get(attribute(at), &mut value).unwrap();
        (at, value, u64::from(machine.read(0, base + at)))
    };
    let all = (0..size).step_by(4).map(read);
    all.filter(|(_, value, seen)| value != seen).collect()
}

#[test]
fn a_register_reads_as_the_guest_reads_it() {
    let everything = Machine::new(2);
    use_everything(&everything);
    let without_lpis = Machine::from_config(Config {
        lpis: 0,
        its: Vec::new(),
        ..config()
    });
    // ISPENDR is the latch, and not the lines of SPI 51 and PPI 20.
    let lines = [(0x204, 1 << 19)];
    for (machine, lines) in [(&everything, &lines[..]), (&without_lpis, &[])] {
        let state = machine.save();
        let devices = Devices::of(machine.vm.config().clone(), NEOVERSE, state);

        let gicd = |at| gic(group::DIST_REGS, at);
        let found = differences(machine, &devices, GICD, gicd, 0x1_0000);
        let found: Vec<_> = found.iter().filter(|(at, ..)| *at != 8).collect();
        for &&(at, value, seen) in &found {
            let is_clear = (0x280..0x300).contains(&at) && value == 0;
            let is_line = lines.contains(&(at, seen & !value)) && value & !seen == 0;
            assert!(is_clear || is_line, "GICD {at:#x}: {value:#x}, {seen:#x}");
        }

        for n in 0..2 {
            let gicr = |at| of_vcpu(group::REDIST_REGS, affinity(n), at);
            let found = differences(machine, &devices, machine.gicr(n), gicr, 0x2_0000);
            for (at, value, seen) in found.into_iter().filter(|(at, ..)| *at != 4) {
                let is_clear = at == 0x1_0280 && value == 0;
                let is_line = at == 0x1_0200 && seen & !value == 1 << 20 && n == 1;
                assert!(is_clear || is_line, "GICR {at:#x}: {value:#x}, {seen:#x}");
            }
        }
        if machine.vm.config().lpis == 0 {
            let ctlr = of_vcpu(group::REDIST_REGS, affinity(0), 0);
            let mut devices = devices.clone();
            devices.set(ctlr, 1, machine.vm.host()).unwrap();
            assert!(!devices.finish().unwrap().1.vcpus[0].enable_lpis);
        }
        for (attribute, identity) in [
            (gicd(8), 0x4b00_343b),
            (of_vcpu(group::REDIST_REGS, affinity(0), 4), 0x4b00_043b),
        ] {
            let mut value = 0;
            devices.get(attribute, &mut value).unwrap();
            assert_eq!(value, identity);
        }
    }
    without_lpis.finish();
    everything.finish();
}

#[test]
fn a_register_takes_what_the_guest_writes() {
    let machine = Machine::from_config(config());
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let gicd = |at| (gic(group::DIST_REGS, at), GICD + at);
    let gicr = |at| {
        let attribute = of_vcpu(group::REDIST_REGS, affinity(1), at);
        (attribute, machine.gicr(1) + at)
    };

    // Configurations before enables; clear bits after set bits.
    let blocks = [
        (0x0c0, 4),
        (0xc08, 8),
        (0x084, 4),
        (0x404, 64),
        (0x104, 4),
        (0x184, 4),
        (0x304, 4),
        (0x384, 4),
        (0x6100, 64),
    ];
    let mut registers = vec![gicd(0)];
    for (first, bytes) in blocks {
        registers.extend((first..first + bytes).step_by(4).map(gicd));
    }
    registers.extend([0x14, 0x70, 0x74, 0x78, 0x7c].map(gicr));
    for (first, bytes) in [(0xc00, 8), (0x080, 4), (0x400, 32), (0x100, 4), (0x180, 4)] {
        registers.extend(
            (first..first + bytes)
                .step_by(4)
                .map(|at| gicr(0x1_0000 | at)),
        );
    }
    registers.extend([0x300, 0x380].map(|at| gicr(0x1_0000 | at)));

    for value in [u32::MAX, 0x5a5a_a5a5, 0x1234_5678, 0] {
        for &(attribute, address) in &registers {
            devices.set(attribute, value.into(), host).unwrap();
            machine.write(1, address, value);
            machine.put_all();
            let (_, moved) = devices.clone().finish().unwrap();
            let mut state = machine.vm.save(&machine.pin()).unwrap();
            state.spis.iter_mut().for_each(|spi| spi.active_on = None);
            assert!(moved == state, "{attribute:x?} = {value:#x}");
        }
    }

    for (enable, propbaser) in [(1, u32::MAX), (0, 0)] {
        for (attribute, address, value) in [
            (gicr(0).0, gicr(0).1, enable),
            (gicr(0x70).0, gicr(0x70).1, propbaser),
            (gicr(0x78).0, gicr(0x78).1, propbaser),
        ] {
            devices.set(attribute, value.into(), host).unwrap();
            machine.write(1, address, value);
        }
        machine.advance();
        let state = machine.vm.save(&machine.pin()).unwrap();
        let (_, moved) = devices.clone().finish().unwrap();
        assert!(moved.vcpus == state.vcpus, "EnableLPIs {enable}");
        assert_eq!(moved.propbaser, state.propbaser);
    }
    machine.finish();
}

#[test]
fn a_register_of_an_its_is_as_the_guest_has_it() {
    let machine = Machine::from_config(config());
    let mut devices = save(&machine);
    let host = machine.vm.host();
    for value in [u64::MAX, 0x5a5a_a5a5_5a5a_a5a5, 0x1234_5678_9abc_def0, 0] {
        // BASER<n>, CBASER, CWRITER.
        for at in (0x100..0x140).step_by(8).chain([0x80, 0x88]) {
            devices.set(its(group::ITS_REGS, at), value, host).unwrap();
            machine.write64(0, GITS + at, value);
        }
        let (_, state) = devices.clone().finish().unwrap();
        let found = machine.vm.save(&machine.pin()).unwrap();
        assert_eq!(state.its, found.its, "{value:#x}");

        for at in [8, 0x80, 0x88, 0x90]
            .into_iter()
            .chain((0x100..0x140).step_by(8))
        {
            let read = get(&devices, its(group::ITS_REGS, at));
            assert_eq!(read, machine.read64(0, GITS + at), "{at:#x}");
        }
        for at in (0xffd0..0x1_0000).step_by(4) {
            let read = get(&devices, its(group::ITS_REGS, at));
            assert_eq!(read, machine.read(0, GITS + at).into(), "{at:#x}");
        }
        // Disabled, and quiescent unless commands wait.
        let quiescent = u64::from(state.its[0].creadr == state.its[0].cwriter) << 31;
        assert_eq!(get(&devices, its(group::ITS_REGS, 0)), quiescent);
    }
    assert_eq!(get(&devices, its(group::ITS_REGS, 4)), 0x4b00_043b);
    machine.finish();
}

#[test]
fn a_cpu_interface_is_as_the_guest_has_it() {
    let machine = Machine::new(2);
    let of = |register| of_vcpu(group::CPU_SYSREGS, affinity(1), register);
    let registers = [
        icc(4, 6, 0),
        icc(12, 8, 3),
        icc(12, 12, 3),
        icc(12, 12, 4),
        icc(12, 12, 6),
        icc(12, 12, 7),
        icc(12, 8, 4),
        icc(12, 9, 0),
    ];
    for n in 0..16_u8 {
        machine.enter(1);
        let guest = machine.guest(1);
        guest.write_pmr(n << 4 | 9).unwrap();
        guest.write_ctlr(0).unwrap();
        guest.write_bpr0(n & 7);
        guest.write_bpr1(n >> 1);
        guest.write_ctlr(u64::from(n & 3)).unwrap();
        guest.write_igrpen0(n & 4 != 0);
        guest.write_igrpen1(n & 8 == 0);
        guest.write_ap0r(0, 1 << n);
        guest.write_ap1r(0, 1 << (31 - n));
        let seen = [
            guest.read_pmr().unwrap().into(),
            guest.read_bpr0().into(),
            guest.read_bpr1().into(),
            guest.read_ctlr().unwrap(),
            guest.read_igrpen0().into(),
            guest.read_igrpen1().into(),
            guest.read_ap0r(0).into(),
            guest.read_ap1r(0).into(),
        ];
        machine.exit(1);

        let devices = save(&machine);
        let moved = moved(&machine, &devices);
        for devices in [&devices, &moved] {
            let found = registers.map(|register| get(devices, of(register)));
            assert_eq!(found, seen, "{n}");
            assert_eq!(get(devices, of(icc(12, 12, 5))), 7, "ICC_SRE_EL1");
        }
        // CBPR hides the binary point of Group 1.
        if n & 1 == 0 {
            assert!(moved.finish().unwrap().1 == devices.finish().unwrap().1);
        }
    }

    let mut devices = save(&machine);
    let set = |devices: &mut Devices, register, value| {
        devices.set(of(register), value, machine.vm.host()).unwrap();
        get(devices, of(register))
    };
    let (bpr0, bpr1, ctlr) = (icc(12, 8, 3), icc(12, 12, 3), icc(12, 12, 4));
    let properties = get(&devices, of(ctlr)) & !3;
    set(&mut devices, ctlr, properties);
    assert_eq!(set(&mut devices, bpr1, 5), 5);
    set(&mut devices, ctlr, properties | 1);
    for (common, group1) in [(2, 3), (6, 7), (7, 7)] {
        set(&mut devices, bpr0, common);
        assert_eq!(set(&mut devices, bpr1, 4), group1);
    }
    set(&mut devices, ctlr, properties);
    assert_eq!(get(&devices, of(bpr1)), 5, "as before");

    for enable in [0, 1] {
        let groups = [icc(12, 12, 6), icc(12, 12, 7)];
        for group in groups {
            set(&mut devices, group, enable);
        }
        for value in [3, 0] {
            set(&mut devices, ctlr, properties | value);
            assert_eq!(groups.map(|group| get(&devices, of(group))), [enable; 2]);
        }
    }
    machine.finish();
}

#[test]
fn a_message_is_a_latch_and_lines_are_of_wires() {
    let machine = Machine::new(2);
    machine.write(0, GICD + 0x40, 51); // GICD_SETSPI_NSR
    machine.write(0, GICD + 0x40, 52);
    machine.edge_spi(52, 0); // The message has no effect any more.
    assert!(machine.spi_bit(0, 0x200, 51) && !machine.spi_bit(0, 0x200, 52));
    machine.set_spi(0, 0x300, 40); // GICD_ISACTIVER
    machine.set_spi(0, 0x300, 41);
    let mut devices = save(&machine);
    let host = machine.vm.host();
    let bit = |intid: u32| 1_u64 << (intid - 32);
    let pending = gic(group::DIST_REGS, 0x204);
    assert_eq!(get(&devices, pending), bit(51));

    let spi = |devices: &Devices, intid: u32| {
        let (_, state) = devices.clone().finish().unwrap();
        state.spis[(intid - 32) as usize]
    };
    assert!(spi(&devices, 51).interrupt.has(flags::MESSAGE));
    assert_eq!(
        [40, 41].map(|intid| spi(&devices, intid).active_on),
        [Some(0); 2]
    );
    let deactivate = gic(group::DIST_REGS, 0x384);
    devices.set(deactivate, bit(40), host).unwrap();
    let kept = spi(&devices, 51).interrupt;
    assert_eq!(kept.flags, flags::LATCH | flags::GROUP1 | flags::LEVEL);
    assert_eq!(
        [40, 41].map(|intid| spi(&devices, intid).active_on),
        [None, Some(0)]
    );

    let lines = |vcpu, first| of_vcpu(group::LEVEL_INFO, affinity(vcpu), first);
    devices.set(lines(1, 0), 0xffff_ffff, host).unwrap();
    devices.set(lines(0, 32), 0x8000_0001, host).unwrap();
    devices.set(lines(0, 992), 0xffff_ffff, host).unwrap();
    for (vcpu, first, found) in [
        (0, 0, 0),
        (1, 0, 0xffff_0000),
        (1, 32, 0x8000_0001),
        (0, 64, 0),
        (0, 992, 0x0fff_ffff),
    ] {
        assert_eq!(get(&devices, lines(vcpu, first)), found, "{vcpu}, {first}");
    }
    for intid in [32, 63] {
        let raised = spi(&devices, intid).interrupt.flags;
        assert_eq!(raised & (flags::LINE | flags::LATCH), flags::LINE);
    }
    let (_, state) = devices.finish().unwrap();
    let raised = state.vcpus[1].private[20].flags;
    assert_eq!(raised & (flags::LINE | flags::LATCH), flags::LINE);
    let of_sgis = &state.vcpus[1].private[..16];
    assert!(of_sgis.iter().all(|sgi| !sgi.has(flags::LINE)));
    machine.finish();
}
