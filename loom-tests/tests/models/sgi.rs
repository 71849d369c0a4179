//! `sgi`: SGIs to all other vCPUs against those vCPUs' entry, acknowledgement and blocking, and against one
//! another. Every target gets it, is told once, and the sender does not get it.

use loom::sync::Arc;
use loom_tests::{Machine, V0, V1, check, sole, spawn, take};
use vgic::Blocked;

/// The target enters: it finds the SGI, or is kicked out for it.
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

/// The target goes to sleep: it stays awake for the SGI, or is woken.
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

/// The target has taken one SGI, which the vGIC has not seen yet: the next one is another.
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

/// Two vCPUs send the same SGI to all others: each of the two gets the other's, the third one or both as
/// one.
#[test]
fn broadcast_against_broadcast() {
    check(4, || {
        let machine = Arc::new(Machine::new(3));
        let v2 = vgic::intid::VcpuId::new(2).unwrap();
        let cpu = machine.cpu(0);
        let other = spawn(&machine, 1, |machine, cpu| machine.broadcast(cpu, V1));
        machine.broadcast(&cpu, V0);
        other.join();
        assert_eq!(machine.listed(), 3);
        for vcpu in [V0, V1, v2] {
            assert_eq!(machine.serve(&cpu, vcpu), 1);
        }
        sole(machine).finish(&cpu);
    });
}
