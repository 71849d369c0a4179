//! Counting the library's work, so that a test can hold it against a bound (SECURITY.md).
//!
//! A step is one interrupt looked at or changed, one slot or node of a table passed, or one vCPU told or
//! looked at. Whatever loops takes at least one a round, but for loops of constant length: over list registers,
//! over the levels of a table, over bytes that were read from guest memory.

/// Takes a step. Nothing in builds without debug assertions.
#[inline(always)]
pub(crate) fn step() {
    #[cfg(all(debug_assertions, feature = "std", not(loom)))]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
std::thread_local! {
    static STEPS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// Steps that the calling thread has taken in this library so far: interrupts looked at or changed, slots of
/// tables passed, vCPUs told. Counted in builds with debug assertions and the feature `std`; else 0.
#[must_use]
pub fn steps() -> u64 {
    #[cfg(all(debug_assertions, feature = "std", not(loom)))]
    return STEPS.with(core::cell::Cell::get);
    #[cfg(not(all(debug_assertions, feature = "std", not(loom))))]
    0
}
