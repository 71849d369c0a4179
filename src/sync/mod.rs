//! Atomics and synchronisation primitives: the only module that names `core::sync::atomic`.
//!
//! All other modules import atomics from here. With `--cfg loom`, loom model-checks the library's
//! own code. With `--cfg shuttle`, shuttle schedules the code at random; crossbeam-epoch needs no
//! shuttle atomics, because shuttle runs a single thread at a time and switches at the library's
//! accesses only.
//!
//! The primitives are a spin lock with a check of the lock order ([`SpinLock`],
//! [`HeldLocks`]), event counters with a single writer ([`Counter`]) and a read-mostly cell
//! ([`Snapshot`]). For the models, `watched` shows loom the life of a structure, `serial` replaces
//! a spin lock by loom's mutex, and `mutant` lists the deliberate faults to be detected. Other
//! builds contain none of the three.
//!
#![doc = include_str!("../../docs/concurrency.md")]

mod counter;
mod held_locks;
mod mutant;
mod serial;
mod slices;
mod snapshot;
mod spin;
mod tickets;
mod watched;
mod word;

pub use counter::Counter;
pub(crate) use counter::Gauge;
pub(crate) use held_locks::{HeldLocks, Rank};
#[cfg(loom)]
pub use serial::make_locks_serial;
pub(crate) use slices::Due;
pub use slices::Slices;
pub(crate) use snapshot::Snapshot;
pub(crate) use spin::SpinLock;
pub use tickets::Tickets;

#[cfg(not(vgic_mutants))]
pub(crate) use mutant::Mutant;
#[cfg(vgic_mutants)]
pub use mutant::{MUTANTS, Mutant, MutantRecord, select};
pub(crate) use mutant::{mutant, weakened_by};
pub(crate) use watched::Watched;
pub(crate) use word::word;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Returns a number, not 0, that no other call returns.
///
/// Not an access that models have to explore: no order of two calls matters.
pub(crate) fn unique_number() -> u64 {
    static NEXT: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(1);
    // Relaxed: the numbers order nothing, they only differ.
    NEXT.fetch_add(1, core::sync::atomic::Ordering::Relaxed)
}

/// Order of a CPU's accesses as a handler on the same CPU sees them: no instruction.
pub(crate) use core::sync::atomic::compiler_fence;

/// Hint for a CPU that waits for another CPU.
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::hint::spin_loop;
#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(shuttle)]
pub(crate) use shuttle::thread::yield_now as spin_loop;

/// Passes the CPU of a thread that waits to another thread.
#[cfg(all(shuttle, feature = "std"))]
pub(crate) use shuttle::thread::yield_now;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub(crate) use std::thread::yield_now;
