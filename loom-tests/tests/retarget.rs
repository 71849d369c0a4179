//! `retarget`: routing an SPI elsewhere against its injection and against the old vCPU's entry.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use loom_tests::{Machine, V0, V1, check};
use vgic::intid::CpuId;

/// Whoever gets it, it is one vCPU, once.
#[test]
fn retarget_against_injection() {
    check(2, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.route(&machine.domain.register(CpuId(1)).pin(), 1)
        });
        machine.inject_spi(&cpu.pin());
        other.join().unwrap();
        assert_eq!(machine.serve(&cpu, V0), 0, "routed away by now");
        assert_eq!(machine.serve(&cpu, V1), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// The old vCPU takes it, or gives it up: never both, never neither.
#[test]
fn retarget_against_the_old_vcpu() {
    check(2, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        machine.inject_spi(&cpu.pin());
        let other = thread::spawn({
            let machine = machine.clone();
            move || machine.route(&machine.domain.register(CpuId(1)).pin(), 1)
        });
        let old = machine.serve(&cpu, V0);
        other.join().unwrap();
        let late = machine.serve(&cpu, V0);
        assert_eq!(old + late + machine.serve(&cpu, V1), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}
