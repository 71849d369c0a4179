//! A mutex of loom's around each spin lock, for models that would take too long without.
//!
//! The models run the spin lock as it is: loom explores each look of a CPU that waits. In a model
//! of many critical sections these are too many executions. Such a model has its locks made
//! *serial* (`make_locks_serial`): a CPU waits for loom's mutex, in one step, and draws no
//! ticket. Without loom, a [`Serial`] is empty.

use core::marker::PhantomData;

#[cfg(loom)]
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};

/// True if the locks made from now on are serial.
#[cfg(loom)]
static SERIAL: AtomicBool = AtomicBool::new(false);

/// Makes the locks of the models to come serial, or not.
#[cfg(loom)]
pub fn make_locks_serial(on: bool) {
    // Relaxed: written before the model begins.
    SERIAL.store(on, Relaxed);
}

/// The mutex around a spin lock, if the lock is serial.
pub(super) struct Serial {
    #[cfg(loom)]
    mutex: Option<Mutex<()>>,
}

/// Leave to take a spin lock, until dropped.
pub(super) struct Turn<'a> {
    #[cfg(loom)]
    mutex: Option<MutexGuard<'a, ()>>,
    of: PhantomData<&'a ()>,
}

impl Turn<'_> {
    /// Returns true if the turn is the lock itself: no other CPU has one.
    #[inline(always)]
    pub(super) fn is_alone(&self) -> bool {
        #[cfg(loom)]
        return self.mutex.is_some();
        #[cfg(not(loom))]
        false
    }
}

impl Serial {
    /// Makes the mutex of a lock, in models that ask for one.
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            #[cfg(loom)]
            // Relaxed: written before the model began.
            mutex: SERIAL.load(Relaxed).then(|| Mutex::new(())),
        }
    }

    /// Waits for the mutex.
    #[inline(always)]
    pub(super) fn wait(&self) -> Turn<'_> {
        Turn {
            #[cfg(loom)]
            mutex: self.mutex.as_ref().map(|mutex| mutex.lock().unwrap()),
            of: PhantomData,
        }
    }

    /// Returns `None` if another CPU has the mutex.
    #[inline(always)]
    pub(super) fn attempt(&self) -> Option<Turn<'_>> {
        Some(Turn {
            #[cfg(loom)]
            mutex: match &self.mutex {
                Some(mutex) => Some(mutex.try_lock().ok()?),
                None => None,
            },
            of: PhantomData,
        })
    }
}
