//! What a model sees happen, in the order in which it happens.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;

/// Whether something has happened yet. It is no part of the protocol and orders nothing in it, but loom
/// knows of it, and explores what comes before and what after.
#[derive(Clone)]
pub struct Observation(Arc<AtomicBool>);

impl Default for Observation {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }
}

impl Observation {
    /// It has happened, if `it`.
    pub fn make(&self, it: bool) {
        self.0.fetch_or(it, Relaxed);
    }

    /// Whether it has happened. A read-modify-write, because a mere load may be of long ago.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.0.fetch_or(false, Relaxed)
    }
}
