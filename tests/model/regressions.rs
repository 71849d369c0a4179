//! Counter-examples found, shrunk and named.

use crate::operation::Operation;
use crate::operation::Operation::{
    Acknowledge, BinaryPoint, Command, Compare, Configure, Control, Deactivate, Edge, Enable,
    EnableLpis, End, Line, Mask, Move, Msi, Read, Restore, Sgi, Wait, Write,
};
use crate::reference::Frame;
use crate::{check, check_on};
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::NEOVERSE;

/// Returns the register value sending SGI `intid` to PE 0.
const fn sgi(intid: u64) -> u64 {
    intid << 24 | 1
}

/// Fills the list registers with four interrupts of Group 0, and disables Group 0 by the guest. The
/// interrupt pending in Group 1 is signalled.
#[test]
fn a_group_that_is_disabled_makes_room_for_the_other() {
    let mut operations: Vec<_> = (4..8).map(|n| Sgi(0, sgi(n), false)).collect();
    operations.extend([Line(0, 32, true), Enable(0, false, false)]);
    check(&operations);
}

/// Makes an active SGI pending again, with its group or itself disabled in the meantime. The SGI's
/// end must not signal the pending state.
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

/// Ends an interrupt in its list register, and sets its active state by another PE before the
/// library has folded the end. The active state counts.
#[test]
fn an_active_state_set_after_an_end_counts() {
    check(&[
        Sgi(0, 8 << 24 | 2, true),
        Acknowledge(1, true),
        // The library folds the active state.
        Move(1, 0),
        End(1),
        Write(2, Frame::Redistributor(1), 0x1_0300, 4, 1 << 8),
    ]);
}

/// Blocks a PE with a masked level-sensitive interrupt in a list register. The line falls, and the
/// interrupt is no longer pending.
#[test]
fn a_line_that_falls_is_seen_while_the_pe_sleeps() {
    check(&[
        Mask(0, 0),
        Line(0, 35, true),
        Wait(0),
        Line(0, 35, false),
        Read(1, Frame::Distributor, 0x204, 4),
    ]);
}

/// Puts a redistributor to sleep while its PE waits with every interrupt masked, and before its PE
/// waits. Both wake up for a pending interrupt.
#[test]
fn a_pe_whose_redistributor_sleeps_wakes_up() {
    let sleep = |pe| Write(pe, Frame::Redistributor(0), 0x14, 4, 2);
    check(&[Mask(0, 0), Line(0, 35, true), Wait(0), sleep(1)]);
    check(&[Mask(0, 0), Line(0, 35, true), sleep(0), Wait(0)]);
    check(&[Enable(0, true, false), sleep(0), Wait(0), Line(0, 35, true)]);
}

const fn mapd(device: u64, size: u64) -> Operation {
    Command(0, 0, [0x08 | device << 32, size, 1 << 63, 0])
}

/// Sends an MSI to an unmapped collection. The MSI is lost, not kept until a mapping.
#[test]
fn an_msi_for_an_unmapped_collection_is_ignored() {
    check(&[
        Command(0, 0, [0x09, 0, 1, 0]),
        Msi(0, 0, 1),
        Command(0, 0, [0x09, 0, 1 << 63 | 1, 0]),
        Acknowledge(0, true),
    ]);
}

/// Maps a mapped device with more events than left by the quota. MAPD fails, and the device stays
/// unchanged.
#[test]
fn a_device_that_has_no_room_to_grow_stays_mapped() {
    check(&[mapd(3, 2), mapd(1, 3), mapd(3, 4), mapd(0, 4), Msi(0, 0, 1)]);
}

/// Ends the highest-priority interrupt, active outside the list registers, with its line still
/// high. The interrupt is signalled next, before those in the list registers.
#[test]
fn a_spilled_interrupt_that_is_pending_again_comes_first() {
    let priority = |intid: u64, priority| Write(0, Frame::Distributor, 0x400 + intid, 1, priority);
    let mut operations: Vec<_> = (41..45).map(|intid| priority(intid, 0x80)).collect();
    operations.extend((40..45).map(|intid| Line(0, intid, true)));
    operations.extend([
        Acknowledge(0, true),
        // A trap makes room for the pending interrupts.
        Read(0, Frame::Distributor, 0, 4),
        End(0),
        Acknowledge(0, true),
    ]);
    check(&operations);
}

/// Deactivates a level-sensitive interrupt in a PE's list register by another PE. The line is
/// sampled again.
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

/// Makes a forwarded interrupt pending by the guest while active in a list register with the
/// physical interrupt. The interrupt's end is noticed.
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

/// Lets the line of a forwarded level fall while more urgent interrupts fill the list registers,
/// and makes the level an edge. No edge has been raised.
#[test]
fn a_level_without_a_line_does_not_become_an_edge() {
    check(&[
        Write(0, Frame::Distributor, 0x40, 4, 32),
        Line(0, 38, true),
        Edge(0, 16),
        Edge(0, 35),
        Line(0, 30, true),
        Line(0, 38, false),
        Write(0, Frame::Distributor, 0xc08, 4, 0x27f6_e000),
    ]);
}

/// Makes a forwarded level, pending by its line, active by a register. The line falls, and the
/// level is not pending.
#[test]
fn a_forwarded_level_made_active_follows_its_line() {
    check(&[
        Line(0, 38, true),
        Write(0, Frame::Redistributor(0), 0x1_0100, 4, 1 << 4),
        Write(0, Frame::Distributor, 0x304, 4, 1 << 6),
        Line(0, 38, false),
        Read(0, Frame::Distributor, 0x204, 4),
    ]);
}

/// Deactivates a forwarded level by a register while more urgent interrupts fill the list
/// registers. The line has fallen behind the active state, and the level is not pending.
#[test]
fn the_line_of_a_forwarded_level_falls_behind_an_active_state() {
    check(&[
        Msi(1, 0, 5),
        Sgi(1, 1 << 40 | 2 << 24, true),
        Edge(0, 16),
        Write(0, Frame::Redistributor(0), 0x1_0080, 4, !(1 << 4)),
        Control(0, 2),
        Write(0, Frame::Distributor, 0x304, 4, 1 << 1),
        Line(0, 33, true),
        Msi(0, 0, 7),
        Write(0, Frame::Redistributor(0), 0x1_0100, 4, 1 << 4),
        Line(0, 33, false),
        Deactivate(0, 0),
    ]);
}

/// Lets the line of a forwarded level fall while the level waits for a list register. An arrival,
/// more urgent than what is in the list registers, makes room for the level, whose line is then
/// sampled.
#[test]
fn an_arrival_makes_room_for_a_level_that_has_fallen() {
    check_on(
        Vtr {
            list_registers: 2,
            ..NEOVERSE
        },
        false,
        &[
            Write(0, Frame::Distributor, 0xc08, 4, 0),
            Sgi(0, 2 << 24 | 1, true),
            Edge(0, 28),
            Sgi(0, 13 << 24 | 1, true),
            Line(0, 34, true),
            Line(0, 34, false),
            Acknowledge(0, true),
            Line(0, 30, true),
        ],
    );
}

/// Routes a forwarded level elsewhere in its handler, and restores the VM, which has the level
/// forwarded anew. The line falls behind the active state, whose end moves the level.
#[test]
fn a_level_that_moves_at_its_end_is_sampled() {
    check(&[
        Write(0, Frame::Redistributor(0), 0x1_0404, 1, 0),
        Line(0, 33, true),
        Acknowledge(0, true),
        Write(0, Frame::Distributor, 0x6108, 8, 1),
        Restore(1),
        Line(0, 33, false),
        End(1),
        End(0),
    ]);
}

/// Lets the line of a forwarded level fall while the level is disabled, and enables the level.
#[test]
fn a_disabled_level_that_has_fallen_is_not_pending_once_enabled() {
    check(&[
        Line(0, 34, true),
        Write(0, Frame::Distributor, 0x184, 4, 1 << 2),
        Line(0, 34, false),
        Write(0, Frame::Distributor, 0x104, 4, 1 << 2),
    ]);
}

/// Lets the line of a forwarded PPI fall while the PPI's PE sleeps with the PPI in a list register.
/// The physical PPI is given back once the PE wakes up.
#[test]
fn a_level_in_a_list_register_of_a_sleeping_pe_is_given_back_later() {
    check(&[
        Line(2, 30, true),
        Line(0, 35, true),
        Write(0, Frame::Distributor, 0x6118, 8, 2),
        Acknowledge(2, true),
        Wait(2),
        Line(2, 30, false),
        Compare(0),
        Acknowledge(2, true),
        Compare(0),
    ]);
}

/// Moves a PE in the handler of a forwarded PPI to another CPU. The PPI is forwarded there once
/// more, and its line falls before the end.
#[test]
fn a_handler_of_a_forwarded_ppi_goes_on_elsewhere() {
    for falls in [false, true] {
        let mut operations = vec![Line(0, 30, true), Acknowledge(0, true), Move(0, 1)];
        operations.extend(falls.then_some(Line(0, 30, false)));
        operations.extend([End(0), Acknowledge(0, true), End(0), Move(0, 0)]);
        check(&operations);
    }
}

/// Ends a level with its line still high, after the distributor stopped forwarding its group. The
/// level is not signalled.
#[test]
fn the_end_of_a_level_does_not_let_a_closed_group_through() {
    check(&[
        Line(2, 30, true),
        Acknowledge(2, true),
        Write(0, Frame::Distributor, 0, 4, 0),
        End(2),
    ]);
}

/// Keeps a PE asleep whose pending interrupts do not preempt the active one.
#[test]
fn a_binary_point_keeps_the_pe_asleep() {
    check(&[
        BinaryPoint(2, false, 7),
        Edge(2, 16),
        Acknowledge(2, true),
        Sgi(0, 0x0700_43ec, false),
        Edge(2, 28),
        Wait(2),
    ]);
}

/// Deactivates a PPI before its end, and ends the PPI with `EOImode` 0 while an SGI is active
/// outside the list registers. `EOIcount` has no INTID, and the end would end the SGI. The test
/// leaves the end out, although all interrupts would fit into the list registers by then.
#[test]
fn the_end_of_a_deactivated_interrupt_is_not_that_of_another() {
    let vtr = Vtr {
        traps_dir: false,
        ..NEOVERSE
    };
    check_on(
        vtr,
        false,
        &[
            Edge(2, 29),
            Write(0, Frame::Redistributor(0), 0x1_0100, 4, 1 << 4),
            Line(2, 28, true),
            Acknowledge(2, true),
            Sgi(0, 1 << 40 | 1 << 24, true),
            Acknowledge(2, true),
            Msi(1, 0, 4),
            Acknowledge(2, true),
            Control(2, 2),
            Msi(1, 0, 4),
            End(2),
            Command(0, 0, [3, 3, 0, 0]),
            // The PPI, whose line is high: the PPI is pending again.
            Deactivate(2, 1),
            // The priority drop of the SGI, which stays active.
            End(2),
            // Two LPIs and two PPIs fill the list registers.
            Control(2, 0),
            Acknowledge(2, true),
            End(2),
            // The PPI.
            End(2),
        ],
    );
}

/// Lets a PE sleep with a virtual LPI pending that is disabled, and enables the LPI.
#[test]
fn a_virtual_lpi_that_is_enabled_wakes_its_pe() {
    for how in [0, 1, 3, 4] {
        check_on(
            NEOVERSE,
            true,
            &[
                Configure(0, 8194, 0, 0),
                Msi(0, 0, 2),
                Wait(1),
                Configure(0, 8194, 1, how),
            ],
        );
    }
}

/// Changes the priority of a direct LPI while it is with another PE. The first PE's redistributor
/// has cached the old priority.
#[test]
fn a_virtual_lpi_that_moves_back_has_its_configuration_read_again() {
    check_on(
        NEOVERSE,
        true,
        &[
            Msi(0, 0, 2),
            Acknowledge(1, true),
            End(1),
            Command(0, 0, [1, 2, 2, 0]),
            Configure(0, 8194, 0x81, 0),
            Command(0, 0, [1, 2, 1, 0]),
            Mask(1, 0x80),
            Msi(0, 0, 2),
        ],
    );
}

/// Sets a pending bit in the table of a PE that an LPI is not routed to. The LPI is pending in a
/// list register, and its event is direct again after a `MOVALL`: it becomes pending in the
/// hardware as well.
#[test]
fn a_bit_in_another_table_is_a_second_pending_state() {
    check_on(
        NEOVERSE,
        true,
        &[
            Command(0, 0, [3, 1, 0, 0]),
            EnableLpis(0, 2, None),
            Command(0, 0, [0x0e, 0, 0, 0]),
            EnableLpis(1, 2, Some(2)),
            Acknowledge(0, true),
        ],
    );
}
