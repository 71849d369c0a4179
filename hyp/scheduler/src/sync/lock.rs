//! The spin lock of a queue; in models, loom's mutex.

/// A lock around a `T`. At EL2, interrupts are masked while it is held.
pub(crate) struct Lock<T>(Mutex<T>);

#[cfg(not(loom))]
use spin::mutex::{SpinMutex as Mutex, SpinMutexGuard as Guard};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard as Guard};

impl<T> Lock<T> {
    /// Creates an unlocked lock.
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        #[cfg(loom)]
        return self.0.lock().unwrap();
        #[cfg(not(loom))]
        self.0.lock()
    }

    /// Takes the lock if no CPU holds it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        #[cfg(loom)]
        return self.0.try_lock().ok();
        #[cfg(not(loom))]
        self.0.try_lock()
    }
}
