//! An entity: a vCPU as the scheduler sees it, with the state word and its transitions.
//!
//! | bits | name | content |
//! |---|---|---|
//! | 0-1 | phase | 0 idle, 1 queued, 2 running |
//! | 2 | `WOKEN` | a wake-up has come since the phase began or the entity began to wait |
//! | 3 | `TIMED` | idle, and put into the timer queue of its CPU |
//! | 16-31 | CPU | the CPU that gave it up, on which it is queued, or on which it runs |
//!
//! Every wake-up sets `WOKEN` by one read-modify-write, in each phase. The one that finds the
//! entity idle and sets the bit first has *claimed* the entity: no other CPU queues it. The
//! transitions are read-modify-writes as well, so that a wake-up stays visible through those that
//! follow it.

use intrusive_collections::RBTreeAtomicLink;

use crate::sync::{AtomicU32, Guarded, Mutant, Ordering, mutant, weakened_by};

/// Weight of an entity that has no other.
pub const NORMAL_WEIGHT: u32 = 1024;

/// Value of an entity's `ran_on` before it has run.
const NOWHERE: u64 = u64::MAX;

const IDLE: u32 = 0;
const QUEUED: u32 = 1;
const RUNNING: u32 = 2;
const PHASE: u32 = 3;
const WOKEN: u32 = 1 << 2;
const TIMED: u32 = 1 << 3;
const CPU_SHIFT: u32 = 16;

/// Phase of an entity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Off or blocked: on no CPU, and on no run queue.
    Idle,
    /// On a run queue.
    Queued,
    /// Loaded on a CPU. The vCPU may wait for an interrupt there, with the CPU asleep.
    Running,
}

/// Value of a state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(u32);

impl State {
    /// Returns a phase on a CPU, without flags.
    fn new(phase: u32, cpu: usize) -> Self {
        Self(phase | (cpu as u32) << CPU_SHIFT)
    }

    /// Returns the phase.
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            IDLE => Phase::Idle,
            QUEUED => Phase::Queued,
            _ => Phase::Running,
        }
    }

    /// Returns the CPU that gave the entity up, on which it is queued, or on which it runs.
    pub(crate) fn cpu(self) -> usize {
        (self.0 >> CPU_SHIFT) as usize
    }

    /// Returns true if a wake-up has come.
    fn is_woken(self) -> bool {
        self.0 & WOKEN != 0
    }

    /// Returns true if the entity was put with a deadline.
    pub(crate) fn is_timed(self) -> bool {
        self.0 & TIMED != 0
    }
}

/// Result of a wake-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Woken {
    /// The caller has claimed the entity, and has to queue it. The state before has the CPU that
    /// gave the entity up, and whether its deadline is in that CPU's timer queue.
    Claimed(State),
    /// The entity runs on this CPU, which has to be kicked.
    Running(usize),
    /// The entity is queued, or another CPU has claimed it.
    Nothing,
}

/// A vCPU as the scheduler sees it. Entities live for ever: the queues refer to them.
///
/// The first cache line has all that changes when an entity is woken, queued and picked. The second
/// line is written only for an entity with a deadline, or that spins.
#[repr(C, align(64))]
pub struct Entity {
    /// Rules 1 and 2 of the crate.
    state: AtomicU32,
    id: u32,
    weight: u32,
    /// Ticks used, scaled by weight. The numbers belong to the entity's owner: rule 3.
    pub(crate) vruntime: Guarded,
    /// Time at which it was queued, while queued.
    pub(crate) queued_at: Guarded,
    /// CPU that it last ran on, or `NOWHERE`.
    ran_on: Guarded,
    pub(crate) run_link: RBTreeAtomicLink,
    pub(crate) timer_link: RBTreeAtomicLink,
    /// Deadline, while in a timer queue.
    pub(crate) deadline: Guarded,
    /// 1 if its next turn is a brief one.
    brief: Guarded,
    /// The CPU that it never leaves, if there is one.
    bound_to: Option<usize>,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::offset_of!(Entity, timer_link) == 64);

impl Entity {
    /// Creates an idle entity, which belongs on `cpu` until it is placed elsewhere. No other entity
    /// has the number `id`. An entity of twice the weight gets twice the time of a busy CPU.
    ///
    /// # Panics
    /// If `weight` is 0.
    #[must_use]
    pub fn new(id: u32, weight: u32, cpu: usize) -> Self {
        assert!(weight != 0, "an entity of no weight never runs");
        Self {
            state: AtomicU32::new(State::new(IDLE, cpu).0),
            id,
            weight,
            bound_to: None,
            vruntime: Guarded::new(0),
            deadline: Guarded::new(0),
            queued_at: Guarded::new(0),
            brief: Guarded::new(0),
            ran_on: Guarded::new(NOWHERE),
            run_link: RBTreeAtomicLink::new(),
            timer_link: RBTreeAtomicLink::new(),
        }
    }

    /// Creates an idle entity that runs on no other CPU than `cpu`.
    ///
    /// # Panics
    /// If `weight` is 0.
    #[must_use]
    pub fn bound(id: u32, weight: u32, cpu: usize) -> Self {
        Self {
            bound_to: Some(cpu),
            ..Self::new(id, weight, cpu)
        }
    }

    /// Returns the entity's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns the entity's weight.
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    /// Returns true if the entity's turns are brief ones. Called by the CPU that runs it.
    #[must_use]
    pub fn is_brief(&self) -> bool {
        self.brief.get() != 0
    }

    /// Makes the entity's turns brief ones, or no longer.
    pub(crate) fn set_brief(&self, brief: bool) {
        if self.is_brief() != brief {
            self.brief.set(brief.into());
        }
    }

    /// Returns the only CPU that the entity may run on, if there is one.
    pub(crate) fn bound_to(&self) -> Option<usize> {
        self.bound_to
    }

    /// Returns the phase, which other CPUs may change at any time.
    #[must_use]
    pub fn phase(&self) -> Phase {
        // Relaxed: a look, which orders nothing.
        State(self.state.load(Ordering::Relaxed)).phase()
    }

    /// Returns the CPU that gave the entity up, on which it is queued, or on which it runs. Other
    /// CPUs may change it at any time.
    #[must_use]
    pub fn cpu(&self) -> usize {
        // Relaxed: a look, which orders nothing.
        State(self.state.load(Ordering::Relaxed)).cpu()
    }

    /// Forgets the wake-ups so far. Call on the CPU that runs the entity, before the look that
    /// decides if the vCPU has to wait: a wake-up from now on keeps the entity from blocking.
    pub fn begin_wait(&self) {
        // Acquire: pairs with the Release in `wake`. The look that follows finds what was there
        // before a wake-up that is forgotten here.
        let order = weakened_by(Mutant::BeginWaitRelaxed, Ordering::Acquire);
        self.state.fetch_and(!WOKEN, order);
    }

    /// Returns true if a wake-up has come since [`Entity::begin_wait`].
    #[must_use]
    pub fn is_woken(&self) -> bool {
        // Relaxed: the vCPU finds what the wake-up is about as it is entered, by the vGIC's own
        // orderings. A wake-up that is not seen yet comes with a kick.
        State(self.state.load(Ordering::Relaxed)).is_woken()
    }

    /// Records a wake-up.
    pub(crate) fn wake(&self) -> Woken {
        // AcqRel: the Release pairs with the Acquire in `begin_wait` and `run`, which let the vCPU
        // find what the caller has for it. The Acquire pairs with the Release in `block`: a claim
        // takes the entity over.
        let order = weakened_by(Mutant::WakeRelaxed, Ordering::AcqRel);
        let seen = mutant(Mutant::WakeByLook).then(|| self.state.load(Ordering::Acquire));
        let before = self.state.fetch_or(WOKEN, order);

        let before = State(seen.unwrap_or(before));
        match before.phase() {
            Phase::Idle if !before.is_woken() => Woken::Claimed(before),
            Phase::Running => Woken::Running(before.cpu()),
            Phase::Idle | Phase::Queued => Woken::Nothing,
        }
    }

    /// Makes the entity, which runs on `cpu`, idle. Returns false if a wake-up has come: then the
    /// entity still runs.
    pub(crate) fn block(&self, cpu: usize, timed: bool) -> bool {
        let running = State::new(RUNNING, cpu).0;
        let idle = State::new(IDLE, cpu).0 | if timed { TIMED } else { 0 };
        // Release: pairs with the Acquire in `wake`: the CPU that claims the entity finds it put.
        // Relaxed on failure: the caller begins to wait once more.
        if mutant(Mutant::BlockPassesWakeUp) {
            self.state.store(idle, Ordering::Release);
            return true;
        }
        let order = weakened_by(Mutant::EntityBlocksRelaxed, Ordering::Release);
        (self.state)
            .compare_exchange(running, idle, order, Ordering::Relaxed)
            .is_ok()
    }

    /// Makes the entity, which belongs to the caller, queued on `cpu`, whose lock is held.
    pub(crate) fn queue(&self, cpu: usize) {
        // Relaxed: the queue's lock passes the entity on. A read-modify-write, which passes on the
        // wake-ups so far.
        let queued = State::new(QUEUED, cpu).0;
        let before = State(self.state.swap(queued, Ordering::Relaxed));
        debug_assert_ne!(before.phase(), Phase::Queued, "{} is queued twice", self.id);
    }

    /// Makes the entity, which was taken from a run queue, running on `cpu`. Returns true if it
    /// last ran on another CPU.
    pub(crate) fn run(&self, cpu: usize) -> bool {
        // Acquire: pairs with the Release in `wake`: the vCPU finds what a wake-up was about that
        // found the entity queued.
        let order = weakened_by(Mutant::PickRelaxed, Ordering::Acquire);
        let running = State::new(RUNNING, cpu).0;
        let before = State(self.state.swap(running, order));
        debug_assert_eq!(before.phase(), Phase::Queued, "{} was not queued", self.id);

        let last = self.ran_on.get();
        self.ran_on.set(cpu as u64);
        last != NOWHERE && last != cpu as u64
    }
}

impl core::fmt::Debug for Entity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Entity")
            .field("id", &self.id)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}
