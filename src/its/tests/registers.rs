//! The register frame of an ITS.

use super::*;

fn read4(guest: &Guest, offset: u64) -> u64 {
    guest.read_its(ITS, offset, Width::Word)
}

fn write4(guest: &Guest, offset: u64, value: u64) {
    guest.write_its(ITS, offset, Width::Word, value);
}

#[test]
fn typer_matches_the_configuration() {
    let guest = Guest::with(|config| {
        config.its[0].device_bits = 20;
        config.its[0].event_bits = 12;
        config.its[0].collections = 300;
    });
    let typer = guest.read(8);
    assert_eq!(typer & 1, 1, "physical LPIs");
    assert_eq!(typer >> 1 & 1, 0, "no virtual LPIs");
    assert_eq!((typer >> 4 & 0xf) + 1, 8);
    assert_eq!((typer >> 8 & 0x1f) + 1, 12);
    assert_eq!((typer >> 13 & 0x1f) + 1, 20);
    assert_eq!(typer >> 18 & 3, 0, "no SEI, processor numbers");
    assert_eq!(typer >> 24 & 0xff, 0, "collections in memory");
    assert_eq!((typer >> 32 & 0xf) + 1, 9);
    assert_eq!(typer >> 36, 1);
    assert_eq!(read4(&guest, 8) | read4(&guest, 12) << 32, typer);
    assert_eq!(read4(&guest, 0xffe8), 0x30 | read4(&guest, 0xffe8) & 0xf);

    let cidr: Vec<u64> = (0..4).map(|n| read4(&guest, 0xfff0 + n * 4)).collect();
    assert_eq!(cidr, [0x0d, 0xf0, 0x05, 0xb1]);
    guest.finish();
}

#[test]
fn odd_accesses_and_reserved_registers_do_nothing() {
    let guest = Guest::new();
    let baser = guest.read(GITS_BASER0);
    for (offset, width) in [
        (0x101, Width::Word),
        (0x104, Width::Double),
        (0x100, Width::Byte),
        (0x100, Width::Half),
        (0x102, Width::Word),
        (0, Width::Double),
        (0xffe8, Width::Double),
    ] {
        guest.write_its(ITS, offset, width, !0);
        assert_eq!(guest.read_its(ITS, offset, width), 0);
    }
    for offset in [0x10, 0x40, 0x98, 0x110, 0x138, 0x140, 0x1_0040] {
        guest.write(offset, !0);
        assert_eq!(guest.read(offset), 0, "{offset:#x}");
    }
    assert_eq!(guest.read(GITS_BASER0), baser);
    guest.finish();
}

#[test]
fn ctlr_enables_and_shows_quiescence() {
    let guest = Guest::new();
    assert_eq!(read4(&guest, GITS_CTLR), 1);
    write4(&guest, GITS_CTLR, !1);
    assert_eq!(read4(&guest, GITS_CTLR), 1 << 31);
    // The neighbouring `GITS_IIDR` is read-only.
    write4(&guest, 4, 1);
    assert_eq!(read4(&guest, GITS_CTLR), 1 << 31);
    write4(&guest, GITS_CTLR, 1);
    assert_eq!(read4(&guest, GITS_CTLR), 1);
    guest.finish();
}

#[test]
fn queue_registers_keep_their_fields_and_start_over() {
    let guest = Guest::new();
    guest.enable(false);
    guest.write(GITS_CWRITER, !0);
    assert_eq!(guest.read(GITS_CWRITER), 0xf_ffe0);

    guest.write(GITS_CREADR, 0x40);
    assert_eq!(guest.read(GITS_CREADR), 0, "read-only");

    guest.write(GITS_CBASER, !0);
    assert_eq!(guest.read(GITS_CBASER), 0xb8ef_ffff_ffff_0cff);
    assert_eq!(guest.read(GITS_CWRITER), 0);

    // Writes of 32-bit halves.
    guest.write(GITS_CBASER, 0);
    write4(&guest, GITS_CBASER, QUEUE);
    write4(&guest, GITS_CBASER + 4, VALID >> 32);
    assert_eq!(guest.read(GITS_CBASER), VALID | QUEUE);
    assert_eq!(read4(&guest, GITS_CBASER + 4), VALID >> 32);

    guest.enable(true);
    guest.run(&[mapc(0, Some(0))]);
    assert_eq!(read4(&guest, GITS_CREADR), 32);
    assert_eq!(read4(&guest, GITS_CREADR + 4), 0);

    // An enabled ITS ignores the write.
    guest.write(GITS_CBASER, 0);
    assert_eq!(guest.read(GITS_CBASER), VALID | QUEUE);
    assert_eq!(guest.read(GITS_CREADR), 32);
    guest.finish();
}

#[test]
fn baser_keeps_type_and_entry_size() {
    let guest = Guest::new();
    let fixed = [
        (GITS_BASER0, 1 << 56 | 7 << 48, 0),
        // A collection table is flat.
        (GITS_BASER1, 4 << 56 | 7 << 48, INDIRECT),
    ];
    guest.enable(false);
    for (register, fixed, zero) in fixed {
        guest.write(register, 0);
        assert_eq!(guest.read(register), fixed);
        guest.write(register, !0);
        let fields = 0x7 << 56 | 0x1f << 48;
        assert_eq!(guest.read(register), (fixed | !fields) & !zero);
        write4(&guest, register, 0x1234_5000);
        write4(&guest, register + 4, VALID >> 32);
        assert_eq!(guest.read(register), fixed | VALID | 0x1234_5000);
    }
    guest.enable(true);
    guest.write(GITS_BASER0, 0);
    assert_ne!(
        guest.read(GITS_BASER0) & VALID,
        0,
        "not while it is enabled"
    );
    guest.finish();
}

fn reset_tables(change: impl FnOnce(&Guest)) -> Guest {
    let guest = Guest::new().with_device_1();
    guest.run(&[mapti(1, 3, 8192, 2), int(1, 3), sync(0)]);
    guest.notices();
    guest.enable(false);
    change(&guest);
    while !guest.ctlr().1 {}
    guest.enable(true);
    guest
}

#[test]
fn the_same_table_written_again_keeps_what_is_mapped() {
    let guest = reset_tables(|guest| {
        guest.write(GITS_BASER0, VALID | DEVICE_TABLE | 127);
        write4(guest, GITS_BASER1, COLLECTION_TABLE | 15);
        write4(guest, GITS_BASER1 + 4, VALID >> 32);
        // Other attributes, at an unchanged address.
        guest.write(GITS_BASER0, VALID | 5 << 59 | 1 << 10 | DEVICE_TABLE | 127);
        guest.write(GITS_CBASER, VALID | QUEUE);
    });
    assert_eq!(guest.notices(), []);
    assert_eq!(guest.place(8192), (Some(2), true, Some(2)));
    assert_eq!(guest.msi(1, 3), Ok(Injected::Coalesced));
    guest.finish();
}

#[test]
fn another_device_table_unmaps_all_devices() {
    for value in [0, VALID | DEVICE_TABLE | 63, VALID | COLLECTION_TABLE | 127] {
        let guest = reset_tables(|guest| guest.write(GITS_BASER0, value));
        assert_eq!(guest.notices(), [Notice::Unmapped(1, 3)]);
        assert_eq!(guest.msi(1, 3), Err(InjectError::UnmappedDevice));
        assert!(guest.lpi(8192).is_none());
        guest.finish();
    }
}

#[test]
fn another_collection_table_unmaps_all_collections() {
    let guest = reset_tables(|guest| guest.write(GITS_BASER1, 0));
    assert_eq!(guest.notices(), [Notice::Mapped(1, 3, 8192, None)]);
    assert_eq!(guest.place(8192), (None, true, None));
    assert_eq!(
        guest.fails(invall(2)),
        Some(CommandError::UnmappedCollection)
    );
    guest.finish();
}

#[test]
fn tables_taken_away_are_dropped_in_slices_and_nothing_is_translated_meanwhile() {
    for tables in [[GITS_BASER0, GITS_BASER1], [GITS_BASER1, GITS_BASER0]] {
        drop_tables(tables);
    }
}

fn drop_tables(tables: [u64; 2]) {
    let guest = Guest::new().with_device_1();
    for device in 0..20 {
        let map: Vec<_> = (0..32)
            .map(|event| mapti(100 + device, event, 8192 + device * 32 + event, 0))
            .collect();
        guest.run(&[mapd(100 + device, Some(5))]);
        guest.run(&map);
    }
    guest.notices();
    guest.enable(false);
    for table in tables {
        guest.write(table, 0);
    }
    assert!(guest.vm.has_deferred());

    // Enabled again at once: commands wait, and no MSI finds a mapping that is being removed.
    guest.enable(true);
    assert_eq!(guest.msi(119, 31), Err(InjectError::ItsDisabled));

    guest.run(&[mapc(3, None)]);
    assert_eq!(guest.msi(119, 31), Err(InjectError::UnmappedDevice));

    let unmapped = |notice: &&Notice| matches!(notice, Notice::Unmapped(..));
    assert_eq!(guest.notices().iter().filter(unmapped).count(), 20 * 32);
    assert!((0..20 * 32).all(|n| guest.lpi(8192 + n).is_none()));
    guest.finish();
}
