//! `physical`: the owner of a physical interrupt that is forwarded, and reports to the host. A
//! forwarded interrupt is deactivated once, on the right CPU, or refused. The last report agrees
//! with the register.
//!
//! Known faults elsewhere: a guest that dies with forwarded interrupts active, whose line is dead
//! for the next owner; a vCPU moved while its PPI is active; enable and disable of one line that
//! race and leave the physical side wrong.

use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom_tests::{LEVEL, Machine, SPI, V0, acknowledge, check, sole, spawn, spawn_on, take};
use vgic::intid::{CpuId, IntId};
use vgic::{InjectError, PhysicalInterrupt};

/// Returns the physical SPI behind the SPI.
fn spi() -> PhysicalInterrupt {
    let intid = IntId::spi(SPI).unwrap();
    PhysicalInterrupt::Spi { intid }
}

/// Returns the physical PPI behind vCPU 0's level-sensitive PPI, on a CPU.
fn ppi_of(cpu: u16) -> PhysicalInterrupt {
    let (cpu, intid) = (CpuId(cpu), IntId::ppi(LEVEL).unwrap());
    PhysicalInterrupt::Ppi { cpu, intid }
}

/// Races a forward against the end of the connection. The forward is refused, or the physical
/// interrupt is given back. The edge stays pending. A CPU whose forward is refused sees what was
/// written before the end: the physical interrupt's next owner, for example.
#[test]
fn forward_against_disconnect() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_spi(&cpu.pin());
        let datum = Arc::new(AtomicUsize::new(0));

        let other = spawn(&machine, 1, {
            let datum = datum.clone();
            move |machine, cpu| {
                let forwarded = machine.forward_spi(&cpu.pin());
                // Relaxed: the refusal orders the load.
                let seen = datum.load(Relaxed);
                assert!(forwarded || seen == 1, "the next owner is unknown");
                forwarded
            }
        });
        let spi_id = IntId::spi(SPI).unwrap();
        // Relaxed: the end of the connection publishes the store.
        datum.store(1, Relaxed);
        machine.vm.disconnect_spi(&cpu.pin(), spi_id).unwrap();
        let forwarded = other.join();

        let expected = if forwarded { vec![spi()] } else { vec![] };
        assert_eq!(machine.deactivated(), expected);
        assert!(!machine.forward_spi(&cpu.pin()), "it is not connected");
        assert_eq!(machine.serve(&cpu, V0), usize::from(forwarded));
        assert_eq!(cpu.interface().take_deactivations(), [] as [u32; 0]);
        sole(machine).finish(&cpu);
    });
}

/// Races the end of the connection against the guest's end of the interrupt in its list register.
/// The guest or the library deactivates the physical interrupt.
#[test]
fn disconnect_against_the_end() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_spi(&cpu.pin());
        assert!(machine.forward_spi(&cpu.pin()));
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let spi_id = IntId::spi(SPI).unwrap();
            machine.vm.disconnect_spi(&cpu.pin(), spi_id).unwrap();
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let taken = take(&cpu);
        machine.exit(&cpu, V0);
        other.join();
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.put(&cpu, V0);

        assert_eq!(taken, 1, "an edge stays pending");
        let by_guest = cpu.interface().take_deactivations().len();
        assert_eq!(by_guest + machine.deactivated().len(), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a forward against the teardown of the VM. The forward is refused, or the physical
/// interrupt is given back.
#[test]
fn forward_against_teardown() {
    check(2, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_spi(&cpu.pin());

        let other = spawn(&machine, 1, |machine, cpu| machine.forward_spi(&cpu.pin()));
        let _ = machine.vm.teardown(&cpu.pin()).unwrap();
        let forwarded = other.join();

        let expected = if forwarded { vec![spi()] } else { vec![] };
        assert_eq!(machine.deactivated(), expected);
        assert!(!machine.forward_spi(&cpu.pin()), "the VM is gone");
    });
}

/// Races another vCPU's `ICACTIVER` against the put of the vCPU with the active PPI. The CPU of the
/// PPI deactivates it, once.
#[test]
fn icactiver_against_put() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_ppi(&cpu.pin());
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << LEVEL);
        machine.forward_ppi(&cpu.pin());
        machine.gicr(&cpu.pin(), V0, 0x1_0300, 1 << LEVEL);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, 0x1_0280, 1 << LEVEL);
            machine.gicr(&cpu.pin(), V0, 0x1_0380, 1 << LEVEL);
        });
        machine.put(&cpu, V0);
        other.join();

        assert_eq!(machine.deactivated(), [ppi_of(0)]);
        let elsewhere = machine.cpu(2);
        assert_eq!(machine.serve(&elsewhere, V0), 0);
        assert_eq!(machine.deactivated(), [ppi_of(0)]);
        sole(machine).finish(&cpu);
    });
}

/// Races another vCPU's `ICPENDR` against an entry of the vCPU with the pending PPI. The CPU of the
/// PPI deactivates it, once.
#[test]
fn icpendr_against_entry() {
    icpendr_against_an_entry(false);
}

/// Races another vCPU's `ICPENDR` against an entry of the vCPU with the pending PPI, which has
/// looked for an interrupt. The entry then changes the residency word. The CPU of the PPI
/// deactivates it, once.
#[test]
fn icpendr_against_entry_after_a_look() {
    icpendr_against_an_entry(true);
}

fn icpendr_against_an_entry(looks: bool) {
    check(4, move || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_ppi(&cpu.pin());
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << LEVEL);
        machine.forward_ppi(&cpu.pin());
        if looks {
            assert!(!machine.vm.has_pending(&cpu.pin(), V0).unwrap());
        }

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, 0x1_0280, 1 << LEVEL);
        });
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        other.join();

        // The vCPU was kicked, or finds the work before it enters.
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        assert_eq!(machine.deactivated(), [ppi_of(0)]);
        machine.put(&cpu, V0);
        assert_eq!(machine.deactivated(), [ppi_of(0)]);
        sole(machine).finish(&cpu);
    });
}

/// Races `ICPENDR` against a new connection. The physical interrupt that was forwarded is
/// deactivated, not the newly connected one.
#[test]
fn icpendr_against_reconnection() {
    check(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_spi(&cpu.pin());
        assert!(machine.forward_spi(&cpu.pin()));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicd(&cpu.pin(), 0x0280 + 4, 1 << (SPI % 32));
        });
        let spi_id = IntId::spi(SPI).unwrap();
        machine.vm.disconnect_spi(&cpu.pin(), spi_id).unwrap();
        let next = IntId::spi(SPI + 1).unwrap();
        let connected = machine.vm.connect_spi(&cpu.pin(), spi_id, next);
        other.join();

        assert!(connected.is_ok() || connected == Err(InjectError::AlreadyConnected));
        assert_eq!(machine.deactivated(), [spi()]);
        sole(machine).finish(&cpu);
    });
}

/// Races a sample that finds the line low against `ICPENDR`. One of the two withdraws the level,
/// and deactivates the physical interrupt.
#[test]
fn sample_against_icpendr() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.connect_spi(&cpu.pin());
        machine.gicd(&cpu.pin(), 0xc08, 0); // ICFGR2: level-sensitive
        machine.gicd(&cpu.pin(), 0x184, 1 << (SPI - 32)); // ICENABLER1
        assert!(machine.forward_spi(&cpu.pin()));

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicd(&cpu.pin(), 0x284, 1 << (SPI - 32)); // ICPENDR1
        });
        let pending = machine.read_gicd(&cpu, V0, 0x204); // ISPENDR1
        other.join();

        assert_eq!(pending, 0, "the line is low");
        assert_eq!(machine.deactivated(), [spi()]);
        sole(machine).finish(&cpu);
    });
}

/// Races a message that asserts the level (`GICD_SETSPI_NSR`) against an entry that finds the
/// physical line low, and withdraws the level from its list register. The guest gets the message's
/// interrupt, or is kicked and gets it at the next entry.
#[test]
fn sample_against_message() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let [cpu, second] = [0, 1].map(|n| machine.cpu(n));
        machine.connect_spi(&cpu.pin());
        machine.gicd(&cpu.pin(), 0xc08, 0); // ICFGR2: level-sensitive
        assert!(machine.forward_spi(&cpu.pin()));

        let other = spawn_on(&machine, cpu, |machine, cpu| machine.enter(cpu, V0));
        machine.gicd(&second.pin(), 0x40, SPI.into()); // SETSPI_NSR
        let ((), cpu) = other.join_with_cpu();

        let mut taken = acknowledge(&cpu);
        if taken == 1023 {
            assert_ne!(machine.kicks(), 0, "the guest does not leave");
            machine.exit(&cpu, V0);
            machine.enter(&cpu, V0);
            taken = acknowledge(&cpu);
        }
        assert_eq!(taken, SPI);
        assert_eq!(machine.deactivated(), [spi()]);
        machine.gicd(&cpu.pin(), 0x48, SPI.into()); // CLRSPI_NSR
        cpu.interface().write_eoir1(SPI);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0, "the level is low");
        assert_eq!(machine.deactivated(), [spi()]);
        sole(machine).finish(&cpu);
    });
}

/// Races `ISENABLER` against `ICENABLER`. The host's last report is the register's value.
#[test]
fn isenabler_against_icenabler() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let bit = 1 << (SPI - 32);
        let other = spawn(&machine, 1, move |machine, cpu| {
            machine.gicd(&cpu.pin(), 0x184, bit);
        });
        machine.gicd(&cpu.pin(), 0x184, bit);
        machine.gicd(&cpu.pin(), 0x104, bit);
        other.join();

        let register = machine.read_gicd(&cpu, V0, 0x104) & bit != 0;
        let reported = machine.vm.host().enabled.load(Relaxed);
        assert_eq!(reported, register);
        sole(machine).finish(&cpu);
    });
}

/// Races the connection of a PPI against its first forward and the put of its vCPU. The forward is
/// refused, or the put gives the physical PPI back.
#[test]
fn connect_against_forward_and_put() {
    check(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| machine.connect_ppi(&cpu.pin()));
        let ppi = IntId::ppi(LEVEL).unwrap();
        let forwarded = machine.vm.forward_ppi(&cpu.pin(), V0, ppi).is_ok();
        machine.put(&cpu, V0);
        other.join();

        let expected = if forwarded { vec![ppi_of(0)] } else { vec![] };
        assert_eq!(machine.deactivated(), expected);
        sole(machine).finish(&cpu);
    });
}
