//! Rules that every transition keeps, each a small function of the words before and after and of
//! what the transition says.

use core::ops::RangeInclusive;

use crate::intid::VcpuId;
use crate::lr::ListRegister;

use super::super::state::ASSERTED;
use super::super::{
    CANCEL_P, CONNECTED, Folded, FollowUp, HW, IN_LR, PENDING, REF, RELEASING, State,
};
use super::legal::{broken_rule, list_refs, other_refs};
use super::{LPI, V0};

const ANY_VCPU: VcpuId = VcpuId(0xffe);
/// The fields of the word.
pub(super) const QUEUED: u64 = State(0).queued(ANY_VCPU).0;
pub(super) const TARGET: u64 = State(0).with_target(Some(ANY_VCPU)).0;
pub(super) const PRIORITY: u64 = State(0).with_priority(0xff).0;
pub(super) const REFS: u64 = REF * 0xffff;

/// References that a transition takes or puts, by the columns of the table in the docs of `irq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum References {
    Unchanged,
    ListTakes,
    ListPuts,
    /// The list's reference becomes a migration's.
    HandedOver,
    /// A mapping takes one.
    OtherTakes,
    /// A mapping or a migration puts one.
    OtherPuts,
}

/// One transition, made.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) intid: u32,
    pub(super) old: State,
    pub(super) new: State,
    /// Bits and fields that the transition may change.
    pub(super) touches: u64,
    pub(super) said: Said,
}

/// Result of a transition, in the terms of the rules.
#[derive(Debug)]
pub(super) struct Said {
    /// The work left to the caller; `None` for a transition under the list's lock, whose caller
    /// relinks the interrupt.
    pub(super) follow_up: Option<FollowUp>,
    pub(super) references: References,
    /// Pending states that the callers add to the counters, less those that they take off.
    pub(super) counted: RangeInclusive<i64>,
    /// The list register that was folded, and the result.
    pub(super) folded: Option<(ListRegister, Folded)>,
    /// The hypervisor deactivates the physical interrupt.
    pub(super) deactivate: bool,
}

type Rule = (&'static str, fn(&Step) -> bool);

const RULES: &[Rule] = &[
    ("the word stays legal", stays_legal),
    (
        "only the transition's own bits change",
        only_its_bits_change,
    ),
    (
        "references change as the table says",
        references_change_as_the_table_says,
    ),
    ("the counters balance", counters_balance),
    ("a fold tells the truth", fold_tells_the_truth),
    (
        "a fold moves back what is left",
        fold_moves_back_what_is_left,
    ),
    ("zero references are final", zero_is_final),
    (
        "a deliverable interrupt is queued, or somebody inserts it",
        is_queued_or_inserted,
    ),
    (
        "an unlinked interrupt wants no list, or migrates",
        unlinked_for_a_reason,
    ),
    (
        "a waiting interrupt whose place changes is requeued",
        change_of_place_requeues,
    ),
    (
        "a vCPU hears of a change in its list register",
        change_in_list_register_recalls,
    ),
    (
        "nothing follows from no change",
        nothing_follows_from_no_change,
    ),
    (
        "a physical interrupt is deactivated once",
        physical_is_deactivated_once,
    ),
    (
        "a physical interrupt to deactivate keeps its number",
        number_is_kept,
    ),
];

/// Panics if a transition breaks a rule.
pub(super) fn check(transition: &str, step: &Step) {
    for (rule, holds) in RULES {
        assert!(holds(step), "{transition} breaks \"{rule}\": {step:#?}");
    }
}

fn stays_legal(step: &Step) -> bool {
    broken_rule(step.intid, step.new).is_none()
}

fn only_its_bits_change(step: &Step) -> bool {
    (step.old.0 ^ step.new.0) & !step.touches == 0
}

/// The list's reference is held exactly while `queued_on` names a vCPU: [`list_refs`] counts by
/// `queued_on`.
fn references_change_as_the_table_says(step: &Step) -> bool {
    let (list, other) = match step.said.references {
        References::Unchanged => (0, 0),
        References::ListTakes => (1, 0),
        References::ListPuts => (-1, 0),
        References::HandedOver => (-1, 1),
        References::OtherTakes => (0, 1),
        References::OtherPuts => (0, -1),
    };
    let of = |state| (list_refs(state) as i16, other_refs(state) as i16);
    let (before, after) = (of(step.old), of(step.new));
    after == (before.0 + list, before.1 + other)
}

/// Every injection is delivered, coalesced, withdrawn, or still pending.
fn counters_balance(step: &Step) -> bool {
    let change = step.new.pending_count() as i64 - step.old.pending_count() as i64;
    step.said.counted.contains(&change)
}

/// Returns whether a level in a list register has lost its physical line.
fn unplugged(state: State) -> bool {
    state.level() && state.lr_hw() && !state.connected()
}

fn fold_tells_the_truth(step: &Step) -> bool {
    let Some((lr, folded)) = step.said.folded else {
        return true;
    };
    let (old, new) = (step.old, step.new);
    let line_is_high = old.level_is_high();
    let acknowledged = old.lr_pending() && !lr.is_pending();
    // Else the pending state has to be kept. The line of an active level is injected anew by the
    // deactivation.
    let line_counts = line_is_high && !old.active();
    let may_withdraw = old.cancel_pending() || unplugged(old) || !(old.lr_latch() || line_counts);
    folded.delivered == acknowledged
        && (!folded.coalesced || old.latch())
        && (!folded.withdrawn || lr.is_pending() && may_withdraw)
        && (!folded.repended || line_is_high && !new.active())
        && (!folded.resample || old.level() && !old.lr_hw() && lr.is_empty())
}

/// The pending and active states that the guest has left move back, unless they were cancelled.
/// States that have arrived since the fill stay. A reload moves them on.
fn fold_moves_back_what_is_left(step: &Step) -> bool {
    let (old, new) = (step.old, step.new);
    let Some((lr, _)) = step.said.folded.filter(|_| !new.in_lr()) else {
        return true;
    };
    let cancelled = old.cancel_pending() || unplugged(old);
    let latch = lr.is_pending() && old.lr_latch() && !cancelled;
    let active = lr.is_active() && !old.cancel_active() && step.intid != LPI;
    new.latch() == (old.latch() || latch) && new.active() == (old.active() || active)
}

fn zero_is_final(step: &Step) -> bool {
    step.old.refs() != 0 || step.new.refs() == 0
}

/// A CPU has to insert an interrupt that wanted a list already and was on none. Another CPU has to
/// do so if the target changes, because the first inserts on the old target only.
fn is_queued_or_inserted(step: &Step) -> bool {
    let waits_for_insertion = |state: State| state.wants_list() && state.queued_on().is_none();
    let has_moved = step.old.target() != step.new.target();
    !waits_for_insertion(step.new)
        || waits_for_insertion(step.old) && !has_moved
        || step.said.follow_up == Some(FollowUp::Insert)
        || step.said.references == References::HandedOver
}

fn unlinked_for_a_reason(step: &Step) -> bool {
    match step.said.references {
        References::ListPuts => !step.new.wants_list(),
        References::HandedOver => step.new.deliverable() && step.new.target() != Some(V0),
        _ => true,
    }
}

/// Returns the place of a waiting interrupt: its class and priority, or none if the interrupt does
/// not belong on the list.
pub(super) fn place(state: State) -> Option<(bool, bool, u8)> {
    let here = state.target() == state.queued_on();
    let belongs = state.active() || state.deliverable() && here;
    belongs.then(|| (state.active(), state.group1(), state.priority()))
}

fn change_of_place_requeues(step: &Step) -> bool {
    match (step.old.queued_on(), step.said.follow_up) {
        (Some(vcpu), Some(follow_up)) if !step.old.in_lr() => {
            place(step.old) == place(step.new) || follow_up == FollowUp::Requeue(vcpu)
        }
        _ => true,
    }
}

/// A list register shows what was known at the fill. A level's line that rises is the exception:
/// the line is sampled at the guest's deactivation.
fn change_in_list_register_recalls(step: &Step) -> bool {
    let (Some(vcpu), Some(follow_up), true) =
        (step.old.queued_on(), step.said.follow_up, step.old.in_lr())
    else {
        return true;
    };
    let (old, new) = (step.old, step.new);
    let changed = (old.0 ^ new.0) & !REFS;
    // A raise of an unmapped LPI has no effect.
    // Without HW, a list register has nothing to do with the connection.
    let unplugged = if old.lr_hw() { 0 } else { CONNECTED };
    let ignored = ASSERTED | HW | unplugged | if old.unmapped() { PENDING } else { 0 };
    let edge_has_come = new.latch() && !old.latch() && !old.unmapped();
    let level_has_dropped = old.level_is_high() && !new.level_is_high();
    let others = changed & !ignored != 0;
    if edge_has_come {
        follow_up == FollowUp::Reraised(vcpu)
    } else if level_has_dropped {
        // The line alone can wait for the next exit.
        follow_up == FollowUp::Recall(vcpu)
            || changed & !ASSERTED == 0 && follow_up == FollowUp::RecallLater(vcpu)
    } else {
        // A physical line that has been found low is no hurry, as a line that drops.
        let sampled = old.awaits_line() && changed & !(PENDING | HW | RELEASING | CANCEL_P) == 0;
        !others
            || follow_up == FollowUp::Recall(vcpu)
            || sampled && follow_up == FollowUp::RecallLater(vcpu)
    }
}

fn nothing_follows_from_no_change(step: &Step) -> bool {
    step.old != step.new || matches!(step.said.follow_up, None | Some(FollowUp::Nothing))
}

/// A physical interrupt is held by the word, outside or in a list register, until the guest ends it
/// in the list register or the hypervisor is asked to deactivate it.
fn physical_is_deactivated_once(step: &Step) -> bool {
    let held = |state: State| u8::from(state.hw()) + u8::from(state.lr_hw());
    let by_guest = match step.said.folded {
        // A refresh leaves LR_HW to the fold.
        Some((lr, _)) => step.old.lr_hw() && lr.is_empty() && step.touches & IN_LR != 0,
        None => false,
    };
    // Another raise finds the physical interrupt held, or is the one that begins to hold it.
    let raised = step.touches == PENDING | HW && !step.old.hw() && step.new.hw();
    held(step.old) + u8::from(raised)
        == held(step.new) + u8::from(by_guest) + u8::from(step.said.deactivate)
}

/// RELEASING is set by the transition after which the physical interrupt is deactivated.
fn number_is_kept(step: &Step) -> bool {
    let ended = step.said.deactivate && !step.new.hw();
    step.new.releasing() == (ended || step.old.releasing())
}
