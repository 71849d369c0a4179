//! `sgi_sources`: senders of an SGI of a GICv2 against the acknowledge, and against
//! `GICD_CPENDSGIR<n>`. The vCPU takes the SGI once from each source.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;
use loom_tests::{Machine, SGI, V0, V1, check, sole, spawn};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::VcpuId;
use vgic::mmio::Width;

const CTLR: u64 = 0x00;
const PMR: u64 = 0x04;
const IAR: u64 = 0x0c;
const EOIR: u64 = 0x10;
const SPURIOUS: u64 = 1023;
/// `GICD_SGIR` and `GICD_CPENDSGIR<n>`.
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;

/// Returns a VM with a GICv2 and three vCPUs, and the CPU that has vCPU 0 out of the guest.
fn started() -> (Arc<Machine>, Cpu<SoftwareInterface>) {
    let machine = Arc::new(Machine::with_gicv2(3));
    let cpu = machine.cpu(0);
    machine.enter(&cpu, V0);
    machine.exit(&cpu, V0);
    machine.gicc(&cpu, V0, PMR, 0xf0);
    machine.gicc(&cpu, V0, CTLR, 1);
    (machine, cpu)
}

/// Sends the SGI from a vCPU to vCPU 0.
fn send(machine: &Machine, cpu: &Cpu<SoftwareInterface>, sender: VcpuId) {
    machine.gicd_of(cpu, sender, SGIR, Width::Word, 1 << 16 | u64::from(SGI));
}

/// Enters and exits, acknowledges and ends. Returns the source of the SGI, if one was signalled.
fn take(machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> Option<u64> {
    machine.enter(cpu, V0);
    machine.exit(cpu, V0);
    let value = machine.read_gicc(cpu, V0, IAR);
    if value == SPURIOUS {
        return None;
    }
    assert_eq!(value & 0x3ff, u64::from(SGI));
    machine.gicc(cpu, V0, EOIR, value);
    Some(value >> 10)
}

/// Takes the SGI from every source that is left, and checks that the VM ends with nothing.
fn take_all(machine: Arc<Machine>, cpu: &Cpu<SoftwareInterface>, mut taken: Vec<u64>) -> Vec<u64> {
    while let Some(source) = take(&machine, cpu) {
        taken.push(source);
    }
    taken.sort_unstable();
    machine.put(cpu, V0);
    sole(machine).finish(cpu);
    taken
}

/// Races two senders against the acknowledge. Each source is taken once, and the vCPU that takes a
/// source sees what its sender wrote before.
#[test]
fn two_senders_against_acknowledge() {
    check(3, || {
        let (machine, cpu) = started();
        let v2 = VcpuId::new(2).unwrap();
        let written = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let sender = |n: u16, vcpu: VcpuId| {
            let written = written.clone();
            spawn(&machine, n, move |machine, cpu| {
                // Relaxed: the SGI orders it.
                written[usize::from(n) - 1].store(true, Relaxed);
                send(machine, cpu, vcpu);
            })
        };
        let senders = [sender(1, V1), sender(2, v2)];
        let first = take(&machine, &cpu);
        if let Some(source) = first {
            // Relaxed: the SGI orders it.
            assert!(written[source as usize - 1].load(Relaxed), "before it");
        }
        for sender in senders {
            sender.join();
        }
        let taken = take_all(machine, &cpu, first.into_iter().collect());
        assert_eq!(taken, [1, 2]);
    });
}

/// Races a sender against the acknowledge of an SGI from another source that is pending already,
/// and against the acknowledge of its own, which sees what the sender wrote before.
#[test]
fn sender_against_two_acknowledges() {
    check(3, || {
        let (machine, cpu) = started();
        let v2 = VcpuId::new(2).unwrap();
        send(&machine, &cpu, V1);
        let written = Arc::new(AtomicBool::new(false));
        let sender = {
            let written = written.clone();
            spawn(&machine, 2, move |machine, cpu| {
                // Relaxed: the SGI orders it.
                written.store(true, Relaxed);
                send(machine, cpu, v2);
            })
        };
        let first = [take(&machine, &cpu), take(&machine, &cpu)];
        // Relaxed: the SGI orders it.
        assert!(!first.contains(&Some(2)) || written.load(Relaxed));
        sender.join();
        let taken = take_all(machine, &cpu, first.into_iter().flatten().collect());
        assert_eq!(taken, [1, 2]);
    });
}

/// Races a sender against a clear of another source that is pending. The sender's is taken once.
#[test]
fn sender_against_clear() {
    check(4, || {
        let (machine, cpu) = started();
        let v2 = VcpuId::new(2).unwrap();
        send(&machine, &cpu, V1);
        let sender = spawn(&machine, 2, move |machine, cpu| send(machine, cpu, v2));
        let clear = CPENDSGIR + u64::from(SGI);
        machine.gicd_of(&cpu, V0, clear, Width::Byte, 1 << 1);
        sender.join();
        assert_eq!(take_all(machine, &cpu, Vec::new()), [2]);
    });
}

/// Races a sender against clears of its own source, twice. The SGI is taken once or not at all, and
/// nothing is left.
#[test]
fn sender_against_clear_of_its_source() {
    check(3, || {
        let (machine, cpu) = started();
        let sender = spawn(&machine, 1, |machine, cpu| send(machine, cpu, V1));
        let clear = CPENDSGIR + u64::from(SGI);
        machine.gicd_of(&cpu, V0, clear, Width::Byte, 0xff);
        let first = take(&machine, &cpu);
        machine.gicd_of(&cpu, V0, clear, Width::Byte, 0xff);
        sender.join();
        let taken = take_all(machine, &cpu, first.into_iter().collect());
        assert!(taken.is_empty() || taken == [1], "{taken:?}");
    });
}
