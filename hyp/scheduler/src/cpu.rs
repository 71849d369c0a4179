//! One CPU as the scheduler sees it: its queues behind their lock, and what others read without it.

use alloc::sync::Arc;

use crate::Parameters;
use crate::queue::Queue;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Counter, Lock, Ordering};

/// Data of one CPU, apart from the cache lines of the others. A CPU that queues here takes two
/// lines, with the fields up to `floor`. The others are the CPU's own.
#[repr(C, align(128))]
pub(crate) struct Cpu {
    queue: Lock<Queue>,
    /// True if the CPU sleeps, and no other CPU owes it a kick. Set under the lock.
    idle: AtomicBool,
    /// True if the CPU has to call `tick`. Set and cleared under the lock.
    resched: AtomicBool,
    /// Number of queued entities, as the last holder of the lock left it.
    queued: AtomicU32,
    /// Sum of the weights of the entities that are queued or run, as the last holder of the lock
    /// left it.
    weight: AtomicU64,
    /// Virtual time of the queue, as the last holder of the lock left it.
    floor: AtomicU64,
    /// CPU that the next far look of this CPU goes to.
    pub(crate) rotor: Counter,
    pub(crate) counters: Counters,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::offset_of!(Cpu, rotor) == 128);

/// Event counters of one CPU, which the CPU itself writes.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) steals: Counter,
    pub(crate) moves: Counter,
    pub(crate) wake_ups: Counter,
    pub(crate) preemptions: Counter,
    pub(crate) longest_wait: Counter,
}

impl Cpu {
    /// Returns a CPU that is awake and has nothing to run.
    pub(crate) fn new(parameters: Arc<Parameters>) -> Self {
        Self {
            queue: Lock::new(Queue::new(parameters)),
            idle: AtomicBool::new(false),
            resched: AtomicBool::new(false),
            queued: AtomicU32::new(0),
            weight: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            rotor: Counter::default(),
            counters: Counters::default(),
        }
    }

    /// Calls `work` with the queues, under the lock.
    pub(crate) fn locked<R>(&self, work: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = work(&mut queue);
        self.show(&queue);
        result
    }

    /// Calls `work` with the queues, under the lock, if no CPU holds the lock.
    pub(crate) fn try_locked<R>(&self, work: impl FnOnce(&mut Queue) -> R) -> Option<R> {
        let mut queue = self.queue.try_lock()?;
        let result = work(&mut queue);
        self.show(&queue);
        Some(result)
    }

    /// Updates the copies that other CPUs read without the lock, which the caller holds.
    fn show(&self, queue: &Queue) {
        // Relaxed: hints. A CPU that acts on one takes the lock.
        if self.queued.load(Ordering::Relaxed) != queue.count() {
            self.queued.store(queue.count(), Ordering::Relaxed);
        }
        if self.weight.load(Ordering::Relaxed) != queue.weight() {
            self.weight.store(queue.weight(), Ordering::Relaxed);
        }
        if self.floor.load(Ordering::Relaxed) != queue.floor() {
            self.floor.store(queue.floor(), Ordering::Relaxed);
        }
    }

    /// Returns true if entities seem to be queued.
    pub(crate) fn has_queued(&self) -> bool {
        // Relaxed: a hint. A CPU that acts on it takes the lock.
        self.queued.load(Ordering::Relaxed) != 0
    }

    /// Returns a recent sum of the weights of the entities that are queued or run.
    pub(crate) fn weight(&self) -> u64 {
        // Relaxed: a recent one will do.
        self.weight.load(Ordering::Relaxed)
    }

    /// Returns a recent virtual time of the queue.
    pub(crate) fn floor(&self) -> u64 {
        // Relaxed: a recent one will do.
        self.floor.load(Ordering::Relaxed)
    }

    /// Declares the CPU idle. The caller is the CPU, and holds the lock of its empty queue.
    pub(crate) fn set_idle(&self) {
        // Relaxed: a CPU that queues here later takes the lock and sees the flag. One that has not
        // taken the lock only claims it.
        self.idle.store(true, Ordering::Relaxed);
    }

    /// Returns true if the calling CPU is idle, and no other CPU has claimed it.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: the CPU that claims it sends a kick, after which the flag is read again.
        self.idle.load(Ordering::Relaxed)
    }

    /// Ends the idleness of the calling CPU.
    pub(crate) fn end_idle(&self) {
        // Relaxed: a CPU that still sees the flag kicks once too often.
        self.idle.store(false, Ordering::Relaxed);
    }

    /// Takes the flag of an idle CPU: the caller owes it a kick, after it has queued there. Returns
    /// false if the CPU is not idle.
    pub(crate) fn claim_idle(&self) -> bool {
        // Relaxed: elects the CPU that owes the kick, and publishes nothing.
        self.idle.load(Ordering::Relaxed) && self.idle.swap(false, Ordering::Relaxed)
    }

    /// Asks the CPU to call `tick`; the caller holds the lock. Returns false if another CPU has
    /// asked, and has kicked or will kick.
    pub(crate) fn request_resched(&self) -> bool {
        // Relaxed: the kick orders the store before the load of the CPU that takes it.
        !self.resched.swap(true, Ordering::Relaxed)
    }

    /// Forgets the requests so far. The caller is the CPU, and holds the lock.
    pub(crate) fn clear_resched(&self) {
        // Relaxed: the lock orders the requests, and what was queued with them.
        self.resched.store(false, Ordering::Relaxed);
    }

    /// Returns true if the calling CPU has been asked to call `tick`.
    #[inline]
    pub(crate) fn needs_resched(&self) -> bool {
        // Relaxed: the request is before the kick, and `tick` takes the lock.
        self.resched.load(Ordering::Relaxed)
    }
}
