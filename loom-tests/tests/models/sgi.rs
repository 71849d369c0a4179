//! `sgi`: SGIs to all other vCPUs against entry, acknowledgement and blocking of the targets, and
//! against each other. Every target gets the SGI and one notification. The sender gets none.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{Machine, V0, V1, check, in_the_epoch, sole, spawn, take};
use vgic::Blocked;

/// Races a broadcast against entry. The target finds the SGI, or is kicked.
#[test]
fn broadcast_against_entry() {
    check(5, || {
        let machine = Arc::new(Machine::new(2));
        let (cpu, target) = (machine.cpu(0), machine.cpu(1));
        let other = spawn(&machine, 2, |machine, cpu| machine.broadcast(cpu, V0));
        machine.enter(&target, V1);
        let found = take(&target);
        other.join();
        assert!(found + machine.kicks() >= 1, "the guest would run for ever");
        machine.exit(&target, V1);
        assert_eq!(found + machine.serve(&target, V1), 1);
        assert_eq!(machine.serve(&cpu, V0), 0, "the sender does not get it");
        sole(machine).finish(&cpu);
    });
}

/// Races a broadcast against a block. The target stays awake, or is woken.
#[test]
fn broadcast_against_block() {
    check(5, || {
        let machine = Arc::new(Machine::new(2));
        let (cpu, target) = (machine.cpu(0), machine.cpu(1));
        machine.enter(&target, V1);
        assert_eq!(take(&target), 0);
        machine.exit(&target, V1);
        let other = spawn(&machine, 2, |machine, cpu| machine.broadcast(cpu, V0));
        let blocked = machine.block(&target, V1);
        other.join();
        assert_eq!(machine.wakes(), usize::from(blocked == Blocked::Yes));
        assert_eq!(machine.serve(&target, V1), 1);
        sole(machine).finish(&cpu);
    });
}

/// Races a second broadcast against the exit after the target's EOI of the first. The target gets
/// the second SGI.
#[test]
fn broadcast_against_acknowledgement() {
    check(5, || {
        let machine = Arc::new(Machine::new(2));
        let (cpu, target) = (machine.cpu(0), machine.cpu(1));
        machine.broadcast(&cpu, V0);
        machine.enter(&target, V1);
        assert_eq!(take(&target), 1);
        let other = spawn(&machine, 2, |machine, cpu| machine.broadcast(cpu, V0));
        machine.exit(&target, V1);
        other.join();
        assert_eq!(machine.serve(&target, V1), 1, "the second SGI is lost");
        sole(machine).finish(&cpu);
    });
}

/// Races broadcasts of the same SGI by two vCPUs, in slices of two vCPUs. Each sender gets the
/// other's SGI. The third vCPU gets the two coalesced.
#[test]
fn broadcast_against_broadcast() {
    check(4, || {
        let machine = Arc::new(Machine::new(3));
        let v2 = vgic::intid::VcpuId::new(2).unwrap();
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| machine.broadcast(cpu, V1));
        machine.broadcast(&cpu, V0);
        other.join();
        machine.advance(&cpu.pin());
        assert_eq!(machine.listed(), 3);
        for vcpu in [V0, V1, v2] {
            assert_eq!(machine.serve(&cpu, vcpu), 1);
        }
        sole(machine).finish(&cpu);
    });
}

/// Races a vCPU that writes memory and sends an SGI to all others against a broadcast of vCPU 1,
/// which joins. If vCPU 1 gets the SGI, also by its own CPU's slice, it sees the memory.
#[test]
fn broadcast_joined_by_a_target() {
    check(2, || {
        let machine = Arc::new(Machine::new(3));
        let cpu = machine.cpu(0);
        let memory = Arc::new(AtomicBool::new(false));
        let other = spawn(&machine, 1, {
            let memory = memory.clone();
            move |machine, cpu| {
                machine.broadcast(cpu, V1);
                let got = machine.serve(cpu, V1) == 1;
                assert!(
                    !got || memory.load(Relaxed),
                    "the SGI comes before the memory"
                );
            }
        });
        let pin = in_the_epoch(&cpu);
        memory.store(true, Relaxed);
        machine.broadcast(&cpu, V0);
        drop(pin);
        other.join();
        sole(machine).finish(&cpu);
    });
}
