//! LPIs: the tables that the redistributors read, and which device's event each LPI stands for.
//!
//! An LPI's whole life here: [`Lpis::allocate`] for an event that the guest maps, [`Lpis::source`] on
//! every interrupt, [`Lpis::release`] when it unmaps the event.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::PRIORITY;
use super::table::Table;

/// The first LPI.
pub(crate) const FIRST: u32 = 8192;

/// Bits of INTID that the tables are for: 57344 LPIs.
const ID_BITS: u32 = 16;
const COUNT: usize = (1 << ID_BITS) - FIRST as usize;

/// The enable bit of an LPI's configuration.
const ENABLED: u8 = 1;

/// What the redistributors' tables are aligned to.
const TABLE_ALIGNMENT: usize = 64 << 10;

/// Inner shareable, inner write-back cacheable (`GICR_PROPBASER` and `GICR_PENDBASER`, `GITS_CBASER` has
/// the same fields elsewhere).
const SHARED_WRITE_BACK: u64 = 1 << 10 | 7 << 7;

/// One CPU's table of pending LPIs, the redistributor's own once it is handed over.
pub(crate) struct PendingTable(Table);

impl PendingTable {
    /// A table with nothing pending.
    pub(crate) fn new() -> Self {
        Self(Table::new(1 << (ID_BITS - 3), TABLE_ALIGNMENT))
    }

    /// The value for `GICR_PENDBASER`.
    pub(super) fn base_register(&self) -> u64 {
        /// The table is all zeros.
        const PTZ: u64 = 1 << 62;
        self.0.physical() | SHARED_WRITE_BACK | PTZ
    }
}

/// An event of a device, as an ITS numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MsiSource {
    /// The ITS, by its place in the device tree.
    pub(crate) its: u8,
    /// Its DeviceID, below 2^24 by the width of this table.
    pub(crate) device: u32,
    /// Its EventID.
    pub(crate) event: u32,
}

impl MsiSource {
    /// What a free LPI has instead.
    const NONE: u64 = u64::MAX;

    const fn pack(self) -> u64 {
        (self.its as u64) << 56 | (self.device as u64 & 0xff_ffff) << 32 | self.event as u64
    }

    const fn unpack(value: u64) -> Option<Self> {
        if value == Self::NONE {
            return None;
        }
        Some(Self {
            its: (value >> 56) as u8,
            device: (value >> 32) as u32 & 0xff_ffff,
            event: value as u32,
        })
    }
}

/// All LPIs of the machine.
pub(crate) struct Lpis {
    /// One byte for each: priority, and whether it is enabled.
    configuration: Table,
    sources: Box<[AtomicU64]>,
    free: Mutex<Vec<u32>>,
}

impl Lpis {
    /// All of them free and disabled.
    pub(crate) fn new() -> Self {
        let configuration = Table::new(COUNT, TABLE_ALIGNMENT);
        Self {
            configuration,
            sources: (0..COUNT)
                .map(|_| AtomicU64::new(MsiSource::NONE))
                .collect(),
            free: Mutex::new((FIRST..FIRST + COUNT as u32).rev().collect()),
        }
    }

    /// The value for every `GICR_PROPBASER`.
    pub(crate) fn base_register(&self) -> u64 {
        self.configuration.physical() | SHARED_WRITE_BACK | u64::from(ID_BITS - 1)
    }

    /// Takes a free LPI for `source` and enables it; the ITS has to be told by a MAPTI. `None` if
    /// there is none left.
    pub(crate) fn allocate(&self, source: MsiSource) -> Option<u32> {
        let lpi = self.free.lock().pop()?;
        let index = (lpi - FIRST) as usize;
        // Release: an interrupt may find it on another CPU, which the ITS's commands order too.
        self.sources[index].store(source.pack(), Ordering::Release);
        self.configuration.write(index, &[PRIORITY | ENABLED]);
        Some(lpi)
    }

    /// Disables `lpi` and makes it free; the ITS has been told by a DISCARD.
    pub(crate) fn release(&self, lpi: u32) {
        let index = (lpi - FIRST) as usize;
        self.configuration.write(index, &[PRIORITY]);
        self.sources[index].store(MsiSource::NONE, Ordering::Release);
        self.free.lock().push(lpi);
    }

    /// What `lpi` stands for; `None` if it has been released while it was pending.
    #[inline]
    pub(crate) fn source(&self, lpi: u32) -> Option<MsiSource> {
        let slot = self.sources.get(lpi.checked_sub(FIRST)? as usize)?;
        // Acquire: pairs with the Release in `allocate`.
        MsiSource::unpack(slot.load(Ordering::Acquire))
    }
}
