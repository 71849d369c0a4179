//! Every transition in every legal word, for the rules.

use core::ops::RangeInclusive;

use crate::lr::ListRegister;

use super::super::{
    ACTIVE, CANCEL_A, CANCEL_P, CONNECTED, Changed, ENABLED, Folded, FollowUp, GROUP1, HW, IN_LR,
    Irq, LEVEL, LINE, LR_ACTIVE, LR_ASKED, LR_BITS, LR_HW, LR_LATCH, LR_PENDING, MESSAGE, PENDING,
    Pruned, PutResult, RELEASING, Raised, State, UNMAPPED,
};
use super::legal::{other_refs, words};
use super::rules::{PRIORITY, QUEUED, REFS, References, Said, Step, TARGET, check, place};
use super::{BOTH_GROUPS, Fate, LPI, PINTID, SPI, V0, V1, irq_in, put_in, register};

/// A transition with its arguments.
struct Transition {
    name: &'static str,
    /// Words in which its callers make it.
    callers: fn(Case) -> bool,
    /// Bits and fields that it may change.
    touches: u64,
    make: fn(&Irq) -> Said,
}

/// A word of an interrupt.
#[derive(Clone, Copy)]
pub(super) struct Case {
    intid: u32,
    pub(super) state: State,
}

/// Any CPU, any time.
fn anyone(_: Case) -> bool {
    true
}

fn not_lpi(case: Case) -> bool {
    case.intid != LPI
}

/// The embedder, of an interrupt that the physical controller has signalled.
fn signalled(case: Case) -> bool {
    not_lpi(case) && !case.state.releasing()
}

fn not_in_lr(case: Case) -> bool {
    not_lpi(case) && !case.state.in_lr()
}

fn lpi(case: Case) -> bool {
    case.intid == LPI
}

/// The owner of a reference besides the list's and, except for LPIs, the VM's.
fn owner(case: Case) -> bool {
    other_refs(case.state) > u16::from(not_lpi(case))
}

fn mapping(case: Case) -> bool {
    lpi(case) && owner(case)
}

/// The holder of the list's lock, for an interrupt that waits.
pub(super) fn for_waiting(Case { state, .. }: Case) -> bool {
    state.queued_on() == Some(V0) && !state.in_lr()
}

/// The holder of the list's lock, for an interrupt in a list register.
pub(super) fn for_listed(Case { state, .. }: Case) -> bool {
    state.in_lr()
}

/// The guest has acknowledged nothing.
fn if_pending(case: Case) -> bool {
    for_listed(case) && case.state.lr_pending() && physical_is_held_once(case)
}

/// The guest has acknowledged the interrupt.
fn if_active(case: Case) -> bool {
    let Case { state, .. } = case;
    for_listed(case)
        && (state.lr_pending() || state.lr_active() || state.cancel_active())
        && physical_is_held_once(case)
}

/// An active interrupt was filled with the next edge, and the guest has not deactivated it.
fn if_pending_active(case: Case) -> bool {
    let Case { state, .. } = case;
    not_lpi(case)
        && if_pending(case)
        && state.lr_latch()
        && !state.lr_hw()
        && (state.lr_active() || state.cancel_active())
}

/// A physical interrupt that is active for a list register cannot be signalled again.
fn physical_is_held_once(Case { state, .. }: Case) -> bool {
    !((state.hw() || state.releasing()) && state.lr_hw())
}

fn said(follow_up: impl Into<Option<FollowUp>>, counted: RangeInclusive<i64>) -> Said {
    Said {
        follow_up: follow_up.into(),
        references: References::Unchanged,
        counted,
        folded: None,
        deactivate: false,
    }
}

/// The counters are changed by the difference of the words, within these limits.
const MAY_ADD: RangeInclusive<i64> = 0..=1;
const MAY_WITHDRAW: RangeInclusive<i64> = -1..=0;
const NOT_COUNTED: RangeInclusive<i64> = 0..=0;

fn raised(raised: Raised) -> Said {
    let counted = i64::from(!raised.unmapped() && !raised.coalesced());
    if raised.was_idle() && !raised.without_target() {
        assert!(
            !raised.old.pending() && raised.new.deliverable(),
            "{raised:?}"
        );
        assert_eq!(raised.follow_up(), FollowUp::Insert, "{raised:?}");
    }
    if raised.needs_nothing() {
        assert!(raised.coalesced() && !raised.unmapped(), "{raised:?}");
        assert!(!raised.without_target(), "{raised:?}");
        assert_eq!(raised.follow_up(), FollowUp::Nothing, "{raised:?}");
    }
    said(raised.follow_up(), counted..=counted)
}

/// Checks that the states reported are those in the word, before the transition and now.
fn changed(irq: &Irq, old: State, changed: Changed, counted: RangeInclusive<i64>) -> Said {
    assert_eq!((changed.old, changed.new), (old, irq.state()));
    said(changed.follow_up, counted)
}

fn updated(irq: &Irq, change: impl Fn(State) -> State, counted: RangeInclusive<i64>) -> Said {
    let old = irq.state();
    changed(irq, old, irq.update(change), counted)
}

fn cleared(irq: &Irq, clear: fn(&Irq) -> Changed, counted: RangeInclusive<i64>) -> Said {
    let old = irq.state();
    let change = clear(irq);
    Said {
        deactivate: change.takes_physical(),
        ..changed(irq, old, change, counted)
    }
}

fn listed(references: References) -> Said {
    Said {
        references,
        ..said(None, NOT_COUNTED)
    }
}

fn taken_if(linked: bool) -> Said {
    listed(if linked {
        References::ListTakes
    } else {
        References::Unchanged
    })
}

fn pruned(irq: &Irq, pruned: Pruned) -> References {
    match Fate::of(irq, pruned) {
        Fate::Kept => {
            assert!(place(irq.state()).is_some(), "{:?}", irq.state());
            References::Unchanged
        }
        Fate::Migrating => References::HandedOver,
        Fate::Removed | Fate::RemovedLast => {
            let last = Pruned::Removed {
                last: irq.state().refs() == 0,
            };
            assert_eq!(pruned, last);
            References::ListPuts
        }
    }
}

fn folded(lr: ListRegister, folded: Folded, references: References) -> Said {
    let Folded {
        delivered,
        coalesced,
        withdrawn,
        repended,
        ..
    } = folded;
    let counted = i64::from(repended)
        - [delivered, coalesced, withdrawn]
            .map(i64::from)
            .iter()
            .sum::<i64>();
    Said {
        counted: counted..=counted,
        folded: Some((lr, folded)),
        deactivate: folded.deactivate,
        ..listed(references)
    }
}

fn fold(irq: &Irq, lr: ListRegister) -> Said {
    let (fold, prune) = irq.fold_unlink(V0, lr);
    folded(lr, fold, pruned(irq, prune))
}

fn fold_plain(irq: &Irq) -> Said {
    let Some(fast) = irq.fold_unlink_plain() else {
        return listed(References::Unchanged);
    };
    let fold = Folded {
        delivered: fast.delivered,
        ..Folded::default()
    };
    assert_eq!(fast.last, irq.state().refs() == 0);
    folded(register::INVALID, fold, References::ListPuts)
}

fn fold_and_fill(irq: &Irq) -> Said {
    let Some(refilled) = irq.fold_and_fill_lr(V0, BOTH_GROUPS, irq.state()) else {
        return listed(References::Unchanged);
    };
    let fold = Folded {
        delivered: refilled.delivered,
        ..Folded::default()
    };
    folded(register::INVALID, fold, References::Unchanged)
}

fn refreshed(irq: &Irq, lr: ListRegister) -> Said {
    folded(lr, irq.refresh_lr_bits(lr), References::Unchanged)
}

fn put(irq: &Irq, put: fn(&Irq) -> PutResult) -> Said {
    let old = irq.state();
    let put = put(irq);
    assert_eq!(put.last, irq.state().refs() == 0);
    Said {
        references: References::OtherPuts,
        ..changed(irq, old, put.changed, MAY_WITHDRAW)
    }
}

fn mapped(follow_up: Option<FollowUp>) -> Said {
    let references = if follow_up.is_some() {
        References::OtherTakes
    } else {
        References::Unchanged
    };
    Said {
        references,
        ..said(follow_up.unwrap_or(FollowUp::Nothing), NOT_COUNTED)
    }
}

const fn transition(
    name: &'static str,
    callers: fn(Case) -> bool,
    touches: u64,
    make: fn(&Irq) -> Said,
) -> Transition {
    Transition {
        name,
        callers,
        touches,
        make,
    }
}

const LINKS: u64 = QUEUED | REFS;
/// A fill moves these, and a fold moves them back.
const MOVED: u64 = PENDING | ACTIVE | HW;
const FILLS: u64 = MOVED | IN_LR | LR_PENDING | LR_ACTIVE | LR_LATCH | LR_HW;
const FOLDS: u64 = MOVED | RELEASING | LR_BITS | LINKS;
/// The end of an ownership changes these.
const ENDED: u64 = HW | RELEASING;

#[rustfmt::skip]
const CHANGES: &[Transition] = &[
    transition("raise", anyone, PENDING, |irq| raised(irq.raise())),
    transition("forward", signalled, PENDING | HW, |irq| {
        irq.forward().map_or_else(|| said(None, NOT_COUNTED), raised)
    }),
    transition("connect", not_lpi, CONNECTED, |irq| {
        let old = irq.state();
        let connected = irq.connect(PINTID);
        assert_eq!(connected, old.connected() || !old.lr_hw() && !old.releasing());
        said(None, NOT_COUNTED)
    }),
    transition("disconnect", not_lpi, PENDING | ENDED | CONNECTED, |irq| {
        cleared(irq, |irq| irq.disconnect(false), MAY_WITHDRAW)
    }),
    transition("disconnect, at the end", not_lpi, PENDING | ENDED | CONNECTED, |irq| {
        cleared(irq, |irq| irq.disconnect(true), MAY_WITHDRAW)
    }),
    transition("release", not_in_lr, PENDING | ENDED, |irq| {
        let old = irq.state();
        irq.release().map_or_else(
            || said(None, NOT_COUNTED),
            |change| Said { deactivate: true, ..changed(irq, old, change, MAY_WITHDRAW) },
        )
    }),
    transition("release_unused", not_lpi, ENDED, |irq| {
        assert!(!irq.release_unused(), "with a pending or active state behind it");
        said(None, NOT_COUNTED)
    }),
    transition("withdraw_level", not_lpi, PENDING | ENDED | CANCEL_P, |irq| {
        let old = irq.state();
        let Some(change) = irq.withdraw_level() else {
            assert!(!old.awaits_line());
            return said(None, NOT_COUNTED);
        };
        Said {
            deactivate: change.takes_physical(),
            ..changed(irq, old, change, MAY_WITHDRAW)
        }
    }),
    transition("set_line(true)", not_lpi, LINE, |irq| {
        let old = irq.state();
        changed(irq, old, irq.set_line(true), MAY_ADD)
    }),
    transition("set_line(false)", not_lpi, LINE, |irq| {
        let old = irq.state();
        changed(irq, old, irq.set_line(false), MAY_WITHDRAW)
    }),
    transition("set_message(true)", not_lpi, MESSAGE, |irq| {
        let old = irq.state();
        changed(irq, old, irq.set_message(true), MAY_ADD)
    }),
    transition("set_message(false)", not_lpi, MESSAGE, |irq| {
        let old = irq.state();
        changed(irq, old, irq.set_message(false), MAY_WITHDRAW)
    }),
    transition("enable", anyone, ENABLED, |irq| {
        updated(irq, |old| old.with_flag(ENABLED, true), NOT_COUNTED)
    }),
    transition("disable", anyone, ENABLED, |irq| {
        updated(irq, |old| old.with_flag(ENABLED, false), NOT_COUNTED)
    }),
    transition("priority", anyone, PRIORITY, |irq| {
        updated(irq, |old| old.with_priority(0x20), NOT_COUNTED)
    }),
    transition("target here", anyone, TARGET, |irq| {
        updated(irq, |old| old.with_target(Some(V0)), NOT_COUNTED)
    }),
    transition("target elsewhere", anyone, TARGET, |irq| {
        updated(irq, |old| old.with_target(Some(V1)), NOT_COUNTED)
    }),
    transition("no target", anyone, TARGET, |irq| {
        updated(irq, |old| old.with_target(None), NOT_COUNTED)
    }),
    transition("Group 0", not_lpi, GROUP1, |irq| {
        updated(irq, |old| old.with_flag(GROUP1, false), NOT_COUNTED)
    }),
    transition("Group 1", not_lpi, GROUP1, |irq| {
        updated(irq, |old| old.with_flag(GROUP1, true), NOT_COUNTED)
    }),
    transition("edge", not_lpi, LEVEL, |irq| {
        updated(irq, |old| old.with_flag(LEVEL, false), MAY_WITHDRAW)
    }),
    transition("level", not_lpi, LEVEL, |irq| {
        updated(irq, |old| old.with_flag(LEVEL, true), MAY_ADD)
    }),
    transition("ISACTIVER", not_lpi, ACTIVE, |irq| {
        updated(irq, |old| old.with(ACTIVE, 0), MAY_WITHDRAW)
    }),
    transition("clear_message", not_lpi, PENDING | ENDED | CANCEL_P | MESSAGE, |irq| {
        cleared(irq, Irq::clear_message, MAY_WITHDRAW)
    }),
    transition("take_pending", |case| case.intid == LPI, PENDING, |irq| {
        let old = irq.state();
        match irq.take_pending(V0) {
            Some(taken) => changed(irq, old, taken, MAY_WITHDRAW),
            None => updated(irq, |old| old, NOT_COUNTED),
        }
    }),
    transition("clear_pending", anyone, PENDING | ENDED | CANCEL_P, |irq| {
        cleared(irq, Irq::clear_pending, MAY_WITHDRAW)
    }),
    transition("ask_lr", anyone, LR_ASKED, |irq| {
        let asked = irq.ask_lr();
        assert_eq!(asked.is_some(), irq.state().in_lr());
        said(None, NOT_COUNTED)
    }),
    transition("clear_active", anyone, ACTIVE | ENDED | CANCEL_A, |irq| {
        cleared(irq, Irq::clear_active, MAY_ADD)
    }),
];

#[rustfmt::skip]
const WAITING: &[Transition] = &[
    transition("link", anyone, LINKS, |irq| taken_if(irq.link(V0).is_some())),
    transition("unlink", for_waiting, LINKS, |irq| listed(pruned(irq, irq.unlink(V0)))),
    transition("fill_lr", for_waiting, FILLS, |irq| {
        let _ = irq.fill_lr(V0, [true; 2]);
        listed(References::Unchanged)
    }),
    transition("fill_lr, Group 1 closed", for_waiting, FILLS, |irq| {
        let _ = irq.fill_lr(V0, [true, false]);
        listed(References::Unchanged)
    }),
    transition("fill_lr_plain", for_waiting, FILLS, |irq| {
        let _ = irq.fill_lr_plain(V0, irq.state());
        listed(References::Unchanged)
    }),
    transition("link_and_fill_lr", anyone, FILLS | LINKS, |irq| {
        taken_if(irq.link_and_fill_lr(V0, BOTH_GROUPS).is_some())
    }),
];

#[rustfmt::skip]
const FOLDING: &[Transition] = &[
    transition("fold_unlink, invalid", for_listed, FOLDS, |irq| fold(irq, register::INVALID)),
    transition("fold_unlink, pending", if_pending, FOLDS, |irq| fold(irq, register::PENDING)),
    transition("fold_unlink, active", if_active, FOLDS, |irq| fold(irq, register::ACTIVE)),
    transition("fold_unlink, pending and active", if_pending_active, FOLDS, |irq| {
        fold(irq, register::PENDING_ACTIVE)
    }),
    transition("fold_unlink_ended", for_listed, FOLDS, |irq| {
        let (fold, prune) = irq.fold_unlink_ended(V0);
        folded(register::INVALID, fold, pruned(irq, prune))
    }),
    transition("fold_unlink_plain", for_listed, FOLDS, fold_plain),
    transition("fold_and_fill_lr", for_listed, FOLDS, fold_and_fill),
    transition("fold_without_read", for_listed, LR_BITS | RELEASING, |irq| Said {
        // The end of the VM: nothing is counted, and the physical interrupt remains.
        counted: -1..=1,
        deactivate: irq.state().lr_hw(),
        ..{ let _ = irq.fold_without_read(); listed(References::Unchanged) }
    }),
    transition("refresh, invalid", for_listed, LR_BITS & !IN_LR, |irq| {
        refreshed(irq, register::INVALID)
    }),
    transition("refresh, pending", if_pending, LR_BITS & !IN_LR, |irq| {
        refreshed(irq, register::PENDING)
    }),
    transition("refresh, active", if_active, LR_BITS & !IN_LR, |irq| {
        refreshed(irq, register::ACTIVE)
    }),
    transition("refresh, pending and active", if_pending_active, LR_BITS & !IN_LR, |irq| {
        refreshed(irq, register::PENDING_ACTIVE)
    }),
];

#[rustfmt::skip]
const REFERENCES: &[Transition] = &[
    transition("map", lpi, UNMAPPED | PENDING | TARGET | REFS, |irq| mapped(irq.map(Some(V1)))),
    transition("unmap", mapping, UNMAPPED | PENDING | CANCEL_P | REFS, |irq| put(irq, Irq::unmap)),
    transition("put", owner, UNMAPPED | PENDING | CANCEL_P | REFS, |irq| put(irq, Irq::put)),
];

/// Calls `visit` for every legal word, with an interrupt to put into it.
pub(super) fn for_every_word(visit: impl Fn(&Irq, Case)) {
    for intid in [SPI, LPI] {
        let irq = irq_in(intid, State(0));
        for &state in words(intid) {
            put_in(&irq, state);
            visit(&irq, Case { intid, state });
        }
    }
}

fn sweep(transitions: &[Transition]) {
    for_every_word(|irq, case| {
        for transition in transitions {
            if (transition.callers)(case) {
                put_in(irq, case.state);
                let said = (transition.make)(irq);
                let step = Step {
                    intid: case.intid,
                    old: case.state,
                    new: irq.state(),
                    touches: transition.touches,
                    said,
                };
                check(transition.name, &step);
            }
        }
    });
}

#[test]
fn changes_keep_the_rules() {
    sweep(CHANGES);
}

#[test]
fn links_and_fills_keep_the_rules() {
    sweep(WAITING);
}

#[test]
fn folds_keep_the_rules() {
    sweep(FOLDING);
}

#[test]
fn references_keep_the_rules() {
    sweep(REFERENCES);
}
