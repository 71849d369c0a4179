//! Tables of the transitions by an injection, a line or a register write.

use super::super::FollowUp::{self, Insert, Nothing, Recall, RecallLater, Requeue, Reraised};
use super::super::{ACTIVE, Changed, ENABLED, GROUP1, Irq, LEVEL, Raised};
use super::{LPI, NONE, SPI, V0, V1, table, word};

/// Effect of a raise, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Raise {
    New,
    Coalesced,
    NoEffect,
}
use Raise::{Coalesced, New, NoEffect};

fn raised(raised: Raised) -> (Raise, FollowUp) {
    let effect = match (raised.unmapped(), raised.coalesced()) {
        (true, _) => NoEffect,
        (false, true) => Coalesced,
        (false, false) => New,
    };
    (effect, raised.follow_up())
}

/// Duty of the hypervisor to the physical interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Physical {
    Keep,
    Deactivate,
}
use Physical::{Deactivate, Keep};

fn cleared(changed: Changed) -> (Physical, FollowUp) {
    let physical = if changed.takes_physical() {
        Deactivate
    } else {
        Keep
    };
    (physical, changed.follow_up)
}

/// An edge, an MSI, an SGI, `ISPENDR`.
#[test]
fn raise() {
    table! { SPI, |irq: &Irq| raised(irq.raise());
        "idle": [ENABLED] => [PENDING ENABLED], (New, Insert);
        "disabled": [] => [PENDING], (New, Nothing);
        "without a target": [ENABLED to: NONE] => [PENDING ENABLED to: NONE], (New, Nothing);
        "pending: the CPU that set the latch inserts it":
            [PENDING ENABLED] => unchanged, (Coalesced, Nothing);
        "waits": [PENDING ENABLED on: V0] => unchanged, (Coalesced, Nothing);
        "cleared, but not pruned yet": [ENABLED on: V0] => [PENDING ENABLED on: V0],
            (New, Requeue(V0));
        "not pruned yet from its former target's list":
            [ENABLED on: V0 to: V1] => [PENDING ENABLED on: V0 to: V1], (New, Requeue(V0));
        "active, and keeps its place": [ACTIVE ENABLED on: V0] => [PENDING ACTIVE ENABLED on: V0],
            (New, Nothing);
        "an edge again while in a list register":
            [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0], (New, Reraised(V0));
        "an edge while active in a list register":
            [ENABLED IN_LR LR_ACTIVE on: V0] => [PENDING ENABLED IN_LR LR_ACTIVE on: V0],
            (New, Reraised(V0));
        "a third edge": [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0] => unchanged,
            (Coalesced, Nothing);
        "an edge after ICPENDR":
            [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0]
            => [PENDING ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0], (New, Reraised(V0));
        "ISPENDR of a level that waits by its line":
            [LINE ENABLED LEVEL on: V0] => [PENDING LINE ENABLED LEVEL on: V0],
            (Coalesced, Nothing);
        "the line of an edge does not make it pending": [LINE ENABLED] => [PENDING LINE ENABLED],
            (New, Insert);
    }
    table! { LPI, |irq: &Irq| raised(irq.raise());
        "idle": [ENABLED GROUP1] => [PENDING ENABLED GROUP1], (New, Insert);
        "unmapped": [ENABLED GROUP1 UNMAPPED on: V0 refs: 1]
            => [PENDING ENABLED GROUP1 UNMAPPED on: V0 refs: 1], (NoEffect, Nothing);
        "without references": [ENABLED GROUP1 UNMAPPED refs: 0]
            => [PENDING ENABLED GROUP1 UNMAPPED refs: 0], (NoEffect, Nothing);
    }
}

/// A forwarded physical interrupt.
#[test]
fn forward() {
    table! { SPI, |irq: &Irq| irq.forward().map(raised);
        "idle": [ENABLED CONNECTED] => [PENDING HW ENABLED CONNECTED], Some((New, Insert));
        "a level is pending by its latch":
            [ENABLED LEVEL CONNECTED] => [PENDING HW ENABLED LEVEL CONNECTED], Some((New, Insert));
        "pending already": [PENDING ENABLED CONNECTED on: V0]
            => [PENDING HW ENABLED CONNECTED on: V0], Some((Coalesced, Nothing));
        "the guest has ended the one before":
            [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [PENDING HW ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0],
            Some((New, Reraised(V0)));
        "without a connection": [ENABLED] => unchanged, None;
        "disconnected while in a list register":
            [ENABLED IN_LR LR_PENDING LR_LATCH LR_HW on: V0] => unchanged, None;
    }
}

#[test]
fn set_line_high() {
    table! { SPI, |irq: &Irq| irq.set_line(true).follow_up;
        "idle": [ENABLED LEVEL] => [LINE ENABLED LEVEL], Insert;
        "disabled": [LEVEL] => [LINE LEVEL], Nothing;
        "high already": [LINE ENABLED LEVEL] => unchanged, Nothing;
        "an edge": [ENABLED] => [LINE ENABLED], Nothing;
        "waits by its latch": [PENDING ENABLED LEVEL on: V0] => [PENDING LINE ENABLED LEVEL on: V0],
            Nothing;
        "dropped, but not pruned yet": [ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL on: V0],
            Requeue(V0);
        "active: waits for the deactivation":
            [ACTIVE ENABLED LEVEL on: V0] => [LINE ACTIVE ENABLED LEVEL on: V0], Nothing;
        "in a list register: sampled at the deactivation":
            [ENABLED LEVEL IN_LR LR_ACTIVE on: V0] => [LINE ENABLED LEVEL IN_LR LR_ACTIVE on: V0],
            Nothing;
        "asserted by a message already": [MESSAGE ENABLED LEVEL] => [LINE MESSAGE ENABLED LEVEL],
            Nothing;
    }
    table! { SPI, |irq: &Irq| irq.set_line(true).is_rising_edge();
        "an edge": [ENABLED] => [LINE ENABLED], true;
        "an edge that is high already": [LINE ENABLED] => unchanged, false;
        "a level": [ENABLED LEVEL] => [LINE ENABLED LEVEL], false;
    }
}

/// `GICD_SETSPI_NSR` of a level, and a message that was taken back before the VM moved.
#[test]
fn set_message() {
    table! { SPI, |irq: &Irq| irq.set_message(false).follow_up;
        "a latch stays": [PENDING MESSAGE ENABLED LEVEL on: V0] => [PENDING ENABLED LEVEL on: V0],
            Requeue(V0);
        "the line is high": [LINE MESSAGE ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL on: V0],
            Nothing;
        "an edge": [PENDING MESSAGE ENABLED on: V0] => [PENDING ENABLED on: V0], Nothing;
    }
    table! { SPI, |irq: &Irq| irq.set_message(true).follow_up;
        "idle": [ENABLED LEVEL] => [MESSAGE ENABLED LEVEL], Insert;
        "the line is high": [LINE ENABLED LEVEL on: V0] => [LINE MESSAGE ENABLED LEVEL on: V0],
            Nothing;
        "in a list register: sampled at the deactivation":
            [ENABLED LEVEL IN_LR LR_ACTIVE on: V0]
            => [MESSAGE ENABLED LEVEL IN_LR LR_ACTIVE on: V0], Nothing;
    }
}

/// `GICD_CLRSPI_NSR`: as `ICPENDR`, and the message is taken back.
#[test]
fn clear_message() {
    table! { SPI, |irq: &Irq| cleared(irq.clear_message());
        "waits": [MESSAGE ENABLED LEVEL on: V0] => [ENABLED LEVEL on: V0], (Keep, Requeue(V0));
        "the line is high": [LINE MESSAGE ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL on: V0],
            (Keep, Requeue(V0));
        "the line alone": [LINE ENABLED LEVEL on: V0] => unchanged, (Keep, Nothing);
        "a latch": [PENDING ENABLED LEVEL on: V0] => [ENABLED LEVEL on: V0], (Keep, Requeue(V0));
        "an edge": [PENDING ENABLED on: V0] => [ENABLED on: V0], (Keep, Requeue(V0));
        "in a list register":
            [MESSAGE ENABLED LEVEL IN_LR LR_PENDING on: V0]
            => [ENABLED LEVEL IN_LR LR_PENDING CANCEL_P on: V0], (Keep, Recall(V0));
        "forwarded": [PENDING HW ENABLED CONNECTED on: V0]
            => [ENABLED CONNECTED RELEASING on: V0], (Deactivate, Requeue(V0));
    }
}

#[test]
fn set_line_low() {
    table! { SPI, |irq: &Irq| irq.set_line(false).follow_up;
        "waits": [LINE ENABLED LEVEL on: V0] => [ENABLED LEVEL on: V0], Requeue(V0);
        "in nobody's list yet": [LINE ENABLED LEVEL] => [ENABLED LEVEL], Nothing;
        "low already": [ENABLED LEVEL] => unchanged, Nothing;
        "an edge": [PENDING LINE ENABLED on: V0] => [PENDING ENABLED on: V0], Nothing;
        "a message asserts it still": [LINE MESSAGE ENABLED LEVEL on: V0]
            => [MESSAGE ENABLED LEVEL on: V0], Nothing;
        "dropped in a list register":
            [LINE ENABLED LEVEL IN_LR LR_PENDING on: V0] => [ENABLED LEVEL IN_LR LR_PENDING on: V0],
            RecallLater(V0);
    }
}

/// `ISENABLER`, `ICENABLER`.
#[test]
fn enable_and_disable() {
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_flag(ENABLED, true)).follow_up;
        "idle": [] => [ENABLED], Nothing;
        "pending": [PENDING] => [PENDING ENABLED], Insert;
        "a high level": [LINE LEVEL] => [LINE ENABLED LEVEL], Insert;
        "pending without a target": [PENDING to: NONE] => [PENDING ENABLED to: NONE], Nothing;
        "disabled, but not pruned yet": [PENDING on: V0] => [PENDING ENABLED on: V0], Requeue(V0);
        "enabled already": [PENDING ENABLED on: V0] => unchanged, Nothing;
    }
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_flag(ENABLED, false)).follow_up;
        "waits": [PENDING ENABLED on: V0] => [PENDING on: V0], Requeue(V0);
        "in a list register": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [IN_LR LR_PENDING LR_LATCH on: V0], Recall(V0);
        "disabled already": [PENDING] => unchanged, Nothing;
    }
    table! { LPI, |irq: &Irq| irq.update(|old| old.with_flag(ENABLED, true)).follow_up;
        "raised while it was unmapped":
            [PENDING GROUP1 UNMAPPED refs: 0] => [PENDING ENABLED GROUP1 UNMAPPED refs: 0], Nothing;
    }
}

/// `IPRIORITYR`: five bits are implemented.
#[test]
fn set_priority() {
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_priority(0x27)).follow_up;
        "idle": [ENABLED prio: 0xa0] => [ENABLED prio: 0x20], Nothing;
        "waits": [PENDING ENABLED on: V0 prio: 0xa0] => [PENDING ENABLED on: V0 prio: 0x20],
            Requeue(V0);
        "in a list register": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 prio: 0xa0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 prio: 0x20], Recall(V0);
        "equal in the implemented bits": [PENDING ENABLED on: V0 prio: 0x20] => unchanged, Nothing;
    }
}

/// `GICD_IROUTER<n>`, `MOVI`.
#[test]
fn set_target() {
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_target(Some(V1))).follow_up;
        "idle": [ENABLED] => [ENABLED to: V1], Nothing;
        "pending without a target": [PENDING ENABLED to: NONE] => [PENDING ENABLED to: V1], Insert;
        "retargeted while queued": [PENDING ENABLED on: V0] => [PENDING ENABLED on: V0 to: V1],
            Requeue(V0);
        "retargeted while in a list register":
            [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH on: V0 to: V1], Recall(V0);
        "the target it has": [PENDING ENABLED on: V0 to: V1] => unchanged, Nothing;
    }
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_target(None)).follow_up;
        "waits": [PENDING ENABLED on: V0] => [PENDING ENABLED on: V0 to: NONE], Requeue(V0);
        "in nobody's list yet": [PENDING ENABLED] => [PENDING ENABLED to: NONE], Nothing;
    }
}

/// `IGROUPR`.
#[test]
fn set_group() {
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_flag(GROUP1, true)).follow_up;
        "idle": [ENABLED] => [ENABLED GROUP1], Nothing;
        "waits": [PENDING ENABLED on: V0] => [PENDING ENABLED GROUP1 on: V0], Requeue(V0);
        "in a list register": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED GROUP1 IN_LR LR_PENDING LR_LATCH on: V0], Recall(V0);
        "of that group already": [PENDING ENABLED GROUP1 on: V0] => unchanged, Nothing;
    }
}

/// `ICFGR`.
#[test]
fn set_trigger() {
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_flag(LEVEL, true)).follow_up;
        "its line is high": [LINE ENABLED] => [LINE ENABLED LEVEL], Insert;
        "its line is low": [ENABLED] => [ENABLED LEVEL], Nothing;
        "in a list register": [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED LEVEL IN_LR LR_PENDING LR_LATCH on: V0], Recall(V0);
    }
    table! { SPI, |irq: &Irq| irq.update(|old| old.with_flag(LEVEL, false)).follow_up;
        "waits by its line": [LINE ENABLED LEVEL on: V0] => [LINE ENABLED on: V0], Requeue(V0);
        "edge-triggered already": [PENDING ENABLED on: V0] => unchanged, Nothing;
    }
}

/// `ISACTIVER`.
#[test]
fn set_active() {
    table! { SPI, |irq: &Irq| irq.update(|old| old.with(ACTIVE, 0)).follow_up;
        "idle, disabled": [] => [ACTIVE], Insert;
        "without a target": [to: NONE] => [ACTIVE to: NONE], Nothing;
        "waits": [PENDING ENABLED on: V0] => [PENDING ACTIVE ENABLED on: V0], Requeue(V0);
        "in a list register, where the guest may have ended it":
            [ENABLED IN_LR LR_ACTIVE on: V0] => [ACTIVE ENABLED IN_LR LR_ACTIVE on: V0], Recall(V0);
        "active already": [ACTIVE on: V0] => unchanged, Nothing;
    }
}

/// `ICPENDR`, `CLEAR`.
#[test]
fn clear_pending() {
    table! { SPI, |irq: &Irq| cleared(irq.clear_pending());
        "waits": [PENDING ENABLED on: V0] => [ENABLED on: V0], (Keep, Requeue(V0));
        "in nobody's list yet": [PENDING ENABLED] => [ENABLED], (Keep, Nothing);
        "not pending": [ENABLED] => unchanged, (Keep, Nothing);
        "the line is not cleared": [LINE ENABLED LEVEL on: V0] => unchanged, (Keep, Nothing);
        "the latch is, behind a line":
            [PENDING LINE ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL on: V0], (Keep, Requeue(V0));
        "active and pending": [PENDING ACTIVE ENABLED on: V0] => [ACTIVE ENABLED on: V0],
            (Keep, Requeue(V0));
        "in a list register":
            [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0], (Keep, Recall(V0));
        "in a list register, with an edge behind it":
            [PENDING ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0], (Keep, Recall(V0));
        "cancelled already": [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_P on: V0] => unchanged,
            (Keep, Nothing);
        "forwarded": [PENDING HW ENABLED CONNECTED on: V0]
            => [ENABLED CONNECTED RELEASING on: V0], (Deactivate, Requeue(V0));
        "active and forwarded: the deactivation is still to come":
            [PENDING ACTIVE CONNECTED HW ENABLED on: V0]
            => [ACTIVE CONNECTED HW ENABLED on: V0], (Keep, Requeue(V0));
        "forwarded and in a list register: the fold says who deactivates":
            [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW on: V0]
            => [ENABLED CONNECTED IN_LR LR_PENDING LR_LATCH LR_HW CANCEL_P on: V0],
            (Keep, Recall(V0));
    }
    table! { LPI, |irq: &Irq| cleared(irq.clear_pending());
        "waits": [PENDING ENABLED GROUP1 on: V0] => [ENABLED GROUP1 on: V0], (Keep, Requeue(V0));
    }
}

/// `ICACTIVER`, `ICC_DIR_EL1`, `EOIcount`.
#[test]
fn clear_active() {
    table! { SPI, |irq: &Irq| cleared(irq.clear_active());
        "on its list": [ACTIVE ENABLED on: V0] => [ENABLED on: V0], (Keep, Requeue(V0));
        "not active": [PENDING ENABLED on: V0] => unchanged, (Keep, Nothing);
        "an edge waits behind it": [PENDING ACTIVE ENABLED on: V0] => [PENDING ENABLED on: V0],
            (Keep, Requeue(V0));
        "its line is high": [LINE ACTIVE ENABLED LEVEL on: V0] => [LINE ENABLED LEVEL on: V0],
            (Keep, Requeue(V0));
        "its line is high, and it is in nobody's list yet":
            [LINE ACTIVE ENABLED LEVEL] => [LINE ENABLED LEVEL], (Keep, Insert);
        "forwarded": [ACTIVE CONNECTED HW ENABLED on: V0]
            => [ENABLED CONNECTED RELEASING on: V0], (Deactivate, Requeue(V0));
        "forwarded and pending only": [PENDING HW ENABLED CONNECTED on: V0]
            => unchanged, (Keep, Nothing);
        "in a list register":
            [ENABLED IN_LR LR_ACTIVE on: V0] => [ENABLED IN_LR LR_ACTIVE CANCEL_A on: V0],
            (Keep, Recall(V0));
        "perhaps acknowledged in a list register":
            [ENABLED IN_LR LR_PENDING LR_LATCH on: V0]
            => [ENABLED IN_LR LR_PENDING LR_LATCH CANCEL_A on: V0], (Keep, Recall(V0));
        "ISACTIVER while in a list register":
            [ACTIVE ENABLED IN_LR LR_ACTIVE on: V0]
            => [ENABLED IN_LR LR_ACTIVE CANCEL_A on: V0], (Keep, Recall(V0));
        "cancelled already": [ENABLED IN_LR LR_ACTIVE CANCEL_A on: V0] => unchanged,
            (Keep, Nothing);
    }
}
