//! Events seen by a model, in order.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;

/// A flag: has an event happened yet? The flag is no part of the protocol and orders nothing in the
/// protocol. loom knows the flag, and explores the moments before and after the event.
#[derive(Clone)]
pub struct Observation(Arc<AtomicBool>);

impl Default for Observation {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }
}

impl Observation {
    /// Sets the flag if `happened`.
    pub fn make(&self, happened: bool) {
        self.0.fetch_or(happened, Relaxed);
    }

    /// Returns whether the event has happened. A read-modify-write reads the latest value. A plain
    /// load may read an old value.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.0.fetch_or(false, Relaxed)
    }
}
