//! Tables of the transitions of mappings and migrations.

use super::super::FollowUp::{self, Insert, Nothing, Recall, Requeue};
use super::super::{Irq, PutResult};
use super::{LPI, NONE, SPI, V0, V1, irq_in, table, word};

/// Result of a put, without the states: the table has them.
fn ended(put: PutResult) -> (Owner, FollowUp) {
    let owner = if put.last { Owner::None } else { Owner::Left };
    (owner, put.changed.follow_up)
}

/// Owners that a put leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Left,
    None,
}
use Owner::Left;
/// The reference was the last one.
const LAST: Owner = Owner::None;

/// `MAPTI` of an LPI that has references.
#[test]
fn map() {
    table! { LPI, |irq: &Irq| irq.map(Some(V0));
        "a second event of the LPI":
            [ENABLED GROUP1 refs: 1] => [ENABLED GROUP1 refs: 2], Some(Nothing);
        "pending, and in nobody's list yet":
            [PENDING ENABLED GROUP1 refs: 1] => [PENDING ENABLED GROUP1 refs: 2], Some(Insert);
        "pending without a target, and has one now":
            [PENDING ENABLED GROUP1 to: NONE refs: 1] => [PENDING ENABLED GROUP1 refs: 2],
            Some(Insert);
        "waits on the old target's list":
            [PENDING ENABLED GROUP1 on: V1 to: V1 refs: 2]
            => [PENDING ENABLED GROUP1 on: V1 to: V0 refs: 3], Some(Requeue(V1));
        "unmapped, but still on a list":
            [ENABLED GROUP1 UNMAPPED on: V0 refs: 1] => [ENABLED GROUP1 on: V0 refs: 2],
            Some(Requeue(V0));
        "a raise while it was unmapped has no effect":
            [PENDING ENABLED GROUP1 UNMAPPED on: V0 refs: 1] => [ENABLED GROUP1 on: V0 refs: 2],
            Some(Requeue(V0));
        "unmapped while in a list register: the old pending state stays cancelled":
            [ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 2],
            Some(Recall(V0));
        "no references: another CPU frees it":
            [ENABLED GROUP1 UNMAPPED refs: 0] => unchanged, None;
        "raised after its last reference was put":
            [PENDING ENABLED GROUP1 UNMAPPED refs: 0] => unchanged, None;
        "as many references as the count should have":
            [GROUP1 refs: 0x8000] => unchanged, None;
    }
    table! { LPI, |irq: &Irq| irq.map(None);
        "to a collection without a target":
            [ENABLED GROUP1 refs: 1] => [ENABLED GROUP1 to: NONE refs: 2], Some(Nothing);
    }
}

/// `DISCARD`, `MAPD`.
#[test]
fn unmap() {
    table! { LPI, |irq: &Irq| ended(irq.unmap());
        "the only mapping":
            [ENABLED GROUP1 refs: 1] => [ENABLED GROUP1 UNMAPPED refs: 0], (LAST, Nothing);
        "pending, and in nobody's list yet":
            [PENDING ENABLED GROUP1 refs: 1] => [ENABLED GROUP1 UNMAPPED refs: 0],
            (LAST, Nothing);
        "one of two mappings: the other's pending state is withdrawn too":
            [PENDING ENABLED GROUP1 refs: 2] => [ENABLED GROUP1 refs: 1], (Left, Nothing);
        "one of two mappings, idle":
            [ENABLED GROUP1 refs: 2] => [ENABLED GROUP1 refs: 1], (Left, Nothing);
        "waits: the list puts the last reference":
            [PENDING ENABLED GROUP1 on: V0 refs: 2] => [ENABLED GROUP1 UNMAPPED on: V0 refs: 1],
            (Left, Requeue(V0));
        "in a list register":
            [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 refs: 2]
            => [ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1],
            (Left, Recall(V0));
        "in a list register, with an edge behind it and another mapping":
            [PENDING ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 refs: 3]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 2],
            (Left, Recall(V0));
        "during a migration: the migration puts the last reference":
            [PENDING ENABLED GROUP1 to: V1 refs: 2] => [ENABLED GROUP1 to: V1 refs: 1],
            (Left, Nothing);
    }
}

/// The end of a migration.
#[test]
fn put() {
    table! { SPI, |irq: &Irq| ended(irq.put());
        "an SPI on its new list":
            [PENDING ENABLED on: V1 to: V1 refs: 3] => [PENDING ENABLED on: V1 to: V1 refs: 2],
            (Left, Nothing);
        "an SPI that has been disabled meanwhile is on no list":
            [PENDING to: V1 refs: 2] => [PENDING to: V1 refs: 1], (Left, Nothing);
        "an SPI in a list register of its new target":
            [ENABLED IN_LR LR_PENDING LR_LATCH on: V1 to: V1 refs: 3]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V1 to: V1 refs: 2], (Left, Nothing);
    }
    table! { LPI, |irq: &Irq| ended(irq.put());
        "a mapped LPI":
            [PENDING ENABLED GROUP1 on: V0 refs: 3] => [PENDING ENABLED GROUP1 on: V0 refs: 2],
            (Left, Nothing);
        "an LPI unmapped during the migration, and raised since":
            [PENDING ENABLED GROUP1 on: V0 refs: 2] => [ENABLED GROUP1 UNMAPPED on: V0 refs: 1],
            (Left, Requeue(V0));
        "an LPI unmapped during the migration, in a list register by now":
            [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 refs: 2]
            => [ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1],
            (Left, Recall(V0));
        "the last reference of an LPI unmapped during the migration":
            [ENABLED GROUP1 refs: 1] => [ENABLED GROUP1 UNMAPPED refs: 0], (LAST, Nothing);
        "the last reference, and a raise since the unmap":
            [PENDING ENABLED GROUP1 refs: 1] => [ENABLED GROUP1 UNMAPPED refs: 0],
            (LAST, Nothing);
    }
}

/// Unmaps an LPI in a list register, maps the LPI again and raises it: the guest gets the raise
/// only.
#[test]
fn an_lpi_revived_in_a_list_register_forgets_its_old_pending_state() {
    use super::{Fate, folded, register};
    let waiting = word!(PENDING ENABLED GROUP1 on: V0 refs: 2);
    let irq = irq_in(LPI, waiting);
    assert!(irq.fill_lr_plain(V0, irq.state()).is_some());
    assert_eq!(ended(irq.unmap()), (Left, Recall(V0)));
    assert!(irq.raise().unmapped());
    assert_eq!(irq.map(Some(V0)), Some(Recall(V0)));
    assert!(!irq.state().shows_pending());
    assert_eq!(irq.raise().follow_up(), FollowUp::Reraised(V0));
    let (fold, pruned) = irq.fold_unlink(V0, register::PENDING);
    assert_eq!(
        (fold, Fate::of(&irq, pruned)),
        (folded![withdrawn], Fate::Kept)
    );
    assert_eq!(irq.state(), waiting);
}
