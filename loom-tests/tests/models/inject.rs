//! `inject`: injection against injection of the same interrupt, against entry and exit, and against
//! changes of its list. The interrupt has one link and one list reference, and no edge is lost.

use loom::sync::Arc;
use loom_tests::{
    Machine, Observation, PPI, SPI, V0, V1, acknowledge, check, movi, sole, spawn, take,
};
use vgic::Injected;

/// Injects from two CPUs at once. The interrupt has one link and one reference, and is taken once.
#[test]
fn injection_against_injection() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| machine.inject(&cpu.pin()));
        let mine = machine.inject(&cpu.pin());
        let theirs = other.join();
        assert_ne!(mine, theirs, "one came first, the other coalesced");
        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        assert_eq!(machine.listed(), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races an injection against entry, exit and put. No edge is lost or delivered twice.
#[test]
fn injection_against_entry_and_exit() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        let other = spawn(&machine, 1, |machine, cpu| machine.inject(&cpu.pin()));
        let early = machine.serve(&cpu, V0);
        let second = other.join();
        let coalesced = usize::from(second == Injected::Coalesced);
        let late = machine.serve(&cpu, V0);
        assert!(matches!(early + late, 1 | 2), "{early} + {late}");
        assert!(early + late + coalesced >= 2, "an edge is lost");
        sole(machine).finish(&cpu);
    });
}

/// Races an injection against `ICENABLER`. The interrupt stays pending and is on no list.
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

/// Races `ICENABLER` against exit and re-entry, with the SPI in a list register. Once
/// `GICD_CTLR.RWP` reads as zero, the guest does not get the SPI.
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

/// Races `ISENABLER` against an injection. Both find the interrupt deliverable, and one inserts it.
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

/// Races an injection against `ICENABLER` and `ISENABLER`. Two CPUs may each have to insert the
/// interrupt: the injecting one, and the one that enables it. One of them does.
#[test]
fn injection_against_disable_and_enable() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << PPI);
        machine.gicr(&cpu.pin(), V0, 0x1_0100, 1 << PPI);
        other.join();
        assert_eq!(machine.listed(), 1);
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races an MSI against `MOVI`. The new vCPU takes the LPI once.
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

/// Races an MSI against `MOVI` away and back. The MSI comes from the CPU with the vCPU loaded, and
/// is staged straight into a list register. The LPI is on one list and taken once.
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

/// Races staging against `ICENABLER`: a CPU stages the SPI for its own vCPU, which then re-enters.
/// Once `GICD_CTLR.RWP` reads as zero, the guest does not get the SPI.
#[test]
fn staging_against_disable() {
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

/// Races a register write, which requeues the interrupt, against the fold at exit. Under the list's
/// lock, each CPU finds the interrupt's place consistent.
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

/// Races a write of a priority against an entry on a CPU with a single list register. The guest
/// takes the interrupt that is more urgent since the write, or its CPU is kicked and then the guest
/// does.
#[test]
fn priority_against_entry() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.small_cpu(0);
        machine.enter(&cpu, V0);
        assert_eq!(acknowledge(&cpu), 1023);
        machine.exit(&cpu, V0);
        machine.on(2, |pin| {
            machine.gicd(pin, 0x428, 0x80); // IPRIORITYR10
            let _ = machine.inject(pin);
            let _ = machine.inject_spi(pin);
        });

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, 0x1_0414, 0xc0); // IPRIORITYR5
        });
        machine.enter(&cpu, V0);
        other.join();

        if machine.kicks() != 0 {
            machine.exit(&cpu, V0);
            machine.enter(&cpu, V0);
        }
        assert_eq!(acknowledge(&cpu), SPI);
        cpu.interface().write_eoir1(SPI);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races staging against a write of `GICD_CTLR` that disables the interrupt's group. Once
/// `GICD_CTLR.RWP` reads as zero, the guest does not get the interrupt.
#[test]
fn staging_against_a_closed_group() {
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

/// Races a new edge against the guest's EOI of the previous edge and the block of its vCPU.
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

        // The edge has been raised by now: a blocked vCPU has been woken.
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

/// Races a new edge against the block of a vCPU that waits in the handler of the previous edge. The
/// handler's EOI lets the guest take the new edge, or its CPU is kicked.
#[test]
fn again_against_sleep_in_the_handler() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let intid = acknowledge(&cpu);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.exit(&cpu, V0);
        let _ = machine.block(&cpu, V0);
        machine.enter(&cpu, V0);
        // An IPI that was sent before makes the guest exit at once, before the handler's end.
        let early = machine.kicks();
        if early != 0 {
            machine.exit(&cpu, V0);
            machine.enter(&cpu, V0);
        }
        cpu.interface().write_eoir1(intid);
        let found = take(&cpu);
        other.join();

        let late = machine.kicks() - early;
        assert!(found + late >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
