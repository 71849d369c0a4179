//! Counter-examples that were found, shrunk and named.

use crate::check;
use crate::operation::Operation;
use crate::operation::Operation::{
    Acknowledge, Command, Control, Deactivate, Edge, Enable, End, Line, Mask, Move, Msi, Read, Sgi,
    Wait, Write,
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

const fn mapd(device: u64, size: u64) -> Operation {
    Command(0, 0, [0x08 | device << 32, size, 1 << 63, 0])
}

/// An MSI whose collection is not mapped is lost, not kept until it is.
#[test]
fn an_msi_for_an_unmapped_collection_is_ignored() {
    check(&[
        Command(0, 0, [0x09, 0, 1, 0]),
        Msi(0, 0, 1),
        Command(0, 0, [0x09, 0, 1 << 63 | 1, 0]),
        Acknowledge(0, true),
    ]);
}

/// MAPD of a mapped device with more events than the quota leaves: it fails, and the device stays as it was.
#[test]
fn a_device_that_has_no_room_to_grow_stays_mapped() {
    check(&[mapd(3, 2), mapd(1, 3), mapd(3, 4), mapd(0, 4), Msi(0, 0, 1)]);
}

/// The most urgent interrupt was active, outside the list registers; ended with its line still high, it is the
/// next one to be signalled, before those that fill the registers.
#[test]
fn a_spilled_interrupt_that_is_pending_again_comes_first() {
    let priority = |intid: u64, priority| Write(0, Frame::Distributor, 0x400 + intid, 1, priority);
    let mut operations: Vec<_> = (41..45).map(|intid| priority(intid, 0x80)).collect();
    operations.extend((40..45).map(|intid| Line(0, intid, true)));
    operations.extend([
        Acknowledge(0, true),
        // A trap makes room for what is pending.
        Read(0, Frame::Distributor, 0, 4),
        End(0),
        Acknowledge(0, true),
    ]);
    check(&operations);
}

/// A level-sensitive interrupt that one PE has acknowledged, in its list register, is deactivated by another: its
/// line is sampled again.
#[test]
fn a_level_that_another_pe_deactivates_is_sampled_again() {
    check(&[
        Write(0, Frame::Distributor, 0x6100, 8, 1),
        Control(2, 2),
        Line(0, 32, true),
        Acknowledge(1, true),
        Deactivate(2, 0),
    ]);
}

/// A forwarded interrupt is active in a list register, backed by the physical one, and made pending by the guest:
/// its end is noticed.
#[test]
fn a_forwarded_interrupt_that_is_pending_again_is_taken_again() {
    check(&[
        Edge(0, 34),
        Acknowledge(0, true),
        Write(0, Frame::Distributor, 0x204, 4, 1 << 2),
        End(0),
        Acknowledge(0, true),
    ]);
}

/// A level that the guest is about to end when the distributor stops forwarding its group: its line is still
/// high then, and it is not signalled.
#[test]
fn the_end_of_a_level_does_not_let_a_closed_group_through() {
    check(&[
        Line(2, 30, true),
        Acknowledge(2, true),
        Write(0, Frame::Distributor, 0, 4, 0),
        End(2),
    ]);
}
