//! A physical CPU: takes vCPUs from the pool, runs each for a while, and puts each back.

use std::sync::atomic::Ordering::SeqCst;

use vgic::cpu_interface::software::SoftwareInterface;
use vgic::mmio::{MmioOutcome, Width};
use vgic::sysreg::SysReg;
use vgic::{Blocked, Cpu};

use crate::guest::Guest;
use crate::random::Random;
use crate::threads::yield_now;
use crate::vm::{GICD, Machine, PATIENCE, SGIS, VCPUS, sgi_base, vcpu};
use crate::world::World;

/// Runs vCPUs until every actor is done, and then comes to rest.
pub(crate) fn run(world: &World, number: usize) {
    let cpu = world.machine.cpu(number as u16);
    let mut random = Random::of_thread(world.plan.seed, number);
    while !world.is_calm() {
        match world.take(|guest| world.is_runnable(guest)) {
            Some(mut guest) => {
                guest.blocked = false;
                run_vcpu(world, &cpu, &mut guest, &mut random);
                world.give(guest);
            }
            None => yield_now(),
        }
    }
    rest(world, &cpu);
}

/// Runs a vCPU for a few entries and exits, and then blocks it, powers it off or puts it.
fn run_vcpu(world: &World, cpu: &Cpu<SoftwareInterface>, guest: &mut Guest, random: &mut Random) {
    let machine = &world.machine;
    let (vm, host, id) = (&machine.vm, machine.vm.host(), vcpu(guest.vcpu));

    for _ in 0..=random.below(6) {
        if vm.has_deferred() {
            vm.advance(&cpu.pin()).unwrap();
        }
        enter(machine, cpu, guest);

        guest.run(machine, cpu, random);
        if random.one_in(4) {
            wait_in_guest(world, cpu);
        }
        exit(machine, cpu, guest);

        if random.one_in(3) {
            send_sgi(machine, cpu, guest.vcpu, random);
        }
        if random.one_in(4) {
            read_states(machine, cpu, guest, random);
        }
        if random.one_in(3) {
            host.forget_wakes(guest.vcpu);
            guest.blocked = vm.block(&cpu.pin(), id) == Ok(Blocked::Yes);
            if guest.blocked {
                break;
            }
        }
        yield_now();
    }

    if !guest.blocked && random.one_in(8) {
        enter(machine, cpu, guest);
        guest.end_all(machine, cpu);
        exit(machine, cpu, guest);
        assert_eq!(vm.power_off(&cpu.pin(), id), Ok(()));
        guest.reset();
    } else {
        assert_eq!(vm.vcpu_put(&cpu.pin(), id), Ok(()));
    }
}

fn enter(machine: &Machine, cpu: &Cpu<SoftwareInterface>, guest: &mut Guest) {
    machine.vm.host().forget_kicks(cpu.id());
    let entered = machine.vm.enter(&cpu.pin(), vcpu(guest.vcpu));
    assert_eq!(entered, Ok(()));
    guest.start(cpu);
}

fn exit(machine: &Machine, cpu: &Cpu<SoftwareInterface>, guest: &Guest) {
    let exited = machine.vm.exit(&cpu.pin(), vcpu(guest.vcpu));
    assert_eq!(exited, Ok(()));
}

/// Waits in the guest until an interrupt arrives.
fn wait_in_guest(world: &World, cpu: &Cpu<SoftwareInterface>) {
    for _ in 0..PATIENCE {
        if is_interrupted(&world.machine, cpu) || cpu.interface().virq() || world.is_calm() {
            return;
        }
        yield_now();
    }
}

/// Returns whether hardware would leave the guest: on an IPI or on the maintenance interrupt.
fn is_interrupted(machine: &Machine, cpu: &Cpu<SoftwareInterface>) -> bool {
    machine.vm.host().is_kicked(cpu.id()) || cpu.interface().maintenance()
}

/// Sends an SGI to one vCPU, or to every vCPU except the sender.
fn send_sgi(machine: &Machine, cpu: &Cpu<SoftwareInterface>, from: usize, random: &mut Random) {
    let sgi = random.below(u64::from(SGIS));
    let (target, value) = if random.one_in(4) {
        (None, 1 << 40)
    } else {
        let target = random.below(VCPUS as u64);
        (Some(target as usize), 1 << target)
    };

    for to in (0..VCPUS).filter(|to| target.map_or(*to != from, |target| target == *to)) {
        machine.oracle.raising(to, sgi as u32);
    }

    let value = value | sgi << 24;
    machine
        .vm
        .sysreg_write(&cpu.pin(), vcpu(from), SysReg::Sgi1r, value)
        .unwrap();
}

/// Reads pending or active states, as the guest does. The states may be in another vCPU's list
/// registers.
fn read_states(
    machine: &Machine,
    cpu: &Cpu<SoftwareInterface>,
    guest: &mut Guest,
    random: &mut Random,
) {
    let gpa = match random.below(4) {
        0 => GICD + 0x204,
        1 => GICD + 0x304,
        _ => sgi_base(random.below(VCPUS as u64) as usize) + 0x200,
    };

    for _ in 0..PATIENCE {
        let id = vcpu(guest.vcpu);
        let read = machine.vm.mmio_read(&cpu.pin(), id, gpa, Width::Word);
        if let Ok(MmioOutcome::Done(_)) = read {
            return;
        }
        // The other vCPU has been asked to fold. The guest executes the load again.
        assert_eq!(read, Ok(MmioOutcome::Retry));
        enter(machine, cpu, guest);
        exit(machine, cpu, guest);
        yield_now();
    }
}

/// Waits in the guest until every CPU is at rest. Each CPU in turn then checks the absence of a
/// pending interrupt without a kick or maintenance interrupt. Called once every actor is done, when
/// nothing moves any more.
fn rest(world: &World, cpu: &Cpu<SoftwareInterface>) {
    let machine = &world.machine;
    let mut guest = world.take(|guest| world.is_runnable(guest));
    if let Some(guest) = &mut guest {
        guest.blocked = false;
        enter(machine, cpu, guest);
        guest.take_all(machine, cpu);
    }

    world.resting.fetch_add(1, SeqCst);
    while world.resting.load(SeqCst) < world.cpus
        || world.turn.load(SeqCst) != usize::from(cpu.id().0)
    {
        yield_now();
    }

    if let Some(mut guest) = guest {
        let notified = is_interrupted(machine, cpu);
        exit(machine, cpu, &guest);
        enter(machine, cpu, &mut guest);
        assert!(
            notified || !cpu.interface().virq(),
            "vCPU {} was not kicked",
            guest.vcpu
        );
        exit(machine, cpu, &guest);
        let put = machine.vm.vcpu_put(&cpu.pin(), vcpu(guest.vcpu));
        assert_eq!(put, Ok(()));
        world.give(guest);
    }

    world.turn.fetch_add(1, SeqCst);
}

/// Runs a vCPU until it blocks. Returns whether the first entry signalled an interrupt.
pub(crate) fn serve(machine: &Machine, cpu: &Cpu<SoftwareInterface>, guest: &mut Guest) -> bool {
    let id = vcpu(guest.vcpu);
    let mut signalled = None;

    loop {
        machine.vm.host().forget_wakes(guest.vcpu);
        enter(machine, cpu, guest);
        signalled = signalled.or(Some(cpu.interface().virq()));
        guest.take_all(machine, cpu);
        exit(machine, cpu, guest);
        if machine.vm.block(&cpu.pin(), id) == Ok(Blocked::Yes) {
            break;
        }
    }

    guest.blocked = true;
    assert_eq!(machine.vm.vcpu_put(&cpu.pin(), id), Ok(()));
    signalled == Some(true)
}
