//! Tests of one interrupt, and the notation of the tables.
//!
//! [`raise`], [`list_register`] and [`references`] have a table for each transition. A row is
//! `"reason": [word before] => [word after], result;`. A word is written by what it has:
//! ```text
//! [PENDING ENABLED on: V0 to: V1 refs: 2 prio: 0x20]
//! ```
//! A field that is not written is at its usual value: routed to V0, on no list, priority 0, and one
//! reference besides the list's. A word after that equals the word before is written `unchanged`.
//!
//! [`sweep`] makes every transition in every legal word, and checks the rules of [`rules`].
//! [`pairs`] compares transitions with each other.

mod legal;
mod list_register;
mod pairs;
mod physical;
mod raise;
mod references;
mod rules;
mod state;
mod sweep;

use core::fmt;

use crate::intid::{IntId, VcpuId};
use crate::lr::ListRegister;
use crate::sync::Ordering::Relaxed;

use super::{Irq, REF, State};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const NONE: Option<VcpuId> = None;

/// An SPI. SGIs and PPIs differ only by flags that SGIs never have, and by their constant target.
const SPI: u32 = 40;
const LPI: u32 = 8192;
/// The physical interrupt of every interrupt here.
const PINTID: u16 = 70;

/// Group 0, Group 1, and both, as the bits that some transitions take.
const GROUP0_ONLY: u32 = 0b01;
const GROUP1_ONLY: u32 = 0b10;
const BOTH_GROUPS: u32 = 0b11;

/// Contents of a list register when it is folded.
mod register {
    use crate::lr::ListRegister;

    pub(super) const INVALID: ListRegister = ListRegister::EMPTY;
    pub(super) const PENDING: ListRegister = ListRegister(ListRegister::PENDING);
    pub(super) const ACTIVE: ListRegister = ListRegister(ListRegister::ACTIVE);
    pub(super) const PENDING_ACTIVE: ListRegister =
        ListRegister(ListRegister::PENDING | ListRegister::ACTIVE);
}

/// A word in the notation of the module docs.
struct Word {
    flags: u64,
    on: Option<VcpuId>,
    to: Option<VcpuId>,
    refs: Option<u16>,
    prio: u8,
}

impl Word {
    const fn new() -> Self {
        Self {
            flags: 0,
            on: None,
            to: Some(V0),
            refs: None,
            prio: 0,
        }
    }

    fn flag(self, flag: u64) -> Self {
        Self {
            flags: self.flags | flag,
            ..self
        }
    }

    fn on(self, vcpu: VcpuId) -> Self {
        Self {
            on: Some(vcpu),
            ..self
        }
    }

    fn to(self, target: impl Into<Option<VcpuId>>) -> Self {
        Self {
            to: target.into(),
            ..self
        }
    }

    fn refs(self, refs: u16) -> Self {
        Self {
            refs: Some(refs),
            ..self
        }
    }

    fn prio(self, prio: u8) -> Self {
        Self { prio, ..self }
    }

    fn state(self) -> State {
        let usual = 1 + u16::from(self.on.is_some());
        let state = State::new(self.flags, self.to).with_priority(self.prio);
        let state = self.on.map_or(state, |vcpu| state.queued(vcpu));
        // `State::new` has counted one.
        State(state.0 - REF + REF * u64::from(self.refs.unwrap_or(usual)))
    }
}

/// Makes a state from the notation of the module docs.
macro_rules! word {
    (@ $word:expr;) => { $word.state() };
    (@ $word:expr; on: $vcpu:ident $($rest:tt)*) => { word!(@ $word.on($vcpu); $($rest)*) };
    (@ $word:expr; to: $vcpu:ident $($rest:tt)*) => { word!(@ $word.to($vcpu); $($rest)*) };
    (@ $word:expr; refs: $refs:literal $($rest:tt)*) => { word!(@ $word.refs($refs); $($rest)*) };
    (@ $word:expr; prio: $prio:literal $($rest:tt)*) => { word!(@ $word.prio($prio); $($rest)*) };
    (@ $word:expr; $flag:ident $($rest:tt)*) => {
        word!(@ $word.flag($crate::vm::irq::$flag); $($rest)*)
    };
    ($($words:tt)*) => { word!(@ $crate::vm::irq::tests::Word::new(); $($words)*) };
}
use word;

/// Checks the rows of one transition: the state after, and the result.
macro_rules! table {
    (@after $before:expr, unchanged) => { $before };
    (@after $before:expr, [$($after:tt)*]) => { word!($($after)*) };
    ($intid:ident, $transition:expr;
     $($why:literal: [$($before:tt)*] => $after:tt, $result:expr;)*) => {{
        let transition = $transition;
        $({
            let before = word!($($before)*);
            let after = table!(@after before, $after);
            $crate::vm::irq::tests::row($intid, $why, (before, after), $result, &transition);
        })*
    }};
}
use table;

/// Makes an interrupt in this state.
fn irq_in(intid: u32, state: State) -> Irq {
    let irq = Irq::new(IntId::new(intid).unwrap(), 0, None);
    irq.set_pintid(PINTID);
    put_in(&irq, state);
    irq
}

/// Puts an interrupt into this state.
fn put_in(irq: &Irq, state: State) {
    // Relaxed: a test has one thread.
    irq.state.store(state.0, Relaxed);
}

/// Checks one row of a table.
fn row<R: PartialEq + fmt::Debug>(
    intid: u32,
    why: &str,
    (before, after): (State, State),
    result: R,
    transition: &impl Fn(&Irq) -> R,
) {
    for state in [before, after] {
        assert_eq!(legal::broken_rule(intid, state), None, "{why}: {state:?}");
    }
    let irq = irq_in(intid, before);
    let found = transition(&irq);
    assert_eq!(
        (irq.state(), found),
        (after, result),
        "{why}, from {before:?}"
    );
}

/// Checks the parts of an image that are the same for every fill, and returns the others: the state
/// bits, HW, the group and EOI.
fn image_of(irq: &Irq, image: ListRegister) -> ListRegister {
    assert_eq!(image.vintid(), irq.intid().raw());
    assert_eq!(image.priority(), irq.state().priority());
    let pintid = if image.is_hw() { u32::from(PINTID) } else { 0 };
    // EOI is a bit of the pINTID field, which an image without HW does not have.
    let eoi = if image.wants_eoi() {
        ListRegister::EOI
    } else {
        0
    };
    assert_eq!(
        image.pintid(),
        pintid | (eoi >> ListRegister::PINTID_SHIFT) as u32
    );
    let state = ListRegister::PENDING | ListRegister::ACTIVE;
    ListRegister(image.0 & (state | ListRegister::HW | ListRegister::GROUP1) | eoi)
}

/// Makes the parts of an image that [`image_of`] returns.
macro_rules! image {
    ($($bit:ident)*) => {
        Some($crate::lr::ListRegister(0 $(| $crate::lr::ListRegister::$bit)*))
    };
}
use image;

/// Fate of an interrupt that was pruned: [`Pruned`](super::Pruned), without the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Kept,
    Removed,
    RemovedLast,
    Migrating,
}

impl Fate {
    /// Checks that `Kept` has the state in the word, and drops the state.
    fn of(irq: &Irq, pruned: super::Pruned) -> Self {
        match pruned {
            super::Pruned::Kept(state) => {
                assert_eq!(state, irq.state(), "the bucket would be another state's");
                Self::Kept
            }
            super::Pruned::Removed { last: false } => Self::Removed,
            super::Pruned::Removed { last: true } => Self::RemovedLast,
            super::Pruned::Migrating => Self::Migrating,
        }
    }
}

/// Makes a [`Folded`](super::Folded) with these facts.
macro_rules! folded {
    ($($fact:ident)*) => {
        $crate::vm::irq::Folded { $($fact: true,)* ..$crate::vm::irq::Folded::default() }
    };
}
use folded;
