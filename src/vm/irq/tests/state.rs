//! A new word, the predicates of a word, and the word in print.

use std::format;

use super::super::{ENABLED, GROUP1, Irq};
use super::{LPI, NONE, V0, V1, word};
use crate::intid::IntId;

/// Makes an interrupt as the VM does, and an LPI as its first mapping does.
#[test]
fn a_new_interrupt_has_one_reference_and_is_on_no_list() {
    let intid = |raw| IntId::new(raw).unwrap();
    let sgi = Irq::new(intid(0), ENABLED, Some(V1));
    assert_eq!(sgi.state(), word!(ENABLED to: V1 refs: 1));
    assert_eq!(sgi.owner(), Some(V1));
    let lpi = Irq::new(intid(LPI), GROUP1, None);
    assert_eq!(lpi.state(), word!(GROUP1 to: NONE refs: 1));
    assert_eq!(lpi.owner(), None);
}

/// `GICD_ISPENDR<n>`: a latch outside or in a list register, or a level's line as it is now.
#[test]
fn shows_pending() {
    for (shown, state) in [
        (true, word!(PENDING)),
        (true, word!(LINE LEVEL)),
        (false, word!(LINE)),
        (true, word!(IN_LR LR_PENDING LR_LATCH on: V0)),
        (false, word!(IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0)),
        (
            true,
            word!(PENDING IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0),
        ),
        (true, word!(LINE LEVEL IN_LR LR_PENDING on: V0)),
        (false, word!(LEVEL IN_LR LR_PENDING on: V0)),
        (false, word!(IN_LR LR_ACTIVE on: V0)),
    ] {
        assert_eq!(state.shows_pending(), shown, "{state:?}");
    }
}

/// `GICD_ISACTIVER<n>`.
#[test]
fn shows_active() {
    for (shown, state) in [
        (true, word!(ACTIVE)),
        (true, word!(IN_LR LR_ACTIVE on: V0)),
        (false, word!(IN_LR LR_ACTIVE CANCEL_A on: V0)),
        (true, word!(ACTIVE IN_LR LR_ACTIVE CANCEL_A on: V0)),
        (false, word!(IN_LR LR_PENDING LR_LATCH on: V0)),
    ] {
        assert_eq!(state.shows_active(), shown, "{state:?}");
    }
}

#[test]
fn deliverable_and_wants_list() {
    for (deliverable, wants_list, state) in [
        (true, true, word!(PENDING ENABLED)),
        (true, true, word!(LINE ENABLED LEVEL)),
        (false, false, word!(LINE ENABLED)),
        (false, false, word!(PENDING)),
        (false, false, word!(PENDING ENABLED to: NONE)),
        (false, false, word!(PENDING ENABLED GROUP1 UNMAPPED refs: 0)),
        (false, true, word!(PENDING ACTIVE ENABLED)),
        (false, true, word!(ACTIVE)),
        (false, false, word!(ACTIVE to: NONE)),
    ] {
        assert_eq!(state.deliverable(), deliverable, "{state:?}");
        assert_eq!(state.wants_list(), wants_list, "{state:?}");
    }
}

#[test]
fn is_idle() {
    for (idle, state) in [
        (true, word!(ENABLED)),
        (true, word!(ENABLED LEVEL)),
        (true, word!(ENABLED to: NONE)),
        (false, word!()),
        (false, word!(PENDING ENABLED)),
        (false, word!(LINE ENABLED LEVEL)),
        (false, word!(ACTIVE ENABLED)),
        (false, word!(ENABLED on: V0)),
        (false, word!(ENABLED GROUP1 UNMAPPED refs: 0)),
    ] {
        assert_eq!(state.is_idle(), idle, "{state:?}");
    }
}

#[test]
fn is_plain() {
    for (plain, state) in [
        (true, word!(PENDING ENABLED)),
        (true, word!(PENDING HW ENABLED)),
        (true, word!(PENDING HW ENABLED LEVEL)),
        (false, word!(PENDING ENABLED LEVEL)),
        (false, word!(LINE ENABLED LEVEL)),
        (false, word!(PENDING ACTIVE ENABLED)),
        (false, word!(PENDING)),
        (false, word!(PENDING ENABLED to: V1)),
        (false, word!(PENDING ENABLED GROUP1 UNMAPPED on: V0 refs: 1)),
    ] {
        assert_eq!(state.is_plain(V0), plain, "{state:?}");
    }
}

/// Shows a word with flags and fields by their names.
#[test]
fn debug_prints_names() {
    let state = word!(PENDING LEVEL IN_LR LR_HW on: V0 to: V1 refs: 2 prio: 0x20);
    assert_eq!(
        format!("{state:?}"),
        "State(LEVEL PENDING LR_HW IN_LR priority 0x20 target Some(VcpuId(1)) \
         queued_on Some(VcpuId(0)) refs 2)"
    );
    let state = word!(to: NONE refs: 0);
    assert_eq!(
        format!("{state:?}"),
        "State(priority 0x00 target None queued_on None refs 0)"
    );
}
