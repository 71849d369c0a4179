//! Runs in which one CPU stops for ever, between any two accesses of an operation.
//!
//! The CPU that stops works for vCPU 0, for ITS 0 and for the whole VM. The other threads do what
//! the documentation promises them ("Lock-free", `docs/concurrency.md`):
//!
//! | load | the others | promise |
//! |---|---|---|
//! | [`Load::Elsewhere`] | inject for other vCPUs, run one of them, drive ITS 1 | they finish |
//! | [`Load::Pending`] | raise interrupts of vCPU 0 that are pending already | they finish |
//! | [`Load::Same`] | insert on the ap_list of vCPU 0, take the command lock of ITS 0 | none |
//!
//! After the others have finished, or have been held up for long, the CPU goes on, and the VM comes
//! to rest: nothing may be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use shuttle::scheduler::{self, Schedule, Task, TaskId};
use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::{DeviceId, EventId, IntId, ItsId};
use vgic::mmio::Width;

use crate::cpu;
use crate::random::Random;
use crate::schedules::BySeed;
use crate::threads::{scope, yield_now};
use crate::vm::{GICD, GITS, Its, Machine, PPI, STEADY_LPIS, redistributor, sgi_base, vcpu};
use crate::world::{Plan, World};

/// The first thread that a run spawns is the CPU that stops.
const STOPPING: usize = 1;

/// The CPU stops before one of so many of its accesses.
const ACCESSES: u64 = 500;

/// Steps of the others after which they count as held up. An ordinary run takes some two thousand.
const HELD_UP: u64 = 20_000;

/// Operations of each other thread.
const OPERATIONS: u64 = 4;

/// Runs after which the loads without a promise must have been held up.
const ENOUGH: u64 = 500;

/// SPI of vCPU 0 that the guest may disable. Pending from the beginning with [`Load::Pending`].
const LOOSE_SPI: u32 = 38;

/// SPI that is connected to a physical one and disconnected.
const CONNECTED_SPI: u32 = 60;

/// Work of the threads that do not stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Load {
    /// For other vCPUs and ITS 1.
    Elsewhere,
    /// For interrupts of vCPU 0 that are pending.
    Pending,
    /// For the ap_list of vCPU 0, and the command lock of ITS 0.
    Same,
}

impl Load {
    fn of(seed: u64) -> Self {
        // An even and an odd seed of each: the scheduler tells them apart.
        [Self::Elsewhere, Self::Elsewhere, Self::Pending, Self::Same][(seed / 2 % 4) as usize]
    }
}

/// The stop of one run, for its scheduler and its threads.
#[derive(Default)]
pub(crate) struct Stall {
    /// The CPU has registered, and may stop.
    is_armed: AtomicBool,
    /// The others are done, or have been held up: the CPU goes on.
    is_over: AtomicBool,
    /// The others have been held up.
    held_up: AtomicBool,
}

/// Counts of a campaign.
#[derive(Default)]
pub(crate) struct Stalled {
    /// Runs of [`Load::Same`].
    same: AtomicU64,
    /// Runs of [`Load::Same`] with the others held up.
    held_up: AtomicU64,
}

impl Stalled {
    /// Prints the counts. Returns false if `runs` were enough, and no run shows that the loads
    /// without a promise need none.
    pub(crate) fn report(&self, runs: u64) -> bool {
        let (same, held_up) = (self.same.load(SeqCst), self.held_up.load(SeqCst));
        println!(
            "one CPU stopped in each; of {same} at the same list or ITS, {held_up} were held up"
        );
        runs < ENOUGH || held_up > 0
    }
}

/// A scheduler that stops one thread, and leaves the others to [`BySeed`].
pub(crate) struct Scheduler {
    others: BySeed,
    stall: Arc<Stall>,
    /// Steps that the thread has left before it stops.
    left: u64,
    /// Steps of the others since then.
    since: u64,
}

impl Scheduler {
    pub(crate) fn new(others: BySeed, stall: Arc<Stall>) -> Self {
        Self {
            others,
            stall,
            left: 0,
            since: 0,
        }
    }
}

impl scheduler::Scheduler for Scheduler {
    fn new_execution(&mut self) -> Option<Schedule> {
        let schedule = self.others.new_execution()?;
        self.left = self.others.next_u64() % ACCESSES;
        self.since = 0;
        self.stall.is_armed.store(false, SeqCst);
        self.stall.is_over.store(false, SeqCst);
        self.stall.held_up.store(false, SeqCst);
        Some(schedule)
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let stops = |id: TaskId| usize::from(id) == STOPPING;
        let is_armed = self.stall.is_armed.load(SeqCst);
        if is_armed && self.left == 0 && !self.stall.is_over.load(SeqCst) {
            self.since += 1;
            let others: Vec<&Task> = (runnable.iter().copied())
                .filter(|task| !stops(task.id()))
                .collect();
            if self.since < HELD_UP && !others.is_empty() {
                let current = current.filter(|&id| !stops(id));
                return self.others.next_task(&others, current, is_yielding);
            }
            self.stall.held_up.store(true, SeqCst);
            self.stall.is_over.store(true, SeqCst);
        }

        let next = self.others.next_task(runnable, current, is_yielding)?;
        if stops(next) && is_armed {
            self.left = self.left.saturating_sub(1);
        }
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        self.others.next_u64()
    }
}

/// Runs one seed. Returns the number of interrupts delivered.
pub(crate) fn run(seed: u64, stall: &Stall, stalled: &Stalled) -> u64 {
    let load = Load::of(seed);
    let world = World::new(Plan {
        seed,
        threads: 8,
        operations: Some(0),
    });
    let machine = &world.machine;
    {
        let cpu = machine.cpu(100);
        machine.enable_lpis(&cpu);
        if load == Load::Pending {
            raise_pending(machine, &cpu);
        }
    }

    scope(|scope| {
        let stopping = scope.spawn(|| {
            let cpu = machine.cpu(0);
            let mut random = Random::of_thread(seed, 0);
            stall.is_armed.store(true, SeqCst);
            while !stall.is_over.load(SeqCst) {
                work_for_vcpu_0(&world, &cpu, load, &mut random);
            }
        });

        let others: Vec<_> = (1..4)
            .map(|number| {
                let world = &world;
                scope.spawn(move || {
                    let cpu = world.machine.cpu(number);
                    let mut random = Random::of_thread(seed, number.into());
                    while !stall.is_armed.load(SeqCst) {
                        yield_now();
                    }
                    for _ in 0..OPERATIONS {
                        match load {
                            Load::Elsewhere => work_elsewhere(world, &cpu, number, &mut random),
                            Load::Pending => raise_pending(&world.machine, &cpu),
                            Load::Same => work_at_the_same(world, &cpu, &mut random),
                        }
                    }
                })
            })
            .collect();
        for other in others {
            other.join().expect("no panic");
        }
        stall.is_over.store(true, SeqCst);
        stopping.join().expect("no panic");
    });

    let held_up = stall.held_up.load(SeqCst);
    match load {
        Load::Same => {
            stalled.same.fetch_add(1, SeqCst);
            stalled.held_up.fetch_add(held_up.into(), SeqCst);
        }
        _ => assert!(!held_up, "a CPU that stopped has held up {load:?}"),
    }

    let deliveries = world.deliveries();
    world.finish();
    deliveries
}

/// Raises an MSI and an SPI of vCPU 0.
fn raise_pending(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    machine.inject_spi(cpu.local(), LOOSE_SPI);
    inject_msi(machine, cpu, 0, 0);
}

/// Signals an MSI: event 0 to 3 of the device that ITS `its` maps, for the vCPU of that number.
fn inject_msi(machine: &Machine, cpu: &Cpu<SoftwareInterface>, its: u8, event: u32) {
    if its == 0 {
        machine.oracle.raising(0, STEADY_LPIS.start + event);
    }
    let (its, device) = (ItsId(its), DeviceId(its.into()));
    let injected = (machine.vm).inject_msi(&cpu.pin(), its, device, EventId(event));
    assert!(injected.is_ok(), "{injected:?}");
}

fn inject_ppi(machine: &Machine, cpu: &Cpu<SoftwareInterface>, to: usize) {
    machine.oracle.raising(to, PPI);
    let intid = IntId::ppi(PPI).expect("a PPI");
    let injected = machine.vm.inject_ppi(&cpu.pin(), vcpu(to), intid);
    assert!(injected.is_ok(), "{injected:?}");
}

/// Does an operation of the CPU that stops. With [`Load::Pending`] none of them takes a pending
/// interrupt from vCPU 0.
fn work_for_vcpu_0(world: &World, cpu: &Cpu<SoftwareInterface>, load: Load, random: &mut Random) {
    let (machine, local) = (&world.machine, cpu.local());
    let operations = if load == Load::Pending { 5 } else { 10 };
    match random.below(operations) {
        0 => machine.inject_spi(local, 32),
        1 => inject_ppi(machine, cpu, 0),
        2 => inject_msi(machine, cpu, 0, 0),
        3 => connect(machine, cpu),
        4 => {
            let mut its = Its::new(machine, cpu, 0);
            its.movi(0, 0, 0);
            its.inv(0, 0);
        }
        5 | 6 => serve(world, cpu, 0),
        7 => {
            let bit = 1 << (LOOSE_SPI - 32);
            machine.write(local, GICD + 0x180 + 4, bit);
            machine.write(local, GICD + 0x100 + 4, bit);
            machine.write(local, GICD + 0x280 + 4, bit);
            machine.route(local, LOOSE_SPI, 0);
        }
        8 => {
            machine.write(local, GICD, 0x10);
            machine.write(local, GICD, 0x12);
            machine.advance(local);
            machine.write(local, redistributor(0), 0);
            if machine.is_stored(cpu, 0) {
                machine.write(local, redistributor(0), 1);
            }
        }
        _ => {
            machine.write64(local, redistributor(0) + 0xb0, 0);
            machine.write(local, sgi_base(0) + 0x180, 1 << PPI);
            machine.write(local, sgi_base(0) + 0x100, 1 << PPI);
            machine.advance(local);
        }
    }
}

/// Connects an SPI to a physical one, and disconnects it, under the lock of the VM's growth.
fn connect(machine: &Machine, cpu: &Cpu<SoftwareInterface>) {
    let spi = IntId::spi(CONNECTED_SPI).expect("an SPI");
    let connected = machine.vm.connect_spi(&cpu.pin(), spi, spi);
    assert_eq!(connected, Ok(()));
    let disconnected = machine.vm.disconnect_spi(&cpu.pin(), spi);
    assert_eq!(disconnected, Ok(()));
}

/// Runs a vCPU until it blocks.
fn serve(world: &World, cpu: &Cpu<SoftwareInterface>, number: usize) {
    if let Some(mut guest) = world.take(|guest| guest.vcpu == number) {
        cpu::serve(&world.machine, cpu, &mut guest);
        world.give(guest);
    }
}

/// Does an operation for vCPUs 1 to 3, as thread `number`: an injector (1), a CPU (2) or a driver
/// of ITS 1 (3).
fn work_elsewhere(world: &World, cpu: &Cpu<SoftwareInterface>, number: u16, random: &mut Random) {
    let (machine, local) = (&world.machine, cpu.local());
    let to = 1 + random.below(3);
    match (number, random.below(3)) {
        // By ITS 0 too, whose command lock the CPU that stops may have.
        (1, 0) => inject_msi(machine, cpu, 0, to as u32),
        (1, 1) => machine.inject_spi(local, 32 + to as u32),
        (1, _) => inject_ppi(machine, cpu, to as usize),
        (2, _) => serve(world, cpu, to as usize),
        (_, 0) => Its::new(machine, cpu, 1).movi(1, to, 1 + random.below(3)),
        (_, 1) => Its::new(machine, cpu, 1).int(1, to),
        (_, _) => machine.write(local, GICD + 0x204, 1 << (37 - 32)),
    }
}

/// Does an operation that may have to wait for the CPU that stops.
fn work_at_the_same(world: &World, cpu: &Cpu<SoftwareInterface>, random: &mut Random) {
    let machine = &world.machine;
    match random.below(4) {
        0 => machine.inject_spi(cpu.local(), 32),
        1 => inject_ppi(machine, cpu, 0),
        2 => inject_msi(machine, cpu, 0, 0),
        _ => {
            // GITS_CBASER is read under the command lock.
            let read = (machine.vm).mmio_read(&cpu.pin(), vcpu(1), GITS[0] + 0x80, Width::Double);
            assert!(read.is_ok(), "{read:?}");
        }
    }
}
