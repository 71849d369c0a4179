//! `tickets`: waiting for a spin lock, attempts to take the lock, and its release.
#![expect(unsafe_code)]
// UNSAFETY: the value under the lock is no atomic, so that loom notices a race for it.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use loom_tests::check;
use vgic::internals::Tickets;

/// A lock around a number. The number is no atomic: loom notices two CPUs in the critical section,
/// and a section that does not see the last one.
struct Lock {
    tickets: Tickets,
    value: UnsafeCell<u32>,
}

impl Lock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            tickets: Tickets::new(),
            value: UnsafeCell::new(0),
        })
    }

    /// Increments the number under the lock, waiting in order of arrival.
    fn wait(&self) {
        let ticket = self.tickets.draw();
        while !self.tickets.is_served(ticket) {
            thread::yield_now();
        }
        self.section();
    }

    /// Increments the number if the lock is free. Returns whether it was.
    fn attempt(&self) -> bool {
        let free = self.tickets.draw_if_free();
        if free {
            self.section();
        }
        free
    }

    /// Increments the number and releases the lock, which the caller has taken.
    fn section(&self) {
        // SAFETY: the caller has the lock, and loom fails the model if another CPU accesses the
        // value at the same time.
        self.value.with_mut(|value| unsafe { *value += 1 });
        self.tickets.serve_next();
    }

    /// Returns the number, and asserts that the lock is free.
    fn finish(&self) -> u32 {
        assert!(self.tickets.draw_if_free(), "the lock is not free");
        // SAFETY: the caller has the lock, and loom fails the model if another CPU accesses the
        // value at the same time.
        let value = self.value.with(|value| unsafe { *value });
        self.tickets.serve_next();
        value
    }
}

/// Runs `work` on this CPU and on others at once. Returns the sum of the results.
fn at_once<const N: usize>(lock: &Arc<Lock>, work: [fn(&Lock) -> u32; N]) -> u32 {
    let others: Vec<_> = work[1..]
        .iter()
        .map(|&work| {
            let lock = lock.clone();
            thread::spawn(move || work(&lock))
        })
        .collect();
    let done = work[0](lock);
    let others = others.into_iter().map(|other| other.join().unwrap());
    done + others.sum::<u32>()
}

fn waits(lock: &Lock) -> u32 {
    lock.wait();
    1
}

fn tries(lock: &Lock) -> u32 {
    u32::from(lock.attempt())
}

/// Tries once, and then waits: a thread that has had no luck, and draws a ticket.
fn tries_and_waits(lock: &Lock) -> u32 {
    if !lock.attempt() {
        lock.wait();
    }
    1
}

/// Waits on two CPUs at once, twice on one. Each section sees the one before.
#[test]
fn a_section_sees_the_last_one() {
    check(3, || {
        let lock = Lock::new();
        assert_eq!(at_once(&lock, [waits, |lock| waits(lock) + waits(lock)]), 3);
        assert_eq!(lock.finish(), 3);
    });
}

/// Races attempts of two CPUs against a CPU that waits. An attempt succeeds or changes nothing.
#[test]
fn attempts_against_a_wait() {
    check(3, || {
        let lock = Lock::new();
        let done = at_once(&lock, [waits, tries, tries]);
        assert_eq!(lock.finish(), done);
    });
}

/// Races a thread that tries first and then draws a ticket, against one that waits and then tries.
#[test]
fn tickets_after_attempts() {
    check(3, || {
        let lock = Lock::new();
        let done = at_once(&lock, [|lock| waits(lock) + tries(lock), tries_and_waits]);
        assert_eq!(lock.finish(), done);
    });
}
