//! A machine in simulated time: CPUs that run the loop of an embedder, and vCPUs that compute and
//! sleep.

use scheduler::{Entity, Parameters, Phase, Scheduler, Time};

/// Ticks of a millisecond.
pub(crate) const MS: Time = 1000;

/// Ticks of a step: an exit for any other reason comes that often.
const STEP: Time = 20;

/// Parameters of the machine.
pub(crate) const PARAMETERS: Parameters = Parameters::for_frequency(1000 * MS);

/// The program of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    /// Computes for ever.
    Computes,
    /// Spins for ever.
    Spins,
    /// Computes for the first time, and sleeps for the second, for ever.
    Naps(Time, Time),
}

/// A vCPU.
pub(crate) struct Vcpu {
    pub(crate) entity: &'static Entity,
    program: Program,
    /// Ticks on a CPU so far.
    pub(crate) used: Time,
    /// Ticks until it sleeps.
    left: Time,
    /// CPUs that it has run on.
    pub(crate) ran_on: Vec<usize>,
}

/// A CPU.
#[derive(Clone, Copy, Default)]
struct Cpu {
    running: Option<u32>,
    asleep: bool,
    kicked: bool,
    event: Option<Time>,
    /// Steps in which the CPU ran nothing.
    idle: u64,
    ticks: u64,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) scheduler: &'static Scheduler,
    pub(crate) vcpus: Vec<Vcpu>,
    cpus: Vec<Cpu>,
    pub(crate) now: Time,
}

/// Returns an entity for ever.
pub(crate) fn leak(entity: Entity) -> &'static Entity {
    Box::leak(Box::new(entity))
}

impl Machine {
    /// Returns a machine of idle CPUs.
    pub(crate) fn new(cpus: usize) -> Self {
        Self {
            scheduler: Box::leak(Box::new(Scheduler::new(cpus, PARAMETERS))),
            vcpus: Vec::new(),
            cpus: vec![Cpu::default(); cpus],
            now: 0,
        }
    }

    /// Adds a vCPU, whose entity has the next number, and wakes it by CPU 0.
    pub(crate) fn add(&mut self, entity: Entity, program: Program) -> u32 {
        let (entity, id) = (leak(entity), self.vcpus.len() as u32);
        assert_eq!(entity.id(), id);
        let left = match program {
            Program::Computes | Program::Spins => Time::MAX,
            Program::Naps(computes, _) => computes,
        };
        self.vcpus.push(Vcpu {
            entity,
            program,
            used: 0,
            left,
            ran_on: Vec::new(),
        });
        let kick = self.scheduler.on(0).wake(entity, || self.now);
        self.kick(kick);
        id
    }

    /// Runs the machine for some time.
    pub(crate) fn run(&mut self, time: Time) {
        let end = self.now + time;
        while self.now < end {
            (0..self.cpus.len()).for_each(|cpu| self.step(cpu));
            self.now += STEP;
        }
    }

    /// Returns the share of a CPU that each vCPU has used so far, in parts of a thousand.
    pub(crate) fn shares(&self) -> Vec<u64> {
        let share = |vcpu: &Vcpu| vcpu.used * 1000 / self.now;
        self.vcpus.iter().map(share).collect()
    }

    /// Returns the ticks of the scheduler on a CPU so far.
    pub(crate) fn ticks(&self, cpu: usize) -> u64 {
        self.cpus[cpu].ticks
    }

    /// Returns the steps in which a CPU ran nothing.
    pub(crate) fn idle(&self, cpu: usize) -> u64 {
        self.cpus[cpu].idle
    }

    fn kick(&mut self, kick: Option<usize>) {
        if let Some(cpu) = kick {
            self.cpus[cpu].kicked = true;
        }
    }

    /// Runs one CPU for a step, and then its loop until it enters a guest or sleeps.
    fn step(&mut self, index: usize) {
        let (here, now) = (self.scheduler.on(index), self.now);
        let due = |cpu: &Cpu| cpu.kicked || cpu.event.is_some_and(|event| event <= now);
        if self.cpus[index].asleep {
            if !due(&self.cpus[index]) {
                self.cpus[index].idle += 1;
                return;
            }
            self.cpus[index].asleep = false;
            here.end_idle(now);
        } else if let Some(id) = self.cpus[index].running {
            self.compute(index, id);
        }

        if self.cpus[index].running.is_some() {
            if here.needs_resched() || due(&self.cpus[index]) {
                self.cpus[index].ticks += 1;
                if here.tick(now) {
                    let id = self.cpus[index].running.take();
                    let spins = |id: u32| self.vcpus[id as usize].program == Program::Spins;
                    let kick = here.preempt(now, id.is_some_and(spins));
                    self.kick(kick);
                }
            } else {
                return;
            }
        }
        self.cpus[index].kicked = false;
        self.enter(index);
    }

    /// Charges a vCPU for a step that it has run, and blocks it if its program sleeps.
    fn compute(&mut self, cpu: usize, id: u32) {
        let vcpu = &mut self.vcpus[id as usize];
        assert_eq!(vcpu.entity.phase(), Phase::Running);
        vcpu.used += STEP;
        vcpu.left = vcpu.left.saturating_sub(STEP);
        let Program::Naps(computes, sleeps) = vcpu.program else {
            return;
        };
        if vcpu.left == 0 {
            vcpu.left = computes;
            vcpu.entity.begin_wait();
            assert!((self.scheduler.on(cpu)).block(Some(self.now + sleeps), self.now));
            self.cpus[cpu].running = None;
        }
    }

    /// Enters a guest, or sleeps.
    fn enter(&mut self, index: usize) {
        let here = self.scheduler.on(index);
        if self.cpus[index].running.is_none() {
            self.cpus[index].running = here.pick(self.now).map(Entity::id);
            match self.cpus[index].running {
                Some(id) => self.vcpus[id as usize].ran_on.push(index),
                None => self.cpus[index].asleep = here.begin_idle(self.now),
            }
        }
        self.cpus[index].event = here.next_event();
    }
}
