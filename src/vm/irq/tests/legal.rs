//! Legal words: what holds of the state word between any two transitions.

use std::sync::LazyLock;
use std::vec::Vec;

use crate::intid::{IntId, VcpuId};

use super::super::state::ASSERTED;
use super::super::{
    ACTIVE, CANCEL_A, CANCEL_P, CONNECTED, ENABLED, GROUP1, HW, IN_LR, LEVEL, LINE, LR_ACTIVE,
    LR_ASKED, LR_BITS, LR_HW, LR_LATCH, LR_PENDING, MESSAGE, PENDING, RELEASING, State, UNMAPPED,
};
use super::{LPI, NONE, SPI, V0, V1, Word};

/// Returns whether `state` has all of `flags`.
fn has(state: State, flags: u64) -> bool {
    state.0 & flags == flags
}

/// Returns whether `state` has any of `flags`.
fn has_any(state: State, flags: u64) -> bool {
    state.0 & flags != 0
}

/// References that are not the list's.
pub(super) fn other_refs(state: State) -> u16 {
    state.refs().wrapping_sub(list_refs(state))
}

/// References of the list.
pub(super) fn list_refs(state: State) -> u16 {
    u16::from(state.queued_on().is_some())
}

type Rule = (&'static str, fn(lpi: bool, state: State) -> bool);

/// The invariants of the word.
const RULES: &[Rule] = &[
    (
        "the list that holds the interrupt holds a reference",
        |_, s| s.refs() >= list_refs(s),
    ),
    (
        "an interrupt in a list register is on the vCPU's list",
        |_, s| !s.in_lr() || s.queued_on().is_some(),
    ),
    (
        "the other LR bits are set only in a list register",
        |_, s| s.in_lr() || !has_any(s, LR_BITS & !IN_LR),
    ),
    ("LR_LATCH says where LR_PENDING came from", |_, s| {
        !s.lr_latch() || s.lr_pending()
    }),
    (
        "a list register is pending and active by a latch, and without HW",
        |_, s| !has(s, LR_PENDING | LR_ACTIVE) || (s.lr_latch() && !s.lr_hw()),
    ),
    ("a forwarded interrupt is pending or active", |_, s| {
        !s.hw() || has_any(s, PENDING | ACTIVE)
    }),
    ("only a connected interrupt is forwarded", |_, s| {
        !s.hw() || s.connected()
    }),
    (
        "a physical interrupt is not forwarded before it is deactivated",
        |_, s| !has(s, HW | RELEASING),
    ),
    ("an LPI is not connected", |lpi, s| {
        !lpi || !has_any(s, CONNECTED | RELEASING)
    }),
    ("only LPIs can be unmapped", |lpi, s| lpi || !s.unmapped()),
    ("the VM owns a reference of all but LPIs", |lpi, s| {
        lpi || other_refs(s) >= 1
    }),
    (
        "an LPI is unmapped exactly while no reference but the list's is left",
        |lpi, s| !lpi || s.unmapped() == (other_refs(s) == 0),
    ),
    (
        "a pending state in a list register is cancelled when the LPI is unmapped",
        |_, s| !has(s, UNMAPPED | LR_PENDING) || has(s, CANCEL_P),
    ),
    (
        "an LPI is an edge of Group 1, and no physical interrupt's",
        |lpi, s| !lpi || (s.group1() && !has_any(s, LEVEL | ASSERTED | HW | LR_HW)),
    ),
    (
        "an LPI has no active state outside the list registers",
        |lpi, s| !lpi || !s.active(),
    ),
    (
        "an LPI is pending in a list register by its latch, and not active as well",
        |lpi, s| !lpi || !s.lr_pending() || (s.lr_latch() && !s.lr_active()),
    ),
];

/// Returns the invariant that `state` breaks, if any.
pub(super) fn broken_rule(intid: u32, state: State) -> Option<&'static str> {
    let lpi = intid >= IntId::FIRST_LPI;
    let broken = RULES.iter().find(|(_, holds)| !holds(lpi, state));
    broken.map(|(rule, _)| *rule)
}

/// The flags.
const FLAGS: [u64; 19] = [
    PENDING, LINE, MESSAGE, ACTIVE, HW, UNMAPPED, ENABLED, GROUP1, LEVEL, IN_LR, LR_PENDING,
    LR_ACTIVE, LR_LATCH, LR_HW, CANCEL_P, CANCEL_A, LR_ASKED, CONNECTED, RELEASING,
];

/// Returns every legal word of an SPI or LPI: of all combinations of flags, with the interrupt
/// routed to V0, to V1 and to none, on no list and on V0's, with up to three references.
pub(super) fn words(intid: u32) -> &'static [State] {
    static SPIS: LazyLock<Vec<State>> = LazyLock::new(|| legal_words(SPI));
    static LPIS: LazyLock<Vec<State>> = LazyLock::new(|| legal_words(LPI));
    if intid == SPI { &SPIS } else { &LPIS }
}

fn legal_words(intid: u32) -> Vec<State> {
    let all = FLAGS.iter().fold(0, |all, flag| all | flag);
    // A step through the subsets of `all`, the least next.
    let next = |flags: u64| Some(flags.wrapping_sub(all) & all).filter(|next| *next != 0);
    let mut words = Vec::new();
    for flags in core::iter::successors(Some(0), |flags| next(*flags)) {
        for to in [Some(V0), Some(V1), NONE] {
            for on in [NONE, Some(V0)] {
                for refs in 0..=3 {
                    let state = with_fields(flags, to, on, refs);
                    if broken_rule(intid, state).is_none() {
                        words.push(state);
                    }
                }
            }
        }
    }
    words
}

fn with_fields(flags: u64, to: Option<VcpuId>, on: Option<VcpuId>, refs: u16) -> State {
    Word {
        flags,
        on,
        to,
        refs: Some(refs),
        prio: 0xa0,
    }
    .state()
}

/// Guards the sweep against a rule that excludes too much: each flag is in some legal word, and so
/// are combinations that are rare in practice.
#[test]
fn every_flag_is_in_a_legal_word() {
    let words = [words(SPI), words(LPI)].concat();
    for flag in FLAGS {
        assert!(words.iter().any(|s| has(*s, flag)), "{flag:#x}");
    }
    for together in [
        PENDING | IN_LR | LR_PENDING,
        ACTIVE | IN_LR | LR_ACTIVE,
        HW | IN_LR | LR_HW | PENDING,
        LINE | LEVEL | IN_LR | LR_PENDING | LR_LATCH | CANCEL_P | CANCEL_A,
        PENDING | UNMAPPED | GROUP1 | IN_LR | CANCEL_P,
    ] {
        assert!(words.iter().any(|s| has(*s, together)), "{together:#x}");
    }
}
