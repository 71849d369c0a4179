//! Sets of addresses.

use alloc::vec::Vec;
use core::ops::Range;

use super::layout::PAGE;

/// Set of pages, as sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(Vec<Range<usize>>);

impl Pages {
    /// Adds every page that `range` touches.
    pub(crate) fn add(&mut self, range: &Range<usize>) {
        if range.is_empty() {
            return;
        }
        let mut new = range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE);
        let first = self.0.partition_point(|old| old.end < new.start);
        let last = self.0.partition_point(|old| old.start <= new.end);
        for old in self.0.drain(first..last) {
            new = new.start.min(old.start)..new.end.max(old.end);
        }
        self.0.insert(first, new);
    }

    /// Removes every page that `range` touches.
    pub(crate) fn remove(&mut self, range: &Range<usize>) {
        if range.is_empty() {
            return;
        }
        let gone = range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE);
        let cut = |old: Range<usize>| {
            let below = old.start..old.end.min(gone.start);
            let above = old.start.max(gone.end)..old.end;
            [below, above].into_iter().filter(|part| !part.is_empty())
        };
        self.0 = self.0.drain(..).flat_map(cut).collect();
    }

    /// Returns true if every byte of `range` is in the set.
    pub(crate) fn contains(&self, range: &Range<usize>) -> bool {
        let place = self.0.partition_point(|known| known.end < range.end);
        (self.0.get(place)).is_some_and(|known| known.start <= range.start)
    }

    /// Returns the ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<usize>> {
        self.0.iter()
    }
}
