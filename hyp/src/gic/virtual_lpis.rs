//! GICv4: vPEIDs, and the tables of virtual LPIs.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use spin::Mutex;

use super::TABLE_ALIGNMENT;
use super::its::VIRTUAL_PES;
use crate::memory::table::Table;

/// vPEIDs and tables of the machine.
pub(crate) struct VirtualLpis {
    free: Mutex<Vec<u16>>,
    /// Tables that redistributors use, by their physical addresses.
    tables: Mutex<BTreeMap<u64, Table>>,
}

impl VirtualLpis {
    /// Returns all vPEIDs, free.
    pub(super) fn new() -> Self {
        Self {
            free: Mutex::new((0..VIRTUAL_PES as u16).rev().collect()),
            tables: Mutex::default(),
        }
    }

    /// Takes a vPEID, or returns `None` if none is free.
    pub(crate) fn allocate(&self) -> Option<u16> {
        self.free.lock().pop()
    }

    /// Gives a vPEID back.
    pub(crate) fn free(&self, vpe: u16) {
        self.free.lock().push(vpe);
    }

    /// Allocates a table of zeros. Returns its physical address.
    pub(crate) fn allocate_table(&self, bytes: usize) -> u64 {
        let table = Table::new(bytes, TABLE_ALIGNMENT);
        let address = table.physical();
        self.tables.lock().insert(address, table);
        address
    }

    /// Frees a table, which no redistributor uses any more.
    pub(crate) fn free_table(&self, address: u64) {
        self.tables.lock().remove(&address);
    }

    /// Fills `bytes` bytes from `offset` on of a table.
    ///
    /// # Panics
    /// If there is no such table, or it is smaller.
    pub(crate) fn fill_table(&self, address: u64, offset: usize, bytes: usize, value: u8) {
        const CHUNK: [u8; 256] = [0; 256];
        let tables = self.tables.lock();
        let table = tables.get(&address).expect("the table was allocated");
        let end = offset + bytes;
        for at in (offset..end).step_by(CHUNK.len()) {
            let chunk = CHUNK.map(|_| value);
            table.write(at, &chunk[..CHUNK.len().min(end - at)]);
        }
    }
}
