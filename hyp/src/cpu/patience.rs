//! Waiting for a device, with a bound.

use crate::cpu::clock;

/// Seconds in which a device reacts.
const PATIENCE: u64 = 2;

/// Waits until `done` returns true. Returns false if it does not in time.
#[must_use]
pub(crate) fn wait(mut done: impl FnMut() -> bool) -> bool {
    let deadline = clock::now() + PATIENCE * clock::frequency();
    while !done() {
        if clock::now() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
