//! `Vgic::freeze`, `take_late`, `inject_late` and `thaw`: an interrupt that comes while a VM moves
//! is in its state, or comes too late for it, and is never lost.

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use common::its::Driver;
use common::{GICD, GITS, Machine, affinity, vcpu};
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{CpuId, DeviceId, EventId, IntId, ItsId};
use vgic::state::{LateInterrupt, VmState, flags};
use vgic::{ConfigError, Cpu, EntryError, InjectError, TeardownError};

const LPIS: u32 = 64;

/// Returns a VM with an edge-triggered and a level-sensitive SPI, a PPI, and LPIs.
fn machine() -> Machine {
    let machine = Machine::new(2);
    let driver = Driver::new(&machine);
    driver.mapd(9, 6);
    for event in 0..u64::from(LPIS) {
        driver.map(9, event, 8192 + event, event % 2);
    }
    machine.edge_spi(40, 1);
    machine.set_spi(0, 0x100, 50);
    machine.write(1, machine.gicr(1) + 0x1_0100, 1 << 20);
    machine
}

fn freeze(machine: &Machine) -> VmState {
    machine.put_all();
    machine.vm.freeze(&machine.pin()).unwrap()
}

fn take_late(machine: &Machine, state: &VmState) -> Vec<LateInterrupt> {
    machine.vm.take_late(&machine.pin(), state).unwrap()
}

/// Raises one interrupt of each kind.
fn raise_each(machine: &Machine) {
    machine.inject_spi(40);
    machine.inject_msi(9, 3).unwrap();
    let pin = machine.pin();
    let ppi = IntId::ppi(20).unwrap();
    machine.vm.inject_ppi(&pin, vcpu(1), ppi).unwrap();
    let spi = IntId::spi(50).unwrap();
    machine.vm.set_spi_line(&pin, spi, true).unwrap();
}

/// Serves all vCPUs, with the level lowered first, and returns what each took.
fn serve(machine: &Machine) -> [Vec<u32>; 2] {
    [0, 1].map(|n| {
        let mut served = Vec::new();
        machine.enter(n);
        loop {
            match machine.guest(n).read_iar1() {
                1023 => break,
                intid => {
                    if intid == 50 {
                        let spi = IntId::spi(50).unwrap();
                        machine.vm.set_spi_line(&machine.pin(), spi, false).unwrap();
                    }
                    machine.guest(n).write_eoir1(intid);
                    served.push(intid);
                }
            }
            machine.bounce(n);
        }
        machine.exit(n);
        served.sort_unstable();
        served
    })
}

#[test]
fn a_raise_is_in_the_state_or_too_late() {
    let before = machine();
    raise_each(&before);
    let state = freeze(&before);
    assert_eq!(take_late(&before, &state), []);

    let after = machine();
    let idle = freeze(&after);
    raise_each(&after);
    let late = take_late(&after, &idle);
    let latched = |intid, vcpu| LateInterrupt {
        intid,
        vcpu,
        flags: flags::LATCH,
    };
    let level = LateInterrupt {
        flags: flags::LINE,
        ..latched(50, None)
    };
    assert_eq!(
        late,
        [
            latched(40, None),
            level,
            latched(20, Some(1)),
            latched(8195, None)
        ]
    );
    assert_eq!(take_late(&after, &idle), [level], "latches are taken once");

    // Either way the VM that goes on has the same interrupts.
    let targets = [(&state, vec![]), (&idle, late)].map(|(state, late)| {
        let target = Machine::new(2);
        target.restore(state).unwrap();
        for late in late {
            target.vm.inject_late(&target.pin(), late).unwrap();
        }
        let saved = target.save();
        let served = serve(&target);
        target.finish();
        (saved, served)
    });
    assert_eq!(targets[0], targets[1]);
    assert_eq!(targets[0].1, [vec![50], vec![20, 40, 8195]]);

    for machine in [before, after] {
        machine.vm.teardown(&machine.pin()).unwrap();
    }
}

#[test]
fn an_interrupt_raised_twice_comes_twice() {
    let source = machine();
    raise_each(&source);
    let state = freeze(&source);
    raise_each(&source);
    let target = Machine::new(2);
    target.restore(&state).unwrap();
    assert_eq!(serve(&target), [vec![50], vec![20, 40, 8195]]);
    let late = take_late(&source, &state);
    assert!(late.iter().all(|late| late.flags == flags::LATCH));
    for late in late {
        target.vm.inject_late(&target.pin(), late).unwrap();
    }
    assert_eq!(serve(&target), [vec![], vec![20, 40, 8195]]);
    target.finish();
    source.vm.teardown(&source.pin()).unwrap();
}

#[test]
fn a_thaw_keeps_what_was_pending_and_what_came() {
    let machine = machine();
    raise_each(&machine);
    let state = freeze(&machine);
    machine.inject_msi(9, 4).unwrap();
    machine.vm.thaw(&machine.pin(), &state).unwrap();
    assert_eq!(serve(&machine), [vec![50, 8196], vec![20, 40, 8195]]);
    machine.finish();
}

#[test]
fn a_falling_line_and_a_message_are_late_too() {
    let source = machine();
    let spi = IntId::spi(50).unwrap();
    source.vm.set_spi_line(&source.pin(), spi, true).unwrap();
    let state = freeze(&source);
    source.vm.set_spi_line(&source.pin(), spi, false).unwrap();
    source.write(0, GICD + 0x40, 51); // GICD_SETSPI_NSR
    let late = take_late(&source, &state);
    let of = |intid, flags| LateInterrupt {
        intid,
        vcpu: None,
        flags,
    };
    assert_eq!(late, [of(50, 0), of(51, flags::MESSAGE)]);

    let target = Machine::new(2);
    target.restore(&state).unwrap();
    for late in late {
        target.vm.inject_late(&target.pin(), late).unwrap();
    }
    let saved = target.save();
    assert_eq!(saved.spis[18].interrupt.flags & flags::LINE, 0);
    assert!(saved.spis[19].interrupt.has(flags::MESSAGE));
    // And a message that has been taken back.
    target.vm.inject_late(&target.pin(), of(51, 0)).unwrap();
    let saved = target.save();
    assert!(!saved.spis[19].interrupt.has(flags::MESSAGE));
    target.finish();
    source.vm.teardown(&source.pin()).unwrap();
}

/// Gives the late interrupts of `source` to a new VM with the state, in both orders. Returns
/// whether SPI 50 is pending there.
fn is_pending_there(source: &Machine, state: &VmState) -> [bool; 2] {
    let mut late = take_late(source, state);
    let pending = [(); 2].map(|()| {
        let target = Machine::new(2);
        target.restore(state).unwrap();
        for late in &late {
            target.vm.inject_late(&target.pin(), *late).unwrap();
        }
        late.reverse();
        let pending = target.spi_bit(0, 0x200, 50);
        target.finish();
        pending
    });
    source.vm.teardown(&source.pin()).unwrap();
    pending
}

/// Takes a message back too late, and raises the interrupt afterwards.
#[test]
fn a_raise_after_a_message_that_was_taken_back_is_not_lost() {
    let source = machine();
    source.write(0, GICD + 0x40, 50); // GICD_SETSPI_NSR
    let state = freeze(&source);
    source.write(0, GICD + 0x48, 50); // GICD_CLRSPI_NSR
    source.inject_spi(50);
    assert_eq!(is_pending_there(&source, &state), [true; 2]);
}

/// Lowers the line of an interrupt that a message asserted, and that is edge-triggered since.
#[test]
fn a_message_from_before_is_no_edge() {
    let source = machine();
    let spi = IntId::spi(50).unwrap();
    source.vm.set_spi_line(&source.pin(), spi, true).unwrap();
    source.write(0, GICD + 0x40, 50); // GICD_SETSPI_NSR
    source.edge_spi(50, 0);
    assert!(!source.spi_bit(0, 0x200, 50));
    let state = freeze(&source);
    source.vm.set_spi_line(&source.pin(), spi, false).unwrap();
    assert_eq!(is_pending_there(&source, &state), [false; 2]);
}

/// Raises an edge with its line high, and lowers the line before the next look.
#[test]
fn a_raise_leaves_the_line_alone() {
    let source = machine();
    let state = freeze(&source);
    let spi = IntId::spi(40).unwrap();
    let set = |machine: &Machine, high| {
        let set = machine.vm.set_spi_line(&machine.pin(), spi, high);
        set.unwrap();
    };
    set(&source, true);
    let of = |flags| LateInterrupt {
        intid: 40,
        vcpu: None,
        flags,
    };
    assert_eq!(
        take_late(&source, &state),
        [of(flags::LATCH), of(flags::LINE)]
    );
    assert_eq!(take_late(&source, &state), [of(flags::LINE)]);
    set(&source, false);
    assert_eq!(take_late(&source, &state), []);

    let target = Machine::new(2);
    target.restore(&state).unwrap();
    set(&target, true);
    target
        .vm
        .inject_late(&target.pin(), of(flags::LATCH))
        .unwrap();
    assert!(target.vm.spi_line(spi).unwrap());
    target.finish();
    source.vm.teardown(&source.pin()).unwrap();
}

#[test]
fn a_frozen_vm_is_thawed_or_taken_apart() {
    let machine = machine();
    let state = freeze(&machine);
    let frozen = TeardownError::Frozen;
    let (vm, pin) = (&machine.vm, machine.pin());
    assert_eq!(vm.freeze(&pin), Err(frozen));
    assert_eq!(vm.save(&pin), Err(frozen));
    assert_eq!(vm.reset(&pin), Err(frozen));
    assert_eq!(vm.restore(&pin, &state), Err(frozen.into()));
    assert_eq!(
        vm.enter(&machine.cpus[0].pin(), vcpu(0)),
        Err(EntryError::TornDown)
    );
    assert_eq!(vm.add_vcpu(&pin, affinity(9)), Err(ConfigError::TornDown));

    vm.thaw(&pin, &state).unwrap();
    let thawed = TeardownError::NotFrozen;
    assert_eq!(vm.thaw(&pin, &state), Err(thawed));
    assert_eq!(vm.take_late(&pin, &state), Err(thawed));
    assert_eq!(vm.save(&pin), Ok(state));

    vm.freeze(&pin).unwrap();
    assert_eq!(vm.teardown(&pin).unwrap().references, 0);
    assert_eq!(vm.teardown(&pin), Err(TeardownError::TornDown));
    drop(pin);
}

#[test]
fn a_late_interrupt_that_cannot_be_is_refused() {
    let machine = machine();
    let of = |intid, vcpu| LateInterrupt {
        intid,
        vcpu,
        flags: flags::LATCH,
    };
    let inject = |late| machine.vm.inject_late(&machine.pin(), late);
    let unknown = Err(InjectError::UnknownInterrupt);
    for intid in [1020, 5000, u32::MAX] {
        assert_eq!(inject(of(intid, None)), unknown, "{intid}");
        assert_eq!(inject(of(intid, Some(0))), unknown, "{intid}");
    }
    assert_eq!(inject(of(20, None)), unknown);
    assert_eq!(inject(of(40, Some(0))), unknown);
    assert_eq!(inject(of(8192, Some(0))), unknown);
    assert_eq!(inject(of(20, Some(2))), Err(InjectError::UnknownVcpu));
    assert_eq!(inject(of(9000, None)), Ok(()), "unmapped since");

    // SGIs and LPIs have no lines, and PPIs no messages.
    let before = machine.save();
    for (intid, vcpu, sources) in [
        (3, Some(0), flags::LINE | flags::MESSAGE),
        (8195, None, flags::LINE | flags::MESSAGE),
        (20, Some(1), flags::MESSAGE),
    ] {
        let late = LateInterrupt {
            flags: sources,
            ..of(intid, vcpu)
        };
        assert_eq!(inject(late), Ok(()));
    }
    assert!(machine.save() == before);
    machine.finish();
}

/// Freezes a VM that has a physical interrupt, and another one comes: they are this host's.
#[test]
fn a_forwarded_interrupt_stays() {
    let machine = machine();
    let (pin, spi) = (machine.pin(), |intid| IntId::spi(intid).unwrap());
    for intid in [44, 45] {
        machine.edge_spi(intid, 1);
        let (vm, physical) = (&machine.vm, spi(intid + 100));
        vm.connect_spi(&pin, spi(intid), physical).unwrap();
    }
    let _ = machine.vm.forward_spi(&pin, spi(44)).unwrap();
    let state = freeze(&machine);
    let _ = machine.vm.forward_spi(&pin, spi(45)).unwrap();
    assert_eq!(take_late(&machine, &state), []);
    machine.vm.thaw(&pin, &state).unwrap();
    drop(pin);
    assert_eq!(serve(&machine), [vec![], vec![44, 45]]);
    machine.finish();
}

/// Freezes a VM with commands that wait. They are the other VM's, or this one's after a thaw.
#[test]
fn commands_wait_while_a_vm_is_frozen() {
    let machine = machine();
    let driver = Driver::new(&machine);
    let int = [0x03 | 9 << 32, 5, 0, 0];
    driver.post(&[int; 1000]);
    let state = freeze(&machine);
    let waiting = (state.its[0].creadr, state.its[0].cwriter);
    assert_ne!(waiting.0, waiting.1, "none waits");

    take_late(&machine, &state);
    for _ in 0..100 {
        machine.vm.advance(&machine.pin()).unwrap();
    }
    assert!(!machine.vm.has_deferred(), "a loop does not end");
    // A poll of GITS_CREADR or GITS_CTLR executes a slice of a VM that is not frozen.
    for register in [0x90, 0] {
        let (pin, gpa) = (machine.pin(), GITS + register);
        assert_eq!(machine.vm.bus_read(&pin, gpa, &mut [0; 4]), Ok(true));
    }
    assert_eq!(take_late(&machine, &state), []);

    machine.vm.thaw(&machine.pin(), &state).unwrap();
    assert!(machine.vm.has_deferred(), "nobody goes on");
    let thawed = machine.save();
    let found = (thawed.its[0].creadr, thawed.its[0].cwriter);
    assert_eq!(found, waiting, "a command has been executed");
    machine.advance();
    driver.wait();
    assert_eq!(serve(&machine), [vec![], vec![8197]]);
    machine.finish();
}

/// Raises each LPI once, from another thread, while the VM is frozen.
#[test]
fn each_raise_of_another_cpu_counts_once() {
    let (mut before, mut after) = (0, 0);
    for round in 0..200 {
        let source = machine();
        source.put_all();
        let begun = AtomicBool::new(false);
        let (vm, domain) = (&source.vm, &source.domain);
        let state = std::thread::scope(|scope| {
            scope.spawn(|| {
                let local = domain.register(CpuId(77)).unwrap();
                let cpu = Cpu::new(local, SoftwareInterface::default());
                for event in 0..LPIS {
                    let (device, event) = (DeviceId(9), EventId(event));
                    let raised = vm.inject_msi(&cpu.pin(), ItsId(0), device, event);
                    raised.unwrap();
                    // Relaxed: only a start signal.
                    begun.store(true, Relaxed);
                    // Some raises come before the freeze has reached the LPI, and some after.
                    for _ in 0..round * 20 {
                        std::hint::spin_loop();
                    }
                }
            });
            // Relaxed: only a start signal.
            while !begun.load(Relaxed) {
                std::hint::spin_loop();
            }
            vm.freeze(&source.pin()).unwrap()
        });
        let late = take_late(&source, &state);
        for lpi in &state.lpis {
            let is_late = late.iter().any(|late| late.intid == lpi.intid);
            let is_saved = lpi.interrupt.has(flags::LATCH);
            assert_ne!(is_late, is_saved, "LPI {}", lpi.intid);
            before += u32::from(is_saved);
            after += u32::from(is_late);
        }
        source.vm.teardown(&source.pin()).unwrap();
    }
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}
