//! A fair spin lock that accounts for itself.
//!
//! The hypervisor holds these for a few dozen instructions with interrupts masked, so waiting means
//! spinning; tickets keep 100 CPUs that queue on one vCPU's list in order.
#![cfg_attr(not(loom), expect(unsafe_code))]
// UNSAFETY: hands out `&mut T` from a shared reference, on the strength of the ticket being served.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::Counter;

/// A lock's place in the lock order (module docs of [`crate::sync`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// Replacement of the vCPU topology.
    Topology = 1,
    /// An ITS's command queue and tables.
    ItsCommand = 2,
    /// One vCPU's active/pending list. Nothing is taken inside it.
    ApList = 3,
}

/// What one physical CPU holds and has taken; every acquisition names the ledger of its CPU.
#[derive(Default)]
pub struct Ledger {
    held: Cell<u8>,
    acquired: Counter,
}

impl Ledger {
    /// Locks this CPU has taken so far.
    #[inline]
    #[must_use]
    pub fn acquired(&self) -> u64 {
        self.acquired.get()
    }

    /// Whether this CPU holds no lock. Only kept in debug builds; true in release builds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.get() == 0
    }

    #[inline]
    #[cfg_attr(not(debug_assertions), expect(unused_variables))]
    fn acquire(&self, rank: Rank) -> Held<'_> {
        self.acquired.add(1);
        #[cfg(debug_assertions)]
        {
            let outer = self.held.replace(rank as u8);
            assert!(
                outer < rank as u8,
                "lock order: {rank:?} taken while holding rank {outer}"
            );
            Held {
                ledger: self,
                outer,
            }
        }
        #[cfg(not(debug_assertions))]
        Held {
            ledger: PhantomData,
        }
    }
}

/// A spin lock around a `T`, served in order of arrival.
///
/// Whoever may be interrupted by a handler that takes the same lock must mask that interrupt first;
/// at EL2 the vGIC is called with interrupts masked.
#[cfg(not(loom))]
pub struct SpinLock<T> {
    next: super::AtomicU32,
    serving: super::AtomicU32,
    rank: Rank,
    value: core::cell::UnsafeCell<T>,
}

#[cfg(loom)]
/// A spin lock around a `T`; under loom, its mutex.
pub struct SpinLock<T> {
    rank: Rank,
    value: loom::sync::Mutex<T>,
}

/// Exclusive access to what a [`SpinLock`] protects, until dropped.
#[must_use]
pub struct SpinGuard<'a, T> {
    #[cfg(not(loom))]
    lock: &'a SpinLock<T>,
    #[cfg(not(loom))]
    ticket: u32,
    #[cfg(loom)]
    inner: Option<loom::sync::MutexGuard<'a, T>>,
    _held: Held<'a>,
    // A lock is released by the CPU that took it.
    not_send: PhantomData<*const ()>,
}

/// That a ledger shows a lock as held; in debug builds only, where the order is checked.
struct Held<'a> {
    #[cfg(debug_assertions)]
    ledger: &'a Ledger,
    #[cfg(debug_assertions)]
    outer: u8,
    #[cfg(not(debug_assertions))]
    ledger: PhantomData<&'a Ledger>,
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        self.ledger.held.set(self.outer);
    }
}

#[cfg(not(loom))]
// SAFETY: the lock gives one CPU at a time access to the value.
unsafe impl<T: Send> Sync for SpinLock<T> {}

#[cfg(not(loom))]
impl<T> SpinLock<T> {
    /// An unlocked lock of the given rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            next: super::AtomicU32::new(0),
            serving: super::AtomicU32::new(0),
            rank,
            value: core::cell::UnsafeCell::new(value),
        }
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock<'a>(&'a self, ledger: &'a Ledger) -> SpinGuard<'a, T> {
        use super::Ordering::{Acquire, Relaxed};
        let held = ledger.acquire(self.rank);
        // Relaxed: the ticket orders nothing; entering does, below.
        let ticket = self.next.fetch_add(1, Relaxed);
        // Acquire: pairs with the Release in `SpinGuard::drop`.
        while self.serving.load(Acquire) != ticket {
            super::spin_loop();
        }
        SpinGuard {
            lock: self,
            ticket,
            _held: held,
            not_send: PhantomData,
        }
    }

    /// Takes the lock if nobody has it or waits for it.
    #[inline]
    pub fn try_lock<'a>(&'a self, ledger: &'a Ledger) -> Option<SpinGuard<'a, T>> {
        use super::Ordering::{Acquire, Relaxed};
        // Acquire: pairs with the Release in `SpinGuard::drop`.
        let serving = self.serving.load(Acquire);
        // Relaxed: if the next ticket is still the one being served, the load above has synchronised
        // with the last holder.
        self.next
            .compare_exchange(serving, serving.wrapping_add(1), Relaxed, Relaxed)
            .ok()?;
        Some(SpinGuard {
            _held: ledger.acquire(self.rank),
            lock: self,
            ticket: serving,
            not_send: PhantomData,
        })
    }
}

#[cfg(loom)]
impl<T> SpinLock<T> {
    /// An unlocked lock of the given rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            value: loom::sync::Mutex::new(value),
        }
    }

    /// Waits for the lock and takes it.
    pub fn lock<'a>(&'a self, ledger: &'a Ledger) -> SpinGuard<'a, T> {
        let held = ledger.acquire(self.rank);
        SpinGuard {
            inner: Some(self.value.lock().unwrap()),
            _held: held,
            not_send: PhantomData,
        }
    }

    /// Takes the lock if nobody has it.
    pub fn try_lock<'a>(&'a self, ledger: &'a Ledger) -> Option<SpinGuard<'a, T>> {
        let inner = self.value.try_lock().ok()?;
        Some(SpinGuard {
            inner: Some(inner),
            _held: ledger.acquire(self.rank),
            not_send: PhantomData,
        })
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        #[cfg(not(loom))]
        // SAFETY: this guard's ticket is being served, so nobody else has access.
        unsafe {
            &*self.lock.value.get()
        }
        #[cfg(loom)]
        self.inner.as_ref().unwrap()
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        #[cfg(not(loom))]
        // SAFETY: this guard's ticket is being served, so nobody else has access.
        unsafe {
            &mut *self.lock.value.get()
        }
        #[cfg(loom)]
        self.inner.as_mut().unwrap()
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(not(loom))]
        {
            // Release: pairs with the Acquire in `SpinLock::lock`. Only the holder writes `serving`.
            let next = self.ticket.wrapping_add(1);
            self.lock.serving.store(next, super::Ordering::Release);
        }
        #[cfg(loom)]
        drop(self.inner.take());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 500 };

    #[test]
    fn excludes_and_counts() {
        let lock = SpinLock::new(Rank::ApList, 0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let ledger = Ledger::default();
                    for _ in 0..ROUNDS {
                        *lock.lock(&ledger) += 1;
                        let mut guard = loop {
                            if let Some(guard) = lock.try_lock(&ledger) {
                                break guard;
                            }
                            std::thread::yield_now();
                        };
                        assert!(lock.try_lock(&Ledger::default()).is_none());
                        *guard += 1;
                    }
                    #[cfg(feature = "counters")]
                    assert_eq!(ledger.acquired(), 2 * ROUNDS);
                    assert!(ledger.is_empty());
                });
            }
        });
        assert_eq!(*lock.lock(&Ledger::default()), 8 * ROUNDS);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order")]
    fn order_is_checked() {
        let ledger = Ledger::default();
        let list = SpinLock::new(Rank::ApList, ());
        let table = SpinLock::new(Rank::ItsCommand, ());
        let _list = list.lock(&ledger);
        let _table = table.lock(&ledger);
    }
}
