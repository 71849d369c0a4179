//! Marks of the CPUs where entities wait that another CPU may take: a bit for each CPU.
//!
//! A CPU without work looks for an entity here, and not at the queues of the other CPUs. The look
//! is at one word, or at two if there are more CPUs than a word has bits.
//!
//! # Who may touch what, and when
//! The mark of a CPU is changed under the lock of that CPU's queue, and read without the lock.
//!
//! A mark is set when an entity that may move is queued on a CPU that is not about to pick that
//! entity. The mark is cleared by a thief, or a CPU that looks for work, that finds no such entity
//! left there. The CPU itself leaves its mark alone when its queue runs empty: a word that all CPUs
//! read is then written as rarely as entities are stolen.

use alloc::boxed::Box;

use crate::Here;
use crate::queue::Queue;
use crate::sync::{AtomicU64, Mutant, Ordering, mutant};

/// CPUs whose marks a word has.
const GROUP: usize = u64::BITS as usize;

/// CPUs that a CPU without work tries to take an entity from.
const TRIES: usize = 8;

/// Marks of a group of CPUs, in cache lines that nothing else writes.
#[repr(align(128))]
struct Group(AtomicU64);

/// Marks of all CPUs.
pub(crate) struct Marks(Box<[Group]>);

impl Marks {
    /// Returns the marks of `cpus` CPUs, none of which is set.
    pub(crate) fn new(cpus: usize) -> Self {
        let groups = 0..cpus.div_ceil(GROUP);
        Self(groups.map(|_| Group(AtomicU64::new(0))).collect())
    }

    /// Sets the mark of a CPU, if `queue`, which is the CPU's and is locked, has an entity for
    /// others.
    pub(crate) fn note(&self, cpu: usize, queue: &Queue) {
        // Relaxed: a hint. A CPU that acts on a mark takes the queue's lock, and the lock orders
        // the changes of the mark.
        if queue.has_surplus() && self.group(cpu).load(Ordering::Relaxed) & bit(cpu) == 0 {
            self.group(cpu).fetch_or(bit(cpu), Ordering::Relaxed);
        }
    }

    /// Clears the mark of a CPU, if `queue`, which is the CPU's and is locked, has no entity that
    /// may move.
    pub(crate) fn settle(&self, cpu: usize, queue: &Queue) {
        if !queue.has_movable() && !mutant(Mutant::MarkClearedUnlocked) {
            self.clear(cpu);
        }
    }

    /// Clears the mark of a CPU.
    pub(crate) fn clear(&self, cpu: usize) {
        // Relaxed: the queue's lock orders the changes of the mark.
        self.group(cpu).fetch_and(!bit(cpu), Ordering::Relaxed);
    }

    /// Returns the marks of the group of a CPU.
    fn group(&self, cpu: usize) -> &AtomicU64 {
        &self.0[cpu / GROUP].0
    }

    /// Returns the CPUs of a group whose marks are set, those after the CPU `home` first.
    fn marked(&self, group: usize, home: usize) -> impl Iterator<Item = usize> {
        let first = (home + 1) % GROUP;
        // Relaxed: a hint. A CPU that acts on a mark takes the queue's lock.
        let marks = self.0[group].0.load(Ordering::Relaxed);
        let mut left = marks.rotate_right(first as u32);
        core::iter::from_fn(move || {
            let next = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(group * GROUP + (first + next) % GROUP)
        })
    }
}

impl Here<'_> {
    /// Returns CPUs to take an entity from: marked ones of this CPU's group, and of another group
    /// each time.
    pub(crate) fn victims(&self) -> impl Iterator<Item = usize> {
        let (marks, index) = (&self.scheduler.marks, self.index);
        let (own, groups) = (index / GROUP, marks.0.len());
        let far = (groups > 1).then(|| {
            let step = 1 + self.cpu().rotor.next() % (groups - 1);
            (own + step) % groups
        });
        let near = marks.marked(own, index);
        let far = far
            .into_iter()
            .flat_map(move |far| marks.marked(far, index));
        near.chain(far).filter(move |&cpu| cpu != index).take(TRIES)
    }
}

/// Returns the mark of a CPU in the word of its group.
fn bit(cpu: usize) -> u64 {
    1 << (cpu % GROUP)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn marked_cpus_come_in_the_order_of_the_distance() {
        let marks = Marks::new(3 * GROUP);
        for cpu in [GROUP, GROUP + 5, 2 * GROUP - 1, 2 * GROUP] {
            marks.group(cpu).fetch_or(bit(cpu), Ordering::Relaxed);
        }
        let found = |group, home| marks.marked(group, home).collect::<alloc::vec::Vec<_>>();
        assert_eq!(found(1, GROUP + 4), [GROUP + 5, 2 * GROUP - 1, GROUP]);
        assert_eq!(found(1, 2 * GROUP - 1), [GROUP, GROUP + 5, 2 * GROUP - 1]);
        assert_eq!(found(2, 0), [2 * GROUP]);
        assert!(found(0, 0).is_empty());
        marks.clear(GROUP + 5);
        assert_eq!(found(1, GROUP), [2 * GROUP - 1, GROUP]);
    }
}
