//! Tables of the transitions of the ownership of a physical interrupt. [`PINTID`](super::PINTID) is
//! a physical SPI; the tables of [`PPI`] are of a physical PPI.

use super::super::FollowUp::{self, Insert, Nothing, Recall, RecallLater, Requeue};
use super::super::{Changed, Irq};
use super::{PINTID, SPI, State, V0, irq_in, put_in, word};
use crate::host::PhysicalInterrupt;
use crate::intid::CpuId;

/// A physical PPI.
const PPI: u16 = 27;

/// A forwarded interrupt with a physical PPI behind it.
fn of_ppi(state: State) -> Irq {
    let irq = irq_in(SPI, state);
    irq.set_pintid(PPI);
    irq
}

/// Checks the rows of a table of a transition of a physical PPI.
macro_rules! ppi_table {
    ($transition:expr; $($why:literal: [$($before:tt)*] => [$($after:tt)*], $result:expr;)*) => {{
        let transition = $transition;
        $({
            let irq = of_ppi(word!($($before)*));
            let found = transition(&irq);
            assert_eq!((irq.state(), found), (word!($($after)*), $result), $why);
        })*
    }};
}

fn said(changed: Changed) -> (bool, FollowUp) {
    (changed.takes_physical(), changed.follow_up)
}

/// Another CPU ends the pending or the active state: the PPI stays owned, by its CPU.
#[test]
fn a_ppi_is_released_by_its_cpu() {
    ppi_table! { |irq: &Irq| said(irq.clear_pending());
        "ICPENDR": [PENDING HW CONNECTED ENABLED on: V0] => [HW CONNECTED ENABLED on: V0],
            (false, Requeue(V0));
        "ICPENDR, and active": [PENDING ACTIVE HW CONNECTED on: V0] => [ACTIVE HW CONNECTED on: V0],
            (false, Requeue(V0));
    }
    ppi_table! { |irq: &Irq| said(irq.clear_active());
        "ICACTIVER": [ACTIVE HW CONNECTED on: V0] => [HW CONNECTED on: V0], (false, Requeue(V0));
    }
    ppi_table! { |irq: &Irq| irq.release_unused();
        "cleared": [HW CONNECTED] => [CONNECTED RELEASING], true;
        "pending once more": [PENDING HW CONNECTED] => [PENDING HW CONNECTED], false;
        "active": [ACTIVE HW CONNECTED] => [ACTIVE HW CONNECTED], false;
        "disconnected, an edge": [PENDING HW] => [PENDING RELEASING], true;
        "released already": [CONNECTED] => [CONNECTED], false;
    }
}

/// Before the vCPU leaves the CPU.
#[test]
fn release() {
    ppi_table! { |irq: &Irq| irq.release().map(|changed| changed.follow_up);
        "a pending level is its line's": [PENDING HW LEVEL CONNECTED ENABLED on: V0]
            => [LEVEL CONNECTED RELEASING ENABLED on: V0], Some(Requeue(V0));
        "an edge stays": [PENDING HW CONNECTED ENABLED] => [PENDING CONNECTED RELEASING ENABLED],
            Some(Insert);
        "an active state stays": [ACTIVE HW LEVEL CONNECTED on: V0]
            => [ACTIVE LEVEL CONNECTED RELEASING on: V0], Some(Requeue(V0));
        "not forwarded": [PENDING LEVEL CONNECTED on: V0] => [PENDING LEVEL CONNECTED on: V0], None;
    }
}

#[test]
fn disconnect() {
    let disconnect = |irq: &Irq| said(irq.disconnect(false));
    ppi_table! { disconnect;
        "a level": [PENDING HW LEVEL CONNECTED] => [HW LEVEL], (false, Nothing);
        "an edge": [PENDING HW CONNECTED] => [PENDING HW], (false, Nothing);
        "idle": [CONNECTED] => [], (false, Nothing);
    }
    ppi_table! { |irq: &Irq| said(irq.disconnect(true));
        "at the end of the VM": [ACTIVE HW LEVEL CONNECTED on: V0]
            => [ACTIVE LEVEL RELEASING on: V0], (true, Requeue(V0));
    }
    for (why, before, after, result) in [
        (
            "a level that waits",
            word!(PENDING HW LEVEL CONNECTED ENABLED on: V0),
            word!(LEVEL ENABLED RELEASING on: V0),
            (true, Requeue(V0)),
        ),
        (
            "active",
            word!(ACTIVE HW LEVEL CONNECTED on: V0),
            word!(ACTIVE LEVEL RELEASING on: V0),
            (true, Requeue(V0)),
        ),
        (
            "in a list register: the fold says who deactivates",
            word!(LEVEL CONNECTED ENABLED IN_LR LR_PENDING LR_LATCH LR_HW on: V0),
            word!(LEVEL ENABLED IN_LR LR_PENDING LR_LATCH LR_HW on: V0),
            (false, Recall(V0)),
        ),
    ] {
        let irq = irq_in(SPI, before);
        assert_eq!((disconnect(&irq), irq.state()), (result, after), "{why}");
    }
}

#[test]
fn connect() {
    let irq = irq_in(SPI, word!());
    assert!(irq.connect(PPI) && irq.state().connected());
    assert!(irq.connect(PPI), "once more");
    assert!(!irq.connect(PPI + 1), "it has one");
    // The old one is still in a list register, owned by its CPU, or about to be deactivated.
    for state in [
        word!(IN_LR LR_PENDING LR_LATCH LR_HW on: V0),
        word!(HW),
        word!(RELEASING),
    ] {
        put_in(&irq, state);
        assert!(!irq.connect(PPI));
        assert_eq!(irq.state(), state);
    }
}

/// The number is constant until the CPU that ended the ownership has read it.
#[test]
fn a_number_is_read_before_the_next_connection() {
    let irq = irq_in(SPI, word!(PENDING HW LEVEL CONNECTED ENABLED));
    assert!(irq.clear_pending().takes_physical());
    assert!(!irq.disconnect(false).takes_physical());
    assert!(!irq.connect(PINTID + 1));

    let cpu = CpuId(0);
    assert_eq!(irq.ended(cpu), PhysicalInterrupt::new(PINTID, cpu));
    assert!(irq.connect(PINTID + 1));
}

/// The line has been found low.
#[test]
fn withdraw_level() {
    let withdraw = |irq: &Irq| irq.withdraw_level().map(said);
    for (why, before, after, result) in [
        (
            "waits",
            word!(PENDING HW LEVEL CONNECTED ENABLED on: V0),
            word!(LEVEL CONNECTED ENABLED RELEASING on: V0),
            Some((true, Requeue(V0))),
        ),
        (
            "disabled",
            word!(PENDING HW LEVEL CONNECTED),
            word!(LEVEL CONNECTED RELEASING),
            Some((true, Nothing)),
        ),
        (
            "behind an active state, which the physical interrupt waits for",
            word!(PENDING ACTIVE HW LEVEL CONNECTED on: V0),
            word!(ACTIVE HW LEVEL CONNECTED on: V0),
            Some((false, Requeue(V0))),
        ),
        (
            "in a list register: the fold says who deactivates",
            word!(LEVEL CONNECTED ENABLED IN_LR LR_PENDING LR_LATCH LR_HW on: V0),
            word!(LEVEL CONNECTED ENABLED IN_LR LR_PENDING LR_LATCH LR_HW CANCEL_P on: V0),
            Some((false, RecallLater(V0))),
        ),
        (
            "an edge",
            word!(PENDING HW CONNECTED on: V0),
            word!(PENDING HW CONNECTED on: V0),
            None,
        ),
        (
            "pending by a register",
            word!(PENDING LEVEL CONNECTED on: V0),
            word!(PENDING LEVEL CONNECTED on: V0),
            None,
        ),
        (
            "taken",
            word!(LEVEL CONNECTED ENABLED IN_LR LR_ACTIVE LR_HW on: V0),
            word!(LEVEL CONNECTED ENABLED IN_LR LR_ACTIVE LR_HW on: V0),
            None,
        ),
    ] {
        let irq = irq_in(SPI, before);
        assert_eq!((withdraw(&irq), irq.state()), (result, after), "{why}");
    }
}
