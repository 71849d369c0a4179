//! Walks over a table in the order of the keys, in one pass or in slices of a number of steps.
//!
//! A walk sees every value that is in the table from the beginning of the walk until the walk has
//! passed the key. A walk may or may not see a value inserted or removed meanwhile.
// UNSAFETY: values are dereferenced through raw pointers, under epoch guards.

use crossbeam_epoch::Guard;

use crate::steps::step;
use crate::sync::Ordering::{Acquire, Relaxed};

use super::{NODE_BITS, Radix, Slot};

/// Position of a walk over a table: the next key to visit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cursor(u64);

impl<T> Radix<T> {
    /// Returns the first key at or above `from` that has a value, with the value.
    #[must_use]
    pub fn next<'g>(&'g self, from: u32, guard: &'g Guard) -> Option<(u32, &'g T)> {
        self.first(from, u64::MAX, guard)
    }

    /// Returns the first key at or above `from` and below `end` that has a value, with the value.
    ///
    /// Reads at most `end - from` slots, and the nodes above the slots.
    #[must_use]
    pub fn next_below<'g>(&'g self, from: u32, end: u32, guard: &'g Guard) -> Option<(u32, &'g T)> {
        self.first(from, end.into(), guard)
    }

    /// Returns the first key at or above `from` and below `end` that has a value, with the value.
    fn first<'g>(&'g self, from: u32, end: u64, guard: &'g Guard) -> Option<(u32, &'g T)> {
        let (mut cursor, mut steps, mut first) = (Cursor(from.into()), u32::MAX, None);
        self.walk_to(end, &mut cursor, &mut steps, guard, |key, value, _| {
            first = Some((key, value));
            false
        });
        first
    }

    /// Calls `visit` with each key from `cursor` on that has a value. Returns true at the end of
    /// the table, and false if the walk paused at `cursor`.
    ///
    /// Subtracts 1 from `steps` for each slot and node on the way; `visit` may subtract more. The
    /// walk pauses when `steps` is 0, or when `visit` returns false: the walk then resumes at the
    /// same key. A walk that starts with at least 1 step makes progress.
    #[inline]
    pub fn walk<'g>(
        &'g self,
        cursor: &mut Cursor,
        steps: &mut u32,
        guard: &'g Guard,
        visit: impl FnMut(u32, &'g T, &mut u32) -> bool,
    ) -> bool {
        self.walk_to(u64::MAX, cursor, steps, guard, visit)
    }

    /// Walks like [`Radix::walk`], over keys below `end` only.
    #[inline]
    fn walk_to<'g>(
        &'g self,
        end: u64,
        cursor: &mut Cursor,
        steps: &mut u32,
        guard: &'g Guard,
        mut visit: impl FnMut(u32, &'g T, &mut u32) -> bool,
    ) -> bool {
        Self::check_pinned(guard);
        let end = end.min(1 << self.bits);
        while cursor.0 < end {
            if *steps == 0 {
                return false;
            }

            *steps = steps.saturating_sub(self.levels - 1);
            let slots = match self.slots_from(cursor.0 as u32, guard) {
                Ok(slots) => slots,
                Err(below) => {
                    // Skips every key below the missing node.
                    cursor.0 = ((cursor.0 >> below) + 1) << below;
                    continue;
                }
            };

            let mut slots = &slots[..slots.len().min((end - cursor.0) as usize)];
            while !slots.is_empty() {
                let most = slots.len().min((*steps).max(1) as usize);
                let empty = slots[..most].iter().take_while(|slot| {
                    step();
                    // Relaxed: the pointer is compared with null. A pointer that is not null is
                    // loaded again with Acquire, below.
                    slot.load(Relaxed).is_null()
                });
                let passed = empty.count();
                *steps = steps.saturating_sub(passed as u32);
                cursor.0 += passed as u64;
                slots = &slots[passed..];

                if passed < most
                    && let Some((slot, rest)) = slots.split_first()
                {
                    *steps = steps.saturating_sub(1);
                    // Acquire: pairs with the Release in `insert` and `replace`.
                    let value = slot.load(Acquire).cast::<T>();
                    // SAFETY: the slot held the value while `guard` was pinned. By the contract of
                    // `insert`, the value stays allocated until `guard` is dropped.
                    if let Some(value) = unsafe { value.as_ref() }
                        && !visit(cursor.0 as u32, value, steps)
                    {
                        return false;
                    }
                    cursor.0 += 1;
                    slots = rest;
                }

                if *steps == 0 {
                    return false;
                }
            }
        }

        true
    }

    /// Returns the slots from the slot of `key` to the last slot of the node.
    ///
    /// # Errors
    /// The number of key bits below the slot of a missing node.
    fn slots_from<'g>(&'g self, key: u32, guard: &'g Guard) -> Result<&'g [Slot], u32> {
        let shift = (self.levels - 1) * NODE_BITS;
        let mut slots = self
            .root
            .get(key.checked_shr(shift).unwrap_or(0) as usize..)
            .unwrap_or_default();
        for level in (0..self.levels - 1).rev() {
            let below = (level + 1) * NODE_BITS;
            let slot = slots.first().ok_or(below)?;
            let node = Self::child(slot, guard).ok_or(below)?;
            slots = &node.slots[Self::index(key, level)..];
        }

        Ok(slots)
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Returns the keys and values that a walk in slices of `at_once` steps finds.
    pub(in crate::radix) fn walk<'g>(
        table: &'g Radix<u32>,
        at_once: u32,
        guard: &'g Guard,
    ) -> Vec<(u32, &'g u32)> {
        let (mut cursor, mut found) = (Cursor::default(), Vec::new());
        loop {
            let (before, mut steps) = (cursor, at_once);
            let taken = crate::steps::steps();
            let all = table.walk(&mut cursor, &mut steps, guard, |key, value, _| {
                found.push((key, value));
                true
            });
            let taken = crate::steps::steps() - taken;
            assert!(taken <= u64::from(at_once + table.levels), "{taken} steps");
            if all {
                return found;
            }
            assert!(cursor != before, "it does not get on");
        }
    }
}
