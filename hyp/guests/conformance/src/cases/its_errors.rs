//! Errors in commands of the ITS: each is detected, and does no harm.

use super::its::{DEVICE, EVENT, LPI, open_with_one_event};
use crate::gic::its::{BIG, EVENT_BITS, Its, big_table};
use crate::harness::{Case, Outcome, expect_and_end, expect_none};

/// Collection that no case maps.
const UNMAPPED: u64 = 0x20;
/// Device that no case maps.
const ABSENT: u32 = 0x60;
/// Device beyond every ITS.
const BEYOND: u32 = u32::MAX;

/// Case that a command with an error does no harm: the ITS reads on in its queue, and the command
/// raises nothing.
macro_rules! error {
    ($name:literal, $rule:literal, $command:expr) => {
        Case::new($name, $rule, |m| {
            let its = open_with_one_event(m)?;
            let command: fn(&Its<'_>) -> Outcome = $command;
            command(&its)?;
            expect_none()?;
            its.raise(DEVICE, EVENT)?;
            expect_and_end(LPI)?;
            expect_none()
        })
    };
}

pub(super) const CASES: &[Case] = &[
    error!(
        "its.error_int_unmapped_device",
        "5.5 INT_UNMAPPED_DEVICE",
        |its| its.raise(ABSENT, 0)
    ),
    error!(
        "its.error_int_unmapped_event",
        "5.5 INT_UNMAPPED_INTERRUPT",
        |its| { its.raise(DEVICE, EVENT + 1) }
    ),
    error!(
        "its.error_int_event_out_of_range",
        "5.5 INT_ID_OOR",
        |its| { its.raise(DEVICE, 1 << EVENT_BITS) }
    ),
    error!(
        "its.error_clear_unmapped_device",
        "5.5 CLEAR_UNMAPPED_DEVICE",
        |its| { its.clear(ABSENT, 0) }
    ),
    error!(
        "its.error_clear_unmapped_event",
        "5.5 CLEAR_UNMAPPED_INTERRUPT",
        |its| { its.clear(DEVICE, EVENT + 1) }
    ),
    error!(
        "its.error_discard_unmapped_device",
        "5.5 DISCARD_UNMAPPED_DEVICE",
        |its| { its.discard(ABSENT, 0) }
    ),
    error!(
        "its.error_discard_unmapped_event",
        "5.5 DISCARD_UNMAPPED_INTERRUPT",
        |its| { its.discard(DEVICE, EVENT + 1) }
    ),
    error!(
        "its.error_inv_unmapped_device",
        "5.5 INV_UNMAPPED_DEVICE",
        |its| { its.invalidate(ABSENT, 0) }
    ),
    error!(
        "its.error_inv_unmapped_event",
        "5.5 INV_UNMAPPED_INTERRUPT",
        |its| { its.invalidate(DEVICE, EVENT + 1) }
    ),
    error!(
        "its.error_invall_unmapped_collection",
        "5.5 INVALL_UNMAPPED_COLLECTION",
        |its| { its.invalidate_all(UNMAPPED) }
    ),
    error!(
        "its.error_mapti_unmapped_device",
        "5.5 MAPTI_UNMAPPED_DEVICE",
        |its| {
            its.map_event(ABSENT, 0, LPI + 1, 0)?;
            its.raise(ABSENT, 0)
        }
    ),
    error!(
        "its.error_mapti_event_out_of_range",
        "5.5 MAPTI_ID_OOR",
        |its| {
            its.map_event(DEVICE, 1 << EVENT_BITS, LPI + 1, 0)?;
            its.raise(DEVICE, 1 << EVENT_BITS)
        }
    ),
    error!("its.error_mapti_spi", "5.5 MAPTI_PHYSICALID_OOR", |its| {
        its.map_event(DEVICE, EVENT + 1, 40, 0)?;
        its.raise(DEVICE, EVENT + 1)
    }),
    error!(
        "its.error_mapti_intid_out_of_range",
        "5.5 MAPTI_PHYSICALID_OOR",
        |its| {
            its.map_event(DEVICE, EVENT + 1, 1 << 24, 0)?;
            its.raise(DEVICE, EVENT + 1)
        }
    ),
    error!(
        "its.error_movi_unmapped_device",
        "5.5 MOVI_UNMAPPED_DEVICE",
        |its| { its.move_event(ABSENT, 0, 0) }
    ),
    error!(
        "its.error_movi_unmapped_event",
        "5.5 MOVI_UNMAPPED_INTERRUPT",
        |its| { its.move_event(DEVICE, EVENT + 1, 0) }
    ),
    error!(
        "its.error_movi_unmapped_collection",
        "5.5 MOVI_UNMAPPED_COLLECTION",
        |its| { its.move_event(DEVICE, EVENT, UNMAPPED) }
    ),
    error!(
        "its.error_mapd_device_out_of_range",
        "5.5 MAPD_DEVICE_OOR",
        |its| { its.command([0x8 | 0xffff_ffff << 32, 4, 1 << 63 | big_table(), 0]) }
    ),
    error!(
        "its.error_mapd_size_out_of_range",
        "5.5 MAPD_ITTSIZE_OOR",
        |its| { its.command([0x8 | 7 << 32, 31, 1 << 63 | big_table(), 0]) }
    ),
    error!(
        "its.error_mapc_target_out_of_range",
        "5.5 MAPC_PROCNUM_OOR",
        |its| { its.command([0x9, 0, 1 << 63 | 0xffff << 16 | UNMAPPED, 0]) }
    ),
    error!(
        "its.error_mapc_collection_out_of_range",
        "5.5 MAPC_COLLECTION_OOR",
        |its| { its.command([0x9, 0, 1 << 63 | 0xffff, 0]) }
    ),
    error!(
        "its.error_movall_target_out_of_range",
        "5.5 MOVALL_PROCNUM_OOR",
        |its| { its.command([0xe, 0, 0xffff << 16, its.target(0)]) }
    ),
    error!("its.error_unknown_command", "5.3 the commands", |its| {
        its.command([0x7f, u64::MAX, u64::MAX, u64::MAX])
    }),
    error!(
        "its.error_int_device_out_of_range",
        "5.5 INT_DEVICE_OOR",
        |its| its.raise(BEYOND, 0)
    ),
    error!(
        "its.error_clear_device_out_of_range",
        "5.5 CLEAR_DEVICE_OOR",
        |its| { its.clear(BEYOND, 0) }
    ),
    error!(
        "its.error_clear_event_out_of_range",
        "5.5 CLEAR_ID_OOR",
        |its| { its.clear(DEVICE, 1 << EVENT_BITS) }
    ),
    error!(
        "its.error_discard_device_out_of_range",
        "5.5 DISCARD_DEVICE_OOR",
        |its| { its.discard(BEYOND, 0) }
    ),
    error!(
        "its.error_discard_event_out_of_range",
        "5.5 DISCARD_ID_OOR",
        |its| { its.discard(DEVICE, 1 << EVENT_BITS) }
    ),
    error!(
        "its.error_inv_device_out_of_range",
        "5.5 INV_DEVICE_OOR",
        |its| { its.invalidate(BEYOND, 0) }
    ),
    error!(
        "its.error_inv_event_out_of_range",
        "5.5 INV_ID_OOR",
        |its| { its.invalidate(DEVICE, 1 << EVENT_BITS) }
    ),
    error!(
        "its.error_invall_collection_out_of_range",
        "5.5 INVALL_COLLECTION_OOR",
        |its| { its.invalidate_all(0xffff) }
    ),
    error!(
        "its.error_mapi_unmapped_device",
        "5.5 MAPI_UNMAPPED_DEVICE",
        |its| {
            its.event_command(0xb, ABSENT, LPI, 0)?;
            its.raise(ABSENT, LPI)
        }
    ),
    error!(
        "its.error_mapi_event_out_of_range",
        "5.5 MAPI_ID_OOR",
        |its| {
            its.event_command(0xb, DEVICE, LPI, 0)?;
            its.raise(DEVICE, LPI)
        }
    ),
    error!(
        "its.error_mapi_intid_out_of_range",
        "5.5 MAPI_PHYSICALID_OOR",
        |its| {
            // The EventID is the INTID, but no LPI.
            its.event_command(0xb, DEVICE, EVENT + 1, 0)?;
            its.raise(DEVICE, EVENT + 1)
        }
    ),
    error!(
        "its.error_mapti_device_out_of_range",
        "5.5 MAPTI_DEVICE_OOR",
        |its| { its.map_event(BEYOND, 0, LPI + 1, 0) }
    ),
    error!(
        "its.error_mapti_collection_out_of_range",
        "5.5 MAPTI_COLLECTION_OOR",
        |its| {
            its.map_event(DEVICE, EVENT + 1, LPI + 1, 0xffff)?;
            its.raise(DEVICE, EVENT + 1)
        }
    ),
    error!(
        "its.error_movi_device_out_of_range",
        "5.5 MOVI_DEVICE_OOR",
        |its| { its.move_event(BEYOND, 0, 0) }
    ),
    error!(
        "its.error_movi_event_out_of_range",
        "5.5 MOVI_ID_OOR",
        |its| { its.move_event(DEVICE, 1 << EVENT_BITS, 0) }
    ),
    error!(
        "its.error_movi_collection_out_of_range",
        "5.5 MOVI_COLLECTION_OOR",
        |its| { its.move_event(DEVICE, EVENT, 0xffff) }
    ),
    error!(
        "its.error_movall_source_out_of_range",
        "5.5 MOVALL_PROCNUM_OOR",
        |its| { its.command([0xe, 0, its.target(0), 0xffff << 16]) }
    ),
    error!(
        "its.error_sync_target_out_of_range",
        "5.5 SYNC_PROCNUM_OOR",
        |its| { its.command([0x5, 0, 0xffff << 16, 0]) }
    ),
    error!(
        "its.error_mapi_device_out_of_range",
        "5.5 MAPI_DEVICE_OOR",
        |its| { its.event_command(0xb, BEYOND, LPI, 0) }
    ),
    error!(
        "its.error_mapi_collection_out_of_range",
        "5.5 MAPI_COLLECTION_OOR",
        |its| {
            // The EventID is the INTID: the device needs room for it.
            its.command([0x8 | u64::from(BIG) << 32, 13, 1 << 63 | big_table(), 0])?;
            its.event_command(0xb, BIG, LPI, 0xffff)?;
            its.raise(BIG, LPI)
        }
    ),
];
