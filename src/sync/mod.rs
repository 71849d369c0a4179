//! The only place that names atomics and cells.
//!
//! Everything else imports them from here, so that `--cfg loom` model-checks the library's own code, and
//! `--cfg shuttle` schedules it at random (crossbeam-epoch takes no turns there, and needs none: shuttle
//! runs one thread at a time and changes only at accesses of ours).
//! This room also holds the few primitives the library is built on: a spin lock that accounts for
//! itself ([`SpinLock`], [`Ledger`]), event counters with one writer ([`Counter`]) and the read-mostly
//! cell ([`Snapshot`]).
//!
//! # Lock order
//! A lock has a [`Rank`]; a CPU may only take locks of strictly rising rank, and takes none while it
//! holds one of the highest. Debug builds check this on every acquisition, through the [`Ledger`] of
//! the CPU that acquires.
//!
//! | rank | lock | protects |
//! |---|---|---|
//! | [`Rank::Topology`] | `Vgic::topology` writer | replacement of the vCPU topology |
//! | [`Rank::ItsCommand`] | `Its::queue` | command queue, its progress, device and collection tables |
//! | [`Rank::Register`] | a register bank's writer | multi-step register updates |
//! | [`Rank::ApList`] | `Vcpu::ap_list` | links of every interrupt queued on that vCPU |
//!
//! Callbacks into the embedder happen with no lock of rank [`Rank::ApList`] held.

mod counter;
mod mutant;
mod snapshot;
mod spin;
mod watched;

pub use counter::Counter;
pub use snapshot::Snapshot;
pub use spin::{Ledger, Rank, SpinGuard, SpinLock};

#[cfg(not(vgic_mutants))]
pub(crate) use mutant::Mutant;
#[cfg(vgic_mutants)]
pub use mutant::{Fault, MUTANTS, Mutant, select};
pub(crate) use mutant::{mutant, relaxed_by};
pub(crate) use watched::Watched;

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

/// What a CPU does while it waits for another.
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::hint::spin_loop;
#[cfg(shuttle)]
pub(crate) use shuttle::thread::yield_now as spin_loop;
