//! Count of the library's work, for tests that compare the work with a bound (SECURITY.md).
//!
//! A step is a read or a change of an interrupt, a slot or node of a table passed, or a read or a
//! notification of a vCPU. Every loop takes at least a step a round, except loops of constant
//! length: over list registers, over the levels of a table, over bytes read from guest memory.

/// Counts a step. Empty without debug assertions, without the feature `std`, and under loom.
#[inline]
pub(crate) fn step() {
    #[cfg(all(debug_assertions, feature = "std", not(loom)))]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
std::thread_local! {
    static STEPS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// Returns the number of steps that the calling thread has taken in the library so far: reads and
/// changes of interrupts, slots of tables passed, reads and notifications of vCPUs.
///
/// Always 0 without debug assertions or without the feature `std`.
#[must_use]
pub fn steps() -> u64 {
    #[cfg(all(debug_assertions, feature = "std", not(loom)))]
    return STEPS.with(core::cell::Cell::get);
    #[cfg(not(all(debug_assertions, feature = "std", not(loom))))]
    0
}
