//! Device and collection tables, hostile or merely unusual.

use super::*;

/// Returns whether `device` can be mapped with `baser` in `GITS_BASER0`.
fn maps(guest: &Guest, baser: u64, device: u32) -> bool {
    guest.enable(false);
    guest.write(GITS_BASER0, baser);
    guest.enable(true);
    let failed = guest.fails(mapd(device, Some(1)));
    assert!(matches!(
        failed,
        None | Some(CommandError::DeviceOutOfRange)
    ));
    assert_eq!(guest.fails(mapd(device, None)), None);
    failed.is_none()
}

#[test]
fn a_flat_table_ends_with_its_size_and_with_ram() {
    let guest = Guest::new();
    for (page, bytes) in [(0, 0x1000), (1, 0x4000), (2, 0x1_0000), (3, 0x1_0000)] {
        let baser = VALID | RAM | page << 8;
        let end = bytes / 8;
        assert!(maps(&guest, baser, end - 1), "page size {page}");
        assert!(!maps(&guest, baser, end), "page size {page}");
        let baser = baser | 2;
        assert!(maps(&guest, baser, 3 * end - 1), "page size {page}");
        assert!(page > 1 || !maps(&guest, baser, 3 * end));
    }
    assert!(!maps(&guest, RAM | 255, 0), "not valid");

    let last_page = RAM + RAM_SIZE as u64 - 0x1000;
    assert!(maps(&guest, VALID | last_page | 1, 511));
    assert!(!maps(&guest, VALID | last_page | 1, 512), "beyond RAM");

    for address in [0, 0xffff_ffff_f000, RAM - 0x1000] {
        assert!(!maps(&guest, VALID | address | 255, 0), "{address:#x}");
    }
    guest.finish();
}

#[test]
fn pages_of_64_kib_have_52_bits_of_address() {
    let guest = Guest::new();
    let base = VALID | 2 << 8 | RAM;
    assert!(maps(&guest, base, 0));
    assert!(!maps(&guest, base | 0x1000, 0));
    let reads = guest.vm.host().reads.lock().unwrap().clone();
    assert!(reads.contains(&(1 << 48 | RAM, 8)));
    // Smaller pages ignore what is below their alignment.
    assert!(maps(
        &guest,
        VALID | 1 << 8 | (RAM + RAM_SIZE as u64 - 0x1000),
        0x7ff
    ));
    guest.finish();
}

#[test]
fn an_indirect_table_needs_a_valid_level_1_entry_and_its_page() {
    let guest = Guest::new();
    let baser = VALID | INDIRECT | DEVICE_TABLE;
    let entry = |n: u64| DEVICE_TABLE + n * 8;
    assert!(!maps(&guest, baser, 512 * 3 + 5), "level-1 entry not valid");

    guest.write_memory(entry(3), VALID | RAM);
    assert!(maps(&guest, baser, 512 * 3 + 5));

    let reads = guest.vm.host().reads.lock().unwrap().clone();
    assert!(reads.contains(&(RAM + 5 * 8, 8)));
    assert!(!maps(&guest, baser, 512 * 4));

    guest.write_memory(entry(3), RAM);
    assert!(!maps(&guest, baser, 512 * 3 + 5), "valid bit cleared");

    for page in [0, 0x000f_ffff_ffff_f000, RAM + RAM_SIZE as u64] {
        guest.write_memory(entry(3), VALID | page);
        assert!(!maps(&guest, baser, 512 * 3 + 5), "page {page:#x}");
    }

    // One page of level-1 entries covers more DeviceIDs than the ITS has. The last DeviceID is
    // mapped.
    guest.write_memory(entry(127), !0xfff & !(0xfff << 52) & RAM | VALID);
    assert!(maps(&guest, baser, 0xffff));

    // The level-1 table itself is not in RAM.
    assert!(!maps(&guest, VALID | INDIRECT | 0x1000, 0));
    guest.finish();
}

#[test]
fn an_indirect_table_reaches_no_further_than_its_level_1() {
    let guest = Guest::with(|config| config.its[0].device_bits = 32);
    let baser = VALID | INDIRECT | DEVICE_TABLE;
    guest.write_memory(DEVICE_TABLE + 511 * 8, VALID | RAM);
    guest.write_memory(DEVICE_TABLE + 512 * 8, VALID | RAM);
    assert!(maps(&guest, baser, 512 * 512 - 1));
    assert!(!maps(&guest, baser, 512 * 512));
    assert!(maps(&guest, baser | 1, 512 * 512));
    assert!(!maps(&guest, VALID | DEVICE_TABLE | 255, u32::MAX));

    // The largest DeviceID: 64 pages of 64 KiB at level 1, all of RAM.
    let baser = VALID | INDIRECT | 2 << 8 | RAM | 63;
    guest.write_memory(RAM + (u64::from(u32::MAX) >> 13) * 8, VALID | RAM);
    assert!(maps(&guest, baser, u32::MAX));

    guest.run(&[mapd(u32::MAX, Some(1)), mapti(u32::MAX, 0, 8192, 0)]);
    guest.run(&[mapc(0, Some(1))]);
    assert_eq!(guest.place(8192).0, Some(1));
    guest.finish();
}

#[test]
fn unmapping_needs_no_table() {
    let guest = Guest::new();
    let baser = VALID | INDIRECT | DEVICE_TABLE;
    guest.write_memory(DEVICE_TABLE, VALID | RAM);
    guest.enable(false);
    guest.write(GITS_BASER0, baser);
    guest.enable(true);
    guest.run(&[mapd(1, Some(1)), mapc(0, Some(1)), mapti(1, 0, 8192, 0)]);
    guest.write_memory(DEVICE_TABLE, 0);
    assert_eq!(
        guest.fails(mapd(1, Some(1))),
        Some(CommandError::DeviceOutOfRange)
    );
    assert_eq!(
        guest.msi(1, 0),
        Ok(Injected::Pending),
        "a failed MAPD does nothing"
    );
    assert_eq!(guest.fails(mapd(1, None)), None);
    assert_eq!(guest.msi(1, 0), Err(InjectError::UnmappedDevice));
    guest.finish();
}

#[test]
fn the_collection_table_limits_collections() {
    let guest = Guest::with(|config| config.its[0].collections = 0x1_0000);
    guest.enable(false);
    guest.write(GITS_BASER1, VALID | COLLECTION_TABLE);
    guest.enable(true);
    assert_eq!(guest.fails(mapc(511, Some(0))), None);
    assert_eq!(
        guest.fails(mapc(512, Some(0))),
        Some(CommandError::CollectionOutOfRange)
    );
    assert_eq!(guest.fails(mapc(512, None)), None);
    guest.finish();
}
