//! SGIs to all other vCPUs (`ICC_SGI<n>R_EL1.IRM` = 1) that have vCPUs left to reach.
//!
//! Each SGI of each group has a *round* over the VM's room for vCPUs, done in slices by any number
//! of CPUs. One word has the round:
//!
//! | bits  | field   | meaning |
//! |-------|---------|---------|
//! | 15:0  | next    | the next vCPU of the round |
//! | 31:16 | left    | number of vCPUs left: `next` and those after it, and from vCPU 0 on again |
//! | 47:32 | omitted | 1 + the vCPU that is left out, the sender; 0 for none |
//!
//! # A broadcast that finds another on the way
//! The later broadcast joins the round: all vCPUs are left once more, from `next` on. A vCPU that
//! the earlier broadcast had still to reach gets one SGI for both, as a vCPU does on which the
//! earlier SGI is still pending. The round never goes back, so that senders that do not pause reach
//! every vCPU.
//!
//! The later sender is left out, unless the earlier SGI had still to reach it. The SGI that it gets
//! is then the earlier sender's.

use crate::intid::{IntId, VcpuId};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU32, AtomicU64, Mutant, mutant};

/// The rounds of a VM.
pub(crate) struct Broadcasts {
    /// A round for each SGI of Group 0, and then of Group 1.
    rounds: [Round; Self::COUNT],
    /// The round after the one claimed from last. The rounds take turns, for all are to end while
    /// one SGI is sent again and again.
    turn: AtomicU32,
}

/// The round of an SGI of a group.
struct Round(AtomicU64);

/// The fields of a round.
#[derive(Clone, Copy)]
struct Fields {
    next: u16,
    left: u16,
    omitted: u16,
}

/// A claimed slice of a round: consecutive vCPUs, with vCPU 0 after the last.
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    next: u16,
    count: u16,
    omitted: u16,
    room: u16,
}

impl Broadcasts {
    /// 16 SGIs of two groups.
    const COUNT: usize = 32;

    /// Makes rounds with no vCPU left.
    pub(crate) fn new() -> Self {
        Self {
            rounds: core::array::from_fn(|_| Round::new()),
            turn: AtomicU32::new(0),
        }
    }

    /// Begins a broadcast of the SGI `intid`, of Group 1 or 0, by `sender` to every other vCPU of a
    /// VM with room for `room`.
    pub(crate) fn begin(&self, intid: IntId, group1: bool, sender: VcpuId, room: u16) {
        let index = (intid.raw() & 15) as usize | usize::from(group1) << 4;
        if let Some(round) = self.rounds.get(index) {
            round.join(sender, room);
        }
    }

    /// Claims a slice of up to `length` vCPUs of some round, or returns `None` if none is left.
    /// Returns the SGI, and true for Group 1.
    pub(crate) fn claim(&self, length: u16, room: u16) -> Option<(IntId, bool, Slice)> {
        // Relaxed: any order of the rounds will do.
        let turn = self.turn.load(Relaxed) as usize;
        (0..Self::COUNT).find_map(|n| {
            let index = turn.wrapping_add(n) % Self::COUNT;
            let slice = self.rounds.get(index)?.claim(length, room)?;
            // Relaxed: any order of the rounds will do.
            self.turn.store(index.wrapping_add(1) as u32, Relaxed);
            Some((IntId::sgi(index as u32 & 15)?, index >= 16, slice))
        })
    }

    /// Returns true if a vCPU is left in some round.
    pub(crate) fn has_more(&self) -> bool {
        self.rounds.iter().any(Round::has_more)
    }

    /// Leaves no vCPU. Slices claimed earlier are still done.
    pub(crate) fn stop(&self) {
        self.rounds.iter().for_each(Round::stop);
    }
}

impl Fields {
    fn of(word: u64) -> Self {
        Self {
            next: word as u16,
            left: (word >> 16) as u16,
            omitted: (word >> 32) as u16,
        }
    }

    fn word(self) -> u64 {
        u64::from(self.next) | u64::from(self.left) << 16 | u64::from(self.omitted) << 32
    }

    /// Returns true if the round has still to reach `vcpu`, in a VM with room for `room` vCPUs.
    fn is_ahead(self, vcpu: VcpuId, room: u16) -> bool {
        let distance = match vcpu.0.checked_sub(self.next) {
            Some(distance) => distance,
            None => vcpu.0.wrapping_add(room).wrapping_sub(self.next),
        };
        distance < self.left && self.omitted != number(vcpu)
    }
}

/// Returns the vCPU as `omitted` has it.
fn number(vcpu: VcpuId) -> u16 {
    vcpu.0.wrapping_add(1)
}

impl Round {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Begins a broadcast by `sender` to every other vCPU of a VM with room for `room`.
    fn join(&self, sender: VcpuId, room: u16) {
        // Release: publishes what the sender has done; pairs with the Acquire in `claim`, also for
        // a broadcast that another one has joined. Relaxed: the word is only compared.
        let _ = self.0.fetch_update(Release, Relaxed, |word| {
            let old = Fields::of(word);
            let owed = old.is_ahead(sender, room) && !mutant(Mutant::SenderOwedNothing);
            let on_the_way = old.left != 0 && mutant(Mutant::JoinedHalfway);
            Some(
                Fields {
                    next: old.next,
                    left: if on_the_way { old.left } else { room },
                    omitted: if owed { 0 } else { number(sender) },
                }
                .word(),
            )
        });
    }

    /// Claims up to `length` vCPUs, or returns `None` if none is left.
    fn claim(&self, length: u16, room: u16) -> Option<Slice> {
        if !self.has_more() {
            return None;
        }

        // Acquire: pairs with the Release in `join`. Relaxed: the word is only compared.
        let claimed = self.0.fetch_update(Acquire, Relaxed, |word| {
            let old = Fields::of(word);
            let count = old.left.min(length);
            let next = old.next.wrapping_add(count);
            let new = Fields {
                next: if next < room {
                    next
                } else {
                    next.wrapping_sub(room)
                },
                left: old.left.wrapping_sub(count),
                ..old
            };
            (count != 0).then(|| new.word())
        });

        let Fields {
            next,
            left,
            omitted,
        } = Fields::of(claimed.ok()?);
        Some(Slice {
            next,
            count: left.min(length),
            omitted,
            room,
        })
    }

    /// Returns true if a vCPU is left.
    fn has_more(&self) -> bool {
        // Relaxed: `claim` acquires what the round publishes.
        Fields::of(self.0.load(Relaxed)).left != 0
    }

    /// Leaves no vCPU.
    fn stop(&self) {
        // Relaxed: publishes nothing.
        self.0.store(0, Relaxed);
    }
}

impl Slice {
    /// Returns the vCPUs of the slice but the one that is left out, present or not.
    pub(crate) fn vcpus(self) -> impl Iterator<Item = VcpuId> {
        (0..self.count).filter_map(move |n| {
            let place = self.next.wrapping_add(n);
            let wrapped = if place < self.room {
                place
            } else {
                place.wrapping_sub(self.room)
            };
            VcpuId::new(wrapped.into()).filter(|vcpu| number(*vcpu) != self.omitted)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const ROOM: u16 = 10;

    fn id(n: u16) -> VcpuId {
        VcpuId(n)
    }

    fn claim(round: &Round, length: u16) -> Vec<u16> {
        let slice = round.claim(length, ROOM);
        slice.map_or_else(Vec::new, |slice| slice.vcpus().map(|vcpu| vcpu.0).collect())
    }

    #[test]
    fn a_broadcast_reaches_all_but_the_sender() {
        let round = Round::new();
        assert!(!round.has_more() && claim(&round, 4).is_empty());
        round.join(id(5), ROOM);
        assert_eq!(claim(&round, 4), [0, 1, 2, 3]);
        assert_eq!(claim(&round, 4), [4, 6, 7]);
        assert_eq!(claim(&round, 4), [8, 9]);
        assert!(!round.has_more() && claim(&round, 4).is_empty());
    }

    #[test]
    fn a_broadcast_that_joins_goes_once_around() {
        let round = Round::new();
        round.join(id(0), ROOM);
        assert_eq!(claim(&round, 4), [1, 2, 3]);
        // The SGI of vCPU 0 has reached vCPU 2, and not vCPU 7.
        round.join(id(2), ROOM);
        assert_eq!(claim(&round, 4), [4, 5, 6, 7]);
        round.join(id(7), ROOM);
        assert_eq!(claim(&round, 20), [8, 9, 0, 1, 2, 3, 4, 5, 6]);
        assert!(!round.has_more());
    }

    #[test]
    fn a_sender_gets_the_sgi_that_had_still_to_reach_it() {
        let round = Round::new();
        round.join(id(0), ROOM);
        assert_eq!(claim(&round, 4), [1, 2, 3]);
        round.join(id(7), ROOM);
        // vCPU 7 has still to get the SGI of vCPU 0, and no SGI of its own is owed to it again.
        round.join(id(7), ROOM);
        assert_eq!(claim(&round, 20), [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]);

        round.join(id(3), ROOM);
        round.join(id(3), ROOM);
        assert_eq!(claim(&round, 20), [4, 5, 6, 7, 8, 9, 0, 1, 2]);
    }
}
