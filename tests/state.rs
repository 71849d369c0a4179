//! `Vgic::save` and `Vgic::restore`: nothing that a guest can observe changes, and a state that is
//! wrong anywhere changes nothing.

mod common;

use common::its::Driver;
use common::{Call, GICD, GITS, Machine, affinity, vcpu};
use vgic::intid::{CpuId, IntId, ItsId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::state::{CollectionState, DeviceState, EventState, VmState, flags};
#[cfg(feature = "serde")]
use vgic::state::{EXTENDED_VERSION, VERSION};
use vgic::{Config, EntryError, Host, RestoreError, TeardownError};

/// Returns every word of every frame, with its address, as vCPU 0 reads it.
fn words(machine: &Machine) -> Vec<(u64, u64)> {
    let frames = machine.vm.config().frames();
    let addresses = frames.flat_map(|(base, size)| (base..base + size).step_by(4));
    let read = |gpa| {
        let pin = machine.pin();
        match machine.vm.mmio_read(&pin, vcpu(0), gpa, Width::Word) {
            Ok(MmioOutcome::Done(value)) => (gpa, value),
            other => panic!("{gpa:#x}: {other:?}"),
        }
    };
    addresses.map(read).collect()
}

/// Programs everything that a guest can, and leaves interrupts in every state. Returns the one that
/// vCPU 1 has taken.
fn use_everything(machine: &Machine) -> u32 {
    let driver = Driver::new(machine);
    driver.mapd(9, 3);
    driver.mapd(2, 1);
    for event in 0..4 {
        driver.map(9, event, 8192 + event, event % 2);
        machine.inject_msi(9, event as u32).unwrap();
    }
    driver.map(2, 1, 8200, 1);
    driver.configure(8201, 0x40, false);
    for intid in 40..44 {
        machine.edge_spi(intid, 1);
        machine.inject_spi(intid);
    }
    machine.set_spi(0, 0x300, 43); // GICD_ISACTIVER
    machine.write64(0, GICD + 0x6000 + 44 * 8, 0xff); // GICD_IROUTER44: no vCPU
    machine.set_spi(0, 0x300, 44);
    machine.set_spi(0, 0x100, 50); // a level
    machine.write(0, GICD + 0x40, 50); // GICD_SETSPI_NSR
    let spi = IntId::spi(51).unwrap();
    machine.vm.set_spi_line(&machine.pin(), spi, true).unwrap();
    machine.write(1, machine.gicr(1) + 0x1_0100, 0xffff_ffff);
    machine.write(1, machine.gicr(1) + 0x1_0200, 0x00f0_000f);
    machine.enter(1);
    let taken = machine.guest(1).read_iar1();
    assert_ne!(taken, 1023);
    machine.exit(1);
    taken
}

/// Returns a VM with two vCPUs after the guest's set-up, with extended interrupts.
fn extended(spis: u32, ppis: u32) -> Machine {
    let machine = Machine::from_config(Config {
        extended_spis: spis,
        extended_ppis: ppis,
        ..Config::new((0..2).map(affinity).collect()).with_its(GITS)
    });
    machine.set_up();
    machine
}

/// Programs extended interrupts, and leaves some in every state.
fn use_extended(machine: &Machine) {
    let gicr = machine.gicr(1) + 0x1_0000;
    for at in [0x1000, 0x1200] {
        machine.write(0, GICD + at, 0xffff_fff7);
    }
    machine.write(0, GICD + 0x3000, 0b10_0010);
    for n in 0..4 {
        let router = if n == 3 { 0xff } else { affinity(1).mpidr() };
        machine.write64(0, GICD + 0x8000 + 8 * n, router);
    }
    machine.write(0, GICD + 0x1600, 0b1101);
    machine.write(0, GICD + 0x1a00, 0b0010);
    machine.write(0, GICD + 0x2004, 0x1020_3040);
    for n in [1, 2] {
        machine.write(1, gicr + 0x80 + 4 * n, u32::MAX);
        machine.write(1, gicr + 0x100 + 4 * n, u32::MAX);
    }
    machine.write(1, gicr + 0x204, 1 << 5);
    machine.write(1, gicr + 0x208, 1 << 31);
    machine.write(1, gicr + 0x304, 1 << 6);
    machine.write(1, gicr + 0xc14, 0b10 << 30);
    machine.write(1, gicr + 0x420, 0x4030_2010);
    let ppi = IntId::ppi(1064).unwrap();
    (machine.vm.set_ppi_line(&machine.pin(), vcpu(0), ppi, true)).unwrap();
}

/// Changes of the state of a VM with extended interrupts, and the errors that they lead to.
const WRONG_EXTENDED: &[Wrong] = &[
    (|s| s.version = 1, RestoreError::Version(1)),
    (
        |s| s.extended.spis.truncate(31),
        RestoreError::ExtendedSpis(31, 32),
    ),
    (
        |s| s.extended.ppis.truncate(64),
        RestoreError::ExtendedPpis(64, 128),
    ),
    (
        |s| s.extended.spis[31].interrupt.flags = 0x80,
        RestoreError::Interrupt(4127),
    ),
    (
        |s| s.extended.spis[0].router = 1 << 31,
        RestoreError::Register("GICD_IROUTER<n>"),
    ),
    (
        |s| s.extended.spis[5].active_on = Some(0),
        RestoreError::Interrupt(4101),
    ),
    (
        |s| s.extended.ppis[127].flags = flags::MESSAGE,
        RestoreError::Interrupt(1119),
    ),
    (
        |s| s.extended.ppis[64].priority = 4,
        RestoreError::Interrupt(1056),
    ),
    (
        |s| s.extended = vgic::state::ExtendedState::default(),
        RestoreError::ExtendedSpis(0, 32),
    ),
];

#[test]
fn extended_interrupts_are_saved_and_restored() {
    let source = extended(32, 64);
    let taken = use_everything(&source);
    use_extended(&source);
    let state = source.save();
    assert_eq!(state.extended.spis[1].active_on, Some(1));
    assert_eq!(state.extended.ppis.len(), 128);

    let target = extended(32, 64);
    for (change, error) in WRONG_EXTENDED {
        let mut wrong = state.clone();
        change(&mut wrong);
        let before = target.save();
        assert_eq!(target.restore(&wrong), Err(*error), "{error}");
        assert!(target.save() == before, "{error}");
    }
    for (spis, ppis, error) in [
        (0, 64, RestoreError::ExtendedSpis(32, 0)),
        (32, 32, RestoreError::ExtendedPpis(128, 64)),
    ] {
        let other = extended(spis, ppis);
        assert_eq!(other.restore(&state), Err(error));
        other.finish();
    }

    target.restore(&state).unwrap();
    assert_eq!(target.save(), state);
    assert_eq!(go_on(&target, taken), go_on(&source, taken));
    source.finish();
    target.finish();
}

/// Makes the state after reset of a configuration alone, which is that of a VM just made.
#[test]
fn the_state_after_reset_has_extended_interrupts() {
    let config = Config {
        extended_spis: 64,
        extended_ppis: 32,
        ..Config::new((0..2).map(affinity).collect())
    };
    let machine = Machine::from_config(config.clone());
    machine.power_off(1);
    assert_eq!(VmState::after_reset(&config), machine.save());
    machine.finish();
}

/// Ends the interrupt that vCPU 1 has taken, and takes and ends all others.
fn go_on(machine: &Machine, taken: u32) -> Vec<u32> {
    machine.enter(1);
    machine.guest(1).write_eoir1(taken);
    machine.exit(1);
    let mut served = machine.serve(1);
    // In any order among equal priorities.
    served.sort_unstable();
    served
}

/// Returns a VM that has been used, the interrupt that vCPU 1 has taken, and the state.
fn used() -> (Machine, u32, VmState) {
    let machine = Machine::new(2);
    let taken = use_everything(&machine);
    let state = machine.save();
    (machine, taken, state)
}

#[test]
fn another_vm_reads_as_the_saved_one() {
    let (source, taken, state) = used();
    let target = Machine::new(2);
    target.restore(&state).unwrap();
    assert_eq!(target.save(), state);
    for (found, saved) in words(&target).into_iter().zip(words(&source)) {
        assert_eq!(found, saved, "the address, and the values of both");
    }
    let goes_on = go_on(&target, taken);
    assert!(goes_on.len() > 4, "{goes_on:?}");
    assert_eq!(goes_on, go_on(&source, taken));
    source.finish();
    target.finish();
}

#[test]
fn a_vm_goes_on_after_a_save() {
    let (machine, taken, state) = used();
    assert_eq!(machine.save(), state, "a save changes nothing");
    let first = go_on(&machine, taken);
    assert_ne!(machine.save(), state);
    machine.restore(&state).unwrap();
    assert_eq!(go_on(&machine, taken), first, "all of them once more");
    machine.finish();
}

/// Lets vCPU 1 take SPI 40: active there, and on no CPU.
fn take_spi_40(source: &Machine) {
    source.edge_spi(40, 1);
    source.inject_spi(40);
    source.enter(1);
    assert_eq!(source.guest(1).read_iar1(), 40);
    source.exit(1);
}

/// Takes an SPI, routes it elsewhere, and saves the VM. The vCPU that has taken the SPI ends it.
#[test]
fn an_interrupt_that_was_routed_elsewhere_is_ended_where_it_was_taken() {
    let source = Machine::new(2);
    take_spi_40(&source);
    source.write64(0, GICD + 0x6000 + 40 * 8, 0);
    source.put_all();
    let state = source.save();
    assert_eq!(state.spis[40 - 32].active_on, Some(1));

    let target = Machine::new(2);
    target.restore(&state).unwrap();
    target.enter(1);
    target.guest(1).write_eoir1(40);
    target.exit(1);
    assert!(!target.spi_bit(0, 0x300, 40), "not active any more");
    target.inject_spi(40);
    assert_eq!(target.serve(0), [40]);
    source.finish();
    target.finish();
}

/// Saves while commands wait and one has been begun.
#[test]
fn commands_go_on_where_they_were() {
    let source = Machine::new(1);
    let driver = Driver::new(&source);
    driver.mapd(9, 8);
    let maps: Vec<_> = (0..200).map(mapti).collect();
    driver.send_all(&maps);
    driver.post(&[[0x0d, 0, 0, 0], [0x08 | 9 << 32, 7, 0, 0]]);
    source.put_all();
    let state = source.save();
    let its = &state.its[0];
    assert_ne!(its.creadr, its.cwriter, "the last command waits");

    let target = Machine::new(1);
    target.vm.host().copy_ram(source.vm.host());
    target.restore(&state).unwrap();
    target.advance();
    let after = target.save();
    assert_eq!(after.its[0].creadr, after.its[0].cwriter);
    assert!(after.its[0].devices.is_empty() && after.lpis.is_empty());
    source.finish();
    target.finish();
}

/// Returns `MAPTI` of an event of device 9 to collection 0.
fn mapti(event: u64) -> [u64; 4] {
    [0x0a | 9 << 32, event | (8192 + event) << 32, 0, 0]
}

#[test]
fn a_vcpu_that_was_removed_stays_away() {
    let source = Machine::new(3);
    source.power_off(2);
    source.vm.remove_vcpu(&source.pin(), vcpu(2)).unwrap();
    let state = source.save();
    assert_eq!(state.vcpus[2].affinity, None);

    let target = Machine::bare(3);
    let other = Err(RestoreError::Affinity(vcpu(2)));
    assert_eq!(target.restore(&state), other);
    target.power_off(2);
    target.vm.remove_vcpu(&target.pin(), vcpu(2)).unwrap();
    target.restore(&state).unwrap();
    let added = target.vm.add_vcpu(&target.pin(), affinity(2));
    assert_eq!(added, Ok(vcpu(2)));
    source.finish();
    target.finish();
}

#[test]
fn a_vcpu_on_a_cpu_is_not_saved_nor_restored() {
    let (machine, _, state) = used();
    machine.enter(1);
    let loaded = TeardownError::Loaded(vcpu(1));
    assert_eq!(machine.vm.save(&machine.pin()), Err(loaded));
    let restored = machine.vm.restore(&machine.pin(), &state);
    assert_eq!(restored, Err(loaded.into()));
    machine.exit(1);
    machine.put_all();
    machine.vm.teardown(&machine.pin()).unwrap();
    let torn_down = TeardownError::TornDown;
    assert_eq!(machine.vm.save(&machine.pin()), Err(torn_down));
    assert_eq!(machine.restore(&state), Err(torn_down.into()));
}

/// A change of a state, and the error that it leads to.
type Wrong = (fn(&mut VmState), RestoreError);

/// Every kind of a wrong state.
const WRONG: &[Wrong] = &[
    (|s| s.version = 2, RestoreError::Version(2)),
    (|s| s.group_enables = 4, RestoreError::Register("GICD_CTLR")),
    (
        |s| s.propbaser = 1 << 63,
        RestoreError::Register("GICR_PROPBASER"),
    ),
    (|s| s.spis.truncate(1), RestoreError::Spis(1, 988)),
    (
        |s| s.spis[8].interrupt.flags = 0x80,
        RestoreError::Interrupt(40),
    ),
    (
        |s| s.spis[8].interrupt.priority = 1,
        RestoreError::Interrupt(40),
    ),
    (
        |s| s.spis[28].active_on = Some(0),
        RestoreError::Interrupt(60),
    ),
    (
        |s| s.spis[11].active_on = Some(2),
        RestoreError::Interrupt(43),
    ),
    (
        |s| s.spis[8].router = 1 << 31,
        RestoreError::Register("GICD_IROUTER<n>"),
    ),
    (|s| s.vcpus.truncate(1), RestoreError::Vcpus(1, 2)),
    (|s| s.vcpus.swap(0, 1), RestoreError::Affinity(VCPU_0)),
    (
        |s| s.vcpus[1].affinity = None,
        RestoreError::Affinity(VCPU_1),
    ),
    (
        |s| s.vcpus[1].private[3].flags |= flags::LINE,
        RestoreError::Interrupt(3),
    ),
    (
        |s| s.vcpus[1].private[20].flags |= flags::MESSAGE,
        RestoreError::Interrupt(20),
    ),
    (
        |s| s.vcpus[1].pendbaser = 1,
        RestoreError::Register("GICR_PENDBASER"),
    ),
    (
        |s| s.vcpus[1].vmcr = 1 << 32,
        RestoreError::Register("ICH_VMCR_EL2"),
    ),
    (|s| s.lpis.swap(0, 1), RestoreError::Interrupt(8192)),
    (|s| s.lpis[0].intid = 8191, RestoreError::Interrupt(8191)),
    (
        |s| s.lpis[4].intid = 1 << 24,
        RestoreError::Interrupt(1 << 24),
    ),
    (
        |s| s.lpis[0].interrupt.flags |= flags::LEVEL,
        RestoreError::Interrupt(8192),
    ),
    (
        |s| s.lpis[0].interrupt.flags &= !flags::GROUP1,
        RestoreError::Interrupt(8192),
    ),
    (
        |s| s.lpis[0].target = Some(2),
        RestoreError::Interrupt(8192),
    ),
    (|s| s.lpis[0].icid = u16::MAX, RestoreError::Interrupt(8192)),
    (|s| s.lpis[4].intid = 8300, RestoreError::Event(ITS_0, 2, 1)),
    (|s| s.its.clear(), RestoreError::ItsCount(0, 1)),
    (
        |s| s.its[0].cbaser |= 1 << 62,
        RestoreError::Register("GITS_CBASER"),
    ),
    (
        |s| s.its[0].cwriter = 8,
        RestoreError::Register("GITS_CWRITER"),
    ),
    (
        |s| s.its[0].creadr = 0xf_ffe0,
        RestoreError::Register("GITS_CREADR"),
    ),
    (
        |s| s.its[0].device_table ^= 1 << 56,
        RestoreError::Register("GITS_BASER<n>"),
    ),
    (
        |s| s.its[0].collection_table = 0,
        RestoreError::Register("GITS_BASER<n>"),
    ),
    (
        |s| s.its[0].collections.swap(0, 1),
        RestoreError::Collection(ITS_0, 0),
    ),
    (
        |s| s.its[0].collections[1].vcpu = 2,
        RestoreError::Collection(ITS_0, 1),
    ),
    (
        |s| {
            s.its[0].collections.push(CollectionState {
                icid: u16::MAX,
                vcpu: 0,
            })
        },
        RestoreError::Collection(ITS_0, u16::MAX),
    ),
    (
        |s| s.its[0].devices.swap(0, 1),
        RestoreError::Device(ITS_0, 2),
    ),
    (
        |s| s.its[0].devices[1].device = u32::MAX,
        RestoreError::Device(ITS_0, u32::MAX),
    ),
    (
        |s| s.its[0].devices[1].event_bits = 0,
        RestoreError::Device(ITS_0, 9),
    ),
    (
        |s| s.its[0].devices[1].event_bits = 17,
        RestoreError::Device(ITS_0, 9),
    ),
    (
        |s| s.its[0].devices[1].itt |= 0x80,
        RestoreError::Device(ITS_0, 9),
    ),
    (
        |s| s.its[0].devices[1].itt |= 1 << 52,
        RestoreError::Device(ITS_0, 9),
    ),
    (
        |s| s.its[0].devices[1].event_bits = 1,
        RestoreError::Event(ITS_0, 9, 2),
    ),
    (
        |s| s.its[0].devices[1].events.swap(0, 1),
        RestoreError::Event(ITS_0, 9, 0),
    ),
    (
        |s| s.its[0].devices[1].events[0].intid = 8300,
        RestoreError::Event(ITS_0, 9, 0),
    ),
    (
        |s| s.its[0].devices[0].events.clear(),
        RestoreError::Interrupt(8200),
    ),
];

const VCPU_0: vgic::intid::VcpuId = vgic::intid::VcpuId::new(0).unwrap();
const VCPU_1: vgic::intid::VcpuId = vgic::intid::VcpuId::new(1).unwrap();
const ITS_0: ItsId = ItsId(0);

#[test]
fn a_state_that_is_wrong_anywhere_changes_nothing() {
    let (machine, _, state) = used();
    for (place, (spoil, error)) in WRONG.iter().enumerate() {
        let mut wrong = state.clone();
        spoil(&mut wrong);
        assert_ne!(wrong, state, "{place}: nothing is wrong");
        assert_eq!(machine.restore(&wrong), Err(*error), "{place}");
        assert!(
            machine.save() == state,
            "{place}: {error} has changed the VM"
        );
    }
    machine.finish();
}

/// A change of a state.
type Change<'a> = &'a dyn Fn(&mut VmState);

/// Changes of a state that are just right, or just wrong.
#[test]
fn the_bounds_of_a_state_are_exact() {
    let (machine, _, state) = used();
    let quotas = machine.vm.config().its[0];
    let collections = quotas.collections as u16;
    let changed = |change: Change<'_>| {
        let mut state = state.clone();
        change(&mut state);
        state
    };
    let mapped = |device, event_bits, count| DeviceState {
        device,
        itt: 0,
        event_bits,
        events: (0..count)
            .map(|event| EventState { event, intid: 8192 })
            .collect(),
    };

    let right: [Change<'_>; 8] = [
        &|s| s.propbaser |= 0xf,
        &|s| s.lpis[0].icid = collections - 1,
        &|s| s.vcpus[0].vmcr |= 1,
        &|s| s.its[0].creadr = 0xffe0,
        &|s| {
            let icid = collections - 1;
            s.its[0].collections.push(CollectionState { icid, vcpu: 0 });
        },
        // As many devices, and as many events, as the quotas allow.
        &|s| {
            s.lpis.truncate(1);
            let most = 0..quotas.max_devices;
            s.its[0].devices = most.map(|n| mapped(n, 1, u32::from(n == 0))).collect();
        },
        &|s| {
            s.lpis.truncate(1);
            let most = 0..quotas.max_events >> 16;
            s.its[0].devices = most.map(|n| mapped(n, 16, u32::from(n == 0))).collect();
        },
        &|s| {
            s.lpis.truncate(1);
            s.its[0].devices = vec![mapped(0, 15, 0x8000)];
        },
    ];
    for (place, change) in right.into_iter().enumerate() {
        let right = changed(change);
        // Until what the last one has mapped is freed.
        let unreclaimed = Err(TeardownError::Unreclaimed.into());
        let tries = std::iter::repeat_with(|| machine.restore(&right));
        let outcome = tries.take(100).find(|outcome| *outcome != unreclaimed);
        assert_eq!(outcome, Some(Ok(())), "{place}");
        assert!(machine.save() == right, "{place}");
    }

    let interrupt = RestoreError::Interrupt(8192);
    let twice = RestoreError::Collection(ITS_0, 0);
    let last = RestoreError::Collection(ITS_0, collections);
    let event = RestoreError::Event(ITS_0, 2, 1);
    let wrong: [(Change<'_>, RestoreError); 11] = [
        (&|s| s.lpis[0].icid = collections, interrupt),
        (&|s| s.lpis.insert(1, s.lpis[0]), interrupt),
        (
            &|s| s.its[0].cwriter |= 1,
            RestoreError::Register("GITS_CWRITER"),
        ),
        (
            &|s| s.its[0].creadr |= 1,
            RestoreError::Register("GITS_CREADR"),
        ),
        (
            &|s| s.its[0].creadr = 0x1_0000,
            RestoreError::Register("GITS_CREADR"),
        ),
        (
            &|s| {
                let collections = &mut s.its[0].collections;
                collections.insert(0, collections[0]);
            },
            twice,
        ),
        (
            &|s| {
                let icid = collections;
                s.its[0].collections.push(CollectionState { icid, vcpu: 0 });
            },
            last,
        ),
        (
            &|s| s.its[0].devices[0].itt |= 1,
            RestoreError::Device(ITS_0, 2),
        ),
        (
            &|s| {
                let devices = &mut s.its[0].devices;
                devices.insert(0, devices[0].clone());
            },
            RestoreError::Device(ITS_0, 2),
        ),
        (
            &|s| {
                let events = &mut s.its[0].devices[0].events;
                events.insert(0, events[0]);
            },
            event,
        ),
        (
            &|s| {
                s.lpis.truncate(1);
                s.its[0].devices = vec![mapped(0, 15, 0x8000), mapped(1, 1, 1)];
            },
            interrupt,
        ),
    ];
    let before = machine.save();
    for (place, (change, error)) in wrong.into_iter().enumerate() {
        assert_eq!(machine.restore(&changed(change)), Err(error), "{place}");
    }
    assert!(machine.save() == before);
    machine.finish();
}

/// Restores more devices, or more events, than the quotas allow.
#[test]
fn the_quotas_hold() {
    let (machine, _, state) = used();
    let config = machine.vm.config().its[0];
    let device = |device| DeviceState {
        device,
        itt: 0,
        event_bits: 1,
        events: Vec::<EventState>::new(),
    };
    let mut many = state.clone();
    let first = many.its[0].devices.last().unwrap().device + 1;
    many.its[0]
        .devices
        .extend((first..).take(config.max_devices as usize).map(device));
    assert_eq!(machine.restore(&many), Err(RestoreError::Quota(ITS_0)));

    let mut large = state.clone();
    let each = 1 << config.event_bits;
    large.its[0]
        .devices
        .extend(
            (first..)
                .take((config.max_events / each) as usize + 1)
                .map(|number| DeviceState {
                    event_bits: config.event_bits,
                    ..device(number)
                }),
        );
    assert_eq!(machine.restore(&large), Err(RestoreError::Quota(ITS_0)));
    assert!(machine.save() == state);
    machine.finish();
}

#[test]
fn a_vcpu_that_was_off_is_off() {
    let source = Machine::bare(2);
    source.power_off(1);
    let state = source.save();
    let target = Machine::new(2);
    target.restore(&state).unwrap();
    let entered = target.vm.enter(&target.cpus[1].pin(), vcpu(1));
    assert_eq!(entered, Err(EntryError::PoweredOff(vcpu(1))));
    assert_eq!(target.read(0, GITS), 0x8000_0000, "the ITS is off too");
    source.finish();
    target.vm.power_on(vcpu(1));
    target.finish();
}

/// Returns the file with the state of a version, in the form of `postcard`.
#[cfg(feature = "serde")]
fn file_of(version: u16) -> String {
    format!(
        "{}/tests/states/{version}.postcard",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// Returns a VM of the kind that has states of a version.
#[cfg(feature = "serde")]
fn machine_of(version: u16) -> Machine {
    match version {
        VERSION => Machine::new(2),
        _ => extended(32, 64),
    }
}

/// Restores the state of every version, as it was saved once. The guest finds what was left to it,
/// and a save has the bytes that it had then.
#[cfg(feature = "serde")]
#[test]
fn a_state_of_every_version_is_restored() {
    assert_eq!(
        (VERSION, EXTENDED_VERSION),
        (1, 2),
        "an older version needs its own types"
    );
    for version in [VERSION, EXTENDED_VERSION] {
        let bytes = std::fs::read(file_of(version)).unwrap();
        let state: VmState = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(state.version, version);
        let machine = machine_of(version);
        machine.restore(&state).unwrap();
        assert!(machine.save() == state);
        assert!(postcard::to_stdvec(&machine.save()).unwrap() == bytes);
        let served = go_on(&machine, 40);
        let mut expected = vec![0, 1, 2, 3, 20, 21, 22, 23, 41, 42];
        if version == EXTENDED_VERSION {
            expected.extend([1061, 1119, 4096, 4098]);
        }
        expected.extend([8193, 8195]);
        assert_eq!(served, expected, "{version}");
        machine.finish();
    }
}

/// Writes the state of the newest version. A version that has been written stays as it is.
#[cfg(feature = "serde")]
#[test]
#[ignore = "writes the file of a new version"]
fn the_state_of_a_new_version() {
    let machine = machine_of(EXTENDED_VERSION);
    use_everything(&machine);
    use_extended(&machine);
    let file = file_of(EXTENDED_VERSION);
    assert!(!std::fs::exists(&file).unwrap(), "written before");
    let bytes = postcard::to_stdvec(&machine.save()).unwrap();
    std::fs::write(file, bytes).unwrap();
    machine.finish();
}

/// Sends a state through the traits of `serde`, and holds its size to what the documentation says.
#[cfg(feature = "serde")]
#[test]
fn a_state_is_sent_in_any_form() {
    let (machine, _, state) = used();
    let sent = postcard::to_stdvec(&state).unwrap();
    let received: VmState = postcard::from_bytes(&sent).unwrap();
    assert_eq!(received, state);
    assert!(postcard::from_bytes::<VmState>(&sent[..sent.len() - 1]).is_err());
    let named = serde_json::to_string(&state).unwrap();
    assert!(!named.contains("extended"));
    assert_eq!(serde_json::from_str::<VmState>(&named).unwrap(), state);
    machine.finish();

    let machine = extended(32, 64);
    use_extended(&machine);
    let state = machine.save();
    let sent = postcard::to_stdvec(&state).unwrap();
    let received: VmState = postcard::from_bytes(&sent).unwrap();
    assert_eq!(received, state);
    assert!(postcard::from_bytes::<VmState>(&sent[..sent.len() - 1]).is_err());
    let named = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<VmState>(&named).unwrap(), state);
    machine.finish();

    let machine = Machine::bare(512);
    let sent = postcard::to_stdvec(&machine.save()).unwrap();
    assert!(sent.len() < 60_000, "{} bytes", sent.len());
    machine.finish();
}

/// Saves while the pending table of vCPU 1 waits for the fold of an LPI in a list register of vCPU
/// 0, which the put has done.
#[test]
fn a_pending_table_that_waited_is_written_before_the_save() {
    let machine = Machine::new(2);
    let its = Driver::new(&machine);
    its.mapd(7, 3);
    its.map(7, 0, 8200, 0);
    machine.inject_msi(7, 0).unwrap();
    machine.enter(0);
    its.movi(7, 0, 1);
    machine.write(1, machine.gicr(1), 0); // EnableLPIs
    machine.enter(1);
    machine.exit(1);
    machine.advance();
    assert!(!machine.vm.has_deferred(), "the table waits");

    let state = machine.save();
    assert_eq!(state.lpis[0].interrupt.flags & flags::LATCH, 0);
    let mut byte = [0];
    let table = common::its::pending_table(1) + 8200 / 8;
    machine.vm.host().read_memory(table, &mut byte).unwrap();
    assert_eq!(byte, [1], "the LPI is pending in the table");
    machine.finish();
}

/// Removes a vCPU that has an SPI active, and saves the VM: the state can be restored.
#[test]
fn an_spi_that_is_active_on_a_removed_vcpu_is_saved() {
    let source = Machine::new(2);
    take_spi_40(&source);
    let cpu = &source.cpus[1];
    source.vm.power_off(&cpu.pin(), vcpu(1)).unwrap();
    source.vm.remove_vcpu(&source.pin(), vcpu(1)).unwrap();
    let state = source.save();
    let spi = &state.spis[40 - 32];
    assert!(spi.interrupt.has(flags::ACTIVE) && spi.active_on.is_none());
    source.restore(&state).unwrap();
    assert_eq!(source.save(), state);
    source.finish();
}

/// Restores a VM with a vCPU that was put while blocked. Nobody is woken: the vCPU is not blocked
/// any more.
#[test]
fn a_restore_wakes_nobody() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    let state = machine.save();
    assert_eq!(machine.serve(1), [40]);
    assert_eq!(machine.block(1), vgic::Blocked::Yes);
    machine
        .vm
        .vcpu_put(&machine.cpus[1].pin(), vcpu(1))
        .unwrap();
    machine.vm.host().take_calls();
    machine.restore(&state).unwrap();
    let calls = machine.vm.host().take_calls();
    let wakes = calls.iter().filter(|call| matches!(call, Call::Wake(_)));
    assert_eq!(wakes.count(), 0);
    assert_eq!(machine.serve(1), [40]);
    machine.finish();
}

/// Saves on two CPUs at the same time, again and again: a save that another one keeps out leaves no
/// vCPU claimed.
#[test]
fn saves_at_the_same_time_leave_nothing_claimed() {
    let machine = Machine::new(3);
    machine.put_all();
    let times = if cfg!(miri) { 5 } else { 3000 };
    std::thread::scope(|scope| {
        for cpu in 10..12 {
            let (domain, vm) = (&machine.domain, &machine.vm);
            scope.spawn(move || {
                let local = domain.register(CpuId(cpu)).unwrap();
                (0..times).for_each(|_| drop(vm.save(&local.pin())));
            });
        }
    });
    machine.vm.save(&machine.pin()).unwrap();
    machine.finish();
}
