//! Turns at a lock: the two counters of [`SpinLock`](super::SpinLock), without the value.

use super::Ordering::{Acquire, Relaxed, Release};
use super::{AtomicU32, Mutant, mutant, weakened_by};

/// Tickets of a lock, served in order of arrival.
///
/// A CPU draws a ticket and waits until the ticket is served, or takes its turn at once if nobody
/// has the lock. Only the holder writes `serving`.
#[derive(Debug)]
pub struct Tickets {
    /// The next ticket to draw.
    next: AtomicU32,
    /// The ticket being served. Equal to `next` if the lock is free.
    serving: AtomicU32,
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

impl Tickets {
    /// Creates the tickets of a free lock.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
        }
    }

    /// Draws a ticket. The caller waits until [`Tickets::is_served`].
    #[inline]
    pub fn draw(&self) -> u32 {
        // Relaxed: drawing orders nothing; the Acquire load in `is_served` does.
        self.next.fetch_add(1, Relaxed)
    }

    /// Returns true if `ticket` is being served: the caller holds the lock.
    #[inline]
    pub fn is_served(&self, ticket: u32) -> bool {
        // Acquire: pairs with the Release in `serve_next`.
        self.serving.load(Acquire) == ticket
    }

    /// Takes the lock, and returns true, if no CPU holds the lock or waits for the lock.
    #[inline]
    pub fn draw_if_free(&self) -> bool {
        // Acquire: pairs with the Release in `serve_next`.
        let serving = self.serving.load(Acquire);
        let next = serving.wrapping_add(1);
        if mutant(Mutant::TicketDrawnByLook) {
            // Relaxed: part of the fault.
            let free = self.next.load(Relaxed) == serving;
            if free {
                // Relaxed: part of the fault.
                self.next.store(next, Relaxed);
            }
            return free;
        }
        // Relaxed: if the next ticket is the ticket being served, the Acquire load above has
        // synchronised with the last holder.
        self.next
            .compare_exchange(serving, next, Relaxed, Relaxed)
            .is_ok()
    }

    /// Returns true if [`Tickets::draw_if_free`] may succeed, without claiming the cache line for
    /// writing.
    #[cfg(feature = "std")]
    pub(crate) fn is_free(&self) -> bool {
        // Relaxed: the values are only compared; `draw_if_free` decides.
        self.next.load(Relaxed) == self.serving.load(Relaxed)
    }

    /// Ends the turn of the caller, which is being served.
    #[inline]
    pub fn serve_next(&self) {
        // Relaxed: only the holder writes `serving`.
        let ticket = self.serving.load(Relaxed);
        // Release: pairs with the Acquire in `is_served` and in `draw_if_free`.
        let order = weakened_by(Mutant::TicketServedRelaxed, Release);
        self.serving.store(ticket.wrapping_add(1), order);
    }
}
