//! One interrupt: its state word, the named transitions of it, its reference count and its links.
//!
//! # Who may touch what
//! 1. `state` changes only through the transitions below, each one atomic read-modify-write. Any CPU,
//!    any time.
//! 2. `queued_on` and IN_LR change only under the ap_list lock of the vCPU concerned: whoever holds the
//!    lock knows whether the interrupt is in a bucket. The other LR bits change there too, or (refresh) on
//!    the CPU that has that vCPU's registers.
//! 3. `links` belong to the ap_list that `queued_on` names and are touched only under its lock. Those of an
//!    interrupt without references belong to the stack of the dying.
//! 4. `hw` is written before the first forwarded interrupt is raised, and then constant.
//! 5. `icid` is written by the ITS that maps the LPI, under its command lock.
//!
//! # Publication
//! Every transition is AcqRel: whoever makes an interrupt pending publishes what it wrote before, and
//! the fold or load that consumes the pending state acquires it, also when the injection coalesced
//! with an earlier one. That is why a raise is never skipped after a mere load.

mod outcome;
mod state;

use core::ptr;

use crate::intid::{IntId, Kind, VcpuId};
use crate::lr::ListRegister;
use crate::steps::step;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicPtr, AtomicU8, AtomicU16, AtomicU64, Mutant, Watched, mutant, relaxed_by};

pub(crate) use outcome::{Changed, FastFold, Folded, FollowUp, Pruned, Put, Raised};
pub(crate) use state::State;
pub(crate) use state::{
    ACTIVE, CANCEL_A, CANCEL_P, ENABLED, GROUP1, HW, IN_LR, LEVEL, LINE, LR_ACTIVE, LR_BITS, LR_HW,
    LR_LATCH, LR_PENDING, PENDING, REF, UNMAPPED,
};

/// Most references an ITS's mappings may hold of one LPI, so that the count cannot overflow.
const MAX_MAPPING_REFS: u16 = 0x7fff;

/// Links of an intrusive circular list, and the bucket it is in. Guarded by an ap_list lock, atomic only
/// so that no `unsafe` is needed to touch them.
pub(crate) struct Links {
    pub(crate) next: AtomicPtr<Irq>,
    pub(crate) prev: AtomicPtr<Irq>,
    pub(crate) bucket: AtomicU8,
}

/// One virtual interrupt.
///
/// # Invariants
/// * `queued_on` is a vCPU exactly while that vCPU's ap_list links it, waiting or in a list register,
///   and exactly then the list owns one of the references.
/// * An interrupt that is deliverable is queued, or some CPU owes its insertion.
// A line of its own: injections of different interrupts do not share one.
#[repr(align(64))]
pub(crate) struct Irq {
    state: AtomicU64,
    intid: IntId,
    kind: Kind,
    icid: AtomicU16,
    hw: AtomicU16,
    pub(crate) links: Links,
    pub(crate) watched: Watched,
}

impl Irq {
    /// An interrupt in the given state, with one reference, which is its table's or its mapper's.
    pub(crate) fn new(intid: IntId, flags: u64, target: Option<VcpuId>) -> Self {
        Self {
            state: AtomicU64::new(State::new(flags, target).0),
            intid,
            kind: intid.kind(),
            icid: AtomicU16::new(0),
            hw: AtomicU16::new(0),
            links: Links {
                next: AtomicPtr::new(ptr::null_mut()),
                prev: AtomicPtr::new(ptr::null_mut()),
                bucket: AtomicU8::new(0),
            },
            watched: Watched::default(),
        }
    }

    #[inline]
    pub(crate) fn intid(&self) -> IntId {
        self.intid
    }

    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The physical INTID that forwarded occurrences of this interrupt deactivate.
    #[inline]
    pub(crate) fn pintid(&self) -> u16 {
        // Relaxed: written before the first raise of a forwarded occurrence, which publishes it.
        self.hw.load(Relaxed)
    }

    /// The vCPU whose SGI or PPI this is.
    pub(crate) fn owner(&self) -> Option<VcpuId> {
        if self.intid.is_private() {
            self.state().target()
        } else {
            None
        }
    }

    pub(crate) fn set_pintid(&self, pintid: u16) {
        // Relaxed: as in `pintid`.
        self.hw.store(pintid, Relaxed);
    }

    /// The collection that last mapped this LPI.
    pub(crate) fn icid(&self) -> u16 {
        // Relaxed: read under the lock that it is written under.
        self.icid.load(Relaxed)
    }

    pub(crate) fn set_icid(&self, icid: u16) {
        // Relaxed: as in `icid`.
        self.icid.store(icid, Relaxed);
    }

    /// The state now; another CPU may change it at once.
    #[inline]
    pub(crate) fn state(&self) -> State {
        step();
        self.watched.read();
        // Acquire: pairs with the AcqRel of every transition.
        State(self.state.load(Acquire))
    }

    /// Applies `change` until it goes through; `None` from it gives up and returns `Err(state)`.
    #[inline(always)]
    fn transition(&self, change: impl Fn(State) -> Option<State>) -> Result<(State, State), State> {
        let mut old = self.state();
        loop {
            let Some(new) = change(old) else {
                return Err(old);
            };
            if mutant(Mutant::StoredTransition) {
                self.state.store(new.0, Release);
                return Ok((old, new));
            }
            // AcqRel/Acquire: module docs, "Publication".
            match self
                .state
                .compare_exchange_weak(old.0, new.0, AcqRel, Acquire)
            {
                Ok(_) => return Ok((old, new)),
                Err(now) => old = State(now),
            }
        }
    }

    // --- injection -------------------------------------------------------------------------------

    /// Sets the pending latch: an edge, an MSI or an SGI. One atomic operation, no loop.
    #[inline]
    pub(crate) fn raise(&self) -> Raised {
        self.raise_with(PENDING)
    }

    /// Sets the pending latch for a physical interrupt that is active and will be deactivated through
    /// this one.
    #[inline]
    pub(crate) fn raise_hw(&self) -> Raised {
        self.raise_with(PENDING | HW)
    }

    #[inline]
    fn raise_with(&self, set: u64) -> Raised {
        step();
        self.watched.read();
        if mutant(Mutant::RaiseLooksFirst)
            && let old = self.state()
            && old.latch()
        {
            return Raised { old, new: old };
        }
        // AcqRel: module docs, "Publication"; also when nothing changes.
        let order = relaxed_by(Mutant::RaiseRelaxed, AcqRel);
        let old = State(self.state.fetch_or(set, order));
        Raised {
            old,
            new: State(old.0 | set),
        }
    }

    /// Sets the level of the input line.
    #[inline]
    pub(crate) fn set_line(&self, high: bool) -> Changed {
        step();
        // AcqRel: module docs, "Publication".
        let old = State(if high {
            self.state.fetch_or(LINE, AcqRel)
        } else {
            self.state.fetch_and(!LINE, AcqRel)
        });
        let new = old.with_flag(LINE, high);
        let changed = old.line() != high && old.level();
        let follow_up = match old.queued_on() {
            _ if !changed => FollowUp::Nothing,
            _ if high => new.follow_up_pending(old),
            Some(_) if old.in_lr() && mutant(Mutant::DropNotNoted) => FollowUp::Nothing,
            Some(vcpu) if old.in_lr() => FollowUp::RecallLater(vcpu),
            Some(vcpu) => FollowUp::Requeue(vcpu),
            None => FollowUp::Nothing,
        };
        Changed {
            old,
            new,
            follow_up,
        }
    }

    // --- register writes -------------------------------------------------------------------------

    /// Changes what a register write changes (flags, priority, target), and says what is follow_up.
    /// `change` must leave `queued_on`, the LR bits and the references alone.
    pub(crate) fn update(&self, change: impl Fn(State) -> State) -> Changed {
        let result = self.transition(|old| Some(change(old)));
        let (Ok((old, new)) | Err((old, new))) = result.map_err(|state| (state, state));
        let follow_up = if old == new {
            FollowUp::Nothing
        } else {
            new.follow_up_change()
        };
        Changed {
            old,
            new,
            follow_up,
        }
    }

    /// `ICPENDR`, `CLEAR`: withdraws the latch, here and in a list register. Returns whether a physical
    /// interrupt must be deactivated by the hypervisor.
    pub(crate) fn clear_pending(&self) -> (bool, Changed) {
        let changed = self.update(|old| {
            let physical = if old.active() { 0 } else { HW };
            let reached = old.in_lr() && !mutant(Mutant::ClearMissesListRegister);
            let cancel = if reached { CANCEL_P } else { 0 };
            old.with(cancel, PENDING | physical)
        });
        let old = changed.old;
        (old.hw() && !old.active() && old.latch(), changed)
    }

    /// `ICACTIVER`, a trapped `ICC_DIR`, or `EOIcount`: ends the active state, here and in a list
    /// register. Returns whether a physical interrupt must be deactivated by the hypervisor.
    pub(crate) fn clear_active(&self) -> (bool, Changed) {
        let changed = self.update(|old| {
            let physical = if old.active() { HW } else { 0 };
            let cancel = if old.in_lr() { CANCEL_A } else { 0 };
            old.with(cancel, ACTIVE | physical)
        });
        let old = changed.old;
        (old.hw() && old.active(), changed)
    }

    // --- the ap_list's transitions, under its lock -----------------------------------------------

    /// Queues it on `vcpu` and takes the list's reference, in one step. Fails when it has been queued,
    /// has moved or no longer wants a list; the state says which.
    #[inline]
    pub(crate) fn link(&self, vcpu: VcpuId) -> Result<State, State> {
        self.transition(|old| {
            let linked = || State(old.with_queued_on(Some(vcpu)).0 + REF);
            if old.is_plain_and_free(vcpu) {
                return Some(linked());
            }
            let free = old.queued_on().is_none() || mutant(Mutant::LinkedTwice);
            let alive = old.refs() != 0 && old.wants_list();
            let here = old.target() == Some(vcpu);
            (free && (alive || mutant(Mutant::InsertedAfterFree)) && here).then(linked)
        })
        .map(|(_, new)| new)
    }

    /// Decides what becomes of it while it waits on `vcpu`'s list in no list register: prune.
    pub(crate) fn unlink(&self, vcpu: VcpuId) -> Pruned {
        match self.transition(|old| old.pruned(vcpu)) {
            Err(state) => Pruned::Kept(state),
            Ok((old, new)) => Pruned::of(old, new),
        }
    }

    /// Takes it back from a list register of `vcpu` that the guest has finished with: fold and prune in one
    /// step, under the ap_list lock. Nothing is left of it and it leaves the list, or another edge has come, of
    /// one of the `groups` that may be signalled, and goes into the register in place of the first; `None` if
    /// it is neither, or somebody has to be told.
    #[inline]
    pub(crate) fn fold_unlink_plain(
        &self,
        vcpu: VcpuId,
        groups: impl Fn() -> u32,
    ) -> Option<FastFold> {
        // Faults of folding and settling are made where that is done in general.
        const FAULTS: [Mutant; 5] = [
            Mutant::FoldDropsReference,
            Mutant::FoldOverwritesLatch,
            Mutant::LineFoldedAsLatch,
            Mutant::CancelOutlivesFold,
            Mutant::StaysOnTheOldList,
        ];
        if FAULTS.into_iter().any(mutant) {
            return None;
        }
        let (old, new) = self
            .transition(|old| {
                let folded = old.with(0, LR_BITS);
                if old.ends_in_lr() {
                    Some(State(folded.with_queued_on(None).0 - REF))
                } else {
                    let open = old.is_plain(vcpu) && old.is_in(groups());
                    open.then(|| folded.filled_plain())
                }
            })
            .ok()?;
        Some(FastFold {
            delivered: old.lr_pending(),
            reloaded: old.latch().then(|| self.plain_image(old)),
            last: new.refs() == 0,
        })
    }

    /// As [`Irq::fold_unlink_plain`], whatever there is to it.
    pub(crate) fn fold_unlink(&self, vcpu: VcpuId) -> (Folded, Pruned) {
        const LEFT: ListRegister = ListRegister::EMPTY;
        let result = self.transition(|old| {
            let folded = old.folded(LEFT, false);
            Some(folded.pruned(vcpu).unwrap_or(folded))
        });
        let (Ok((old, new)) | Err((old, new))) = result.map_err(|state| (state, state));
        let folded = old.folded(LEFT, false);
        (Folded::of(old, folded, LEFT), Pruned::of(folded, new))
    }

    /// As [`Irq::fill_lr`], if it is a plain matter ([`State::is_plain`]); `None`, and nothing has happened, if
    /// it is not.
    #[inline]
    pub(crate) fn fill_lr_plain(&self, vcpu: VcpuId) -> Option<ListRegister> {
        let (old, _) = self
            .transition(|old| old.is_plain(vcpu).then(|| old.filled_plain()))
            .ok()?;
        Some(self.plain_image(old))
    }

    /// [`Irq::link`] and [`Irq::fill_lr_plain`] in one step: it is queued on `vcpu` and in a list register of
    /// it at once, if its group is among those that may be signalled (`groups`, a bit each).
    #[inline]
    pub(crate) fn link_and_fill_lr(&self, vcpu: VcpuId, groups: u32) -> Option<ListRegister> {
        let (old, _) = self
            .transition(|old| {
                let free = old.is_plain_and_free(vcpu)
                    || (mutant(Mutant::StagedTwice) && old.is_plain(vcpu));
                // Nobody maps what is dying.
                debug_assert!(!free || old.refs() != 0);
                (free && old.is_in(groups))
                    .then(|| State(old.filled_plain().with_queued_on(Some(vcpu)).0 + REF))
            })
            .ok()?;
        Some(self.plain_image(old))
    }

    /// The list register for a plain state.
    #[inline]
    fn plain_image(&self, old: State) -> ListRegister {
        let physical = if old.hw() {
            ListRegister::HW | u64::from(self.pintid()) << ListRegister::PINTID_SHIFT
        } else {
            0
        };
        ListRegister(
            ListRegister::PENDING
                | u64::from(self.intid.raw())
                | u64::from(old.priority()) << ListRegister::PRIORITY_SHIFT
                | u64::from(old.group1()) << ListRegister::GROUP1.trailing_zeros()
                | physical,
        )
    }

    /// Moves it into a list register of `vcpu` and returns the image; `None` when it has to be settled
    /// first. `open` says which groups may be signalled: what is pending on top of active is left out if
    /// it could not be delivered after the deactivation, which happens without our hearing of it.
    pub(crate) fn fill_lr(&self, vcpu: VcpuId, open: [bool; 2]) -> Option<ListRegister> {
        let (old, new) = self
            .transition(|old| {
                if old.active() {
                    // Pending and active for an edge; a level waits for the deactivation, and a
                    // register backed by hardware may not hold both.
                    let latch = old.latch()
                        && !old.level()
                        && !old.hw()
                        && old.enabled()
                        && old.target() == Some(vcpu)
                        && open[usize::from(old.group1())];
                    // Of an end of what is backed by hardware we hear nothing. With something pending
                    // behind it, the physical interrupt waits for the end of that.
                    let backed = old.hw() && !old.latch();
                    let set = LR_ACTIVE
                        | if backed { LR_HW } else { 0 }
                        | if latch { LR_PENDING | LR_LATCH } else { 0 };
                    let clear =
                        ACTIVE | if backed { HW } else { 0 } | if latch { PENDING } else { 0 };
                    Some(old.with(IN_LR | set, clear))
                } else if old.deliverable() && old.target() == Some(vcpu) {
                    let set = LR_PENDING
                        | if old.latch() { LR_LATCH } else { 0 }
                        | if old.hw() { LR_HW } else { 0 };
                    Some(old.with(IN_LR | set, PENDING | HW))
                } else {
                    None
                }
            })
            .ok()?;
        let mut lr =
            u64::from(self.intid.raw()) | u64::from(old.priority()) << ListRegister::PRIORITY_SHIFT;
        for (flag, bit) in [
            (LR_PENDING, ListRegister::PENDING),
            (LR_ACTIVE, ListRegister::ACTIVE),
            (GROUP1, ListRegister::GROUP1),
        ] {
            if new.0 & flag != 0 {
                lr |= bit;
            }
        }
        if new.lr_hw() {
            lr |= ListRegister::HW | u64::from(self.pintid()) << ListRegister::PINTID_SHIFT;
        } else if new.level() || (old.active() && new.latch()) {
            // The guest's deactivation is when the line is sampled again, or when an edge that is not to
            // be delivered here may go where it is.
            lr |= ListRegister::EOI;
        }
        Some(ListRegister(lr))
    }

    // --- the transitions of the CPU that has the registers ---------------------------------------

    /// Books what the guest has done so far with an interrupt that stays in its list register.
    pub(crate) fn refresh(&self, lr: ListRegister) -> Folded {
        let Ok((old, _)) = self.transition(|old| {
            let gone = if lr.is_pending() {
                0
            } else {
                LR_PENDING | LR_LATCH | CANCEL_P
            };
            Some(
                old.with(0, gone)
                    .with_flag(LR_ACTIVE, lr.is_active() && !old.cancel_active()),
            )
        }) else {
            return Folded::default();
        };
        Folded {
            delivered: old.lr_pending() && !lr.is_pending(),
            ..Folded::default()
        }
    }

    /// Takes it back from its list register, which holds `lr` now; under the ap_list lock. It stays on
    /// the list.
    pub(crate) fn fold(&self, lr: ListRegister) -> Folded {
        let lpi = self.kind == Kind::Lpi;
        match self.transition(|old| Some(old.folded(lr, lpi))) {
            Ok((old, new)) => Folded::of(old, new, lr),
            Err(_) => Folded::default(),
        }
    }

    // --- references ------------------------------------------------------------------------------

    /// Gives back the reference of a lookup or carrier.
    pub(crate) fn put(&self) -> Put {
        self.put_ref(false)
    }

    /// Takes a reference for a mapping and makes the LPI mapped, in one step. Fails when it is dying
    /// or has as many mappings as are allowed.
    pub(crate) fn map(&self, target: Option<VcpuId>) -> Option<FollowUp> {
        let (_, new) = self
            .transition(|old| {
                let dying = old.refs() == 0 && !mutant(Mutant::DyingRevived);
                if dying || old.refs() > MAX_MAPPING_REFS {
                    return None;
                }
                // Raised while it was unmapped: such a raise has no effect.
                let stale = if old.unmapped() { PENDING } else { 0 };
                let mapped = old.with(0, UNMAPPED | stale).with_target(target);
                Some(State(mapped.0 + REF))
            })
            .ok()?;
        Some(new.follow_up_change())
    }

    /// Ends a mapping: withdraws what is pending, and gives the mapping's reference back.
    pub(crate) fn unmap(&self) -> Put {
        self.put_ref(true)
    }

    /// Every mapping owns a reference. So when none is left but the list's, none is mapped: from then on
    /// raises have no effect, and what was raised since the last mapping ended is withdrawn. Whoever
    /// gives back the reference before the list's sees to it, be it a mapping's or a carrier's.
    fn put_ref(&self, withdraw: bool) -> Put {
        let result = self.transition(|old| {
            debug_assert!(old.refs() != 0, "{:?} put once too often", self.intid);
            let kept = State(old.0.wrapping_sub(REF));
            let unmapped = kept.refs() == u16::from(old.queued_on().is_some())
                || withdraw && mutant(Mutant::UnmappedForAll);
            let reached = old.in_lr() && !mutant(Mutant::UnmapMissesListRegister);
            let cancel = if reached { CANCEL_P } else { 0 };
            if mutant(Mutant::UnmappedStaysPending) {
                return Some(kept);
            }
            Some(match (unmapped, withdraw) {
                (true, _) => kept.with(UNMAPPED | cancel, PENDING),
                (false, true) => kept.with(cancel, PENDING),
                (false, false) => kept,
            })
        });
        let (Ok((old, new)) | Err((old, new))) = result.map_err(|state| (state, state));
        let follow_up = if new.0 == old.0.wrapping_sub(REF) {
            FollowUp::Nothing
        } else {
            new.follow_up_change()
        };
        let seen = if mutant(Mutant::LastPutByLook) {
            self.state()
        } else {
            new
        };
        Put {
            last: seen.refs() == 0,
            changed: Changed {
                old,
                new,
                follow_up,
            },
        }
    }
}

impl State {
    /// A plain pending state, moved into a list register.
    #[inline]
    fn filled_plain(self) -> Self {
        let backed = if self.hw() { LR_HW } else { 0 };
        self.with(IN_LR | LR_PENDING | LR_LATCH | backed, PENDING | HW)
    }

    /// Taken back from a list register that holds `lr`.
    #[inline]
    fn folded(self, lr: ListRegister, lpi: bool) -> Self {
        let latched = self.lr_latch() || mutant(Mutant::LineFoldedAsLatch);
        let latch = lr.is_pending() && latched && !self.cancel_pending();
        // An LPI has no active state of its own, and its end would not be counted in EOIcount.
        let active = lr.is_active() && !self.cancel_active() && !lpi;
        let held = self.lr_hw() && (latch || active);
        let set = if latch { PENDING } else { 0 }
            | if active { ACTIVE } else { 0 }
            | if held { HW } else { 0 };
        if mutant(Mutant::FoldDropsReference) {
            return State(self.with(set, LR_BITS).0 - REF);
        }
        let kept = if mutant(Mutant::CancelOutlivesFold) {
            CANCEL_P
        } else {
            0
        };
        let lost = if mutant(Mutant::FoldOverwritesLatch) {
            PENDING
        } else {
            0
        };
        self.with(set, (LR_BITS | lost) & !kept & !set)
    }

    /// Off `vcpu`'s list, if it belongs there no more. What is deliverable elsewhere keeps the list's
    /// reference, for whoever carries it there.
    #[inline]
    fn pruned(self, vcpu: VcpuId) -> Option<Self> {
        let here = self.target() == Some(vcpu) || mutant(Mutant::StaysOnTheOldList);
        if self.active() || (self.deliverable() && here) {
            return None;
        }
        let unlinked = self.with_queued_on(None);
        Some(if self.deliverable() {
            unlinked
        } else {
            State(unlinked.0 - REF)
        })
    }
}
