//! A VM's memory, as the hypervisor reads and writes it on the guest's behalf.
#![expect(unsafe_code)]
// UNSAFETY: reads and writes the guest's memory, which the guest writes.

use alloc::vec::Vec;
use core::ops::Range;

use crate::memory::dirty::DirtyPages;
use crate::memory::layout::PAGE;
use crate::memory::ranges::Pages;

/// Guest-physical memory: pieces of the machine's RAM, in order of guest-physical address.
///
/// # Invariants
/// The pieces are mapped by identity at EL2, belong to the VM alone, and hold nothing of the
/// hypervisor's.
pub(crate) struct GuestMemory {
    pieces: Vec<Piece>,
    /// Notes on pages that have been written, if the VM may be migrated.
    pub(crate) dirty: Option<DirtyPages>,
}

struct Piece {
    /// Guest-physical addresses.
    at: Range<usize>,
    /// Physical address of the first byte.
    physical: usize,
}

impl GuestMemory {
    /// Returns memory whose guest-physical addresses are the physical ones.
    ///
    /// # Safety
    /// The memory is mapped by identity at EL2, and is the VM's alone from now on.
    pub(crate) unsafe fn identity(memory: &Pages) -> Self {
        let pieces = memory.iter().map(|range| Piece {
            at: range.clone(),
            physical: range.start,
        });
        // INVARIANT: by the caller's promise.
        Self {
            pieces: pieces.collect(),
            dirty: None,
        }
    }

    /// Returns the RAM `physical`, at guest-physical address `at`, with notes on pages that have
    /// been written if they `are_noted`.
    ///
    /// # Safety
    /// The memory is mapped by identity at EL2, and is the VM's alone from now on.
    pub(crate) unsafe fn at(at: usize, physical: &Range<usize>, are_noted: bool) -> Self {
        let at = at..at + physical.len();
        // INVARIANT: by the caller's promise.
        Self {
            dirty: are_noted.then(|| DirtyPages::new(at.clone())),
            pieces: alloc::vec![Piece {
                at,
                physical: physical.start,
            }],
        }
    }

    /// Returns the physical addresses of the pieces.
    pub(crate) fn physical(&self) -> impl Iterator<Item = Range<usize>> {
        let pieces = self.pieces.iter();
        pieces.map(|piece| piece.physical..piece.physical + piece.at.len())
    }

    /// Notes that any page may have been written past [`GuestMemory::write`].
    pub(crate) fn note_all(&self) {
        let dirty = self.dirty.as_ref().zip(self.pieces.first());
        if let Some((dirty, piece)) = dirty {
            dirty.note(piece.at.clone());
        }
    }

    /// Reads a page, whose number counts from the beginning of the first piece. Returns `None` if
    /// the piece has no such page.
    pub(crate) fn read_page(&self, number: usize, buffer: &mut [u8]) -> Option<()> {
        let start = self.pieces.first()?.at.start;
        let gpa = start.checked_add(number.checked_mul(PAGE)?)?;
        self.read(gpa as u64, buffer)
    }

    /// Returns the physical address of `length` bytes at a guest-physical address, if they lie in
    /// one piece.
    pub(crate) fn locate(&self, gpa: u64, length: usize) -> Option<usize> {
        let start = usize::try_from(gpa).ok()?;
        let end = start.checked_add(length)?;
        let place = self.pieces.partition_point(|piece| piece.at.end < end);
        let piece = (self.pieces.get(place)).filter(|piece| piece.at.start <= start)?;
        Some(piece.physical + (start - piece.at.start))
    }

    /// Reads memory that the guest may write at the same time; then any value will do. Returns
    /// `None` if the VM has no memory there.
    pub(crate) fn read(&self, gpa: u64, buffer: &mut [u8]) -> Option<()> {
        let start = self.locate(gpa, buffer.len())?;
        let end = start + buffer.len();
        // Tables and commands are aligned, and read by double words.
        // SAFETY: any eight bytes are a valid `u64`.
        let (before, words, _) = unsafe { buffer.align_to_mut::<u64>() };

        let mut done = 0;
        if start.is_multiple_of(size_of::<u64>()) && before.is_empty() {
            done = size_of_val(words);
            for (address, word) in (start..).step_by(size_of::<u64>()).zip(words) {
                // SAFETY: by the type's invariants. The read is volatile because the guest may
                // write at the same time.
                *word = unsafe { (address as *const u64).read_volatile() };
            }
        }

        for (address, byte) in (start + done..end).zip(&mut buffer[done..]) {
            // SAFETY: by the type's invariants, as for the words.
            *byte = unsafe { (address as *const u8).read_volatile() };
        }
        Some(())
    }

    /// Writes memory that the guest may access at the same time. Returns `None` if the VM has no
    /// memory there.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) -> Option<()> {
        let start = self.locate(gpa, bytes.len())?;
        for (address, byte) in (start..).zip(bytes) {
            // SAFETY: by the type's invariants. The write is volatile because the guest may access
            // the memory at the same time.
            unsafe { (address as *mut u8).write_volatile(*byte) };
        }
        if let Some(dirty) = &self.dirty {
            dirty.note(gpa as usize..gpa as usize + bytes.len());
        }
        Some(())
    }
}
