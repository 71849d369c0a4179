//! Counter-examples that were found, shrunk and named.

use crate::check;
use crate::operation::Operation::{
    Acknowledge, Enable, End, Line, Mask, Move, Read, Sgi, Wait, Write,
};
use crate::reference::Frame;

/// Register writes that send SGI `intid` to PE 0.
const fn sgi(intid: u64) -> u64 {
    intid << 24 | 1
}

/// Four interrupts of Group 0 fill the list registers; once the guest has disabled Group 0, what is pending
/// in Group 1 is signalled.
#[test]
fn a_group_that_is_disabled_makes_room_for_the_other() {
    let mut operations: Vec<_> = (4..8).map(|n| Sgi(0, sgi(n), false)).collect();
    operations.extend([Line(0, 32, true), Enable(0, false, false)]);
    check(&operations);
}

/// An SGI that is pending again while it is active, in a group that the distributor has stopped forwarding
/// meanwhile: its end must not let it through.
#[test]
fn the_end_of_an_interrupt_does_not_let_a_disabled_one_through() {
    let forward = |groups| Write(0, Frame::Distributor, 0, 4, groups);
    let enable = |at| Write(0, Frame::Redistributor(1), at, 4, 1 << 11);
    for (disable, enable) in [
        (forward(1), forward(3)),
        (enable(0x1_0180), enable(0x1_0100)),
    ] {
        check(&[
            Sgi(0, 11 << 24 | 2, true),
            Acknowledge(1, true),
            Sgi(0, 11 << 24 | 2, true),
            disable,
            End(1),
            enable,
            Acknowledge(1, true),
        ]);
    }
}

/// The guest has ended an interrupt in its list register, and another PE makes it active again before the
/// library has seen that.
#[test]
fn an_active_state_set_after_an_end_counts() {
    check(&[
        Sgi(0, 8 << 24 | 2, true),
        Acknowledge(1, true),
        // Now the library knows it as active.
        Move(1, 0),
        End(1),
        Write(2, Frame::Redistributor(1), 0x1_0300, 4, 1 << 8),
    ]);
}

/// A PE sleeps with a level-sensitive interrupt in a list register, masked; the line falls, and the interrupt is
/// not pending any more.
#[test]
fn a_line_that_falls_is_seen_while_the_pe_sleeps() {
    check(&[
        Mask(0, 0),
        Line(0, 36, true),
        Wait(0),
        Line(0, 36, false),
        Read(1, Frame::Distributor, 0x204, 4),
    ]);
}
