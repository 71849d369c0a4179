//! Tables of the transitions under an ap_list's lock: link, unlink, fill, fold.

use super::super::{FastFold, Folded, Irq, Refilled};
use super::Fate::{self, Kept, Migrating, Removed, RemovedLast};
use super::{
    BOTH_GROUPS, GROUP0_ONLY, GROUP1_ONLY, LPI, NONE, SPI, V0, V1, folded, image, image_of,
    register, table, word,
};
use crate::lr::ListRegister;

#[test]
fn link() {
    const LINKED: bool = true;
    const REFUSED: bool = false;
    table! { SPI, |irq: &Irq| match irq.link(V0) {
        Some(state) if state != irq.state() => panic!("another state is returned"),
        linked => linked.is_some(),
    };
        "an edge": [PENDING ENABLED refs: 1] => [PENDING ENABLED on: V0 refs: 2], LINKED;
        "a level": [LINE ENABLED LEVEL refs: 1] => [LINE ENABLED LEVEL on: V0 refs: 2], LINKED;
        "forwarded": [PENDING HW ENABLED CONNECTED refs: 1]
            => [PENDING HW ENABLED CONNECTED on: V0 refs: 2], LINKED;
        "active, also if disabled": [ACTIVE refs: 1] => [ACTIVE on: V0 refs: 2], LINKED;
        "migrated: the old list's reference is put afterwards":
            [PENDING ENABLED refs: 2] => [PENDING ENABLED on: V0 refs: 3], LINKED;
        "queued already": [PENDING ENABLED on: V0] => unchanged, REFUSED;
        "queued elsewhere": [PENDING ENABLED on: V1] => unchanged, REFUSED;
        "in a list register": [PENDING ENABLED IN_LR LR_ACTIVE on: V0] => unchanged, REFUSED;
        "routed elsewhere since": [PENDING ENABLED to: V1] => unchanged, REFUSED;
        "routed to none since": [PENDING ENABLED to: NONE] => unchanged, REFUSED;
        "withdrawn since": [ENABLED] => unchanged, REFUSED;
        "disabled since": [PENDING] => unchanged, REFUSED;
    }
    table! { LPI, |irq: &Irq| irq.link(V0).is_some();
        "mapped": [PENDING ENABLED GROUP1 refs: 1] => [PENDING ENABLED GROUP1 on: V0 refs: 2],
            LINKED;
        "without references": [PENDING ENABLED GROUP1 UNMAPPED refs: 0] => unchanged, REFUSED;
    }
}

/// Prune of an interrupt that waits.
#[test]
fn unlink() {
    table! { SPI, |irq: &Irq| Fate::of(irq, irq.unlink(V0));
        "deliverable here": [PENDING ENABLED on: V0] => unchanged, Kept;
        "active": [ACTIVE on: V0] => unchanged, Kept;
        "active here and routed elsewhere: until the deactivation":
            [PENDING ACTIVE ENABLED on: V0 to: V1] => unchanged, Kept;
        "withdrawn": [ENABLED on: V0 refs: 2] => [ENABLED refs: 1], Removed;
        "disabled": [PENDING on: V0 refs: 2] => [PENDING refs: 1], Removed;
        "line dropped": [ENABLED LEVEL on: V0 refs: 2] => [ENABLED LEVEL refs: 1], Removed;
        "routed to none": [PENDING ENABLED on: V0 to: NONE refs: 2]
            => [PENDING ENABLED to: NONE refs: 1], Removed;
        "retargeted while queued: hands its reference to the migration":
            [PENDING ENABLED on: V0 to: V1 refs: 2] => [PENDING ENABLED to: V1 refs: 2], Migrating;
        "retargeted and withdrawn": [ENABLED on: V0 to: V1 refs: 2] => [ENABLED to: V1 refs: 1],
            Removed;
    }
    table! { LPI, |irq: &Irq| Fate::of(irq, irq.unlink(V0));
        "unmapped while it waited": [ENABLED GROUP1 UNMAPPED on: V0 refs: 1]
            => [ENABLED GROUP1 UNMAPPED refs: 0], RemovedLast;
        "unmapped and raised": [PENDING ENABLED GROUP1 UNMAPPED on: V0 refs: 1]
            => [PENDING ENABLED GROUP1 UNMAPPED refs: 0], RemovedLast;
        "unmapped, mapped again": [ENABLED GROUP1 on: V0 refs: 2] => [ENABLED GROUP1 refs: 1],
            Removed;
    }
}

#[test]
fn fill_lr() {
    let fill = |irq: &Irq, open| irq.fill_lr(V0, open).map(|image| image_of(irq, image));
    table! { SPI, |irq: &Irq| fill(irq, [true; 2]);
        "an edge": [PENDING ENABLED on: V0] => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0],
            image![PENDING];
        "an edge of Group 1": [PENDING ENABLED GROUP1 on: V0 prio: 0x20]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 prio: 0x20],
            image![PENDING GROUP1];
        "a level asks for its line at the deactivation":
            [LINE ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL IN_LR LR_PENDING on: V0],
            image![PENDING EOI];
        "a latched level": [PENDING LINE ENABLED LEVEL on: V0]
            => [LINE ENABLED LEVEL IN_LR LR_PENDING LR_LATCH on: V0], image![PENDING EOI];
        "a forwarded edge": [PENDING HW ENABLED CONNECTED on: V0]
            => [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0], image![PENDING HW];
        "a forwarded level": [PENDING HW ENABLED CONNECTED LEVEL on: V0]
            => [ENABLED CONNECTED LEVEL IN_LR LR_PENDING LR_LATCH LR_HW on: V0], image![PENDING HW];
        "active": [ACTIVE ENABLED on: V0] => [ENABLED IN_LR LR_ACTIVE on: V0], image![ACTIVE];
        "active, of another vCPU by now":
            [ACTIVE ENABLED on: V0 to: V1] => [ENABLED IN_LR LR_ACTIVE on: V0 to: V1],
            image![ACTIVE];
        "active, and an edge again": [PENDING ACTIVE ENABLED on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE on: V0], image![PENDING ACTIVE];
        "active, and an edge that may move": [PENDING ACTIVE ENABLED on: V0 to: V1]
            => [PENDING ENABLED IN_LR LR_ACTIVE on: V0 to: V1], image![ACTIVE EOI];
        "active, and an edge but disabled": [PENDING ACTIVE on: V0]
            => [PENDING IN_LR LR_ACTIVE on: V0], image![ACTIVE EOI];
        "an active level: the line waits for the deactivation":
            [LINE ACTIVE ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL IN_LR LR_ACTIVE on: V0],
            image![ACTIVE EOI];
        "an active level latched by ISPENDR": [PENDING ACTIVE ENABLED LEVEL on: V0]
            => [PENDING ENABLED LEVEL IN_LR LR_ACTIVE on: V0], image![ACTIVE EOI];
        "active and forwarded": [ACTIVE CONNECTED HW ENABLED on: V0]
            => [ENABLED CONNECTED IN_LR LR_ACTIVE LR_HW on: V0], image![ACTIVE HW];
        "active, and forwarded again: no register with HW holds both":
            [PENDING ACTIVE CONNECTED HW ENABLED on: V0]
            => [PENDING HW ENABLED CONNECTED IN_LR LR_ACTIVE on: V0],
            image![ACTIVE EOI];
        "withdrawn since": [ENABLED on: V0] => unchanged, None;
        "disabled since": [PENDING on: V0] => unchanged, None;
        "retargeted since": [PENDING ENABLED on: V0 to: V1] => unchanged, None;
    }
    table! { SPI, |irq: &Irq| fill(irq, [false, true]);
        "active, and an edge of a disabled group": [PENDING ACTIVE ENABLED on: V0]
            => [PENDING ENABLED IN_LR LR_ACTIVE on: V0], image![ACTIVE EOI];
        "active, and an edge of the enabled group": [PENDING ACTIVE ENABLED GROUP1 on: V0]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH LR_ACTIVE on: V0],
            image![PENDING ACTIVE GROUP1];
    }
    table! { LPI, |irq: &Irq| fill(irq, [true; 2]);
        "an LPI": [PENDING ENABLED GROUP1 on: V0]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0], image![PENDING GROUP1];
        "unmapped since": [PENDING ENABLED GROUP1 UNMAPPED on: V0 refs: 1] => unchanged, None;
    }
}

#[test]
fn fill_lr_plain() {
    table! { SPI, |irq: &Irq| irq.fill_lr_plain(V0, irq.state()).map(|image| image_of(irq, image));
        "an edge": [PENDING ENABLED GROUP1 on: V0 prio: 0x20]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 prio: 0x20],
            image![PENDING GROUP1];
        "a forwarded level": [PENDING HW ENABLED CONNECTED LEVEL on: V0]
            => [ENABLED CONNECTED LEVEL IN_LR LR_PENDING LR_LATCH LR_HW on: V0], image![PENDING HW];
        "a level": [LINE ENABLED LEVEL on: V0] => unchanged, None;
        "a latched level": [PENDING ENABLED LEVEL on: V0] => unchanged, None;
        "active": [PENDING ACTIVE ENABLED on: V0] => unchanged, None;
        "retargeted since": [PENDING ENABLED on: V0 to: V1] => unchanged, None;
    }
}

/// Staging.
#[test]
fn link_and_fill_lr() {
    let stage = |irq: &Irq, groups| {
        let image = irq.link_and_fill_lr(V0, groups);
        image.map(|image| image_of(irq, image))
    };
    table! { SPI, |irq: &Irq| stage(irq, BOTH_GROUPS);
        "an edge": [PENDING ENABLED refs: 1]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 refs: 2], image![PENDING];
        "forwarded": [PENDING HW ENABLED CONNECTED refs: 1]
            => [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0 refs: 2],
            image![PENDING HW];
        "a level takes the general path": [LINE ENABLED LEVEL] => unchanged, None;
        "active": [PENDING ACTIVE ENABLED] => unchanged, None;
        "queued already": [PENDING ENABLED on: V0] => unchanged, None;
        "queued elsewhere": [PENDING ENABLED on: V1] => unchanged, None;
        "routed elsewhere since": [PENDING ENABLED to: V1] => unchanged, None;
        "withdrawn since": [ENABLED] => unchanged, None;
    }
    table! { SPI, |irq: &Irq| stage(irq, GROUP1_ONLY);
        "a disabled group": [PENDING ENABLED] => unchanged, None;
        "the enabled group": [PENDING ENABLED GROUP1 refs: 1]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 refs: 2], image![PENDING GROUP1];
    }
    table! { LPI, |irq: &Irq| stage(irq, BOTH_GROUPS);
        "without references": [PENDING ENABLED GROUP1 UNMAPPED refs: 0] => unchanged, None;
    }
}

fn fold(irq: &Irq, lr: ListRegister) -> (Folded, Fate) {
    let (folded, pruned) = irq.fold_unlink(V0, lr);
    (folded, Fate::of(irq, pruned))
}

/// The guest has acknowledged and deactivated the interrupt. The register is read, or ELRSR says
/// that the register is empty.
#[test]
fn fold_unlink_of_an_invalid_register() {
    let by_value = |irq: &Irq| fold(irq, register::INVALID);
    let by_elrsr = |irq: &Irq| {
        let (folded, pruned) = irq.fold_unlink_ended(V0);
        (folded, Fate::of(irq, pruned))
    };
    for transition in [by_value as fn(&Irq) -> _, by_elrsr] {
        table! { SPI, transition;
            "an edge": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 refs: 2] => [ENABLED refs: 1],
                (folded![delivered], Removed);
            "active when last seen": [ENABLED IN_LR LR_ACTIVE on: V0 refs: 2] => [ENABLED refs: 1],
                (folded![], Removed);
            "an edge again while in the list register":
                [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => [PENDING ENABLED on: V0],
                (folded![delivered], Kept);
            "an edge again, and retargeted":
                [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0 to: V1 refs: 2]
                => [PENDING ENABLED to: V1 refs: 2], (folded![delivered], Migrating);
            "an edge again, and disabled": [PENDING IN_LR LR_PENDING LR_LATCH on: V0 refs: 2]
                => [PENDING refs: 1], (folded![delivered], Removed);
            "a level whose line is still high":
                [LINE ENABLED LEVEL IN_LR LR_PENDING on: V0] => [LINE ENABLED LEVEL on: V0],
                (folded![delivered resample repended], Kept);
            "a level whose line is low":
                [ENABLED LEVEL IN_LR LR_PENDING on: V0 refs: 2] => [ENABLED LEVEL refs: 1],
                (folded![delivered resample], Removed);
            "forwarded: the guest has deactivated the physical interrupt":
                [ENABLED CONNECTED LEVEL IN_LR LR_PENDING LR_LATCH LR_HW on: V0 refs: 2]
                => [ENABLED CONNECTED LEVEL refs: 1], (folded![delivered], Removed);
            "forwarded again":
                [PENDING HW ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
                => [PENDING HW ENABLED CONNECTED on: V0], (folded![delivered], Kept);
            "ICPENDR came too late":
                [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 2] => [ENABLED refs: 1],
                (folded![delivered], Removed);
            "ISACTIVER since": [ACTIVE ENABLED IN_LR LR_ACTIVE on: V0] => [ACTIVE ENABLED on: V0],
                (folded![], Kept);
        }
        table! { LPI, transition;
            "an LPI unmapped in the list register":
                [ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1]
                => [ENABLED GROUP1 UNMAPPED refs: 0], (folded![delivered], RemovedLast);
        }
    }
}

/// The guest has not acknowledged the interrupt.
#[test]
fn fold_unlink_of_a_pending_register() {
    table! { SPI, |irq: &Irq| fold(irq, register::PENDING);
        "an edge": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => [PENDING ENABLED on: V0],
            (folded![], Kept);
        "an edge again: the guest sees the two as one":
            [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => [PENDING ENABLED on: V0],
            (folded![coalesced], Kept);
        "retargeted": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 to: V1 refs: 2]
            => [PENDING ENABLED to: V1 refs: 2], (folded![], Migrating);
        "disabled": [IN_LR LR_PENDING LR_LATCH on: V0 refs: 2] => [PENDING refs: 1],
            (folded![], Removed);
        "routed to none": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 to: NONE refs: 2]
            => [PENDING ENABLED to: NONE refs: 1], (folded![], Removed);
        "ICPENDR": [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 2] => [ENABLED refs: 1],
            (folded![withdrawn], Removed);
        "an edge after ICPENDR":
            [PENDING ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0] => [PENDING ENABLED on: V0],
            (folded![withdrawn], Kept);
        "ICACTIVER does not withdraw a pending state":
            [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_A on: V0] => [PENDING ENABLED on: V0],
            (folded![], Kept);
        "ISACTIVER since": [ENABLED ACTIVE IN_LR LR_PENDING LR_LATCH on: V0]
            => [PENDING ACTIVE ENABLED on: V0], (folded![], Kept);
        "a level": [LINE ENABLED LEVEL IN_LR LR_PENDING on: V0] => [LINE ENABLED LEVEL on: V0],
            (folded![], Kept);
        "a level whose line has dropped":
            [ENABLED LEVEL IN_LR LR_PENDING on: V0 refs: 2] => [ENABLED LEVEL refs: 1],
            (folded![withdrawn], Removed);
        "a level latched by ISPENDR, whose line has dropped":
            [ENABLED LEVEL IN_LR LR_PENDING LR_LATCH on: V0] => [PENDING ENABLED LEVEL on: V0],
            (folded![], Kept);
        "ICPENDR of a level: the line is not cleared":
            [LINE ENABLED LEVEL IN_LR LR_PENDING CANCEL_P on: V0] => [LINE ENABLED LEVEL on: V0],
            (folded![], Kept);
        "forwarded": [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [PENDING HW ENABLED CONNECTED on: V0], (folded![], Kept);
        "forwarded, and ICPENDR: nobody else deactivates the physical interrupt":
            [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW CANCEL_P on: V0 refs: 2]
            => [ENABLED CONNECTED RELEASING refs: 1],
            (folded![withdrawn deactivate], Removed);
    }
    table! { LPI, |irq: &Irq| fold(irq, register::PENDING);
        "unmapped in the list register":
            [ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1]
            => [ENABLED GROUP1 UNMAPPED refs: 0], (folded![withdrawn], RemovedLast);
        "unmapped in the list register, and mapped again":
            [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 2]
            => [ENABLED GROUP1 refs: 1], (folded![withdrawn], Removed);
    }
}

/// The guest has acknowledged the interrupt.
#[test]
fn fold_unlink_of_an_active_register() {
    table! { SPI, |irq: &Irq| fold(irq, register::ACTIVE);
        "an edge": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => [ACTIVE ENABLED on: V0],
            (folded![delivered], Kept);
        "active when last seen": [ENABLED IN_LR LR_ACTIVE on: V0] => [ACTIVE ENABLED on: V0],
            (folded![], Kept);
        "an edge again": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [PENDING ACTIVE ENABLED on: V0], (folded![delivered], Kept);
        "retargeted: stays until the deactivation":
            [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0 to: V1]
            => [PENDING ACTIVE ENABLED on: V0 to: V1], (folded![delivered], Kept);
        "disabled": [IN_LR LR_PENDING LR_LATCH on: V0] => [ACTIVE on: V0],
            (folded![delivered], Kept);
        "a level whose line is high: pending once more at the deactivation only":
            [LINE ENABLED LEVEL IN_LR LR_PENDING on: V0] => [LINE ACTIVE ENABLED LEVEL on: V0],
            (folded![delivered], Kept);
        "ICPENDR came too late": [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0]
            => [ACTIVE ENABLED on: V0], (folded![delivered], Kept);
        "ICACTIVER": [ENABLED IN_LR LR_ACTIVE CANCEL_A on: V0 refs: 2] => [ENABLED refs: 1],
            (folded![], Removed);
        "ICACTIVER of a level whose line is high":
            [LINE ENABLED LEVEL IN_LR LR_ACTIVE CANCEL_A on: V0] => [LINE ENABLED LEVEL on: V0],
            (folded![repended], Kept);
        "ISACTIVER after ICACTIVER": [ACTIVE ENABLED IN_LR LR_ACTIVE CANCEL_A on: V0]
            => [ACTIVE ENABLED on: V0], (folded![], Kept);
        "forwarded": [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [ACTIVE CONNECTED HW ENABLED on: V0], (folded![delivered], Kept);
        "forwarded, and ICACTIVER":
            [ENABLED CONNECTED IN_LR LR_ACTIVE LR_HW CANCEL_A on: V0 refs: 2]
            => [ENABLED CONNECTED RELEASING refs: 1],
            (folded![deactivate], Removed);
    }
    table! { LPI, |irq: &Irq| fold(irq, register::ACTIVE);
        "an LPI has no active state":
            [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 refs: 2] => [ENABLED GROUP1 refs: 1],
            (folded![delivered], Removed);
        "an LPI again": [PENDING ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0]
            => [PENDING ENABLED GROUP1 on: V0], (folded![delivered], Kept);
    }
}

/// An active edge that has come again.
#[test]
fn fold_unlink_of_a_pending_and_active_register() {
    table! { SPI, |irq: &Irq| fold(irq, register::PENDING_ACTIVE);
        "both stay": [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE on: V0]
            => [PENDING ACTIVE ENABLED on: V0], (folded![], Kept);
        "a third edge": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE on: V0]
            => [PENDING ACTIVE ENABLED on: V0], (folded![coalesced], Kept);
        "ICPENDR": [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE CANCEL_P on: V0]
            => [ACTIVE ENABLED on: V0], (folded![withdrawn], Kept);
        "ICACTIVER": [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE CANCEL_A on: V0]
            => [PENDING ENABLED on: V0], (folded![], Kept);
        "ICACTIVER, and retargeted":
            [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE CANCEL_A on: V0 to: V1 refs: 2]
            => [PENDING ENABLED to: V1 refs: 2], (folded![], Migrating);
        "ICPENDR and ICACTIVER":
            [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE CANCEL_P CANCEL_A on: V0 refs: 2]
            => [ENABLED refs: 1], (folded![withdrawn], Removed);
    }
}

/// Fold and prune in one step, of most interrupts that the guest has ended.
#[test]
fn fold_unlink_plain() {
    const GONE: Option<(bool, bool)> = Some((true, false));
    let plain = |irq: &Irq| {
        let in_words = |FastFold { delivered, last }| (delivered, last);
        irq.fold_unlink_plain().map(in_words)
    };
    table! { SPI, plain;
        "an edge": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 refs: 2] => [ENABLED refs: 1], GONE;
        "an edge of Group 1": [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0 refs: 2]
            => [ENABLED GROUP1 refs: 1], GONE;
        "an edge, active when last seen":
            [ENABLED IN_LR LR_ACTIVE on: V0 refs: 2] => [ENABLED refs: 1], Some((false, false));
        "ICPENDR came too late":
            [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 2] => [ENABLED refs: 1], GONE;
        "forwarded": [ENABLED CONNECTED LEVEL IN_LR LR_PENDING LR_LATCH LR_HW on: V0 refs: 2]
            => [ENABLED CONNECTED LEVEL refs: 1], GONE;
        "an edge again": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => unchanged, None;
        "a level has to be sampled": [ENABLED LEVEL IN_LR LR_PENDING on: V0] => unchanged, None;
        "ISACTIVER since": [ACTIVE ENABLED IN_LR LR_ACTIVE on: V0] => unchanged, None;
    }
    table! { LPI, plain;
        "unmapped in the list register":
            [ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1]
            => [ENABLED GROUP1 UNMAPPED refs: 0], Some((true, true));
    }
}

/// Fold and fill in one step, of an interrupt whose next edge has come.
#[test]
fn fold_and_fill_lr() {
    let refilled = |irq: &Irq, groups: u32| {
        let in_words = |Refilled { delivered, image }| (delivered, Some(image_of(irq, image)));
        irq.fold_and_fill_lr(V0, groups, irq.state()).map(in_words)
    };
    table! { SPI, |irq: &Irq| refilled(irq, BOTH_GROUPS);
        "an edge again": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0], Some((true, image![PENDING]));
        "an edge again, after one that was active when last seen":
            [PENDING ENABLED IN_LR LR_ACTIVE on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0], Some((false, image![PENDING]));
        "an edge after ICPENDR is not cancelled":
            [PENDING ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0], Some((true, image![PENDING]));
        "forwarded again": [PENDING HW ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0],
            Some((true, image![PENDING HW]));
        "no edge": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => unchanged, None;
        "an edge again, and retargeted": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0 to: V1]
            => unchanged, None;
        "an edge again, and disabled": [PENDING IN_LR LR_PENDING LR_LATCH on: V0] => unchanged,
            None;
        "a level has to be sampled": [ENABLED LEVEL IN_LR LR_PENDING on: V0] => unchanged, None;
        "filled as an edge, made a level, and forwarded since: has to be sampled":
            [PENDING HW ENABLED LEVEL CONNECTED IN_LR LR_PENDING LR_LATCH on: V0] => unchanged,
            None;
    }
    table! { SPI, |irq: &Irq| refilled(irq, GROUP0_ONLY);
        "an edge again, of a disabled group":
            [PENDING ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0] => unchanged, None;
    }
    table! { LPI, |irq: &Irq| refilled(irq, BOTH_GROUPS);
        "unmapped and raised":
            [PENDING ENABLED GROUP1 UNMAPPED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0 refs: 1]
            => unchanged, None;
    }
}

/// The VM is dropped: the list register is not read.
#[test]
fn fold_without_read() {
    table! { SPI, |irq: &Irq| irq.fold_without_read();
        "an edge": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => [ENABLED on: V0], false;
        "an edge again": [PENDING ENABLED CONNECTED IN_LR LR_ACTIVE LR_HW CANCEL_A on: V0]
            => [PENDING ENABLED CONNECTED RELEASING on: V0], true;
        "forwarded again: the guest has ended the first":
            [PENDING HW ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [PENDING HW ENABLED CONNECTED on: V0], false;
    }
}

/// A register read that shows the states in this CPU's list registers.
#[test]
fn refresh() {
    table! { SPI, |irq: &Irq| irq.refresh_lr_bits(register::PENDING);
        "not acknowledged": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => unchanged, folded![];
        "cancelled": [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0] => unchanged, folded![];
        "pending behind an end": [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0], folded![];
    }
    table! { SPI, |irq: &Irq| irq.refresh_lr_bits(register::ACTIVE);
        "acknowledged": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED IN_LR LR_ACTIVE on: V0], folded![delivered];
        "acknowledged, with an edge behind it": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [PENDING ENABLED IN_LR LR_ACTIVE on: V0], folded![delivered];
        "acknowledged, and ICPENDR came too late":
            [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0]
            => [ENABLED IN_LR LR_ACTIVE on: V0], folded![delivered];
        "forwarded": [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [ENABLED CONNECTED IN_LR LR_ACTIVE LR_HW on: V0], folded![delivered];
        "ICACTIVER": [ENABLED IN_LR LR_ACTIVE CANCEL_A on: V0]
            => [ENABLED IN_LR CANCEL_A on: V0], folded![];
    }
    table! { SPI, |irq: &Irq| irq.refresh_lr_bits(register::INVALID);
        "ended": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => [ENABLED IN_LR on: V0],
            folded![delivered];
        "ended, active when last seen": [ENABLED IN_LR LR_ACTIVE on: V0] => [ENABLED IN_LR on: V0],
            folded![];
    }
    table! { SPI, |irq: &Irq| irq.refresh_lr_bits(register::PENDING_ACTIVE);
        "both stay": [ENABLED IN_LR LR_PENDING LR_LATCH LR_ACTIVE on: V0] => unchanged, folded![];
    }
}
