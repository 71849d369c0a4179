//! An interrupt: state word, named transitions of the word, references and links.
//!
//! | file | concern |
//! |---|---|
//! | [`state`] | the layout of the word, and the predicates on the word |
//! | [`raise`] | transitions by injection, a line, or a register write |
//! | [`list_register`] | transitions on a list: link, unlink, fill, fold |
//! | [`physical`] | transitions of the ownership of a physical interrupt |
//! | [`references`] | transitions of mappings and migrations |
//! | [`links`] | the links on an ap_list or on the free list |
//! | [`block`] | the memory of LPIs |
//! | [`outcome`] | the results of transitions, and the work left to the caller |
//! | [`mutant_hooks`] | deliberate faults for the models |
//!
//! # Who may touch a field
//! 1. `state` changes only by the transitions of this room, each an atomic read-modify-write. Any
//!    CPU may make a transition of [`raise`] and [`references`] at any time; the documentation of
//!    [`physical`] says who makes which of its transitions.
//! 2. `queued_on` and IN_LR change only under the ap_list lock of the vCPU concerned: the holder of
//!    the lock knows whether the interrupt is in a bucket. The other LR bits change under the same
//!    lock, or on the CPU with the vCPU, by [`Irq::refresh_lr_bits`] and [`Irq::fold_and_fill_lr`].
//!    The latter leaves `queued_on` and IN_LR set.
//! 3. `links` belong to the ap_list named by `queued_on`, under the list's lock. The links of an
//!    interrupt without references belong to the [`FreeList`](super::free_list::FreeList).
//! 4. `pintid` is written under the lock `Vm::growth`, while none of CONNECTED, HW, LR_HW and
//!    RELEASING is set. Setting CONNECTED publishes it.
//! 5. `icid` is written by the ITS mapping the LPI, under the command lock of the ITS.
//! 6. `readings` counts the readings of an LPI's configuration that have been begun. Any CPU may
//!    begin one.
//!
//! # References
//! A reference has an owner: the VM, a mapping, an ap_list or a migration. The count is part of the
//! state word. The compare-and-swap that begins or ends the ownership takes or puts the reference.
//! Zero is final: no transition leads away from a count of zero. The table lists all transitions
//! that take or put a reference.
//!
//! | transition | made by | ap_list's | mapping's | migration's | trace point |
//! |---|---|---|---|---|---|
//! | [`Irq::new`] of an SPI, PPI or SGI | VM creation; the VM is the owner | | | | |
//! | [`Irq::new`] of an LPI | `MAPTI`, `MAPI` | | take | | `MappingGet` |
//! | [`Block::make`] | restore, with the references of all mappings of an LPI | | take | |
//! `MappingGet` |
//! | [`Irq::map`] | `MAPTI`, `MAPI` of an LPI with references | | take | | `MappingGet` |
//! | [`Irq::unmap`] | `DISCARD`, `MAPD`, `MAPTI`, teardown | | put | | `MappingPut` |
//! | [`Irq::link`] | insertion | take | | | `ListGet` |
//! | [`Irq::link_and_fill_lr`] | staging | take | | | `ListGet` |
//! | [`Irq::unlink`], `Removed` | prune | put | | | `ListPut` |
//! | [`Irq::unlink`], `Migrating` | prune | hand over | | take over | both |
//! | [`Irq::fold_unlink`], `Removed` | exit, vCPU put | put | | | `ListPut` |
//! | [`Irq::fold_unlink`], `Migrating` | put, flush | hand over | | take over | both |
//! | [`Irq::fold_unlink_plain`] | exit | put | | | `ListPut` |
//! | [`Irq::put`] | the CPU that has moved the interrupt | | | put | `MigrationPut` |
//!
//! *Both* are `ListPut` and then `MigrationGet`.
//!
//! * The ap_list owns a reference exactly while `queued_on` names the list's vCPU. A fold alone
//!   puts no reference: a folded interrupt is still on the list. The transitions that fold *and*
//!   unlink put the reference because they unlink.
//! * A migration inserts the interrupt on the new list, by [`Irq::link`] with a new reference, and
//!   then puts the old list's reference.
//! * A lookup takes no reference. The lookup's epoch guard keeps the interrupt allocated, not
//!   alive: linking an interrupt without references fails, and raising an unmapped LPI has no
//!   effect.
//! * The CPU that puts the last reference frees the interrupt, or pushes the interrupt onto the
//!   [`FreeList`](super::free_list::FreeList) if freeing is not allowed to allocate.
//!
//! # Publication
//! A CPU that makes an interrupt pending publishes all earlier writes of the CPU. The transition
//! that consumes the pending state (fill, fold) acquires the writes, also of a coalesced injection.
//! For this reason a raise is never skipped after a mere load.
//!
//! A raise and a change of a line consume nothing, and are Release: their follow-up depends on the
//! returned state alone, or is done under the list's lock. Every other transition is AcqRel.

mod block;
mod links;
mod list_register;
mod mutant_hooks;
mod outcome;
mod physical;
mod raise;
mod references;
mod state;
#[cfg(all(test, not(loom)))]
mod tests;

use block::Home;

use crate::intid::{IntId, Kind, VcpuId};
use crate::steps::step;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Mutant, Watched, mutant};

pub(crate) use block::Block;
pub(crate) use links::Links;
pub(crate) use outcome::{
    Changed, FastFold, Folded, FollowUp, Pruned, PutResult, Raised, Refilled,
};
pub(crate) use references::MAX_MAPPING_REFS;
pub(crate) use state::State;
pub(crate) use state::{
    ACTIVE, CANCEL_A, CANCEL_P, CONNECTED, ENABLED, GROUP1, HW, IN_LR, LEVEL, LINE, LR_ACTIVE,
    LR_ASKED, LR_BITS, LR_HW, LR_LATCH, LR_PENDING, MESSAGE, PENDING, REF, RELEASING, TARGET,
    UNMAPPED,
};

/// A virtual interrupt.
///
/// # Invariants
/// * `queued_on` names a vCPU exactly while the vCPU's ap_list holds the interrupt, in a bucket or
///   in a list register, and exactly then the list owns a reference.
/// * A deliverable interrupt is queued, or some CPU has still to insert the interrupt: the CPU that
///   made the interrupt deliverable, or the last CPU afterwards that changed the target or unlinked
///   the interrupt to move it. Each of them tries once, on the target that it has found or set.
// A cache line each: injections of different interrupts do not share a line.
#[repr(align(64))]
pub(crate) struct Irq {
    state: AtomicU64,
    intid: IntId,
    kind: Kind,
    icid: AtomicU16,
    pintid: AtomicU16,
    readings: AtomicU32,
    home: Home,
    pub(crate) links: Links,
    pub(crate) watched: Watched,
}

impl Irq {
    /// Makes an interrupt with these flags, routed to `target`, with a single reference: the VM's,
    /// or the reference of an LPI's first mapping.
    pub(crate) fn new(intid: IntId, flags: u64, target: Option<VcpuId>) -> Self {
        Self::make(intid, State::new(flags, target), 0, Home::default())
    }

    /// Makes an interrupt in the state `state`, on no list.
    #[inline]
    fn make(intid: IntId, state: State, icid: u16, home: Home) -> Self {
        Self {
            state: AtomicU64::new(state.0),
            intid,
            kind: intid.kind(),
            icid: AtomicU16::new(icid),
            pintid: AtomicU16::new(0),
            readings: AtomicU32::new(0),
            home,
            links: Links::new(),
            watched: Watched::default(),
        }
    }

    /// Returns the INTID.
    #[inline]
    pub(crate) fn intid(&self) -> IntId {
        self.watched.read();
        self.intid
    }

    /// Returns the kind of the INTID.
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        self.watched.read();
        self.kind
    }

    /// Returns the physical INTID that forwarded occurrences deactivate. Meaningful while
    /// [`State::uses_pintid`].
    #[inline]
    pub(crate) fn pintid(&self) -> u16 {
        self.watched.read();
        // Relaxed: written before CONNECTED is set, and constant while any of the bits is that
        // `State::uses_pintid` names.
        self.pintid.load(Relaxed)
    }

    /// Sets the physical INTID, before CONNECTED.
    fn set_pintid(&self, pintid: u16) {
        // Relaxed: published by the transition that sets CONNECTED.
        self.pintid.store(pintid, Relaxed);
    }

    /// Returns the vCPU of an SGI or PPI.
    pub(crate) fn owner(&self) -> Option<VcpuId> {
        if matches!(self.kind, Kind::Sgi | Kind::Ppi) {
            self.state().target()
        } else {
            None
        }
    }

    /// Returns the collection of the LPI's last mapping. Under the ITS's command lock.
    pub(crate) fn icid(&self) -> u16 {
        self.watched.read();
        // Relaxed: all accesses hold the ITS's command lock.
        self.icid.load(Relaxed)
    }

    /// Sets the collection of the LPI. Under the ITS's command lock.
    pub(crate) fn set_icid(&self, icid: u16) {
        self.watched.read();
        // Relaxed: all accesses hold the ITS's command lock.
        self.icid.store(icid, Relaxed);
    }

    /// Counts a reading of the LPI's configuration that begins. Returns the number of readings
    /// begun.
    pub(crate) fn begin_reading(&self) -> u32 {
        self.watched.read();
        // AcqRel: pairs with itself, and with the Acquire in `readings`. A CPU that sees the
        // reading begun reads no older byte than the reading.
        self.readings.fetch_add(1, AcqRel).wrapping_add(1)
    }

    /// Returns the number of readings of the LPI's configuration that have been begun.
    pub(crate) fn readings(&self) -> u32 {
        self.watched.read();
        // Acquire: pairs with the AcqRel in `begin_reading`.
        self.readings.load(Acquire)
    }

    /// Returns a copy of the state; another CPU may change the state at once.
    #[inline]
    pub(crate) fn state(&self) -> State {
        step();
        self.watched.read();
        // Acquire: pairs with every transition.
        State(self.state.load(Acquire))
    }

    /// Applies `change` in one compare-and-swap and returns the states before and after. Returns
    /// `Err(state)` if `change` gives up with `None`.
    #[inline]
    fn transition(&self, change: impl Fn(State) -> Option<State>) -> Result<(State, State), State> {
        self.transition_from(self.state(), change)
    }

    /// Applies `change` as [`Irq::transition`] does, beginning with the guess `old`, a current or
    /// earlier state, instead of a load: the compare-and-swap is the first access to the word's
    /// cache line. If `change` refuses a stale guess, returns `Err` although the present state
    /// might have passed.
    #[inline]
    fn transition_from(
        &self,
        mut old: State,
        change: impl Fn(State) -> Option<State>,
    ) -> Result<(State, State), State> {
        loop {
            let Some(new) = change(old) else {
                return Err(old);
            };

            if mutant(Mutant::StoredTransition) {
                // Release: a fault, which pairs with the Acquire in `state` like a transition.
                self.state.store(new.0, Release);
                return Ok((old, new));
            }

            // AcqRel: module docs, "Publication". Acquire on failure: as in `state`, for a caller
            // that `change` gives up on.
            let order = mutant_hooks::of_order(Mutant::TransitionRelaxed, AcqRel);
            match self
                .state
                .compare_exchange_weak(old.0, new.0, order, Acquire)
            {
                Ok(_) => return Ok((old, new)),
                Err(now) => old = State(now),
            }
        }
    }

    /// Applies a `change` that never gives up, and returns the states before and after.
    #[inline]
    fn apply(&self, change: impl Fn(State) -> State) -> (State, State) {
        match self.transition(|old| Some(change(old))) {
            Ok(pair) => pair,
            // Not reached: `change` has no way to give up.
            Err(state) => (state, state),
        }
    }
}
