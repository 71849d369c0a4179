//! Actors: threads giving the VM work. Each plays a device, or a guest driver on another vCPU whose
//! register writes and ITS commands arrive at the vGIC.
//!
//! No actor writes `ISACTIVER` or `ICACTIVER`, or changes the priority of a possibly active
//! interrupt. EOIcount gives the number of deactivations outside the list registers, not their
//! INTIDs. A guest making these writes ends the wrong interrupts on hardware too.

use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{DeviceId, EventId, IntId, ItsId};

use crate::random::Random;
use crate::threads::yield_now;
use crate::vm::{
    EDGES, GICD, Its, LEVELS, LOOSE_LPIS, Machine, PPI, STEADY_LPIS, STEADY_SPIS, VCPUS,
    redistributor, sgi_base, vcpu,
};
use crate::world::World;

/// One operation of an actor, repeated until the run ends.
type Role = fn(&World, &Cpu<SoftwareInterface>, &mut Random);

/// The roles by actor number. Further actors inject.
const ROLES: [Role; 9] = [
    signal_msi,
    drive_its0,
    inject_spi,
    write_distributor,
    drive_its1,
    write_redistributor,
    power_on,
    inject_ppi,
    raise_line,
];

/// Runs the actor of thread `number`.
pub(crate) fn run(world: &World, number: usize) {
    let cpu = world.machine.cpu(number as u16 + 100);
    let mut random = Random::of_thread(world.plan.seed, number);
    let actor = number - world.cpus;
    let role = ROLES
        .get(actor)
        .unwrap_or(&[signal_msi as Role, inject_spi, inject_ppi][actor % 3]);

    let mut done = 0;
    while world.continues(done) {
        role(world, &cpu, &mut random);
        done += 1;
        yield_now();
    }
}

fn pick(random: &mut Random, range: std::ops::Range<u32>) -> u32 {
    range.start + random.below(range.len() as u64) as u32
}

fn pick_vcpu(random: &mut Random) -> u64 {
    random.below(VCPUS as u64)
}

/// Signals an MSI of either ITS. Device 0 raises a steady LPI. Device 1 raises a loose LPI,
/// possibly unmapped at the moment.
fn signal_msi(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let machine = &world.machine;
    let event = random.below(4) as u32;
    let (its, device) = [(0, 0), (0, 1), (1, 1)][random.below(3) as usize];
    if device == 0 {
        machine.oracle.raising(0, STEADY_LPIS.start + event);
    }
    let (its, device, event) = (ItsId(its), DeviceId(device), EventId(event));
    let injected = machine.vm.inject_msi(&cpu.pin(), its, device, event);
    assert!(device == DeviceId(1) || injected.is_ok(), "{injected:?}");
}

fn inject_spi(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let spi = pick(random, STEADY_SPIS.start..EDGES.end);
    world.machine.inject_spi(cpu.local(), spi);
}

fn inject_ppi(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let machine = &world.machine;
    let to = pick_vcpu(random) as usize;
    machine.oracle.raising(to, PPI);
    let intid = IntId::ppi(PPI).expect("a PPI");
    let injected = machine.vm.inject_ppi(&cpu.pin(), vcpu(to), intid);
    assert!(injected.is_ok(), "{injected:?}");
}

/// Raises the line of a level-sensitive SPI. The guest's handler lowers the line.
fn raise_line(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let machine = &world.machine;
    let spi = pick(random, LEVELS);
    if machine.oracle.raising_line(spi) {
        let intid = IntId::spi(spi).expect("an SPI");
        let raised = machine.vm.set_spi_line(&cpu.pin(), intid, true);
        assert_eq!(raised, Ok(()));
    }
}

/// Sends a command to ITS 0, the ITS mapping the steady LPIs.
fn drive_its0(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let machine = &world.machine;
    let mut its = Its::new(machine, cpu, 0);
    let event = random.below(4);
    let steady = STEADY_LPIS.start + event as u32;

    match random.below(6) {
        0 | 1 => its.movi(0, event, pick_vcpu(random)),
        2 => its.movall(pick_vcpu(random), pick_vcpu(random)),
        3 => {
            machine.oracle.raising(0, steady);
            its.int(0, event);
        }
        4 => {
            machine.configure_lpi(steady, 8 * random.below(30) as u8, true);
            its.inv(0, event);
        }
        _ => drive_loose(machine, &mut its, random),
    }
}

/// Sends a command to ITS 1.
fn drive_its1(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    drive_loose(
        &world.machine,
        &mut Its::new(&world.machine, cpu, 1),
        random,
    );
}

/// Maps, unmaps, moves, clears or disables a loose LPI. Both ITSes map and unmap the loose LPIs.
fn drive_loose(machine: &Machine, its: &mut Its<'_>, random: &mut Random) {
    let (event, icid) = (random.below(4), pick_vcpu(random));
    let lpi = pick(random, LOOSE_LPIS);

    match random.below(8) {
        0 => its.discard(1, event),
        1 => {
            its.discard(1, event);
            its.mapti(1, event, lpi, icid);
        }
        2 => its.mapti(1, event, lpi, icid),
        3 => its.movi(1, event, icid),
        4 => its.clear(1, event),
        5 => {
            machine.configure_lpi(lpi, 0x40, random.one_in(2));
            its.invall(icid);
        }
        6 => {
            its.mapd(1, random.one_in(2).then_some(2));
            its.mapd(1, Some(2));
            its.mapti(1, event, lpi, icid);
        }
        _ => {
            // Moves the collection away and back.
            its.mapc(icid, pick_vcpu(random));
            its.mapc(icid, icid);
        }
    }
}

fn write_distributor(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let (machine, local) = (&world.machine, cpu.local());
    let loose = 1 << (pick(random, EDGES) - 32);

    match random.below(8) {
        0 => {
            machine.write(local, GICD, 0x10);
            machine.write(local, GICD, 0x12);
        }
        1 => machine.write(local, GICD + 0x184, loose),
        2 => machine.write(local, GICD + 0x104, loose),
        3 => machine.write(local, GICD + 0x204, loose),
        4 => machine.write(local, GICD + 0x284, loose),
        5 => {
            // Routes the SPI to no vCPU, and then to a vCPU.
            let spi = pick(random, EDGES);
            machine.route(local, spi, 0xff);
            machine.route(local, spi, pick_vcpu(random));
        }
        _ => {
            let spi = pick(random, STEADY_SPIS.start..LEVELS.end);
            machine.route(local, spi, pick_vcpu(random));
        }
    }
}

fn write_redistributor(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let (machine, local) = (&world.machine, cpu.local());
    let n = pick_vcpu(random) as usize;

    match random.below(4) {
        0 => {
            // GICR_INVLPIR of any LPI.
            let lpi = pick(random, STEADY_LPIS.start..LOOSE_LPIS.end);
            machine.write64(local, redistributor(n) + 0xa0, lpi.into());
        }
        1 => machine.write64(local, redistributor(n) + 0xb0, 0),
        2 => {
            // Disables a steady PPI for a moment. No edge may be lost.
            machine.write(local, sgi_base(n) + 0x180, 1 << PPI);
            machine.write(local, sgi_base(n) + 0x100, 1 << PPI);
        }
        _ => {
            // Clears GICR_CTLR.EnableLPIs, and sets it once the pending table has been written. A
            // guest that does not wait would find old bits in the table. Another write of the
            // register, or the end of the run, enables LPIs if the vCPU stays away for long.
            machine.write(local, redistributor(n), 0);
            if machine.is_stored(cpu, n) {
                machine.write(local, redistributor(n), 1);
            }
        }
    }
}

/// Powers on a vCPU found off.
fn power_on(world: &World, _cpu: &Cpu<SoftwareInterface>, _random: &mut Random) {
    if let Some(mut guest) = world.take(|guest| guest.off) {
        assert!(world.machine.vm.power_on(vcpu(guest.vcpu)), "it was on");
        guest.off = false;
        world.give(guest);
    }
}
