//! Guest memory as a hostile guest arranges it.

use std::cell::Cell;
use std::sync::Mutex;

use vgic::BadAddress;

/// Base address of the guest's memory.
pub const BASE: u64 = 0x4000_0000;
/// Size in bytes: room for each table and a queue, small enough for overlaps.
pub const SIZE: usize = 0x4_0000;
/// Bytes of a page. Single pages may be absent.
const PAGE: usize = 0x1000;

/// A small memory with holes, possibly changing with each read. Accesses outside fail.
pub struct Memory(Mutex<Inner>);

struct Inner {
    bytes: Vec<u8>,
    /// Absent pages, a bit each.
    holes: u64,
    /// While not 0, every read changes a byte just read, as a guest does to a table being read.
    restless: u64,
}

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// Returns the reads of guest memory by this thread so far.
pub fn reads() -> u64 {
    READS.get()
}

impl Default for Memory {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            bytes: vec![0; SIZE],
            holes: 0,
            restless: 0,
        }))
    }
}

impl Memory {
    /// Writes the bytes that fit.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        let mut inner = self.0.lock().unwrap();
        let at = (gpa.wrapping_sub(BASE) as usize) % SIZE;
        let count = bytes.len().min(SIZE - at);
        inner.bytes[at..at + count].copy_from_slice(&bytes[..count]);
    }

    /// Writes guest memory as the library does.
    ///
    /// # Errors
    /// [`BadAddress`] outside the memory, and on an absent page.
    pub fn store(&self, gpa: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut inner = self.0.lock().unwrap();
        let at =
            usize::try_from(gpa.checked_sub(BASE).ok_or(BadAddress)?).map_err(|_| BadAddress)?;
        let end = at.checked_add(bytes.len()).ok_or(BadAddress)?;
        let absent = |at: usize| inner.holes >> (at / PAGE & 63) & 1 != 0;
        if end > SIZE || bytes.is_empty() || absent(at) || absent(end - 1) {
            return Err(BadAddress);
        }
        inner.bytes[at..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Makes memory change with each read from now on. 0 ends the changes.
    pub fn disturb(&self, seed: u64) {
        self.0.lock().unwrap().restless = seed;
    }

    /// Removes a page, or restores the page.
    pub fn flip_page(&self, page: u8) {
        self.0.lock().unwrap().holes ^= 1 << (page & 63);
    }

    /// Reads guest memory.
    ///
    /// # Errors
    /// [`BadAddress`] outside the memory, and on an absent page.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        READS.set(READS.get() + 1);
        let mut inner = self.0.lock().unwrap();
        let at = gpa.checked_sub(BASE).ok_or(BadAddress)? as usize;
        let end = at.checked_add(buffer.len()).ok_or(BadAddress)?;
        let bytes = inner.bytes.get(at..end).ok_or(BadAddress)?;

        if buffer.is_empty() {
            return Ok(());
        }

        if (at / PAGE..=(end - 1) / PAGE).any(|page| inner.holes >> page & 1 != 0) {
            return Err(BadAddress);
        }

        buffer.copy_from_slice(bytes);
        if inner.restless != 0 {
            let mut next = inner.restless;
            next ^= next << 13;
            next ^= next >> 7;
            next ^= next << 17;
            inner.restless = next;
            let victim = at + (next as usize >> 8) % buffer.len();
            inner.bytes[victim] ^= next as u8;
        }
        Ok(())
    }
}
