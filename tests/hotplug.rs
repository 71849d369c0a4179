//! vCPUs that are removed, and added again.

mod common;

use common::its::Driver;
use common::{Call, GICD, Machine, affinity, vcpu};
use vgic::config::RedistributorRegion;
use vgic::intid::{Affinity, IntId};
use vgic::sysreg::SysReg;
use vgic::{AccessError, Config, ConfigError, EntryError, InjectError, RemoveError};

const ISENABLER: u64 = 0x100;
const ISPENDR: u64 = 0x200;
const SGI_BASE: u64 = 0x1_0000;

fn remove(machine: &Machine, n: usize) {
    if machine.vm.vcpu_cpu(vcpu(n)).is_none() && machine.vm.is_powered_on(vcpu(n)) {
        machine.enter(n);
        machine.exit(n);
    }
    if machine.vm.is_powered_on(vcpu(n)) {
        let cpu = &machine.cpus[n];
        machine.vm.power_off(&cpu.pin(), vcpu(n)).unwrap();
    }
    machine.vm.remove_vcpu(&machine.pin(), vcpu(n)).unwrap();
}

fn add(machine: &Machine, n: usize) {
    let added = machine.vm.add_vcpu(&machine.pin(), affinity(n));
    assert_eq!(added, Ok(vcpu(n)));
    assert!(machine.vm.power_on(vcpu(n)));
    machine.write(0, machine.gicr(n) + 0x14, 0);
    machine.write(0, machine.gicr(n) + SGI_BASE + 0x80, u32::MAX);
    machine.enter(n);
    machine.guest(n).write_igrpen1(true);
    machine.guest(n).write_pmr(0xf8).unwrap();
    machine.exit(n);
}

#[test]
fn a_vcpu_that_is_in_use_is_not_removed() {
    let machine = Machine::new(2);
    let remove = |n| machine.vm.remove_vcpu(&machine.pin(), vcpu(n));
    assert_eq!(remove(0), Err(RemoveError::FirstVcpu));
    assert_eq!(remove(2), Err(RemoveError::UnknownVcpu(vcpu(2))));
    assert_eq!(remove(1), Err(RemoveError::Loaded(vcpu(1))));
    machine.put_all();
    assert_eq!(remove(1), Err(RemoveError::PoweredOn(vcpu(1))));
    machine.power_off(1);
    assert_eq!(remove(1), Ok(()));
    assert_eq!(remove(1), Err(RemoveError::UnknownVcpu(vcpu(1))));
    machine.finish();
}

#[test]
fn a_removed_vcpu_is_unknown() {
    let machine = Machine::new(3);
    remove(&machine, 1);
    let (vm, pin, id) = (&machine.vm, machine.pin(), vcpu(1));
    assert_eq!(vm.find_vcpu(&pin, affinity(1)), None);
    assert_eq!(vm.affinity(&pin, id), None);
    assert_eq!(vm.vcpus().collect::<Vec<_>>(), [vcpu(0), vcpu(2)]);
    assert_eq!(vm.vcpu_count(), 3);
    assert!(!vm.power_on(id) && !vm.is_powered_on(id));
    assert_eq!(vm.enter(&pin, id), Err(EntryError::UnknownVcpu(id)));
    let ppi = IntId::ppi(20).unwrap();
    assert_eq!(vm.inject_ppi(&pin, id, ppi), Err(InjectError::UnknownVcpu));
    assert_eq!(
        vm.connect_ppi(&pin, id, ppi, ppi),
        Err(InjectError::UnknownVcpu)
    );
    for register in [SysReg::Sgi1r, SysReg::Sgi0r] {
        assert_eq!(
            vm.sysreg_write(&pin, id, register, 1 << 40),
            Err(AccessError::UnknownVcpu(id))
        );
    }
    drop(pin);
    machine.finish();
}

/// Returns the affinities of the redistributors that a guest finds: it looks from the first to the
/// one with Last.
fn walk(machine: &Machine) -> Vec<u32> {
    let mut found = Vec::new();
    for n in 0..16 {
        let frame = machine.gicr(n);
        assert_eq!(machine.read(0, frame + 0xffe8), 0x3b, "PIDR2 of {n}");
        let typer = machine.read64(0, frame + 8);
        assert_eq!(typer >> 8 & 0xffff, n as u64);
        found.push((typer >> 32) as u32);
        if typer >> 4 & 1 != 0 {
            return found;
        }
    }
    panic!("no redistributor is the last");
}

#[test]
fn a_guest_that_looks_for_a_redistributor_passes_by_a_removed_one() {
    let mut config = Config::new((0..4).map(affinity).collect());
    config.max_vcpus = 5;
    config.redistributors = vec![RedistributorRegion {
        base: 0x080a_0000,
        count: 5,
    }];
    let machine = Machine::from_config(config);
    machine.set_up();
    assert_eq!(walk(&machine), [0, 1, 2, 3]);

    remove(&machine, 1);
    remove(&machine, 3);
    assert_eq!(walk(&machine), [0, 1, 2, 3]);
    let (waker, state) = (
        machine.gicr(1) + 0x14,
        machine.gicr(1) + SGI_BASE + ISENABLER,
    );
    for at in [waker, state] {
        machine.write(0, at, u32::MAX);
        assert_eq!(machine.read(0, at), 0, "{at:#x}");
    }

    // An affinity has its old place again, a new one a new place, while there is one.
    add(&machine, 3);
    let other = |n| {
        machine
            .vm
            .add_vcpu(&machine.pin(), Affinity::new(0, 0, 0, n))
    };
    assert_eq!(other(9), Ok(vcpu(4)));
    assert_eq!(other(8), Ok(vcpu(1)));
    assert_eq!(walk(&machine), [0, 8, 2, 3, 9]);
    assert_eq!(other(1), Err(ConfigError::MaxVcpus(5)));
    remove(&machine, 2);
    assert_eq!(other(1), Ok(vcpu(2)));
    machine.finish();
}

#[test]
fn an_spi_waits_for_the_affinity() {
    let machine = Machine::new(3);
    for spi in [40, 41] {
        machine.edge_spi(spi, 1);
    }
    machine.inject_spi(40);
    machine.vm.host().take_calls();
    remove(&machine, 1);
    let calls = machine.vm.host().take_calls();
    assert_eq!(calls, [Call::Routed(40, None), Call::Routed(41, None)]);
    machine.inject_spi(41);
    assert_eq!(
        machine.read64(0, GICD + 0x6000 + 40 * 8),
        affinity(1).mpidr()
    );
    for n in [0, 2] {
        assert_eq!(machine.serve(n), [0; 0]);
    }
    assert!(machine.spi_bit(0, ISPENDR, 40) && machine.spi_bit(0, ISPENDR, 41));

    // The guest routes one of the two elsewhere. The other waits for the vCPU.
    machine.write64(0, GICD + 0x6000 + 41 * 8, affinity(2).mpidr());
    assert_eq!(machine.serve(2), [41]);
    add(&machine, 1);
    assert_eq!(machine.serve(1), [40]);
    machine.finish();
}

#[test]
fn sgis_and_ppis_are_as_after_a_reset() {
    let machine = Machine::new(2);
    let private = machine.gicr(1) + SGI_BASE;
    let before: Vec<u32> = (0..0xd00)
        .step_by(4)
        .map(|at| machine.read(0, private + at))
        .collect();
    let ppi = IntId::ppi(20).unwrap();

    machine.write(0, private + 0x400, 0x2020_2020);
    machine.write(0, private + ISENABLER, u32::MAX);
    machine.write(0, private + ISPENDR, 0xffff);
    machine.write(0, private + 0x300, 0x00f0_0000);
    machine
        .vm
        .set_ppi_line(&machine.pin(), vcpu(1), ppi, true)
        .unwrap();
    machine
        .vm
        .connect_ppi(&machine.pin(), vcpu(1), ppi, IntId::spi(99).unwrap())
        .unwrap();
    let _ = machine
        .vm
        .forward_ppi(&machine.pin(), vcpu(1), ppi)
        .unwrap();
    machine.vm.host().take_calls();

    remove(&machine, 1);
    let calls = machine.vm.host().take_calls();
    assert!(
        calls.iter().any(|call| matches!(call, Call::Deactivate(_))),
        "the physical interrupt stays active: {calls:?}"
    );
    // Nothing reaches the vCPU while it is away.
    machine.sysreg(0, SysReg::Sgi1r, 1 << 40);
    machine.sysreg(0, SysReg::Sgi1r, 2);

    add(&machine, 1);
    let after: Vec<u32> = (0..0xd00)
        .step_by(4)
        .map(|at| machine.read(0, private + at))
        .collect();
    assert_eq!(before, after);
    assert_eq!(machine.serve(1), [0; 0]);
    let not = machine.vm.forward_ppi(&machine.pin(), vcpu(1), ppi);
    assert_eq!(not, Err(InjectError::NotConnected));
    machine.finish();
}

/// Maps event n of device 1 to LPI 8192 + n in collection n, of vCPU n.
fn map_lpis(driver: &Driver<'_>) {
    driver.mapd(1, 4);
    for n in 0..3 {
        driver.map(1, n, 8192 + n, n);
    }
}

#[test]
fn lpis_wait_for_another_mapping() {
    let machine = Machine::new(3);
    let driver = Driver::new(&machine);
    map_lpis(&driver);
    machine.inject_msi(1, 1).unwrap();
    remove(&machine, 1);
    assert!(machine.vm.has_deferred(), "the ITS moves the LPIs");
    machine.advance();

    let unmapped = Err(InjectError::UnmappedCollection);
    assert_eq!(machine.inject_msi(1, 1), unmapped);
    machine.inject_msi(1, 0).unwrap();
    assert_eq!(machine.serve(0), [8192]);
    let errors = || machine.domain.totals().its_command_errors;
    let before = errors();
    driver.mapc(1, Some(1));
    assert_eq!(errors(), before + 1, "the vCPU is not there");

    // The vCPU that comes back has no collection until the guest maps one.
    add(&machine, 1);
    assert_eq!(machine.inject_msi(1, 1), unmapped);
    machine.write64(0, machine.gicr(1) + 0x78, 1 << 62);
    machine.write(0, machine.gicr(1), 1);
    driver.mapc(1, Some(1));
    assert_eq!(machine.serve(1), [8193], "the pending state is kept");
    machine.finish();
}

#[test]
fn lpis_that_movall_has_moved_go_back_to_their_collections() {
    let machine = Machine::new(3);
    let driver = Driver::new(&machine);
    map_lpis(&driver);
    machine.inject_msi(1, 0).unwrap();
    driver.movall(0, 1);
    remove(&machine, 1);
    machine.advance();
    assert_eq!(machine.serve(0), [8192]);
    machine.finish();
}

/// Removes vCPUs while the ITS is in the middle of a command that names one of them.
#[test]
fn a_command_that_has_begun_gives_the_removed_vcpu_nothing() {
    for movall in [false, true] {
        let machine = Machine::new(3);
        let driver = Driver::new(&machine);
        map_lpis(&driver);
        driver.mapd(2, 10);
        for event in 0..1000 {
            driver.map(2, event, 8300 + event, 0);
        }
        for event in [0, 500, 999] {
            machine.inject_msi(2, event).unwrap();
        }

        // A slice of the command is done; a later slice would give LPIs to vCPU 1.
        let command = match movall {
            true => [0x0e, 0, 0, 1 << 16],
            false => [0x09, 0, 1 << 63 | 1 << 16, 0],
        };
        driver.post(&[command]);
        assert!(machine.vm.has_deferred(), "more than a slice");
        remove(&machine, 1);
        driver.wait();
        machine.advance();

        assert_eq!(machine.serve(2), [0; 0]);
        let mut taken = machine.serve(0);
        taken.sort_unstable();
        let all = [8300, 8800, 9299];
        assert_eq!(taken, if movall { &all[..] } else { &[] });
        if !movall {
            // The collection went with the vCPU.
            driver.mapc(0, Some(2));
            let mut taken = machine.serve(2);
            taken.sort_unstable();
            assert_eq!(taken, all);
        }
        machine.finish();
    }
}

#[test]
fn rwp_does_not_wait_for_a_removed_vcpu() {
    let machine = Machine::new(2);
    machine.edge_spi(40, 1);
    machine.inject_spi(40);
    machine.enter(1);
    machine.write(0, GICD, 0x10);
    let rwp = || machine.read(0, GICD) >> 31 != 0;
    assert!(rwp());
    machine.exit(1);
    remove(&machine, 1);
    assert!(!rwp());
    add(&machine, 1);
    machine.write(0, GICD, 0x12);
    machine.edge_spi(40, 1);
    assert_eq!(machine.serve(1), [40]);
    machine.finish();
}

#[test]
fn a_reset_leaves_a_removed_vcpu_removed() {
    let machine = Machine::new(3);
    remove(&machine, 1);
    machine.put_all();
    machine.vm.reset(&machine.pin()).unwrap();
    assert!(!machine.vm.power_on(vcpu(1)));
    assert_eq!(machine.vm.vcpus().count(), 2);
    machine.vm.add_vcpu(&machine.pin(), affinity(1)).unwrap();
    assert!(machine.vm.power_on(vcpu(1)));
    machine.finish();
}

#[test]
fn a_vm_that_is_taken_apart_loses_no_vcpu() {
    let machine = Machine::new(3);
    machine.put_all();
    machine.vm.teardown(&machine.pin()).unwrap();
    let removed = machine.vm.remove_vcpu(&machine.pin(), vcpu(1));
    assert_eq!(removed, Err(RemoveError::TornDown));
}
