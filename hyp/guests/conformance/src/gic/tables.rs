//! Memory of the controller: command queues, tables of ITSes and of redistributors.

use core::sync::atomic::AtomicU64;

use crate::cpus::MAX_CPUS;
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
    pub(super) pending: [Page; MAX_CPUS],
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
    pending: [const { zero() }; MAX_CPUS],
};

/// Returns the address of a table.
macro_rules! table {
    ($tables:expr, $($field:tt)*) => { (&raw const $tables.$($field)*).addr() };
}
pub(super) use table;

/// Fills tables with zeros.
pub(super) fn clear<T>(tables: &'static T) {
    let start = (&raw const *tables).addr();
    for address in (start..start + size_of::<T>()).step_by(8) {
        write_64(address, 0);
    }
}
