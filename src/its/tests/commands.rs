//! Effect of every command, and every error.

use super::*;

#[test]
fn an_msi_arrives_where_its_collection_is() {
    let guest = Guest::new().with_device_1();
    assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedEvent));
    assert_eq!(guest.msi(2, 3), Err(InjectError::UnmappedDevice));
    assert_eq!(guest.msi(1, 32), Err(InjectError::UnmappedEvent));

    guest.run(&[mapti(1, 3, 8192, 2), sync(2)]);
    assert_eq!(guest.notices(), [Notice::Mapped(1, 3, 8192, Some(2))]);
    assert_eq!(guest.msi(1, 3), Ok(Injected::Pending));
    assert_eq!(guest.msi(1, 3), Ok(Injected::Coalesced));
    assert_eq!(guest.place(8192), (Some(2), true, Some(2)));
    assert_eq!(guest.lpi(8192).unwrap().priority(), 0xa0);

    guest.enable(false);
    assert_eq!(guest.msi(1, 3), Err(InjectError::ItsDisabled));

    let elsewhere = guest.vm.signal_msi(&guest.pin(), 0x1_0040, DeviceId(1), 3);
    assert_eq!(elsewhere, Err(InjectError::ItsDisabled));
    let (report, _) = guest.finish();
    assert_eq!(report.pending[3], 1);
}

#[test]
fn mapi_takes_the_event_for_the_intid() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapd(2, Some(14)), mapi(2, 8193, 1)]);
    assert_eq!(guest.notices(), [Notice::Mapped(2, 8193, 8193, Some(1))]);
    assert_eq!(
        guest.fails(mapi(2, 31, 1)),
        Some(CommandError::IntidOutOfRange)
    );
    guest.finish();
}

#[test]
fn int_raises_and_clear_withdraws() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3), int(1, 3)]);
    assert_eq!(guest.place(8192), (Some(2), true, Some(2)));
    guest.run(&[clear(1, 3)]);
    assert_eq!(guest.place(8192), (Some(2), false, None));
    let (_, totals) = guest.finish();
    #[cfg(feature = "counters")]
    {
        assert_eq!(totals.injections[3], 2);
        assert_eq!(totals.coalesced[3], 1);
        assert_eq!(totals.withdrawn[3], 1);
        assert_eq!(totals.its_command_errors, 0);
        assert_eq!(totals.its_commands, 5 + 4);
    }
    let _ = totals;
}

#[test]
fn movi_takes_the_pending_state_along() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3), movi(1, 3, 1)]);
    assert_eq!(guest.place(8192), (Some(1), true, Some(1)));
    let notices = guest.notices();
    assert_eq!(notices[1..], [Notice::Mapped(1, 3, 8192, Some(1))]);
    // A move of the former collection has no effect on the event.
    guest.run(&[mapc(2, Some(3))]);
    assert_eq!(guest.place(8192), (Some(1), true, Some(1)));
    guest.finish();
}

#[test]
fn mapc_moves_the_collection_and_unmapping_keeps_what_is_pending() {
    let guest = Guest::new().with_device_1();
    guest.run(&[
        mapti(1, 3, 8192, 2),
        mapti(1, 4, 8193, 1),
        int(1, 3),
        int(1, 4),
    ]);
    guest.notices();
    guest.run(&[mapc(2, Some(0))]);
    assert_eq!(guest.notices(), [Notice::Mapped(1, 3, 8192, Some(0))]);
    assert_eq!(guest.place(8192), (Some(0), true, Some(0)));
    assert_eq!(guest.place(8193), (Some(1), true, Some(1)));

    guest.run(&[mapc(2, None)]);
    assert_eq!(guest.notices(), [Notice::Mapped(1, 3, 8192, None)]);
    assert_eq!(guest.place(8192), (None, true, None));
    assert_eq!(
        guest.fails(int(1, 3)),
        Some(CommandError::UnmappedCollection)
    );

    guest.run(&[mapc(2, Some(3))]);
    assert_eq!(guest.place(8192), (Some(3), true, Some(3)));
    guest.finish();
}

#[test]
fn an_event_may_be_mapped_before_its_collection() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 9)]);
    assert_eq!(guest.notices(), [Notice::Mapped(1, 3, 8192, None)]);
    guest.run(&[mapc(9, Some(1)), int(1, 3)]);
    assert_eq!(guest.place(8192), (Some(1), true, Some(1)));
    guest.finish();
}

#[test]
fn movall_moves_what_is_pending() {
    let guest = Guest::new().with_device_1();
    guest.configure(8194, 0xa1);
    guest.run(&[
        mapti(1, 0, 8192, 2),
        mapti(1, 1, 8193, 2),
        mapti(1, 2, 8194, 1),
        int(1, 0),
        int(1, 2),
        movall(2, 3),
        movall(0, 0),
    ]);
    assert_eq!(guest.place(8192), (Some(3), true, Some(3)));
    assert_eq!(guest.place(8193), (Some(2), false, None));
    assert_eq!(guest.place(8194), (Some(1), true, Some(1)));

    // Software that powers off a vCPU also maps the vCPU's collections elsewhere, in either order.
    guest.run(&[mapc(2, Some(0)), int(1, 1)]);
    assert_eq!(guest.place(8192), (Some(0), true, Some(0)));
    assert_eq!(guest.place(8193), (Some(0), true, Some(0)));
    guest.finish();
}

#[test]
fn configuration_is_read_when_mapped_and_when_invalidated() {
    let guest = Guest::new().with_device_1();
    guest.configure(8192, 0x40);
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3)]);
    let state = guest.lpi(8192).unwrap();
    assert!(!state.enabled() && state.priority() == 0x40);
    assert_eq!(guest.place(8192), (Some(2), true, None));

    guest.configure(8192, 0x81);
    assert!(!guest.lpi(8192).unwrap().enabled());

    guest.run(&[inv(1, 3)]);
    assert_eq!(guest.place(8192), (Some(2), true, Some(2)));
    assert_eq!(guest.lpi(8192).unwrap().priority(), 0x80);

    guest.configure(8192, 0x80);
    guest.run(&[invall(1)]);
    assert_eq!(guest.place(8192), (Some(2), true, Some(2)));

    guest.run(&[invall(2)]);
    assert_eq!(guest.place(8192), (Some(2), true, None));
    guest.finish();
}

#[test]
fn discard_unmaps_and_withdraws() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3)]);
    guest.notices();
    guest.run(&[discard(1, 3)]);
    assert_eq!(guest.notices(), [Notice::Unmapped(1, 3)]);
    assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedEvent));
    assert!(guest.lpi(8192).is_none());
    guest.finish();
}

#[test]
fn mapping_a_mapped_event_replaces_the_mapping() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3)]);
    guest.notices();

    // Event 3 again, to one interrupt and another collection.
    guest.run(&[mapti(1, 3, 8192, 1)]);
    assert_eq!(guest.notices(), [Notice::Mapped(1, 3, 8192, Some(1))]);
    assert_eq!(guest.place(8192), (Some(1), true, Some(1)));
    assert_eq!(guest.lpi(8192).unwrap().refs(), 2);

    // Event 3 again, to another interrupt.
    guest.run(&[mapti(1, 3, 8193, 0)]);
    let notices = [Notice::Unmapped(1, 3), Notice::Mapped(1, 3, 8193, Some(0))];
    assert_eq!(guest.notices(), notices);
    assert!(guest.lpi(8192).is_none());
    assert_eq!(guest.msi(1, 3), Ok(Injected::Pending));
    assert_eq!(guest.place(8193), (Some(0), true, Some(0)));
    guest.finish();
}

#[test]
fn mapd_of_a_mapped_device_starts_it_afresh() {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), mapti(1, 31, 8193, 2), int(1, 3)]);
    guest.notices();
    guest.run(&[mapd(1, Some(2))]);
    assert_eq!(
        guest.notices(),
        [Notice::Unmapped(1, 3), Notice::Unmapped(1, 31)]
    );
    assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedEvent));
    assert!(guest.lpi(8192).is_none());
    assert_eq!(
        guest.fails(mapti(1, 4, 8192, 2)),
        Some(CommandError::EventOutOfRange)
    );

    guest.run(&[mapti(1, 3, 8192, 2), mapd(1, None), mapd(1, None)]);
    assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedDevice));
    assert!(guest.lpi(8192).is_none());

    let devices = guest.vm.host().devices.lock().unwrap().clone();
    assert_eq!(devices, [(1, Some(5)), (1, None), (1, Some(2)), (1, None)]);
    guest.finish();
}

#[test]
fn each_mistake_has_its_error_and_no_effect() {
    use CommandError::*;
    let guest = Guest::with(|config| {
        config.its[0].device_bits = 10;
        config.its[0].event_bits = 8;
        config.its[0].collections = 20;
        config.lpis = 256;
    })
    .with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), mapti(1, 4, 8193, 9)]);
    let mistakes = [
        ([0x20, 0, 0, 0], Unknown),
        (mapd(1024, Some(5)), DeviceOutOfRange),
        (mapd(u32::MAX, None), DeviceOutOfRange),
        (mapd(7, Some(9)), IttSizeOutOfRange),
        (mapc(20, Some(1)), CollectionOutOfRange),
        (mapc(0xffff, None), CollectionOutOfRange),
        (mapc(5, Some(4)), ProcessorOutOfRange),
        (mapc(5, Some(0x8_0000_0001)), ProcessorOutOfRange),
        (mapti(1024, 0, 8194, 0), DeviceOutOfRange),
        (mapti(2, 0, 8194, 0), UnmappedDevice),
        (mapti(1, 32, 8194, 0), EventOutOfRange),
        (mapti(1, 0, 8194, 20), CollectionOutOfRange),
        (mapti(1, 0, 8191, 0), IntidOutOfRange),
        (mapti(1, 0, 1023, 0), IntidOutOfRange),
        (mapti(1, 0, 8192 + 256, 0), IntidOutOfRange),
        (mapti(1, 3, 8192 + 256, 0), IntidOutOfRange),
        (mapi(1, 0, 0), IntidOutOfRange),
        (movi(1024, 3, 1), DeviceOutOfRange),
        (movi(2, 3, 1), UnmappedDevice),
        (movi(1, 32, 1), EventOutOfRange),
        (movi(1, 0, 1), UnmappedInterrupt),
        (movi(1, 3, 20), CollectionOutOfRange),
        (movi(1, 3, 9), UnmappedCollection),
        (movall(4, 0), ProcessorOutOfRange),
        (movall(0, 4), ProcessorOutOfRange),
        (int(1024, 3), DeviceOutOfRange),
        (int(2, 3), UnmappedDevice),
        (int(1, 32), EventOutOfRange),
        (int(1, 0), UnmappedInterrupt),
        (int(1, 4), UnmappedCollection),
        (clear(2, 3), UnmappedDevice),
        (clear(1, 0), UnmappedInterrupt),
        (discard(1, u32::MAX), EventOutOfRange),
        (discard(1, 0), UnmappedInterrupt),
        (inv(1, 0), UnmappedInterrupt),
        (invall(9), UnmappedCollection),
        (invall(20), CollectionOutOfRange),
    ];
    let before = guest.totals();
    for (command, error) in mistakes {
        assert_eq!(guest.fails(command), Some(error), "{command:x?}");
    }
    let after = guest.totals();
    #[cfg(feature = "counters")]
    {
        let count = mistakes.len() as u64;
        assert_eq!(after.its_command_errors - before.its_command_errors, count);
        assert_eq!(after.its_commands - before.its_commands, count);
    }
    let _ = (before, after);
    assert_eq!(guest.place(8192), (Some(2), false, None));
    assert_eq!(guest.msi(1, 0), Err(InjectError::UnmappedEvent));
    assert_eq!(guest.msi(1, 3), Ok(Injected::Pending));
    guest.finish();
}

#[test]
fn quotas_hold_and_unmapping_frees_them() {
    let guest = Guest::with(|config| {
        config.its[0].max_devices = 3;
        config.its[0].max_events = 100;
    })
    .with_device_1();

    // Device 1 uses 32 of 100 events.
    assert_eq!(
        guest.fails(mapd(2, Some(7))),
        Some(CommandError::IttSizeOutOfRange)
    );
    assert_eq!(guest.fails(mapd(2, Some(6))), None);
    assert_eq!(
        guest.fails(mapd(3, Some(3))),
        Some(CommandError::IttSizeOutOfRange)
    );
    assert_eq!(guest.fails(mapd(3, Some(2))), None);
    assert_eq!(
        guest.fails(mapd(4, Some(1))),
        Some(CommandError::DeviceOutOfRange)
    );
    assert_eq!(guest.fails(mapd(3, None)), None);
    assert_eq!(guest.fails(mapd(4, Some(1))), None);

    // A failed remap, for which the quota has no room, leaves the device mapped.
    guest.run(&[mapti(2, 0, 8192, 0)]);
    assert_eq!(
        guest.fails(mapd(2, Some(8))),
        Some(CommandError::IttSizeOutOfRange)
    );
    assert_eq!(guest.msi(2, 0), Ok(Injected::Pending));
    assert_eq!(guest.fails(mapd(2, Some(6))), None);
    assert_eq!(guest.msi(2, 0), Err(InjectError::UnmappedEvent));
    guest.finish();
}
