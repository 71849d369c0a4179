//! Walks over a table in the order of its keys: all at once, or so many steps at a time.
//!
//! A walk sees what was there before it began and is there until it has passed; what comes and goes meanwhile
//! it may see or not.
// UNSAFETY: dereferences values through raw pointers, as its parent does.

use crossbeam_epoch::Guard;

use crate::steps::step;
use crate::sync::Ordering::{Acquire, Relaxed};

use super::{NODE_BITS, Radix, Slot};

/// How far a walk over a table has come: the next key to look at.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Cursor(u64);

impl<T> Radix<T> {
    /// The first key at or above `from` that has a value, with the value.
    #[must_use]
    pub fn next<'g>(&'g self, from: u32, guard: &'g Guard) -> Option<(u32, &'g T)> {
        self.first(from, u64::MAX, guard)
    }

    /// The first key at or above `from` and below `end` that has a value, with the value. Looks at no
    /// more than `end - from` slots, and the nodes that they are in.
    #[must_use]
    pub fn next_below<'g>(&'g self, from: u32, end: u32, guard: &'g Guard) -> Option<(u32, &'g T)> {
        self.first(from, end.into(), guard)
    }

    // What a walk needs is kept out of callers that rarely have one to make.
    #[inline(never)]
    fn first<'g>(&'g self, from: u32, end: u64, guard: &'g Guard) -> Option<(u32, &'g T)> {
        let (mut cursor, mut steps, mut first) = (Cursor(from.into()), u32::MAX, None);
        self.walk_to(end, &mut cursor, &mut steps, guard, |key, value, _| {
            first = Some((key, value));
            false
        });
        first
    }

    /// Calls `visit` with each key from `cursor` on that has a value; true once that was the last one. Takes
    /// one of `steps` for each slot and node on the way, and pauses once none is left, or where `visit` says
    /// with false that it is not done with a key. `visit` may take from the steps too. With one or more to
    /// start with the walk gets on.
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
                    // Past every key below the missing node.
                    cursor.0 = ((cursor.0 >> below) + 1) << below;
                    continue;
                }
            };
            let mut slots = &slots[..slots.len().min((end - cursor.0) as usize)];
            while !slots.is_empty() {
                let most = slots.len().min((*steps).max(1) as usize);
                let empty = slots[..most].iter().take_while(|slot| {
                    step();
                    // Relaxed: what is not null is read again.
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
                    // Acquire: pairs with the AcqRel in `insert` and `replace`.
                    let value = slot.load(Acquire).cast::<T>();
                    // SAFETY: as in `get`.
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

    /// The slots from `key`'s to the last one of its node; where a node on the way is missing, the number of
    /// key bits below its slot.
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

    /// All that a walk finds which takes so many steps at a time.
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
