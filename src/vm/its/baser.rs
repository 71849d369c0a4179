//! `GITS_BASER<n>`: the tables that a guest provides for its ITS (IHI 0069, 12.19.1).
//!
//! The host keeps the guest's mappings ([`super::Its`]) and never writes the guest's tables. As on
//! hardware, a device or collection can only be mapped if the guest's table has an entry for the
//! device or collection in RAM. Every value read from a table is the guest's claim: any value is
//! possible.

use crate::host::{BadAddress, Host};

const VALID: u64 = 1 << 63;
const INDIRECT: u64 = 1 << 62;
const TYPE_SHIFT: u32 = 56;
const ENTRY_SIZE_SHIFT: u32 = 48;
const PAGE_SIZE_SHIFT: u32 = 8;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Inner and outer cacheability, and shareability: kept as written, without effect.
const ATTRIBUTES: u64 = 0x7 << 59 | 0x7 << 53 | 0x3 << 10;
const PAGE_SIZE_64K: u64 = 0b10;
const PAGE_SIZE: u64 = 0x3 << PAGE_SIZE_SHIFT;
const SIZE: u64 = 0xff;

/// Bytes of one entry of a device table, a collection table or a level-1 table.
const ENTRY: u64 = 8;

/// Content of a table: `GITS_BASER<n>.Type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum TableType {
    /// Devices.
    Devices = 1,
    /// Collections.
    Collections = 4,
}

/// One `GITS_BASER<n>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Baser(u64);

impl Baser {
    /// Creates the register with the reset value: not valid, with a fixed type and entry size.
    ///
    /// The reset value of Page_Size is UNKNOWN. Implementations come up with 64 KiB, and software
    /// that writes only the other fields takes the table to have pages of that size. Case
    /// `reset.unknown_gits_baser`.
    pub(crate) fn new(kind: TableType) -> Self {
        Self(
            (kind as u64) << TYPE_SHIFT
                | (ENTRY - 1) << ENTRY_SIZE_SHIFT
                | PAGE_SIZE_64K << PAGE_SIZE_SHIFT,
        )
    }

    /// Creates the register with a value in the writable fields.
    pub(crate) fn with(kind: TableType, value: u64) -> Self {
        let mut baser = Self::new(kind);
        let _ = baser.set(value);
        baser
    }

    /// Returns the register's value.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// Writes the writable fields; Indirect is one of a device table only. Returns true if the
    /// table has moved, changed its size or layout, or become valid or not valid.
    pub(crate) fn set(&mut self, value: u64) -> bool {
        const FIELDS: u64 = VALID | ATTRIBUTES | ADDRESS | PAGE_SIZE | SIZE;
        let old = *self;
        let fields = if old.is_of(TableType::Devices) {
            FIELDS | INDIRECT
        } else {
            // KVM's format has collections in a flat table, in any order.
            FIELDS
        };
        self.0 = (old.0 & !fields) | (value & fields);
        (old.0 ^ self.0) & !ATTRIBUTES != 0
    }

    /// Returns true if the register is of a table of `kind`.
    fn is_of(self, kind: TableType) -> bool {
        (self.0 >> TYPE_SHIFT) & 7 == kind as u64
    }

    /// Returns the number of bits of an offset in a page: 12, 14 or 16. The reserved page size
    /// counts as 64 KiB.
    fn page_bits(self) -> u32 {
        match (self.0 & PAGE_SIZE) >> PAGE_SIZE_SHIFT {
            0 => 12,
            1 => 14,
            _ => 16,
        }
    }

    /// Returns the mask of the address bits that name a page.
    fn page_mask(self) -> u64 {
        u64::MAX << self.page_bits()
    }

    /// Returns true if the guest provides the table.
    pub(crate) fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Returns true if the table has two levels.
    pub(crate) fn is_indirect(self) -> bool {
        self.0 & INDIRECT != 0
    }

    /// Returns the number of entries of a page of the second level.
    pub(crate) fn page_entries(self) -> u64 {
        1 << self.entry_bits()
    }

    /// Returns the number of bits of an index of an entry in a page.
    fn entry_bits(self) -> u32 {
        self.page_bits().saturating_sub(ENTRY.trailing_zeros())
    }

    /// Returns the page of the second level that a level-1 entry leads to.
    pub(crate) fn page(self, level1: u64) -> Option<u64> {
        (level1 & VALID != 0).then_some(level1 & 0x000f_ffff_ffff_ffff & self.page_mask())
    }

    /// Returns the guest-physical address of the table.
    pub(crate) fn address(self) -> u64 {
        let address = self.0 & ADDRESS;
        if self.page_bits() == 16 {
            // With 64 KiB pages, bits 15:12 of the register hold bits 51:48 of the address.
            (address & !0xf000) | (address & 0xf000) << 36
        } else {
            address & self.page_mask()
        }
    }

    /// Returns the size of the table, or of the level-1 table, in bytes.
    pub(crate) fn bytes(self) -> u64 {
        (self.0 & SIZE).wrapping_add(1) << self.page_bits()
    }

    /// Returns whether the table has an entry for `id` in the guest's RAM.
    pub(crate) fn covers(self, id: u32, host: &impl Host) -> bool {
        self.entry(u64::from(id), host)
            .is_some_and(|address| read(host, address).is_ok())
    }

    /// Returns the guest-physical address of the entry of `id`; `None` beyond the end of the table.
    fn entry(self, id: u64, host: &impl Host) -> Option<u64> {
        if !self.is_valid() {
            return None;
        }

        let entry_bits = self.entry_bits();
        let (index, within) = if self.is_indirect() {
            (id >> entry_bits, Some(id & !(u64::MAX << entry_bits)))
        } else {
            (id, None)
        };

        let offset = index.saturating_mul(ENTRY);
        if offset >= self.bytes() {
            return None;
        }

        let address = self.address().saturating_add(offset);
        let Some(within) = within else {
            return Some(address);
        };

        let page = self.page(read(host, address).ok()?)?;
        Some(page.saturating_add(within.saturating_mul(ENTRY)))
    }
}

/// Reads the table entry at `address`.
fn read(host: &impl Host, address: u64) -> Result<u64, BadAddress> {
    let mut bytes = [0; ENTRY as usize];
    host.read_memory(address, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
