//! A fair spin lock with a check of the lock order and a count of acquisitions.
//!
//! The hypervisor holds a lock for a few dozen instructions with interrupts masked, so waiting CPUs
//! spin. Tickets serve CPUs in order of arrival, even 100 CPUs that wait for the list of one vCPU.
#![cfg_attr(not(loom), expect(unsafe_code))]
// UNSAFETY: a guard makes `&mut T` from a shared reference, while its ticket is being served.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::Counter;

/// Position of a lock in the lock order (module docs of [`crate::sync`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// Replacement of the vCPU topology.
    Topology = 1,
    /// An ITS's command queue and tables.
    ItsCommand = 2,
    /// A vCPU's active/pending list. No lock is taken inside.
    ApList = 3,
}

/// Record of the locks of a physical CPU. Every acquisition names the locks of the acquiring CPU.
#[derive(Default)]
pub struct HeldLocks {
    /// Rank of the innermost lock held, or 0. Kept in debug builds only.
    held: Cell<u8>,
    acquired: Counter,
}

impl HeldLocks {
    /// Returns the number of locks that the CPU has taken so far.
    #[inline]
    #[must_use]
    pub fn acquired(&self) -> u64 {
        self.acquired.get()
    }

    /// Returns true if the CPU holds no lock. Always true in release builds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.get() == 0
    }

    /// Records the acquisition of a lock of `rank`, and checks the lock order in debug builds.
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
            Held { locks: self, outer }
        }

        #[cfg(not(debug_assertions))]
        Held { locks: PhantomData }
    }
}

/// A spin lock around a `T`, served in order of arrival.
///
/// A caller must mask every interrupt whose handler takes the same lock. At EL2 the vGIC is called
/// with interrupts masked.
#[cfg(not(loom))]
pub struct SpinLock<T> {
    next: super::AtomicU32,
    serving: super::AtomicU32,
    rank: Rank,
    value: core::cell::UnsafeCell<T>,
}

/// A spin lock around a `T`: loom's mutex.
#[cfg(loom)]
pub struct SpinLock<T> {
    rank: Rank,
    value: loom::sync::Mutex<T>,
}

/// Exclusive access to the value of a [`SpinLock`], until dropped.
#[must_use]
pub struct SpinGuard<'a, T> {
    #[cfg(not(loom))]
    lock: &'a SpinLock<T>,
    #[cfg(not(loom))]
    ticket: u32,
    #[cfg(loom)]
    inner: Option<loom::sync::MutexGuard<'a, T>>,
    _held: Held<'a>,
    // The CPU that took the lock releases the lock.
    not_send: PhantomData<*const ()>,
}

/// The entry of a held lock in a [`HeldLocks`]. Empty in release builds, which do not check the
/// order.
struct Held<'a> {
    #[cfg(debug_assertions)]
    locks: &'a HeldLocks,
    /// Value of `held` before the acquisition.
    #[cfg(debug_assertions)]
    outer: u8,
    #[cfg(not(debug_assertions))]
    locks: PhantomData<&'a HeldLocks>,
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        self.locks.held.set(self.outer);
    }
}

#[cfg(not(loom))]
// SAFETY: the lock gives the value to a single CPU at a time, and `T: Send` allows any CPU.
unsafe impl<T: Send> Sync for SpinLock<T> {}

#[cfg(not(loom))]
impl<T> SpinLock<T> {
    /// Creates an unlocked lock of the given rank.
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
    pub fn lock<'a>(&'a self, locks: &'a HeldLocks) -> SpinGuard<'a, T> {
        use super::Ordering::{Acquire, Relaxed};
        let held = locks.acquire(self.rank);
        // Relaxed: taking the ticket orders nothing; the Acquire load of `serving` below does.
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

    /// Takes the lock if no CPU holds the lock or waits for the lock.
    #[inline]
    pub fn try_lock<'a>(&'a self, locks: &'a HeldLocks) -> Option<SpinGuard<'a, T>> {
        use super::Ordering::{Acquire, Relaxed};
        // Acquire: pairs with the Release in `SpinGuard::drop`.
        let serving = self.serving.load(Acquire);
        // Relaxed: if the next ticket is the ticket being served, the Acquire load above has
        // synchronised with the last holder.
        self.next
            .compare_exchange(serving, serving.wrapping_add(1), Relaxed, Relaxed)
            .ok()?;
        Some(SpinGuard {
            _held: locks.acquire(self.rank),
            lock: self,
            ticket: serving,
            not_send: PhantomData,
        })
    }
}

#[cfg(loom)]
impl<T> SpinLock<T> {
    /// Creates an unlocked lock of the given rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            value: loom::sync::Mutex::new(value),
        }
    }

    /// Waits for the lock and takes it.
    pub fn lock<'a>(&'a self, locks: &'a HeldLocks) -> SpinGuard<'a, T> {
        let held = locks.acquire(self.rank);
        SpinGuard {
            inner: Some(self.value.lock().unwrap()),
            _held: held,
            not_send: PhantomData,
        }
    }

    /// Takes the lock if no CPU holds the lock.
    pub fn try_lock<'a>(&'a self, locks: &'a HeldLocks) -> Option<SpinGuard<'a, T>> {
        let inner = self.value.try_lock().ok()?;
        Some(SpinGuard {
            inner: Some(inner),
            _held: locks.acquire(self.rank),
            not_send: PhantomData,
        })
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        #[cfg(not(loom))]
        // SAFETY: the guard's ticket is being served, so no other CPU accesses the value.
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
        // SAFETY: the guard's ticket is being served, so no other CPU accesses the value.
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
            // Release: pairs with the Acquire in `SpinLock::lock` and in `try_lock`. Only the
            // holder writes `serving`.
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

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order")]
    fn order_is_checked() {
        let locks = HeldLocks::default();
        let list = SpinLock::new(Rank::ApList, ());
        let table = SpinLock::new(Rank::ItsCommand, ());
        let _list = list.lock(&locks);
        let _table = table.lock(&locks);
    }
}
