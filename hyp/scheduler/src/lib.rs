//! The scheduler of `hyp`: virtual CPUs that share CPUs, fairly and without a common lock.
//!
//! The crate knows nothing of interrupt controllers or of the architecture. Time is in ticks of one
//! clock that all CPUs read, and a kick is an interrupt that the caller sends.
//!
//! # Use
//! The embedder has one [`Scheduler`] and, for each vCPU, an [`Entity`]. Every operation is called
//! on some CPU, by [`Scheduler::on`]. A CPU does, for ever:
//!
//! 1. Picks an entity: [`Here::pick`]. If there is none: [`Here::begin_idle`], sleeps,
//!    [`Here::end_idle`], and picks again.
//! 2. Loads the vCPU, and sets its timer to [`Here::next_event`].
//! 3. Before each entry into the guest, if [`Here::needs_resched`] or if the time of the event has
//!    come: [`Here::tick`]. If that returns true, puts the vCPU, calls [`Here::preempt`], and
//!    picks. If not, sets its timer to the next event, and enters.
//! 4. If the vCPU has to wait: [`Entity::begin_wait`], and a look at its interrupts. If there are
//!    none, either it is put and [`Here::block`] is called; or the CPU sleeps with the vCPU loaded,
//!    between `begin_idle` and `end_idle`, as long as nothing else is queued here.
//!
//! Any CPU that has something for a vCPU publishes it and calls [`Here::wake`]. If the vCPU then is
//! queued here, the CPU sets its timer to the next event, because a vCPU that runs alone has none.
//! [`Here::wake`] and [`Here::preempt`] return the CPU that has to be kicked, if there is one. A
//! kick orders what its sender did before what its receiver does after it, and ends a sleep that
//! has not begun.
//!
//! # Who may touch what, and when
//! 1. An entity's phase has one owner: of an idle entity, the CPU that claims it, which is the one
//!    whose wake-up comes first; of a queued one, the holder of its queue's lock; of a running one,
//!    the CPU that it runs on. Only the owner changes the phase.
//! 2. Any CPU may set the flag `WOKEN` at any time. A running entity whose flag is set cannot
//!    block.
//! 3. An entity's `vruntime` and its other numbers belong to the phase's owner, and to the holder
//!    of the lock of the CPU that it runs on. While its deadline is in a timer queue, the deadline
//!    belongs to the holder of that queue's lock.
//! 4. An entity is in at most one run queue. It is there exactly while it is queued, but for the
//!    moment in which a thief takes it to its own CPU.
//! 5. An entity is in the timer queue of the CPU that gave it up, from the moment that it is
//!    idle until its deadline or the CPU that claims it removes it. Only the CPU itself inserts
//!    there.
//! 6. If a CPU sleeps and entities are queued there, some CPU owes it a kick, or has sent it.
//!
//! A CPU holds one lock at a time: an entity that changes queues is carried from one to the other.
//! A word has the marks of 64 CPUs, and every CPU may read it. It is written only if an entity that
//! may move waits, or is stolen. The work under a lock is a few steps of a balanced
//! tree.
//!
//! # Fairness
//! `vruntime` is the time that an entity has used, scaled by its weight. A CPU runs the queued
//! entity with the smallest one. An entity that changes queues keeps its distance from the queue's
//! smallest `vruntime`, and one that has slept is owed a turn at most. One that spins pays
//! for its whole turn and has a brief one, which leaves the time to the one that it waits for. The
//! weights of CPUs are evened out by entities on the move: one that wakes up goes to an idle CPU,
//! one that is preempted to an idle CPU or to one with no more to do, and a CPU without work
//! steals.
#![no_std]

extern crate alloc;

mod cpu;
mod entity;
mod marks;
mod place;
mod queue;
mod run;
mod sync;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;

pub use entity::{Entity, NORMAL_WEIGHT, Phase};
#[cfg(vgic_mutants)]
pub use sync::{MUTANTS, Mutant, MutantRecord, select};

use cpu::Cpu;
use marks::Marks;

/// A time of the clock that all CPUs read, in ticks.
pub type Time = u64;

/// Most CPUs of a scheduler: the number of a CPU has 16 bits in an entity's state.
const MAX_CPUS: usize = 1 << 16;

/// Parameters of a scheduler, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// Time in which each entity of a CPU has a turn, if no turn is shorter than `least_turn`.
    pub latency: Time,
    /// Shortest turn that the scheduler ends because of its length.
    pub least_turn: Time,
    /// Length of the turns of an entity that spins, which are paid for as whole ones.
    pub brief_turn: Time,
    /// Time by which an entity has to be owed more than the one that runs, to cut its turn short.
    pub granularity: Time,
}

impl Parameters {
    /// Returns parameters for tests, for a clock of `frequency` ticks a second: a turn every 6 ms,
    /// of 1 ms at least.
    #[must_use]
    pub const fn for_frequency(frequency: u64) -> Self {
        let millisecond = frequency / 1000;
        Self {
            latency: 6 * millisecond,
            least_turn: millisecond,
            brief_turn: millisecond / 100,
            granularity: millisecond,
        }
    }
}

/// Counts of one CPU since the start, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Entities taken from other CPUs' queues.
    pub steals: u64,
    /// Entities that last ran on another CPU.
    pub moves: u64,
    /// Entities that the CPU made runnable.
    pub wake_ups: u64,
    /// Entities that were preempted here.
    pub preemptions: u64,
    /// Longest wait of a runnable entity that ran here, in ticks.
    pub longest_wait: Time,
}

/// The scheduler of all CPUs.
pub struct Scheduler {
    cpus: Box<[Cpu]>,
    marks: Marks,
}

impl Scheduler {
    /// Creates the scheduler of `cpus` CPUs, all awake and with nothing to run. The only function
    /// that allocates.
    ///
    /// # Panics
    /// If there is no CPU, or there are more than 65,536.
    #[must_use]
    pub fn new(cpus: usize, parameters: Parameters) -> Self {
        assert!((1..=MAX_CPUS).contains(&cpus), "{cpus} CPUs");
        let parameters = Arc::new(parameters);
        Self {
            cpus: (0..cpus).map(|_| Cpu::new(parameters.clone())).collect(),
            marks: Marks::new(cpus),
        }
    }

    /// Returns the operations of CPU number `cpu`, for the code that runs on it.
    ///
    /// # Panics
    /// If there is no such CPU.
    #[must_use]
    pub fn on(&self, cpu: usize) -> Here<'_> {
        assert!(cpu < self.cpus.len(), "there is no CPU {cpu}");
        Here {
            scheduler: self,
            cpu: &self.cpus[cpu],
            index: cpu,
            not_send: PhantomData,
        }
    }

    /// Makes CPU number `cpu` call [`Here::tick`], after a kick that the caller sends.
    ///
    /// # Panics
    /// If there is no such CPU.
    pub fn ask(&self, cpu: usize) {
        let cpu = &self.cpus[cpu];
        cpu.locked(|_| cpu.request_resched());
    }

    /// Returns the counts of CPU number `cpu`.
    ///
    /// # Panics
    /// If there is no such CPU.
    #[must_use]
    pub fn counts(&self, cpu: usize) -> Counts {
        let counters = &self.cpus[cpu].counters;
        Counts {
            steals: counters.steals.get(),
            moves: counters.moves.get(),
            wake_ups: counters.wake_ups.get(),
            preemptions: counters.preemptions.get(),
            longest_wait: counters.longest_wait.get(),
        }
    }
}

/// The scheduler on the calling CPU.
///
/// Only the code that runs on the CPU uses its `Here`, with interrupts masked: an operation on
/// another CPU's would lose counts and kicks.
#[derive(Clone, Copy)]
pub struct Here<'s> {
    scheduler: &'s Scheduler,
    cpu: &'s Cpu,
    index: usize,
    // It says which CPU the code runs on.
    not_send: PhantomData<*const ()>,
}

impl<'s> Here<'s> {
    /// Returns the calling CPU.
    fn cpu(&self) -> &'s Cpu {
        self.cpu
    }
}
