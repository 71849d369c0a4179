//! Memory of the controller: command queues, tables of ITSes and of redistributors.

use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU64;

use crate::cpus::{self, MAX_CPUS};
use crate::mmio::write_64;

/// Bytes of a page.
pub(crate) const PAGE: usize = 0x1_0000;

/// Number of ITSes with tables.
pub(super) const ITSES: usize = 2;

/// Page that the controller reads and writes, accessed by address.
type Page = [AtomicU64; PAGE / 8];

const fn zero() -> Page {
    [const { AtomicU64::new(0) }; PAGE / 8]
}

/// Tables of one ITS.
#[repr(C, align(65536))]
pub(super) struct ItsTables {
    pub(super) queue: Page,
    pub(super) devices: Page,
    pub(super) collections: Page,
    /// Translation tables of the small devices, 4 KiB each.
    pub(super) translations: Page,
    pub(super) big_translations: [Page; 4],
}

/// Tables of the redistributors.
#[repr(C, align(65536))]
pub(super) struct LpiTables {
    pub(super) configuration: Page,
    /// A table for each CPU, at the beginning of the page.
    pub(super) pending: MaybeUninit<[Page; MAX_CPUS]>,
}

/// Pages of the largest queue.
const LARGEST_PAGES: usize = 16;

/// The largest queue that `GITS_CBASER` can describe, and translations for as many events as a
/// device can have.
#[repr(C, align(65536))]
pub(super) struct LargestTables {
    pub(super) queue: [Page; LARGEST_PAGES],
    pub(super) translations: [Page; LARGEST_PAGES],
}

pub(super) static LARGEST_TABLES: LargestTables = LargestTables {
    queue: [const { zero() }; LARGEST_PAGES],
    translations: [const { zero() }; LARGEST_PAGES],
};

/// Bytes of the largest queue.
pub(crate) const LARGEST_QUEUE: usize = LARGEST_PAGES * PAGE;

pub(super) static ITS_TABLES: [ItsTables; ITSES] = [const {
    ItsTables {
        queue: zero(),
        devices: zero(),
        collections: zero(),
        translations: zero(),
        big_translations: [const { zero() }; 4],
    }
}; ITSES];

pub(super) static LPI_TABLES: LpiTables = LpiTables {
    configuration: zero(),
    // Cleared before it is used.
    pending: MaybeUninit::uninit(),
};

/// Returns the address of a table.
macro_rules! table {
    ($tables:expr, $($field:tt)*) => { (&raw const $tables.$($field)*).addr() };
}
pub(super) use table;

/// Returns the address of a CPU's pending table.
pub(super) fn pending_table(cpu: usize) -> usize {
    table!(LPI_TABLES, pending) + cpu * PAGE
}

/// Fills memory at `address` with copies of `byte`.
pub(super) fn fill(address: usize, bytes: usize, byte: u8) {
    let value = u64::from_ne_bytes([byte; 8]);
    for address in (address..address + bytes).step_by(8) {
        write_64(address, value);
    }
}

/// Fills the calling CPU's share of the pages of tables with zeros. Each CPU that is on has one.
pub(super) fn clear_share<T>(tables: &'static T) {
    let start = (&raw const *tables).addr();
    let pages = (start..start + size_of::<T>()).step_by(PAGE);
    cpus::shared_out(pages).for_each(|page| fill(page, PAGE, 0));
}
