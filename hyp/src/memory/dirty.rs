//! Pages of a VM's RAM that have been written since a look at them: for a migration, which copies
//! the RAM while the VM runs, and the rest again.
//!
//! Stage 2 denies writes of a page from [`DirtyPages::take`] on. The first write traps, is noted,
//! and is allowed from then on ([`DirtyPages::allow`]). The hypervisor's own writes are noted by it
//! ([`DirtyPages::note`]).
//!
//! A page that is noted is taken before it is copied. So the order is everywhere: the write, or the
//! permission to write, then the note; the note taken, then the permission, then the copy. A write
//! that is not in the copy comes with a note that is not taken.

use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::layout::PAGE;
use super::stage2::Stage2;
use super::tlb;

/// Pages of a word of notes.
const WORD: usize = u64::BITS as usize;

/// Notes on the pages of one piece of RAM.
pub(crate) struct DirtyPages {
    /// Guest-physical addresses.
    ram: Range<usize>,
    /// One bit for each page.
    notes: Box<[AtomicU64]>,
    /// True from the first [`DirtyPages::begin`] on.
    is_on: AtomicBool,
}

impl DirtyPages {
    /// Returns notes on the RAM at these guest-physical addresses. Nothing is noted yet.
    pub(crate) fn new(ram: Range<usize>) -> Self {
        let pages = ram.len() / PAGE;
        Self {
            ram,
            notes: (0..pages.div_ceil(WORD))
                .map(|_| AtomicU64::new(0))
                .collect(),
            is_on: AtomicBool::new(false),
        }
    }

    /// Notes every page. From now on writes are noted.
    pub(crate) fn begin(&self) {
        self.is_on.store(true, Ordering::SeqCst);
        let pages = self.ram.len() / PAGE;
        for (place, notes) in self.notes.iter().enumerate() {
            let here = (pages - place * WORD).min(WORD);
            notes.store(u64::MAX >> (WORD - here), Ordering::SeqCst);
        }
    }

    /// Returns the number of noted pages.
    pub(crate) fn count(&self) -> usize {
        let notes = self.notes.iter();
        notes
            .map(|notes| notes.load(Ordering::Relaxed).count_ones() as usize)
            .sum()
    }

    /// Takes all notes. Calls `copy` with the number of each page, of which `stage2` denies writes
    /// from then on; without it the VM is stopped. The calling CPU has no vCPU.
    ///
    /// # Errors
    /// The first error of `copy`.
    pub(crate) fn take<E>(
        &self,
        stage2: Option<&Stage2>,
        mut copy: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(stage2) = stage2 {
            stage2.activate();
        }
        for (place, notes) in self.notes.iter().enumerate() {
            // SeqCst: see the module's order.
            let taken = notes.swap(0, Ordering::SeqCst);
            let pages = move || {
                let mut rest = taken;
                core::iter::from_fn(move || {
                    let page = rest.trailing_zeros() as usize;
                    rest &= rest.wrapping_sub(1);
                    (page < WORD).then_some(place * WORD + page)
                })
            };
            if let Some(stage2) = stage2.filter(|_| taken != 0) {
                pages().for_each(|page| {
                    stage2.allow_writes(self.ram.start + page * PAGE, false);
                });
                tlb::invalidate_vmid_everywhere();
            }
            pages().try_for_each(&mut copy)?;
        }
        Ok(())
    }

    /// Allows writes of the page at a guest-physical address, and notes the page. Returns false if
    /// there is no such page, or writes are not noted. Called for a write that has trapped.
    pub(crate) fn allow(&self, stage2: &Stage2, gpa: usize) -> bool {
        if !self.is_on.load(Ordering::SeqCst) || !self.ram.contains(&gpa) {
            return false;
        }
        stage2.allow_writes(gpa, true);
        self.note(gpa..gpa + 1);
        // Another CPU that still denies the write traps for nothing, and comes here.
        tlb::invalidate_vmid();
        true
    }

    /// Notes the pages of guest-physical addresses that the hypervisor has just written.
    pub(crate) fn note(&self, gpas: Range<usize>) {
        if !self.is_on.load(Ordering::Relaxed) || gpas.is_empty() {
            return;
        }
        let page = |gpa: usize| gpa.saturating_sub(self.ram.start) / PAGE;
        for page in page(gpas.start)..=page(gpas.end - 1) {
            if let Some(notes) = self.notes.get(page / WORD) {
                notes.fetch_or(1 << (page % WORD), Ordering::SeqCst);
            }
        }
    }
}
