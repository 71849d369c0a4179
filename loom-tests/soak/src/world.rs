//! A run: CPUs that schedule vCPUs, and actors that give them work, until all actors are done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use vgic::Cpu;
use vgic::cpu_interface::software::SoftwareInterface;
use vgic::intid::Kind;
use vgic::mmio::{MmioOutcome, Width};

use crate::actors;
use crate::cpu;
use crate::guest::Guest;
use crate::threads::scope;
use crate::vm::{
    CPUS, GICD, Its, LEVELS, Machine, STEADY_LPIS, STEADY_SPIS, VCPUS, redistributor, vcpu,
};

/// How much a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Determines every choice that is not the scheduler's.
    pub(crate) seed: u64,
    /// CPUs and actors together; 8 or more.
    pub(crate) threads: usize,
    /// What each actor does, or none to go on until [`World::stop`].
    pub(crate) operations: Option<u32>,
}

/// A run in progress.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) machine: Machine,
    /// CPUs that run vCPUs; the other threads are actors.
    pub(crate) cpus: usize,
    /// vCPUs that no CPU has at the moment.
    guests: Mutex<Vec<Guest>>,
    stop: AtomicBool,
    actors_left: AtomicUsize,
    /// CPUs that have come to rest with the vCPU they have.
    pub(crate) resting: AtomicUsize,
    /// The CPU whose turn it is to look whether it missed something.
    pub(crate) turn: AtomicUsize,
}

impl World {
    /// A VM that has been set up, before anything happens.
    pub(crate) fn new(plan: Plan) -> Self {
        let cpus = (plan.threads / 4).clamp(2, CPUS);
        Self {
            plan,
            machine: Machine::new(),
            cpus,
            guests: Mutex::new((0..VCPUS).map(Guest::new).collect()),
            stop: AtomicBool::new(false),
            actors_left: AtomicUsize::new(plan.threads - cpus),
            resting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Runs all threads until the actors are done and the CPUs have come to rest.
    pub(crate) fn run(&self) {
        scope(|scope| {
            for number in 0..self.cpus {
                scope.spawn(move || cpu::run(self, number));
            }
            for number in self.cpus..self.plan.threads {
                scope.spawn(move || {
                    let _leaving = Leaving(&self.actors_left);
                    actors::run(self, number);
                });
            }
        });
    }

    /// Tells the actors to end.
    #[cfg_attr(shuttle, expect(dead_code, reason = "there, plans count operations"))]
    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
    }

    /// Whether an actor that has done so many operations does one more.
    pub(crate) fn goes_on(&self, done: u32) -> bool {
        match self.plan.operations {
            Some(operations) => done < operations,
            None => !self.stop.load(SeqCst),
        }
    }

    /// Whether all actors are done.
    pub(crate) fn is_calm(&self) -> bool {
        self.actors_left.load(SeqCst) == 0
    }

    /// Interrupts that guests have acknowledged so far, by the library's count.
    pub(crate) fn deliveries(&self) -> u64 {
        self.machine.domain.totals().deliveries.iter().sum()
    }

    /// Takes the vCPU that has waited longest of those that `wanted` says.
    pub(crate) fn take(&self, wanted: impl Fn(&Guest) -> bool) -> Option<Guest> {
        let mut guests = self.guests.lock().expect("no panic while locked");
        let index = guests.iter().position(wanted)?;
        Some(guests.remove(index))
    }

    /// Whether a vCPU has something to run for.
    pub(crate) fn is_runnable(&self, guest: &Guest) -> bool {
        !guest.off && (!guest.blocked || self.machine.vm.host().is_woken(guest.vcpu))
    }

    /// Gives a vCPU back.
    pub(crate) fn give(&self, guest: Guest) {
        let mut guests = self.guests.lock().expect("no panic while locked");
        guests.push(guest);
    }

    /// Serves every vCPU that has something to run for, until none has; then nobody who was not told may
    /// have anything to take.
    fn settle(&self, cpu: &Cpu<SoftwareInterface>) {
        let machine = &self.machine;
        machine.advance(cpu.local());
        while let Some(mut guest) = self.take(|guest| self.is_runnable(guest)) {
            cpu::serve(machine, cpu, &mut guest);
            self.give(guest);
            machine.advance(cpu.local());
        }
        for _ in 0..VCPUS {
            if let Some(mut guest) = self.take(|guest| !guest.off) {
                // By one that was served just before.
                let woken = machine.vm.host().is_woken(guest.vcpu);
                let signalled = cpu::serve(machine, cpu, &mut guest);
                assert!(woken || !signalled, "vCPU {} was not woken", guest.vcpu);
                self.give(guest);
            }
        }
    }

    /// Moves SPIs and LPIs to a vCPU that is on, as a guest does that takes CPUs off line. They must all
    /// arrive there, although those that they were routed to do not run.
    fn evacuate(&self, cpu: &Cpu<SoftwareInterface>) {
        let Some(guest) = self.take(|guest| !guest.off) else {
            return;
        };
        let to = guest.vcpu as u64;
        self.give(guest);
        for spi in STEADY_SPIS.start..LEVELS.end {
            self.machine.route(cpu.local(), spi, to);
        }
        let mut its = Its::new(&self.machine, cpu, 0);
        for event in 0..STEADY_LPIS.len() as u64 {
            its.movi(0, event, to);
        }
        self.settle(cpu);
        self.machine.oracle.shared_at_rest();
    }

    /// After [`World::run`]: brings everything to rest and checks that nothing was lost or doubled, that
    /// nobody waits for something that does not come, and that the books balance.
    pub(crate) fn finish(self) {
        let machine = &self.machine;
        let cpu = machine.cpu(CPUS as u16 + 1);
        self.settle(&cpu);
        self.evacuate(&cpu);
        while let Some(mut guest) = self.take(|guest| guest.off) {
            assert!(machine.vm.power_on(vcpu(guest.vcpu)), "it was on");
            guest.off = false;
            self.give(guest);
        }
        machine.restore(&cpu);
        self.settle(&cpu);
        for register in [GICD].into_iter().chain((0..VCPUS).map(redistributor)) {
            let read = machine
                .vm
                .mmio_read(&cpu, &cpu.pin(), vcpu(0), register, Width::Word);
            let MmioOutcome::Done(value) = read else {
                panic!("{register:#x}: {read:?}");
            };
            let rwp = if register == GICD { 1 << 31 } else { 1 << 3 };
            assert!(
                value & rwp == 0,
                "RWP of {register:#x} is stuck: {value:#x}"
            );
        }
        machine.oracle.at_rest();
        let totals = machine.domain.totals();
        let World { machine, .. } = self;
        let remains = machine
            .vm
            .teardown(&cpu.pin())
            .expect("no vCPU is on a CPU");
        assert_eq!(remains.references, 0);
        for kind in Kind::ALL {
            let index = kind as usize;
            assert_eq!(remains.pending[index], 0, "{} are stuck", kind.name());
            assert_eq!(
                totals.injections[index],
                totals.coalesced[index] + totals.deliveries[index] + totals.withdrawn[index],
                "{}: {totals:?}",
                kind.name()
            );
        }
        let after = machine.domain.totals();
        assert_eq!(after.mapping_gets, after.mapping_puts);
        assert_eq!(after.migration_gets, after.migration_puts);
        assert_eq!(after.list_gets, after.list_puts);
        assert_eq!(after.lookup_locks_taken, 0);
    }
}

/// One actor fewer once it is dropped, so that the CPUs come to an end also when an actor panics.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
