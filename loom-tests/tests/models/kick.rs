//! `kick`: publishing against entry, against blocking, and against a change of CPU. No wake-up is
//! lost. Each stay in the guest gets at most one IPI.
//!
//! Known faults elsewhere: a producer reading the vCPU's residency before publishing; a WFI decided
//! on a stale view of the pending interrupts.

use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{Machine, PPI, V0, V1, acknowledge, check, sole, spawn, take};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::{Blocked, Cpu, EntryError};

/// Races an injection against the first entry. The entry finds the interrupt, or the producer
/// kicks.
#[test]
fn publish_against_entry() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        // The guest runs until an IPI makes it exit.
        other.join();

        let kicks = machine.kicks();
        assert!(found + kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races two injections against a block and the entry after the wake-up, without a look in between.
/// Every interrupt is found, or the guest is kicked.
#[test]
fn publish_against_block_and_entry() {
    check(3, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);
        machine.exit(&cpu, V0);

        let one = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let other = spawn(&machine, 2, |machine, cpu| {
            let _ = machine.inject_spi(&cpu.pin());
        });
        let blocked = machine.block(&cpu, V0);
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        one.join();
        other.join();

        let (kicks, wakes) = (machine.kicks(), machine.wakes());
        assert!(wakes <= usize::from(blocked == Blocked::Yes));
        assert!(found == 2 || kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// A datum of the embedder's about a vCPU, 1 once written: the place of its thread, for example.
type Datum = Arc<AtomicUsize>;

/// Races an injection against a re-entry on the same CPU. A re-entry without news leaves the
/// residency word alone, and reads the list only if notified.
#[test]
fn publish_against_reentry() {
    publish_against_another_entry(false);
}

/// Races an injection against the entry of a vCPU that has looked for work instead of sleeping. A
/// CPU that kicks sees what the vCPU's CPU has written before that entry.
#[test]
fn publish_against_entry_after_a_look() {
    publish_against_another_entry(true);
}

fn publish_against_another_entry(looks: bool) {
    check(5, move || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);
        machine.exit(&cpu, V0);
        if looks {
            assert!(!machine.vm.has_pending(&cpu.pin(), V0).unwrap());
        }

        let datum = Datum::default();
        let other = spawn(&machine, 1, {
            let datum = datum.clone();
            move |machine, cpu| {
                let _ = machine.inject(&cpu.pin());
                if looks {
                    // Relaxed: the kick orders the load.
                    let seen = datum.load(Relaxed);
                    assert!(machine.kicks() == 0 || seen == 1, "kicked blindly");
                }
            }
        });
        // Relaxed: the entry publishes the store, if it changes the word.
        datum.store(1, Relaxed);
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        other.join();

        let kicks = machine.kicks();
        assert!(kicks <= 1, "one producer");
        assert!(found + kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Disables, as the vCPU whose list register holds it, an interrupt that is active, while another
/// CPU injects. The vCPU's own CPU sends itself no IPI, and the next entry does both.
#[test]
fn own_work_against_anothers() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let intid = acknowledge(&cpu);
        machine.exit(&cpu, V0);
        machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << PPI); // ICENABLER0
        assert_eq!(machine.kicks(), 0, "a CPU kicks itself");

        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject_spi(&cpu.pin());
        });
        machine.enter(&cpu, V0);
        cpu.interface().write_eoir1(intid);
        let found = take(&cpu);
        other.join();

        assert!(found + machine.kicks() >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Injects two different interrupts from two CPUs. One IPI is sent.
#[test]
fn one_ipi_for_two() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        let other = spawn(&machine, 1, |machine, cpu| {
            let _ = machine.inject(&cpu.pin());
        });
        let _ = machine.inject_spi(&cpu.pin());
        other.join();
        assert_eq!(machine.kicks(), 1);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// Races two injections against exit and re-entry. Each stay gets at most one IPI, and no interrupt
/// is left behind.
#[test]
fn one_ipi_for_each_stay() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            let pin = cpu.pin();
            let _ = machine.inject(&pin);
            let _ = machine.inject_spi(&pin);
        });
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        let found = take(&cpu);
        other.join();

        let kicks = machine.kicks();
        assert!(kicks <= 2, "{kicks} IPIs for two stays");
        assert!(found == 2 || kicks >= 1, "the guest would run for ever");
        machine.exit(&cpu, V0);
        assert_eq!(found + machine.serve(&cpu, V0), 2);
        sole(machine).finish(&cpu);
    });
}

/// Races an injection against a block. The vCPU stays awake, or is woken. A CPU that wakes sees
/// what the vCPU's CPU has written before the block.
#[test]
fn publish_against_block() {
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        assert_eq!(take(&cpu), 0);
        machine.exit(&cpu, V0);
        let datum = Datum::default();

        let other = spawn(&machine, 1, {
            let datum = datum.clone();
            move |machine, cpu| {
                let _ = machine.inject(&cpu.pin());
                // Relaxed: the wake orders the load.
                let seen = datum.load(Relaxed);
                assert!(machine.wakes() == 0 || seen == 1, "woken blindly");
            }
        });
        // Relaxed: the block publishes the store.
        datum.store(1, Relaxed);
        let blocked = machine.block(&cpu, V0);
        other.join();

        assert_eq!(machine.wakes(), usize::from(blocked == Blocked::Yes));
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a write that puts the redistributor to sleep against a block, while the CPU interface
/// holds an interrupt back. The vCPU stays awake, or is woken. A CPU that wakes sees what the
/// vCPU's CPU has written before the block.
#[test]
fn sleep_against_block() {
    const WAKER: u64 = 0x14;
    const PROCESSOR_SLEEP: u64 = 2;
    check(5, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        machine.exit(&cpu, V0);
        let _ = machine.inject(&cpu.pin());
        let datum = Datum::default();

        let other = spawn(&machine, 1, {
            let datum = datum.clone();
            move |machine, cpu| {
                machine.gicr(&cpu.pin(), V0, WAKER, PROCESSOR_SLEEP);
                // Relaxed: the wake orders the load.
                let seen = datum.load(Relaxed);
                assert!(machine.wakes() == 0 || seen == 1, "woken blindly");
            }
        });
        // Relaxed: the block publishes the store.
        datum.store(1, Relaxed);
        let blocked = machine.block(&cpu, V0);
        other.join();

        assert_eq!(machine.wakes(), usize::from(blocked == Blocked::Yes));
        assert_eq!(machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}

/// Reads `GICR_ISACTIVER0` of vCPU 0 as vCPU 1, again if told to. Returns true unless the read has
/// an answer in which the PPI, active in a list register, is inactive.
fn shows_active(machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
    const ISACTIVER: u64 = 0x1_0300;
    let mut tries = 0..2;
    let answer = tries.find_map(|_| machine.try_read_gicr(cpu, V1, ISACTIVER));
    answer.is_none_or(|active| active >> PPI & 1 != 0)
}

/// Races a read of the active state in another vCPU's list register against that vCPU's block.
#[test]
fn read_against_block() {
    check(4, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let intid = acknowledge(&cpu);
        machine.exit(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| shows_active(machine, cpu));
        let _ = machine.block(&cpu, V0);
        assert!(other.join(), "an active interrupt reads as inactive");

        machine.enter(&cpu, V0);
        cpu.interface().write_eoir1(intid);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a read of the active state in another vCPU's list register against that vCPU's exit and
/// re-entry.
#[test]
fn read_against_reentry() {
    check(4, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let intid = acknowledge(&cpu);

        let other = spawn(&machine, 1, |machine, cpu| shows_active(machine, cpu));
        machine.exit(&cpu, V0);
        machine.enter(&cpu, V0);
        assert!(other.join(), "an active interrupt reads as inactive");

        cpu.interface().write_eoir1(intid);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a vCPU that disables the PPI and then waits for its handler, as Linux'
/// `synchronize_hardirq` does, against the exit of the vCPU in the handler. The write recalls the
/// vCPU, whose exit then shows the states of its list registers.
#[test]
fn read_against_recall() {
    check(4, || {
        let machine = Arc::new(Machine::new(2));
        let cpu = machine.cpu(0);
        let _ = machine.inject(&cpu.pin());
        machine.enter(&cpu, V0);
        let intid = acknowledge(&cpu);

        let other = spawn(&machine, 1, |machine, cpu| {
            machine.gicr(&cpu.pin(), V0, 0x1_0180, 1 << PPI); // ICENABLER0
            shows_active(machine, cpu)
        });
        machine.exit(&cpu, V0);
        assert!(other.join(), "an active interrupt reads as inactive");

        machine.enter(&cpu, V0);
        cpu.interface().write_eoir1(intid);
        machine.exit(&cpu, V0);
        assert_eq!(machine.serve(&cpu, V0), 0);
        sole(machine).finish(&cpu);
    });
}

/// Races a put against an entry on another CPU. One CPU has the vCPU's registers at a time. The
/// second CPU loads the state saved by the first.
#[test]
fn put_against_entry_elsewhere() {
    check(4, || {
        let machine = Arc::new(Machine::new(1));
        let cpu = machine.cpu(0);
        machine.enter(&cpu, V0);
        let _ = machine.inject(&cpu.pin());
        machine.exit(&cpu, V0);

        let other = spawn(&machine, 1, |machine, cpu| {
            match machine.vm.enter(&cpu.pin(), V0) {
                Ok(()) => {
                    let taken = take(cpu);
                    machine.exit(cpu, V0);
                    machine.put(cpu, V0);
                    taken
                }
                Err(error) => {
                    assert_eq!(error, EntryError::OnAnotherCpu(V0));
                    0
                }
            }
        });
        machine.put(&cpu, V0);
        let taken = other.join();

        assert_eq!(taken + machine.serve(&cpu, V0), 1);
        sole(machine).finish(&cpu);
    });
}
