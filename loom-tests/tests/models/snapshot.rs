//! `snapshot`: replacement of the topology against its readers.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{Machine, V0, V1, check_serial, in_the_epoch, sole, spawn};
use vgic::intid::{Affinity, VcpuId};

/// Races `add_vcpu` against lookups. A reader finds every old vCPU, and the new vCPU only complete.
#[test]
fn readers_see_the_old_or_the_new() {
    check_serial(3, || {
        let first = Affinity::new(0, 0, 0, 0);
        let second = Affinity::new(7, 0, 0, 1);
        let machine = Arc::new(Machine::with_room());
        let cpu = machine.cpu(0);

        let other = spawn(&machine, 1, move |machine, cpu| {
            let added = machine.vm.add_vcpu(&cpu.pin(), second);
            assert_eq!(added, Ok(V1));
        });
        let mut before = None;
        for _ in 0..2 {
            let pin = cpu.pin();
            assert_eq!(machine.vm.find_vcpu(&pin, first), Some(V0));
            let found = machine.vm.find_vcpu(&pin, second);
            assert!(found.is_none() || found == Some(V1));
            assert!(before.is_none() || found == before, "it is gone again");
            before = found;
        }
        other.join();

        assert_eq!(machine.vm.find_vcpu(&cpu.pin(), second), Some(V1));
        sole(machine).finish(&cpu);
    });
}

/// Races a write of IROUTER against the addition of the named vCPU, with the SPI pending and routed
/// to no vCPU. The new vCPU gets the SPI in either order: the write finds the vCPU, or `add_vcpu`
/// finds the SPI.
#[test]
fn an_spi_routed_to_the_vcpu_that_is_added() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_room());
        let cpu = machine.cpu(0);
        machine.route(&cpu.pin(), VcpuId::new(2).unwrap());
        let _ = machine.inject_spi(&cpu.pin());

        let other = spawn(&machine, 1, move |machine, cpu| {
            let pin = in_the_epoch(cpu);
            machine.route(&pin, V1);
        });
        let added = machine.vm.add_vcpu(&cpu.pin(), Affinity::new(0, 0, 0, 1));
        assert_eq!(added, Ok(V1));
        other.join();

        assert!(machine.vm.power_on(V1));
        assert_eq!(machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races an embedder that sets up its part of a vCPU, and adds the vCPU, against another CPU that
/// counts the vCPUs.
#[test]
fn a_vcpu_that_is_counted() {
    check_serial(3, || {
        let machine = Arc::new(Machine::with_room());
        let cpu = machine.cpu(0);
        let set_up = Arc::new(AtomicBool::new(false));

        let other = spawn(&machine, 1, {
            let set_up = set_up.clone();
            move |machine, _| {
                assert!(machine.vm.vcpu_count() == 1 || set_up.load(Relaxed));
            }
        });
        let pin = in_the_epoch(&cpu);
        set_up.store(true, Relaxed);
        let added = machine.vm.add_vcpu(&pin, Affinity::new(0, 0, 0, 1));
        assert_eq!(added, Ok(V1));
        drop(pin);
        other.join();
        sole(machine).finish(&cpu);
    });
}
