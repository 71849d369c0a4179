//! Atomics and locks: the only module that names `core::sync::atomic`, `spin` or `loom`.
//!
//! With `--cfg loom`, loom model-checks the scheduler's own code: the atomics are loom's, a
//! [`Lock`] is loom's mutex, and a [`Guarded`] value reports two CPUs that use it at once.

mod counter;
mod guarded;
mod lock;
mod mutant;

pub(crate) use counter::Counter;
pub(crate) use guarded::Guarded;
pub(crate) use lock::Lock;
#[cfg(not(vgic_mutants))]
pub(crate) use mutant::Mutant;
#[cfg(vgic_mutants)]
pub use mutant::{MUTANTS, Mutant, MutantRecord, select};
pub(crate) use mutant::{mutant, weakened_by};

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
