//! Guest memory as a hostile guest would have it.

use std::cell::Cell;
use std::sync::Mutex;

use vgic::BadAddress;

/// Where the guest's memory begins.
pub const BASE: u64 = 0x4000_0000;
/// Its bytes: room for each table and a queue, little enough for them to overlap.
pub const SIZE: usize = 0x4_0000;

/// A little memory that may change as it is read. Everything around it is unreadable.
pub struct Memory(Mutex<Inner>);

struct Inner {
    bytes: Vec<u8>,
    /// While not 0, every read changes a byte that it has just read: a table that changes underfoot.
    restless: u64,
}

thread_local! {
    /// Bytes read since [`take_bytes_read`].
    static READ: Cell<u64> = const { Cell::new(0) };
}

/// How much guest memory was read since the last call: the work that guests can ask for shows in it.
pub fn take_bytes_read() -> u64 {
    READ.take()
}

impl Default for Memory {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            bytes: vec![0; SIZE],
            restless: 0,
        }))
    }
}

impl Memory {
    /// Writes what fits.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        let mut inner = self.0.lock().unwrap();
        let at = (gpa.wrapping_sub(BASE) as usize) % SIZE;
        let count = bytes.len().min(SIZE - at);
        inner.bytes[at..at + count].copy_from_slice(&bytes[..count]);
    }

    /// From now on memory changes as it is read; or no longer, with 0.
    pub fn unsettle(&self, seed: u64) {
        self.0.lock().unwrap().restless = seed;
    }

    /// Reads.
    ///
    /// # Errors
    /// [`BadAddress`] outside the memory.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), BadAddress> {
        READ.set(READ.get() + buffer.len() as u64);
        let mut inner = self.0.lock().unwrap();
        let at = gpa.checked_sub(BASE).ok_or(BadAddress)? as usize;
        let end = at.checked_add(buffer.len()).ok_or(BadAddress)?;
        let bytes = inner.bytes.get(at..end).ok_or(BadAddress)?;
        buffer.copy_from_slice(bytes);
        if inner.restless != 0 && !buffer.is_empty() {
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
