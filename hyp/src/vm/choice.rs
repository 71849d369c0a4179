//! Choice of a vCPU between direct injection and list registers, by its MSIs, sleeps and puts
//! (`hyp.direct=auto`).
//!
//! A sleep or a put costs more with a virtual PE, and the first MSI afterwards is a doorbell, which
//! costs as much as an MSI by software. Every further MSI costs nothing. A vCPU earns its virtual
//! PE by such MSIs, beyond one for each sleep and put. Only list registers show them, so that a
//! direct vCPU goes back after a term, and has to earn it again.

use core::sync::atomic::{AtomicU32, Ordering};

/// MSIs, beyond one for each sleep and put, after which a vCPU becomes direct.
const EARNED: u32 = 64;

/// Sleeps and puts after which a direct vCPU goes back to list registers.
const TERM: u32 = 1024;

/// Bits of the word: the vCPU is direct; no MSI has come since it slept or was put. The count of
/// MSIs, or of sleeps and puts, is above them.
const DIRECT: u32 = 1 << 0;
const RESTED: u32 = 1 << 1;
const ONE: u32 = 1 << 2;

/// Event that a choice depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    /// An MSI that the hypervisor injects for the vCPU.
    Msi,
    /// The vCPU sleeps, or is put.
    Rest,
}

/// Choice of a vCPU.
#[derive(Default)]
pub(crate) struct Choice(AtomicU32);

impl Choice {
    /// Returns true if the vCPU is direct.
    pub(crate) fn is_direct(&self) -> bool {
        // Relaxed, here and below: the word publishes nothing.
        self.0.load(Ordering::Relaxed) & DIRECT != 0
    }

    /// Notes an event. Returns the new choice if the event has changed it.
    #[must_use]
    pub(crate) fn note(&self, note: Note) -> Option<bool> {
        let order = Ordering::Relaxed;
        let noted = |old| Some(after(old, note));
        let (Ok(old) | Err(old)) = self.0.fetch_update(order, order, noted);
        let new = after(old, note);
        ((old ^ new) & DIRECT != 0).then_some(new & DIRECT != 0)
    }
}

/// Returns the word after an event.
const fn after(word: u32, note: Note) -> u32 {
    let is_direct = word & DIRECT != 0;
    match note {
        Note::Msi if is_direct || word & RESTED != 0 => word & !RESTED,
        Note::Msi if word + ONE >= EARNED * ONE => DIRECT,
        Note::Msi => word + ONE,
        Note::Rest if is_direct && word / ONE + 1 >= TERM => RESTED,
        Note::Rest if is_direct => word + ONE,
        Note::Rest if word < ONE => RESTED,
        Note::Rest => (word - ONE) | RESTED,
    }
}
