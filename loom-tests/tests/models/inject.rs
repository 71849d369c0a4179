//! `inject`: injection against injection of the same interrupt, against entry and exit, and against what
//! changes its place. There is one link and one list reference, and nothing is lost.

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{Machine, Observation, PPI, SPI, V0, V1, check, movi, sole, spawn, take};
use vgic::Injected;

/// From two CPUs at once: one link, one reference, taken once.
#[test]
fn injection_against_injection() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| machine.inject(&cpu.pin()));
        let mine = machine.inject(&cpu.pin());
        let theirs = other.join();
        assert_ne!(mine, theirs, "one came first, the other merged with it");
        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// While the vCPU enters, runs and leaves: nothing is lost, nothing is taken twice.
#[test]
fn injection_against_entry_and_exit() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| machine.inject(&cpu.pin()));
        let early = machine.serve(&cpu, V0);
        let second = other.join();
        let merged = usize::from(second == Injected::Coalesced);
        let late = machine.serve(&cpu, V0);
        assert!(matches!(early + late, 1 | 2), "{early} + {late}");
        assert!(early + late + merged >= 2, "an edge is lost");
        sole(machine).finish(&cpu);
    });
}

/// What a device wrote before its interrupt is seen by whoever takes the interrupt, also when it merged
/// with an earlier one.
#[test]
fn injection_publishes_what_came_before() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let buffer = Arc::new(AtomicUsize::new(0));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        let other = spawn(&machine, 1, {
            let buffer = buffer.clone();
            move |machine, cpu| {
                // Of what lives as long as the VM: a lookup's pin is a fence, and would order it by itself.
                let pin = cpu.pin();
                // Relaxed: the interrupt is what orders it.
                buffer.store(1, Relaxed);
                machine.inject(&pin)
            }
        });
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        let seen = buffer.load(Relaxed);
        let second = other.join();
        machine.exit(&cpu, V0);
        let late = machine.serve(&cpu, V0);
        // No interrupt comes after this one: it has to stand for both.
        if late == 0 {
            assert_eq!(second, Injected::Coalesced);
            assert_eq!(seen, 1, "the guest took the interrupt and missed the data");
        }
        sole(machine).finish(&cpu);
    });
}

/// An interrupt that is disabled meanwhile stays pending and is on no list.
#[test]
fn injection_against_disable() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << PPI);
        other.join();
        assert_eq!(machine.serve(&cpu, V0), 0);
        assert_eq!(machine.listed(), 0, "it is on a list");
        sole(machine).finish(&cpu);
    });
}

/// Disabled while the vCPU that has it in a list register goes back into the guest: once `GICD_CTLR.RWP`
/// reads as zero, the guest does not get it any more.
#[test]
fn disable_against_reentry() {
    check(5, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject_spi(&cpu.pin());
        machine.enter(&cpu, V0);
        let disabled = Observation::default();
        let other = spawn(&machine, 1, {
            let disabled = disabled.clone();
            move |machine, cpu| {
                machine.gicd(&cpu.pin(), 0x184, 1 << (SPI - 32));
                let waiting = machine.read_gicd(cpu, V1, 0) >> 31 != 0;
                disabled.make(!waiting);
            }
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let was_disabled = disabled.is_made();
        let taken = take(&cpu);
        assert!(taken == 0 || !was_disabled, "it is disabled");
        other.join();
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0);
        sole(machine).finish(&cpu);
    });
}

/// Enabled and injected at once: both find that it wants a list, one puts it there.
#[test]
fn injection_against_enable() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << PPI);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.gicr(&cpu.pin(), V0, 0x1_0100, 1 << PPI);
        other.join();
        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// An MSI against `MOVI`: taken once, and on the new vCPU.
#[test]
fn injection_against_movi() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.msi(&cpu.pin(), 0, 0).expect("it is mapped")
        });
        machine.command(&cpu.pin(), 0, movi(1));
        assert_eq!(other.join(), Injected::Pending);
        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 0, "routed away by now");
        assert_eq!(machine.serve(&cpu, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// An MSI on the CPU that has the vCPU out of the guest, which goes straight into a list register, against
/// `MOVI` away and back: it is on one list, and taken once.
#[test]
fn staging_against_two_moves() {
    check(3, || {
        let machine = Arc::new(Machine::with_lpi(2, 1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            machine.command(&cpu.pin(), 0, movi(1));
            machine.command(&cpu.pin(), 0, movi(0));
        });
        let _ = machine.msi(&cpu.pin(), 0, 0).expect("it is mapped");
        other.join();
        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert_eq!(machine.serve(&cpu, V1), 0);
        sole(machine).finish(&cpu);
    });
}

/// A CPU that puts an interrupt into a list register of its own vCPU, which then goes back into the guest,
/// while another disables it: once `GICD_CTLR.RWP` reads as zero, the guest does not get it any more.
#[test]
fn posting_against_disable() {
    check(4, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let disabled = Observation::default();
        let other = spawn(&machine, 1, {
            let disabled = disabled.clone();
            move |machine, cpu| {
                machine.gicd(&cpu.pin(), 0x184, 1 << (SPI - 32));
                let waiting = machine.read_gicd(cpu, V1, 0) >> 31 != 0;
                disabled.make(!waiting);
            }
        });
        let _ = machine.inject_spi(&cpu.pin());
        machine.enter(&cpu, V0);
        let was_disabled = disabled.is_made();
        let taken = take(&cpu);
        assert!(taken == 0 || !was_disabled, "it is disabled");
        other.join();
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0);
        sole(machine).finish(&cpu);
    });
}

/// A register write that reconsiders the interrupt's place, while the vCPU takes it back from its list
/// register: whoever has the lock knows where it is.
#[test]
fn register_write_against_exit() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 1);
        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            machine.gicr(&pin, V0, 0x1_0414, 0x8080_8080);
            let _ = machine.inject(&pin);
        });
        machine.exit(&cpu, V0);
        let late = machine.serve(&cpu, V0);
        other.join();
        assert_eq!(late + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// A group is disabled in the distributor while a CPU puts an interrupt of it into a list register of its
/// own vCPU: once `GICD_CTLR.RWP` reads as zero, the guest does not get it.
#[test]
fn posting_against_a_closed_group() {
    check(4, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let disabled = loom_tests::Observation::default();
        let other = spawn(&machine, 1, {
            let disabled = disabled.clone();
            move |machine, cpu| {
                machine.gicd(&cpu.pin(), 0, 0x10); // CTLR
                let waiting = machine.read_gicd(cpu, V1, 0) >> 31 & 1 != 0;
                disabled.make(!waiting);
            }
        });
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let held_back = disabled.is_made();
        let early = loom_tests::take(&cpu);
        assert!(early == 0 || !held_back, "an interrupt of a disabled group");
        other.join();
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        assert_eq!(
            loom_tests::take(&cpu),
            0,
            "an interrupt of a disabled group"
        );
        machine.exit(&cpu, V0);
        machine.gicd(&cpu.pin(), 0, 0x12);
        machine.put(&cpu, V0);
        assert_eq!(early + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// An edge comes again, twice, while the guest ends the first one, and its CPU goes to sleep.
#[test]
fn again_against_sleep() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let mut taken = loom_tests::take(&cpu);
        machine.exit(&cpu, V0);
        let slept = machine.block(&cpu, V0) == vgic::Blocked::Yes;
        other.join();
        // It has been raised by now: whoever sleeps through it has been woken.
        assert!(
            taken == 2 || !slept || machine.wakes() > 0,
            "sleeps for ever"
        );
        machine.put(&cpu, V0);
        taken += machine.serve(&cpu, V0);
        assert!(taken == 1 || taken == 2);
        sole(machine).finish(&cpu);
    });
}
