//! `Vgic::reset`: the controller is as it was made, for a guest that reboots.

mod common;

use common::its::Driver;
use common::{Call, GICD, GITS, Machine, TestHost, affinity, vcpu};
use vgic::cpu_interface::software::NEOVERSE;
use vgic::intid::{CpuId, IntId};
use vgic::mmio::{MmioOutcome, Width};
use vgic::{ConfigError, EntryError, InjectError, PhysicalInterrupt, TeardownError};

/// Returns every word of every frame, with its address, as vCPU 0 reads it.
fn words(machine: &Machine) -> Vec<(u64, u64)> {
    let frames: Vec<(u64, u64)> = machine.vm.config().frames().collect();
    let addresses = frames
        .iter()
        .flat_map(|(base, size)| (*base..base + size).step_by(4));
    let read = |gpa| {
        let value = machine
            .vm
            .mmio_read(&machine.pin(), vcpu(0), gpa, Width::Word);
        match value {
            Ok(MmioOutcome::Done(value)) => (gpa, value),
            other => panic!("{gpa:#x}: {other:?}"),
        }
    };
    addresses.map(read).collect()
}

/// Programs everything that a guest can, and leaves interrupts in every state.
fn use_everything(machine: &Machine) {
    let driver = Driver::new(machine);
    driver.mapd(9, 3);
    for event in 0..4 {
        driver.map(9, event, 8192 + event, event % 2);
        machine.inject_msi(9, event as u32).unwrap();
    }
    for intid in 40..44 {
        machine.edge_spi(intid, 1);
        machine.write(0, GICD + 0x400 + u64::from(intid) / 4 * 4, 0x4040_4040);
        machine.inject_spi(intid);
    }
    machine.set_spi(0, 0x300, 43); // GICD_ISACTIVER
    machine.write64(0, GICD + 0x6000 + 44 * 8, 0xff); // GICD_IROUTER44: no vCPU
    machine.set_spi(0, 0x300, 44);
    // Otherwise as they were made.
    machine.set_spi(0, 0x80, 52); // GICD_IGROUPR
    machine.set_spi(0, 0x100, 53); // GICD_ISENABLER
    machine.set_spi(0, 0x200, 54); // GICD_ISPENDR
    machine.set_spi(0, 0x300, 55); // GICD_ISACTIVER
    machine.set_spi(0, 0x100, 50); // a level
    machine.write(0, GICD + 0x40, 50); // GICD_SETSPI_NSR
    machine.write(1, machine.gicr(1) + 0x1_0100, 0xffff_ffff);
    machine.write(1, machine.gicr(1) + 0x1_0200, 0x00f0_000f);
    machine.write(1, machine.gicr(1) + 0x1_0c04, 0xaaaa_aaaa);
    machine.enter(1);
    assert_ne!(
        machine.guest(1).read_iar1(),
        1023,
        "one is active in a list register"
    );
}

#[test]
fn every_register_is_as_it_was_made() {
    let fresh = Machine::bare(2);
    let machine = Machine::new(2);
    use_everything(&machine);
    machine.put_all();
    machine.vm.reset(&machine.pin()).unwrap();

    for (found, made) in words(&machine).into_iter().zip(words(&fresh)) {
        assert_eq!(
            found, made,
            "the address and the value after the reset, and of a new VM"
        );
    }
    assert!(
        machine.advance() <= 1,
        "at most the note of LPIs that have been freed"
    );
    assert!(machine.vm.is_powered_on(vcpu(0)) && !machine.vm.is_powered_on(vcpu(1)));
    let off = machine.vm.enter(&machine.cpus[1].pin(), vcpu(1));
    assert_eq!(off, Err(EntryError::PoweredOff(vcpu(1))));
    fresh.finish();
    machine.vm.power_on(vcpu(1));
    machine.finish();
}

/// Boots once more after the reset: nothing of the first life arrives in the second.
#[test]
fn a_guest_that_reboots_gets_what_it_asks_for_and_no_more() {
    let machine = Machine::new(2);
    for _ in 0..3 {
        use_everything(&machine);
        machine.put_all();
        machine.vm.reset(&machine.pin()).unwrap();
        machine.vm.power_on(vcpu(1));
        machine.set_up();
        machine.edge_spi(40, 1);
        assert_eq!(machine.serve(0), [0; 0]);
        assert_eq!(machine.serve(1), [0; 0]);
        machine.inject_spi(40);
        assert_eq!(machine.serve(1), [40]);
        machine.put_all();
        machine.vm.reset(&machine.pin()).unwrap();
        machine.vm.power_on(vcpu(1));
        machine.set_up();
    }
    machine.finish();
}

/// Resets a level that has been acknowledged and is still high: it waits for its line in the second
/// life, and the counters have it once more, and then no more.
#[test]
fn a_level_that_is_active_and_high_counts_again() {
    let machine = Machine::new(2);
    let spi = IntId::spi(50).unwrap();
    machine.set_spi(0, 0x100, 50);
    machine.vm.set_spi_line(&machine.pin(), spi, true).unwrap();
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 50);
    machine.exit(0);
    machine.put_all();
    machine.vm.reset(&machine.pin()).unwrap();
    machine.vm.set_spi_line(&machine.pin(), spi, false).unwrap();
    machine.finish();
}

/// Resets an SPI and a PPI. The last report of each field agrees with the register.
#[test]
fn the_reset_is_reported_to_the_host() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.write(1, machine.gicr(1) + 0x1_0100, 1 << 20 | 1 << 3);
    machine.write(1, machine.gicr(1) + 0x1_0c04, 2 << (2 * (20 - 16)));
    machine.put_all();
    machine.vm.host().take_calls();

    machine.vm.reset(&machine.pin()).unwrap();
    let reports = [
        Call::Enabled(None, 40, false),
        Call::Enabled(Some(1), 20, false),
        Call::Configured(None, 40, false),
        Call::Routed(40, Some(0)),
        Call::Configured(Some(1), 20, false),
    ];
    assert_eq!(machine.vm.host().take_calls(), reports);
    machine.finish();
}

/// Reads the binary points after the creation of a vCPU, its power-off, and a reset of the VM, on a
/// CPU with smaller binary points than most.
#[test]
fn a_cpu_interface_is_reset_alike_by_whatever_resets_it() {
    let vtr = vgic::cpu_interface::Vtr {
        priority_bits: 7,
        preemption_bits: 7,
        ..NEOVERSE
    };
    let config = vgic::Config::new(vec![affinity(0)]);
    let machine = Machine::with_vtr(Default::default(), 0, config, vtr);
    let points = || {
        machine.enter(0);
        let guest = machine.guest(0);
        let found = (guest.read_bpr0(), guest.read_bpr1());
        guest.write_bpr0(5);
        guest.write_bpr1(6);
        machine.exit(0);
        found
    };
    let made = points();
    machine.vm.power_off(&machine.pin(), vcpu(0)).unwrap();
    machine.vm.power_on(vcpu(0));
    let powered_off = points();
    machine.put_all();
    machine.vm.reset(&machine.pin()).unwrap();
    assert_eq!([made, powered_off, points()], [(2, 3); 3]);
    machine.finish();
}

/// Keeps what is the embedder's: lines, connections, added vCPUs. Gives physical interrupts back.
#[test]
fn what_is_the_embedders_stays() {
    let config = vgic::Config::new(vec![affinity(0)])
        .with_max_vcpus(2)
        .with_its(GITS);
    let machine = Machine::from_config(config);
    machine.vm.add_vcpu(&machine.pin(), affinity(1)).unwrap();
    machine.vm.power_on(vcpu(1));
    machine.set_up();
    let [line, forwarded] = [40, 41].map(|raw| IntId::spi(raw).unwrap());
    let physical = IntId::spi(141).unwrap();
    let pin = machine.pin();
    machine.vm.set_spi_line(&pin, line, true).unwrap();
    machine.vm.connect_spi(&pin, forwarded, physical).unwrap();
    let _ = machine.vm.forward_spi(&pin, forwarded).unwrap();
    machine.vm.host().take_calls();
    machine.put_all();

    machine.vm.reset(&pin).unwrap();
    let given_back = Call::Deactivate(PhysicalInterrupt::Spi { intid: physical });
    let calls = machine.vm.host().take_calls();
    assert_eq!(
        calls.iter().filter(|call| **call == given_back).count(),
        1,
        "{calls:?}"
    );
    assert_eq!(machine.vm.vcpu_count(), 2);
    assert_eq!(machine.vm.spi_line(line), Ok(true));
    assert_eq!(machine.vm.spi_connection(forwarded), Ok(Some(physical)));
    let _ = machine.vm.forward_spi(&pin, forwarded).unwrap();
    machine.vm.disconnect_spi(&pin, forwarded).unwrap();
    drop(pin);

    machine.vm.power_on(vcpu(1));
    machine.set_up();
    machine.set_spi(0, 0x100, 40);
    machine.enter(0);
    assert_eq!(machine.guest(0).read_iar1(), 40, "the line is still high");
    machine.finish();
}

/// Adds a vCPU, and connects an interrupt, in the middle of a reset and after a teardown.
#[test]
fn a_vm_does_not_grow_while_it_is_reset_nor_once_it_is_torn_down() {
    let machine = Machine::from_config(vgic::Config::new(vec![affinity(0)]).with_max_vcpus(2));
    machine.edge_spi(40, 0);
    machine.put_all();
    let grow = |vm: &vgic::Vgic<TestHost>, pin: &vgic::epoch::CpuPin<'_>| {
        let spi = IntId::spi(40).unwrap();
        assert_eq!(vm.connect_spi(pin, spi, spi), Err(InjectError::TornDown));
        assert_eq!(vm.add_vcpu(pin, affinity(1)), Err(ConfigError::TornDown));
    };
    let reset = machine.meanwhile("enabled", grow, || machine.vm.reset(&machine.pin()));
    assert_eq!(reset, Ok(()));

    assert_eq!(machine.vm.vcpu_count(), 1);
    let _ = machine.vm.teardown(&machine.pin()).unwrap();
    grow(&machine.vm, &machine.pin());
}

#[test]
fn a_vm_on_a_cpu_or_torn_down_is_not_reset() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.enter(1);
    let pin = machine.pin();
    machine.vm.vcpu_put(&pin, vcpu(0)).unwrap();
    assert_eq!(machine.vm.reset(&pin), Err(TeardownError::Loaded(vcpu(1))));
    drop(pin);
    machine.inject_spi(40);
    machine.exit(1);
    assert_eq!(machine.serve(1), [40], "the VM is as before");

    machine.put_all();
    let other = vgic::epoch::Domain::new();
    let foreign = other.register(CpuId(0)).unwrap();
    assert_eq!(
        machine.vm.reset(&foreign.pin()),
        Err(TeardownError::ForeignDomain)
    );
    machine.vm.teardown(&machine.pin()).unwrap();
    assert_eq!(
        machine.vm.reset(&machine.pin()),
        Err(TeardownError::TornDown)
    );
}
