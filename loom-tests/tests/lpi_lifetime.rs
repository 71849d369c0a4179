//! `lpi_lifetime`: translation and injection against unmapping; unmapping and mapping of the same INTID while
//! its interrupt is queued or in a list register.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use loom_tests::{Machine, V0, check};
use vgic::intid::{CpuId, DeviceId, EventId, ItsId};

fn inject(machine: &Machine, cpu: u16, event: u32) {
    let local = machine.domain.register(CpuId(cpu));
    // An error means that it was unmapped first.
    let _ = machine
        .vm
        .inject_msi(&local.pin(), ItsId(0), DeviceId(0), EventId(event));
}

/// An MSI against `DISCARD`: delivered or void, never a freed interrupt, never one that comes later.
#[test]
fn injection_against_discard() {
    check(2, || {
        let machine = Arc::new(Machine::with_lpi());
        let other = thread::spawn({
            let machine = machine.clone();
            move || inject(&machine, 1, 0)
        });
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 3, Machine::discard(0));
        other.join().unwrap();
        assert_eq!(machine.serve(&cpu, V0), 0, "it is unmapped");
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// The same INTID is mapped again while the old interrupt may still be on its way.
#[test]
fn injection_against_remap() {
    check(2, || {
        let machine = Arc::new(Machine::with_lpi());
        let other = thread::spawn({
            let machine = machine.clone();
            move || inject(&machine, 1, 0)
        });
        let cpu = machine.cpu(0);
        machine.command(&cpu.pin(), 3, Machine::discard(0));
        machine.command(&cpu.pin(), 4, Machine::mapti(1));
        inject(&machine, 2, 1);
        other.join().unwrap();
        assert_eq!(machine.serve(&cpu, V0), 1);
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}

/// Discarded, and mapped again, while the vCPU takes it: the list's last put against the revival.
#[test]
fn remap_against_the_guest() {
    check(2, || {
        let machine = Arc::new(Machine::with_lpi());
        inject(&machine, 2, 0);
        let other = thread::spawn({
            let machine = machine.clone();
            move || {
                let local = machine.domain.register(CpuId(1));
                machine.command(&local.pin(), 3, Machine::discard(0));
                machine.command(&local.pin(), 4, Machine::mapti(1));
                inject(&machine, 3, 1);
            }
        });
        let cpu = machine.cpu(0);
        let early = machine.serve(&cpu, V0);
        other.join().unwrap();
        let late = machine.serve(&cpu, V0);
        assert!(matches!(early + late, 1 | 2), "{early} + {late}");
        Arc::try_unwrap(machine).ok().unwrap().finish(&cpu);
    });
}
