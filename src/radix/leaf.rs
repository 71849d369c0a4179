//! Many values at once: a lowest node, a *leaf*, is filled first, and then linked.
//!
//! No CPU finds a node that is not linked, so plain stores fill it. The compare-and-swap that links
//! the leaf publishes all its values.
// UNSAFETY: links nodes by raw pointers.

use alloc::boxed::Box;
use core::iter::Peekable;
use core::ptr::NonNull;

use crossbeam_epoch::Guard;

use crate::epoch::Garbage;
use crate::sync::Ordering::Relaxed;

use super::{NODE_BITS, Node, Radix, Slot};

impl<T> Radix<T> {
    /// Returns true if two keys are of the same leaf.
    pub fn share_a_leaf(one: u32, other: u32) -> bool {
        one >> NODE_BITS == other >> NODE_BITS
    }

    /// Creates a table with `values`, whose keys rise and are below `2^bits`, `bits` 0-32.
    /// Allocates the root and the nodes.
    ///
    /// # Safety
    /// As for [`Radix::insert`], for each value.
    pub unsafe fn filled(
        bits: u32,
        values: impl Iterator<Item = (u32, NonNull<T>)>,
        guard: &Guard,
        garbage: &Garbage,
    ) -> Self {
        let (table, mut values) = (Self::new(bits), values.peekable());
        if table.levels == 1 {
            Self::fill(&table.root, &mut values);
        }
        // SAFETY: the caller promises that the values stay allocated.
        while unsafe { table.insert_leaf(&mut values, guard, garbage) } {}
        debug_assert!(
            values.peek().is_none(),
            "a key is out of order, or of range"
        );
        table
    }

    /// Inserts the next of `values`, whose keys rise, as far as they are of one leaf, all at once:
    /// links a new leaf. Returns false, with the table unchanged, if no value is left, or if the
    /// table has the leaf already. A table without nodes always has.
    ///
    /// # Safety
    /// As for [`Radix::insert`], for each value.
    pub unsafe fn insert_leaf<I: Iterator<Item = (u32, NonNull<T>)>>(
        &self,
        values: &mut Peekable<I>,
        guard: &Guard,
        garbage: &Garbage,
    ) -> bool {
        let Some(&(key, _)) = values.peek() else {
            return false;
        };
        // `find` needs no node for a slot of the root.
        if self.find(key, guard).is_some() {
            return false;
        }

        let leaf = Node::new();
        let count = Self::fill(&leaf.slots, values);
        // Relaxed: `insert_above` publishes the leaf.
        leaf.live.store(count, Relaxed);
        let leaf = Box::into_raw(leaf);
        // SAFETY: the node comes from `Box::into_raw`, and its values stay allocated by the
        // caller's promise.
        let linked = unsafe { self.insert_above(1, key, leaf.cast(), guard, garbage) };
        if !linked {
            // SAFETY: the node came from `Box::into_raw` above and was not published, so this CPU
            // alone has the pointer.
            drop(unsafe { Box::from_raw(leaf) });
        }
        linked
    }

    /// Fills slots of a leaf, which no other CPU has found yet, with the next of `values`, as far
    /// as they are of that leaf. Returns their number.
    fn fill<I>(slots: &[Slot], values: &mut Peekable<I>) -> usize
    where
        I: Iterator<Item = (u32, NonNull<T>)>,
    {
        let mut count = 0;
        let Some(&(first, _)) = values.peek() else {
            return count;
        };
        while let Some((key, value)) = values.next_if(|(key, _)| Self::share_a_leaf(first, *key)) {
            // Relaxed: the table, or `insert_leaf`, publishes the slots.
            slots[Self::index(key, 0)].store(value.as_ptr().cast(), Relaxed);
            count += 1;
        }
        count
    }
}
