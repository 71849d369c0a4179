//! The fuzzer's bytes, read as numbers.
//!
//! An operation takes few bytes, one for each choice: a changed byte changes one choice, and the
//! bytes after it keep their meaning. All bytes past the end are 0.

use crate::actor::Choices;
use crate::memory::BASE;

/// The unread bytes of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Returns an input with all bytes unread.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Returns whether all bytes are read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the unread bytes.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Returns the next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// Returns a choice with two outcomes.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// Returns two bytes as a number.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Returns eight bytes as a number.
    pub fn double(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Returns an element of `from`.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Returns an identifier, mostly a small one, seldom any.
    pub fn id(&mut self) -> u32 {
        match self.byte() {
            small @ 0..0xc0 => u32::from(small & 0x1f),
            0xc0..0xe0 => u32::from(self.byte()),
            0xe0..0xf0 => u32::from(self.half()),
            0xf0..0xf8 => 1 << (self.byte() & 31),
            0xf8.. => self.double() as u32,
        }
    }

    /// Returns a register value: few or many bits, an address in memory, or any value.
    pub fn value(&mut self) -> u64 {
        match self.byte() {
            0..0x30 => u64::from(self.byte()),
            0x30..0x60 => 1 << (self.byte() & 63),
            0x60..0x80 => u64::MAX,
            0x80..0x90 => u64::MAX << (self.byte() & 63),
            0x90..0xb0 => u64::from(self.half()),
            0xb0..0xd0 => self.table(),
            0xd0.. => self.double(),
        }
    }

    /// Returns a register with the address of a table, mostly in memory and valid.
    pub fn table(&mut self) -> u64 {
        const VALID: u64 = 1 << 63;
        const INDIRECT: u64 = 1 << 62;
        let shape = self.byte();
        let page = u64::from(self.byte());
        let size = u64::from(self.byte()) & if shape & 8 == 0 { 0x3 } else { 0xff };
        let valid = if shape & 7 == 7 { 0 } else { VALID };
        let indirect = if shape & 0x10 == 0 { 0 } else { INDIRECT };
        let page_size = u64::from(shape >> 5) << 8;
        valid | indirect | page_size | (BASE + (page << 12)) | size
    }
}

impl Choices for Input<'_> {
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn number(&mut self) -> u64 {
        self.value()
    }

    fn is_over(&self) -> bool {
        self.is_empty()
    }
}
