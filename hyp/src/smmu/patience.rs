//! Waiting for the SMMU, with a bound.

use crate::cpu::clock;

/// Seconds in which the SMMU reacts.
const PATIENCE: u64 = 2;

/// Waits until `done` returns true. Returns false if it does not in time.
#[must_use]
pub(super) fn wait(done: impl Fn() -> bool) -> bool {
    let deadline = clock::now() + PATIENCE * clock::frequency();
    while !done() {
        if clock::now() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
