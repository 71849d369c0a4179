//! A run: CPUs scheduling vCPUs, and actors giving the VM work, until every actor is done.

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

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Seed of every choice except the scheduler's.
    pub(crate) seed: u64,
    /// CPUs and actors together: 8 or more.
    pub(crate) threads: usize,
    /// Operations of each actor, or `None` for a run ended by [`World::stop`].
    pub(crate) operations: Option<u32>,
}

/// A run in progress.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) machine: Machine,
    /// Threads running vCPUs. All other threads are actors.
    pub(crate) cpus: usize,
    /// vCPUs that no CPU has at the moment.
    guests: Mutex<Vec<Guest>>,
    stop: AtomicBool,
    actors_left: AtomicUsize,
    /// CPUs at rest, each with its vCPU.
    pub(crate) resting: AtomicUsize,
    /// The CPU whose turn it is to check for a missed interrupt.
    pub(crate) turn: AtomicUsize,
}

impl World {
    /// Returns a VM after set-up, before the run.
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

    /// Runs all threads until the actors are done and the CPUs are at rest.
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

    /// Ends the actors.
    #[cfg_attr(shuttle, expect(dead_code, reason = "there, plans count operations"))]
    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
    }

    /// Returns whether an actor does another operation after `done` operations.
    pub(crate) fn continues(&self, done: u32) -> bool {
        match self.plan.operations {
            Some(operations) => done < operations,
            None => !self.stop.load(SeqCst),
        }
    }

    /// Returns whether every actor is done.
    pub(crate) fn is_calm(&self) -> bool {
        self.actors_left.load(SeqCst) == 0
    }

    /// Returns the number of interrupts acknowledged so far, by the library's count.
    pub(crate) fn deliveries(&self) -> u64 {
        self.machine.domain.totals().deliveries.iter().sum()
    }

    /// Takes the longest-waiting vCPU among those selected by `wanted`.
    pub(crate) fn take(&self, wanted: impl Fn(&Guest) -> bool) -> Option<Guest> {
        let mut guests = self.guests.lock().expect("no panic while locked");
        let index = guests.iter().position(wanted)?;
        Some(guests.remove(index))
    }

    /// Returns whether a vCPU is on and not waiting in WFI.
    pub(crate) fn is_runnable(&self, guest: &Guest) -> bool {
        !guest.off && (!guest.blocked || self.machine.vm.host().is_woken(guest.vcpu))
    }

    /// Puts a vCPU back into the pool.
    pub(crate) fn give(&self, guest: Guest) {
        let mut guests = self.guests.lock().expect("no panic while locked");
        guests.push(guest);
    }

    /// Serves runnable vCPUs until none is left. Then checks the vCPUs left blocked: none may have
    /// a signalled interrupt without a wake.
    fn serve_until_idle(&self, cpu: &Cpu<SoftwareInterface>) {
        let machine = &self.machine;
        machine.advance(cpu.local());

        while let Some(mut guest) = self.take(|guest| self.is_runnable(guest)) {
            cpu::serve(machine, cpu, &mut guest);
            self.give(guest);
            machine.advance(cpu.local());
        }

        for _ in 0..VCPUS {
            if let Some(mut guest) = self.take(|guest| !guest.off) {
                // Woken by a vCPU served just before.
                let woken = machine.vm.host().is_woken(guest.vcpu);
                let signalled = cpu::serve(machine, cpu, &mut guest);
                assert!(woken || !signalled, "vCPU {} was not woken", guest.vcpu);
                self.give(guest);
            }
        }
    }

    /// Moves SPIs and LPIs to a vCPU that is on, as a guest does when taking CPUs off line. Every
    /// interrupt has to arrive, even with the old target vCPU not running.
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

        self.serve_until_idle(cpu);
        self.machine.oracle.shared_at_rest();
    }

    /// Brings the VM to rest after [`World::run`], and checks the end state: no interrupt lost or
    /// doubled, no RWP stuck, no reference left, and balanced counters.
    pub(crate) fn finish(self) {
        let machine = &self.machine;
        let cpu = machine.cpu(CPUS as u16 + 1);
        machine.enable_lpis(&cpu);
        self.serve_until_idle(&cpu);
        self.evacuate(&cpu);

        while let Some(mut guest) = self.take(|guest| guest.off) {
            assert!(machine.vm.power_on(vcpu(guest.vcpu)), "it was on");
            guest.off = false;
            self.give(guest);
        }

        machine.restore(&cpu);
        self.serve_until_idle(&cpu);

        for register in [GICD].into_iter().chain((0..VCPUS).map(redistributor)) {
            let read = machine
                .vm
                .mmio_read(&cpu.pin(), vcpu(0), register, Width::Word);
            let Ok(MmioOutcome::Done(value)) = read else {
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
        let report = machine
            .vm
            .teardown(&cpu.pin())
            .expect("no vCPU is on a CPU");
        assert_eq!(report.references, 0);

        for kind in Kind::ALL {
            let index = kind as usize;
            assert_eq!(report.pending[index], 0, "{} are stuck", kind.name());
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

/// A guard: dropping it counts one actor less, also on a panic. The CPUs then end too.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
