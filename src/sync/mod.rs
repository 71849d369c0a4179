//! Atomics and synchronisation primitives: the only module that names `core::sync::atomic`.
//!
//! All other modules import atomics from here. With `--cfg loom`, loom model-checks the library's
//! own code. With `--cfg shuttle`, shuttle schedules the code at random; crossbeam-epoch needs no
//! shuttle atomics, because shuttle runs a single thread at a time and switches at the library's
//! accesses only.
//!
//! The primitives are a fair spin lock with a check of the lock order ([`SpinLock`], [`Ledger`]),
//! event counters with a single writer ([`Counter`]) and a read-mostly cell ([`Snapshot`]). For the
//! models, `watched` shows loom the life of a structure, and `mutant` lists the deliberate faults
//! to be detected. Other builds contain neither.
//!
//! # Lock order
//! A lock has a [`Rank`]; a CPU may only take locks of strictly rising rank, and takes none while it
//! holds one of the highest. Debug builds check this on every acquisition, through the [`Ledger`] of
//! the CPU that acquires.
//!
//! | rank | lock | protects |
//! |---|---|---|
//! | [`Rank::Topology`] | `Vgic::growth`, `Domain::counters` | adding a vCPU; the list of CPUs that count |
//! | [`Rank::ItsCommand`] | `Commands::engine` of an ITS | command queue, its progress, device and collection tables |
//! | [`Rank::ApList`] | `Vcpu::ap_list` | links, `queued_on` and IN_LR of every interrupt queued on that vCPU |
//!
//! No two locks of one rank are held at once: an interrupt that changes lists is unlinked under the old
//! one, carried, and inserted like any other. Callbacks into the embedder happen with no lock of rank
//! [`Rank::ApList`] held.
//!
//! # Publication order
//! Which store makes what visible to whom. Every access says in a comment what it pairs with; these are
//! the pairs.
//!
//! | what is published | by the store | to the load |
//! |---|---|---|
//! | a device's data, before its interrupt | any transition of `Irq::state` (AcqRel), also one that changes nothing | the transition that consumes the pending state: load, fold |
//! | a change of an interrupt that a vCPU must act on | work bits of `Residency` (`notify`, AcqRel) | the owner's `enter`, `take_work`, `block` (AcqRel) |
//! | where the vCPU is | `enter`, `block` (AcqRel) | the same `notify`: either it sees IN_GUEST or BLOCKED, or the owner sees its bit |
//! | a vCPU's saved registers, for its next CPU | `Residency::release` (AcqRel) | `Residency::claim` (AcqRel) |
//! | links and membership of an ap_list | `SpinGuard::drop` (Release) | `SpinLock::lock` (Acquire) |
//! | an interrupt's contents, or a device's, or a node's | a slot of `Radix`: `insert`, `replace`, `grow` (AcqRel) | `Radix::get`, `next`, `child` (Acquire) |
//! | that a node is dead | `Node::leave` (AcqRel), then its slot: `unlink` (AcqRel) | `Node::enter` (AcqRel); `child`, `grow` |
//! | the link of a dying interrupt | `Dying::bury` (Release) | `Dying::dig` (Acquire) |
//! | a new topology | `Snapshot::store` (AcqRel) | `Snapshot::load` (Acquire) |
//! | a vCPU that was added | `Vgic::present` (Release) | `Vgic::vcpu_count` (Acquire) |
//! | `GICD_IROUTER<n>` to a vCPU that is being added; the vCPU to that write | router, then fence; topology, then fence (SeqCst) | the topology; the routers: one of the two sees the other |
//! | `GICD_CTLR`, `GICR_CTLR` | `groups`, `ctlr` (AcqRel), then a notify of the vCPU | `open_groups`, `lpis_enabled` (Acquire), when the vCPU chooses |
//! | that a vCPU has taken its registers back | `Vcpu::awaited`, `recalls` (AcqRel) | the guest's read of RWP (Acquire) |
//! | where the guest has put a table | `write_base` (AcqRel), `Its::set_control` (AcqRel) | whoever reads the table; `translate` (Acquire) |
//! | commands in the queue; their effects | `cwriter`; `creadr` (Release) | the slice that executes them; the guest that polls (Acquire) |
//! | work left over | `Vgic::defer` (AcqRel) | `has_deferred`, `advance` |
//!
//! What is Relaxed is so because a lock orders it (`links`, `icid`), one CPU alone uses it (`asked`,
//! [`Counter`]), something later publishes it (`hw`), or it is only the guest's to read back.
//!
//! # References
//! 1. An interrupt's references are in its state word, and change together with the state that they stand
//!    for. Zero is final: no transition leads away from it.
//! 2. What makes an interrupt exist owns one: the VM for each SPI, PPI and SGI; every mapped event for its
//!    LPI. The table of LPIs owns none: its slot is weak.
//! 3. The ap_list owns one exactly while `queued_on` names it. `Irq::link` and `link_and_fill_lr` take it in the same
//!    compare-and-swap that sets `queued_on`, `Irq::settle` and `finish` give it back in the one that clears it,
//!    all under the list's lock. A fold gives none back: what it folds is still on the list.
//! 4. An interrupt on its way to another list is kept by the reference that the old list had; whoever
//!    carries it gives that back after inserting it.
//! 5. A lookup takes none. The epoch guard, which the lookup cannot do without, keeps what it found allocated,
//!    not alive: inserting it fails if it is dying, and a raise of an LPI that nothing maps any more has no effect.
//! 6. Whoever gives the last one back frees the interrupt: out of its slot if it is still there (another
//!    may have taken it), and to the epoch. Where that must not allocate, the interrupt waits among
//!    `Dying`.
//! 7. Takes and gives of lists and of lookups are counted and traced apart
//!    ([`TracePoint`](crate::trace::TracePoint)), and at teardown every count is zero.

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
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{
    AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Hint for a CPU that waits for another CPU.
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::hint::spin_loop;
#[cfg(shuttle)]
pub(crate) use shuttle::thread::yield_now as spin_loop;
