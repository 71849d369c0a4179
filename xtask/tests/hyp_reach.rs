//! The address arithmetic of the hypervisor's stage 2 tables, by the rules of DDI 0487 for 4 KiB
//! pages.

#[path = "../../hyp/src/memory/reach.rs"]
mod reach;

use reach::Reach;

/// Bits of the addresses that a page, and the tables of levels 3, 2, 1 and 0, cover.
const PAGE_BITS: u32 = 12;
const LEVEL_BITS: u32 = 9;

/// `ID_AA64MMFR0_EL1.PARange`, its bits, and the values of `VTCR_EL2` that go with it: `PS`, `T0SZ`
/// and `SL0`. The CPUs of QEMU's `virt` board have 40, 44 or 48 bits, and `max` has 52.
const CPUS: [(u64, u32, u64, u64, u64); 8] = [
    (0, 32, 0, 32, 1),
    (1, 36, 1, 28, 1),
    (2, 40, 2, 24, 1),
    (3, 42, 3, 22, 1),
    (4, 44, 4, 20, 2),
    (5, 48, 5, 16, 2),
    (6, 48, 5, 16, 2),
    (7, 48, 5, 16, 2),
];

#[test]
fn every_size_of_physical_addresses_has_its_control_values() {
    for (pa_range, bits, ps, t0sz, sl0) in CPUS {
        let reach = Reach::of(pa_range);
        let found = (reach.bits(), reach.ps(), reach.t0sz(), reach.sl0());
        assert_eq!(found, (bits, ps, t0sz, sl0), "PARange {pa_range}");
        assert_eq!(reach.end(), 1 << bits);
    }
}

#[test]
fn the_first_tables_cover_all_addresses_and_no_more_than_16_lie_side_by_side() {
    for (pa_range, bits, ..) in CPUS {
        let reach = Reach::of(pa_range);
        match reach.level_1_tables() {
            None => assert!(bits >= 44, "level 0 needs 44 bits"),
            Some(tables) => {
                let covered = PAGE_BITS + 3 * LEVEL_BITS + tables.ilog2();
                assert!(tables.is_power_of_two() && tables <= 16);
                assert!(covered >= bits, "{tables} tables cover {covered} bits");
                assert!(tables == 1 || covered == bits, "a table too many");
            }
        }
    }
}

/// QEMU's `virt` board puts the high PCIe window at 512 GiB to 1 TiB. It ends where the addresses
/// of a CPU with 40 bits end, and lies in the second table.
#[test]
fn forty_bits_reach_the_high_pcie_window() {
    let reach = Reach::of(2);
    assert_eq!(reach.end(), 1 << 40);
    assert_eq!(reach.level_1_tables(), Some(2));
    assert_eq!((512_usize << 30) >> 39, 1);
}
