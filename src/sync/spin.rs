//! A spin lock with a check of the lock order and a count of acquisitions.
//!
//! The hypervisor holds a lock for a few dozen instructions with interrupts masked, so waiting CPUs
//! spin. Tickets serve CPUs in order of arrival, even 100 CPUs that wait for the list of one vCPU.
//!
//! With feature `std` the waiting CPU is a thread, which may lose its CPU to another thread, with a
//! ticket or with the lock. A thread therefore first tries without a ticket, and yields its CPU
//! between the attempts, so that the lock goes to a thread that runs. After [`YIELDS`] attempts the
//! thread draws a ticket: then no thread that arrives later comes first.
//!
//! The models run the lock of bare metal, or loom's mutex in its place
//! ([`serial`](super::serial)).
#![expect(unsafe_code)]
// UNSAFETY: a guard makes `&mut T` from a shared reference, while its CPU has the lock.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::held_locks::Held;
use super::serial::{Serial, Turn};
use super::{HeldLocks, Tickets, Watched};

/// Attempts before a thread yields its CPU: some microseconds, more than a holder needs that runs.
#[cfg(feature = "std")]
const SPINS: u32 = if cfg!(any(miri, shuttle)) { 1 } else { 100 };

/// Attempts of a thread that yields its CPU, before it draws a ticket.
#[cfg(feature = "std")]
const YIELDS: u32 = if cfg!(any(miri, shuttle)) { 1 } else { 32 };

/// A spin lock around a `T`, of rank `RANK`: a [`Rank`](super::Rank) as `u8`.
///
/// A caller must mask every interrupt whose handler takes the same lock. At EL2 the vGIC is called
/// with interrupts masked.
pub(crate) struct SpinLock<T, const RANK: u8>(Inner<T>);

/// A lock without its rank: all that a guard needs.
// In this order the tickets share a line with what precedes the lock, and with the value's first
// fields.
#[repr(C)]
struct Inner<T> {
    tickets: Tickets,
    value: core::cell::UnsafeCell<T>,
    /// Shows loom the begin and the end of each critical section.
    watched: Watched,
    serial: Serial,
}

/// Exclusive access to the value of a [`SpinLock`], until dropped.
#[must_use]
pub(crate) struct SpinGuard<'a, T> {
    lock: &'a Inner<T>,
    /// Dropped after the release.
    _held: Held<'a>,
    /// Dropped after the release.
    turn: Turn<'a>,
    // The CPU that took the lock releases the lock.
    not_send: PhantomData<*const ()>,
}

// SAFETY: the lock gives the value to a single CPU at a time, and `T: Send` allows any CPU.
unsafe impl<T: Send, const RANK: u8> Sync for SpinLock<T, RANK> {}

impl<T, const RANK: u8> SpinLock<T, RANK> {
    /// Creates an unlocked lock.
    pub(crate) fn new(value: T) -> Self {
        Self(Inner {
            tickets: Tickets::new(),
            value: core::cell::UnsafeCell::new(value),
            watched: Watched::default(),
            serial: Serial::new(),
        })
    }

    /// Waits for the lock and takes it.
    ///
    /// # Panics
    /// If the wait might never end, because the CPU has the lock, or one that comes after it in the
    /// lock order. In debug builds, without a wait too.
    // Inlined: saves 19 of the 1122 instructions of an SGI to a vCPU in WFI.
    #[inline(always)]
    pub(crate) fn lock<'a>(&'a self, locks: &'a HeldLocks) -> SpinGuard<'a, T> {
        locks.check_order(RANK);
        let turn = self.0.serial.wait();
        if turn.is_alone() {
            return self.guard(locks, turn);
        }

        #[cfg(feature = "std")]
        if !self.0.tickets.draw_if_free() {
            self.0.wait(locks, RANK);
        }

        #[cfg(not(feature = "std"))]
        {
            let ticket = self.0.tickets.draw();
            if !self.0.tickets.is_served(ticket) {
                self.0.wait(locks, RANK, ticket);
            }
        }
        self.guard(locks, turn)
    }

    /// Takes the lock if no CPU holds the lock or waits for the lock.
    ///
    /// # Panics
    /// If the CPU has the lock: no later attempt would succeed. In debug builds, if the lock order
    /// forbids the acquisition.
    #[inline]
    pub(crate) fn try_lock<'a>(&'a self, locks: &'a HeldLocks) -> Option<SpinGuard<'a, T>> {
        locks.check_order(RANK);
        let turn = self.0.serial.attempt();
        let Some(turn) = turn.filter(|turn| turn.is_alone() || self.0.tickets.draw_if_free())
        else {
            locks.check(RANK);
            return None;
        };
        Some(self.guard(locks, turn))
    }

    /// Returns the guard of the lock, which the calling CPU has taken.
    #[inline]
    fn guard<'a>(&'a self, locks: &'a HeldLocks, turn: Turn<'a>) -> SpinGuard<'a, T> {
        self.0.watched.write();
        SpinGuard {
            lock: &self.0,
            _held: locks.acquire(RANK),
            turn,
            not_send: PhantomData,
        }
    }
}

impl<T> Inner<T> {
    /// Waits until the lock, of rank `rank`, is taken.
    #[cfg(feature = "std")]
    #[cold]
    fn wait(&self, locks: &HeldLocks, rank: u8) {
        locks.wait(rank);
        for attempt in 0..SPINS + YIELDS {
            if attempt < SPINS {
                super::spin_loop();
            } else {
                super::yield_now();
            }
            if self.tickets.is_free() && self.tickets.draw_if_free() {
                return;
            }
        }

        let ticket = self.tickets.draw();
        while !self.tickets.is_served(ticket) {
            super::yield_now();
        }
    }

    /// Waits until `ticket` of the lock, of rank `rank`, is served.
    // Inlined: without a call on the way, the callers of `lock` save fewer registers.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    fn wait(&self, locks: &HeldLocks, rank: u8, ticket: u32) {
        locks.wait(rank);
        while !self.tickets.is_served(ticket) {
            super::spin_loop();
        }
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the CPU with the guard has the lock, so no other CPU accesses the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the CPU with the guard has the lock, so no other CPU accesses the value.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.watched.write();
        if !self.turn.is_alone() {
            self.lock.tickets.serve_next();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Rank;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    type Table<T> = SpinLock<T, { Rank::ItsCommand as u8 }>;
    type List<T> = SpinLock<T, { Rank::ApList as u8 }>;

    /// Returns the message that `call` panics with, or an empty text.
    fn panic_of<R>(call: impl FnOnce() -> R) -> std::string::String {
        catch_unwind(AssertUnwindSafe(|| drop(call())))
            .err()
            .and_then(|panic| panic.downcast_ref::<std::string::String>().cloned())
            .unwrap_or_default()
    }

    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 500 };

    #[test]
    fn excludes_and_counts() {
        let lock = List::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let locks = HeldLocks::default();
                    for _ in 0..ROUNDS {
                        *lock.lock(&locks) += 1;
                        let mut guard = loop {
                            if let Some(guard) = lock.try_lock(&locks) {
                                break guard;
                            }
                            std::thread::yield_now();
                        };
                        assert!(lock.try_lock(&HeldLocks::default()).is_none());
                        *guard += 1;
                    }
                    #[cfg(feature = "counters")]
                    assert_eq!(locks.acquired(), 2 * ROUNDS);
                    assert!(locks.is_empty());
                });
            }
        });

        assert_eq!(*lock.lock(&HeldLocks::default()), 8 * ROUNDS);
    }

    /// Runs many threads for each CPU on one lock. Asks for a hundredth of the acquisitions that an
    /// idle machine with two CPUs makes.
    #[test]
    #[cfg(all(feature = "std", not(any(miri, shuttle))))]
    fn more_threads_than_cpus_make_progress() {
        use crate::sync::Ordering::Relaxed;
        use std::sync::Barrier;
        use std::time::{Duration, Instant};

        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = (8 * cpus).max(32);
        let lock = List::new(0_u64);
        let stop = crate::sync::AtomicU8::new(0);
        let ready = Barrier::new(threads + 1);

        let began = std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let locks = HeldLocks::default();
                    ready.wait();
                    // Relaxed: the flag orders nothing.
                    while stop.load(Relaxed) == 0 {
                        *lock.lock(&locks) += 1;
                    }
                });
            }
            ready.wait();
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(500));
            // Relaxed: the flag orders nothing.
            stop.store(1, Relaxed);
            began
        });

        let rate = *lock.lock(&HeldLocks::default()) as f64 / began.elapsed().as_secs_f64();
        std::println!("{threads} threads, {cpus} CPUs: {rate:.0} acquisitions a second");
        assert!(rate > 40_000.0, "{rate:.0} acquisitions a second");
    }

    /// Calls the library from a handler: the CPU's record is that of the interrupted code.
    #[test]
    fn a_handler_that_takes_the_interrupted_codes_lock_panics() {
        let locks = HeldLocks::default();
        let (list, other) = (List::new(()), List::new(()));

        let held = list.lock(&locks);
        assert!(panic_of(|| list.lock(&locks)).contains("lock order"));
        assert!(panic_of(|| list.try_lock(&locks)).contains("lock order"));
        assert!(!locks.is_empty(), "the outer record stands");
        drop(held);
        assert!(locks.is_empty());
        let _held = other.lock(&locks);
    }

    /// Waits for a lock that another CPU holds, inside a lock that comes after it in the order: the
    /// other CPU may wait for that one.
    #[test]
    fn a_wait_against_the_lock_order_panics() {
        let locks = HeldLocks::default();
        let (list, table) = (List::new(()), Table::new(()));
        let _elsewhere = HeldLocks::default();
        let _table = table.lock(&_elsewhere);

        let held = list.lock(&locks);
        assert!(panic_of(|| table.lock(&locks)).contains("lock order"));
        drop(held);
        assert!(locks.is_empty());
    }

    /// Takes locks in their order, and tries locks of other CPUs: no panic.
    #[test]
    fn what_the_lock_order_allows_never_panics() {
        let (locks, elsewhere) = (HeldLocks::default(), HeldLocks::default());
        let (list, table) = (List::new(()), Table::new(()));
        for _ in 0..3 {
            let outer = table.lock(&locks);
            let inner = list.lock(&locks);
            assert!(table.try_lock(&elsewhere).is_none());
            assert!(list.try_lock(&elsewhere).is_none());
            assert!(elsewhere.is_empty());
            drop(inner);
            assert!(!locks.is_empty());
            drop(outer);
            assert!(locks.is_empty());
        }
    }

    /// Tries a lock against the order: the lock stays free.
    #[test]
    #[cfg(debug_assertions)]
    fn an_attempt_against_the_lock_order_takes_nothing() {
        let locks = HeldLocks::default();
        let (list, table) = (List::new(()), Table::new(()));
        let held = list.lock(&locks);
        assert!(panic_of(|| table.try_lock(&locks)).contains("lock order"));
        drop(held);
        assert!(table.try_lock(&locks).is_some());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order")]
    fn order_is_checked() {
        let locks = HeldLocks::default();
        let list = List::new(());
        let table = Table::new(());
        let _list = list.lock(&locks);
        let _table = table.lock(&locks);
    }
}
