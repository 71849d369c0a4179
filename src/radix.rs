//! A radix table from a small integer to a pointer: lock-free lookup, epoch-reclaimed nodes.
//!
//! Tables hold the LPIs of a VM, the devices of an ITS and the events of a device. A table does not
//! own its values: the inserter keeps a value allocated until the value is removed and the epoch
//! has passed.
//!
//! # Shape
//! A key has `bits` bits. The root is an array indexed by the top bits and lives as long as the
//! table. Below the root, every level consumes [`NODE_BITS`] bits. A lookup among 65,536 LPIs is
//! two dependent loads. A device with up to 256 events is a flat array. [`walk`] iterates over a
//! table, and [`leaf`] fills a lowest node, a *leaf*, before a table has it.
//!
//! # Life of a node
//! 1. `live` counts a node's non-null slots and the inserters at work in the node.
//! 2. A CPU that takes the count to zero tries to move the count from 0 to [`DEAD`]. On success,
//!    the CPU unlinks the node from its parent and defers the free to the epoch.
//! 3. An inserter that meets a dead node helps to unlink the node and restarts, so no value enters
//!    a node out of reach of readers.
//!
//! # Publication
//! A pointer is put into a slot with Release and read with Acquire: a reader of the pointer sees
//! the initialised node or value behind the pointer. A node that is filled before it is linked is
//! published whole.
//!
//! Changes of `live` and the unlinking of a node are Relaxed read-modify-writes, because they
//! publish nothing:
//! * A CPU counts out only what it has counted in itself, or what it has found in a slot. The count
//!   of a value or a child comes before the Release that fills the slot, and the CPU that empties
//!   the slot acquires the slot before it counts out. So no count is taken back before it is given.
//! * DEAD is final, and a read-modify-write reads the newest count. A CPU that joins a node is
//!   counted until it parts, so the node does not die and stays linked.
//! * The CPU that defers a dead node to the epoch has emptied the slot itself, or has read that
//!   another CPU has. The epoch's fences order either before every reader that enters later, and
//!   the last use of the node by any CPU in the epoch before the free.
#![expect(unsafe_code)]
// UNSAFETY: nodes and values are dereferenced through raw pointers, under epoch guards.

mod leaf;
#[cfg(all(test, not(loom)))]
mod tests;
mod walk;

use alloc::boxed::Box;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crossbeam_epoch::Guard;

use crate::epoch::{Garbage, Piece};
use crate::steps::step;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicPtr, AtomicUsize, Mutant, Watched, mutant, weakened_by};

pub(crate) use walk::Cursor;

/// Number of key bits that a level below the root consumes.
// Two bits under loom: a handful of keys then explores growth, sharing and reclamation of nodes.
const NODE_BITS: u32 = if cfg!(loom) { 2 } else { 8 };
const NODE_SLOTS: usize = 1 << NODE_BITS;

/// Most levels of a table: 32 key bits.
const MAX_LEVELS: usize = 32usize.div_ceil(NODE_BITS as usize);

/// `live` of a node that has been, or is about to be, unlinked.
const DEAD: usize = usize::MAX;

/// A pointer to a node, or, at the lowest level, to a value; null if empty.
type Slot = AtomicPtr<()>;

/// A node of a table, below the root.
struct Node {
    /// Number of non-null slots and of inserters at work in the node, or [`DEAD`].
    live: AtomicUsize,
    slots: [Slot; NODE_SLOTS],
    watched: Watched,
}

impl Piece for Node {}

impl Node {
    /// Creates an empty node, with the caller counted as an inserter.
    fn new() -> Box<Self> {
        Box::new(Self {
            live: AtomicUsize::new(1),
            slots: core::array::from_fn(|_| Slot::new(ptr::null_mut())),
            watched: Watched::default(),
        })
    }

    /// Counts an inserter in. Returns false if the node is dead.
    fn join(&self) -> bool {
        // Relaxed, both: module docs, "Publication".
        self.live
            .fetch_update(Relaxed, Relaxed, |live| {
                (live != DEAD || mutant(Mutant::DeadNodeEntered)).then(|| live.wrapping_add(1))
            })
            .is_ok()
    }

    /// Counts `count` inserters or children out. Returns true to the CPU whose call killed the
    /// node.
    fn part(&self, count: usize) -> bool {
        // Relaxed, every access: module docs, "Publication". If the exchange fails, another CPU has
        // joined, and this CPU does nothing more.
        self.live.fetch_sub(count, Relaxed) == count
            && (mutant(Mutant::NodeDiesUnchecked)
                || self
                    .live
                    .compare_exchange(0, DEAD, Relaxed, Relaxed)
                    .is_ok())
    }
}

/// The nodes passed below the root on the way to a slot, each with its slot in its parent.
struct Path<'g> {
    nodes: [Option<(&'g Node, &'g Slot)>; MAX_LEVELS],
    depth: usize,
}

impl<'g> Path<'g> {
    fn new() -> Self {
        Self {
            nodes: [None; MAX_LEVELS],
            depth: 0,
        }
    }

    fn push(&mut self, node: &'g Node, slot: &'g Slot) {
        self.nodes[self.depth] = Some((node, slot));
        self.depth += 1;
    }

    fn lowest(&self) -> Option<&'g Node> {
        self.nodes[self.depth.checked_sub(1)?].map(|(node, _)| node)
    }

    /// Counts out of every node of the path, from the lowest up.
    ///
    /// The lowest node loses `lowest` counts, and every other node `each`. A node loses another
    /// count if this CPU unlinked the dead child below. Nodes that die are unlinked and deferred to
    /// the epoch.
    fn part(&self, lowest: usize, each: usize, guard: &Guard, garbage: &Garbage) {
        let mut count = lowest;
        for (node, slot) in self.nodes[..self.depth].iter().rev().flatten() {
            let died = count > 0 && node.part(count);
            count = each;
            if died {
                let raw = ptr::from_ref(*node).cast_mut();
                if unlink(slot, raw) || mutant(Mutant::ChildCountedOutTwice) {
                    count += 1;
                }
                if mutant(Mutant::NodeFreedAtOnce) {
                    node.watched.end();
                    continue;
                }
                node.watched.defer();
                // SAFETY: the node came from `Box::into_raw` in `grow`. The node is dead, so no
                // inserter joins, and unlinked, by this CPU or by an inserter that helped, so no
                // new reader finds the node. Only the CPU that moved `live` to DEAD comes here, so
                // the node is freed once.
                unsafe { garbage.leave(raw, guard) };
            }
        }
    }
}

/// Unlinks a dead node from its parent's slot. Returns true to the CPU that unlinked the node.
fn unlink(slot: &Slot, node: *mut Node) -> bool {
    // Relaxed: nothing follows the null, and a CPU that still finds the node cannot join the node.
    // On failure another CPU has unlinked the node.
    slot.compare_exchange(node.cast(), ptr::null_mut(), Relaxed, Relaxed)
        .is_ok()
}

/// A table of pointers to `T` by integer key.
pub struct Radix<T> {
    root: Box<[Slot]>,
    /// Number of key bits that the levels below the root consume; below 32.
    below_root: u32,
    /// Number of levels, the root included.
    levels: u32,
    /// Number of key bits, 0-32.
    bits: u32,
    values: PhantomData<*const T>,
}

// SAFETY: a table on another CPU hands out `&T` there, and removes pointers inserted on any CPU
// there. `T: Send + Sync` allows both.
unsafe impl<T: Send + Sync> Send for Radix<T> {}
// SAFETY: slots and counts are atomic. A shared table hands out `&T` and removes pointers on any
// CPU, and `T: Send + Sync` allows both.
unsafe impl<T: Send + Sync> Sync for Radix<T> {}

impl<T> Radix<T> {
    /// Creates an empty table for keys below `2^bits`, `bits` 0-32. Allocates the root.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.min(32);
        let levels = bits.div_ceil(NODE_BITS).max(1);
        let root_bits = bits - (levels - 1) * NODE_BITS;
        Self {
            root: (0..1_usize << root_bits)
                .map(|_| Slot::new(ptr::null_mut()))
                .collect(),
            below_root: (levels - 1) * NODE_BITS,
            levels,
            bits,
            values: PhantomData,
        }
    }

    /// Returns the number of keys, `2^bits`, saturated at `u32::MAX`.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        1_u32.checked_shl(self.bits).unwrap_or(u32::MAX)
    }

    /// Returns the root's slot for `key`, or `None` if the key is out of range.
    #[inline]
    fn root_slot(&self, key: u32) -> Option<&Slot> {
        self.root.get((key >> (self.below_root & 31)) as usize)
    }

    /// Returns the index of `key` in a node `level` levels above the lowest.
    #[inline]
    fn index(key: u32, level: u32) -> usize {
        Self::index_by(key, level * NODE_BITS)
    }

    /// Returns the index of `key` in a node above `below` key bits; `below` is below 32.
    #[inline]
    fn index_by(key: u32, below: u32) -> usize {
        (key >> (below & 31)) as usize & (NODE_SLOTS - 1)
    }

    /// Returns the slot of `key`, or `None` if a node on the way is missing.
    #[inline]
    fn find<'g>(&'g self, key: u32, guard: &'g Guard) -> Option<&'g Slot> {
        let mut slot = self.root_slot(key)?;
        let mut below = self.below_root;
        while below != 0 {
            below -= NODE_BITS;
            slot = &Self::child(slot, guard)?.slots[Self::index_by(key, below)];
        }
        Some(slot)
    }

    /// Panics in debug builds if `guard` is `crossbeam_epoch::unprotected`, which pins no CPU.
    #[inline]
    fn check_pinned(guard: &Guard) {
        debug_assert!(guard.collector().is_some(), "a lookup outside the epoch");
    }

    /// Returns the node in `slot`, a slot above the lowest level.
    #[inline]
    fn child<'g>(slot: &Slot, _guard: &'g Guard) -> Option<&'g Node> {
        step();
        // Acquire: pairs with the Release in `grow`.
        let node = slot.load(Acquire).cast::<Node>();
        // SAFETY: a slot above the lowest level holds null or a node. A node found while the guard
        // is pinned is freed after the guard is dropped, because `Path::part` defers the free.
        let node = unsafe { node.as_ref() }?;
        node.watched.read();
        Some(node)
    }

    /// Looks up `key`. Takes no lock and writes nothing. Makes two dependent loads for keys of up
    /// to 16 bits.
    #[inline]
    #[must_use]
    pub fn get<'g>(&'g self, key: u32, guard: &'g Guard) -> Option<&'g T> {
        Self::check_pinned(guard);
        // Acquire: pairs with the Release in `insert` and `replace`.
        let value = self.find(key, guard)?.load(Acquire).cast::<T>();
        // SAFETY: the slot held the value while `guard` was pinned. By the contract of `insert`,
        // the value stays allocated until `guard` is dropped.
        unsafe { value.as_ref() }
    }

    /// Returns true if no key has a value. Meaningful while no other CPU changes the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Relaxed: the pointers are compared with null, not followed. A node is unlinked with the
        // last value in the node, so the root alone shows emptiness.
        self.root.iter().all(|slot| slot.load(Relaxed).is_null())
    }

    /// Inserts `value` under `key`. Returns false, changing nothing, if `key` has a value or is out
    /// of range. Allocates missing nodes. A node that loses its last value meanwhile is `garbage`.
    ///
    /// # Safety
    /// `value` stays allocated until the value has been removed or replaced *and* every guard
    /// pinned before the removal has been dropped.
    pub unsafe fn insert(
        &self,
        key: u32,
        value: NonNull<T>,
        guard: &Guard,
        garbage: &Garbage,
    ) -> bool {
        // SAFETY: a slot of the lowest level holds values, and the caller promises the rest.
        unsafe { self.insert_above(0, key, value.as_ptr().cast(), guard, garbage) }
    }

    /// Inserts `child` into the empty slot of `key` in a node `level` levels above the lowest.
    /// Returns false, changing nothing, if the slot is in use, or the key is out of range.
    ///
    /// # Safety
    /// `child` is a value if `level` is 0, and otherwise a node that came from `Box::into_raw`.
    /// Values stay allocated as [`Radix::insert`] says.
    unsafe fn insert_above(
        &self,
        level: u32,
        key: u32,
        child: *mut (),
        guard: &Guard,
        garbage: &Garbage,
    ) -> bool {
        Self::check_pinned(guard);
        'restart: loop {
            let Some(mut slot) = self.root_slot(key) else {
                return false;
            };
            let mut path = Path::new();
            for level in (level..self.levels - 1).rev() {
                let node = match Self::child(slot, guard) {
                    Some(node) if node.join() => node,
                    Some(dead) => {
                        if unlink(slot, ptr::from_ref(dead).cast_mut())
                            && !mutant(Mutant::HelperKeepsCount)
                            && let Some(parent) = path.lowest()
                        {
                            // The child is counted out. The parent cannot die: this CPU is counted
                            // in.
                            parent.part(1);
                        }
                        path.part(1, 1, guard, garbage);
                        continue 'restart;
                    }
                    None => match Self::grow(slot, path.lowest(), guard) {
                        Some(node) => node,
                        None => {
                            path.part(1, 1, guard, garbage);
                            continue 'restart;
                        }
                    },
                };
                path.push(node, slot);
                slot = &node.slots[Self::index(key, level)];
            }

            // Release: publishes the child, and its count; pairs with the Acquire in `get`, in
            // `walk_to`, in `remove` and in `child`. Relaxed on failure: the found child is not
            // followed.
            let order = weakened_by(Mutant::SlotFilledRelaxed, Release);
            let inserted = slot
                .compare_exchange(ptr::null_mut(), child, order, Relaxed)
                .is_ok();
            // This CPU's count in the lowest node of the path stays as the count of the child.
            path.part(usize::from(!inserted), 1, guard, garbage);
            return inserted;
        }
    }

    /// Links a new node into the empty `slot` of `parent`, with the caller counted in the node.
    ///
    /// `parent` is `None` for the root; the caller is counted in any other parent. Returns `None`
    /// if another CPU filled the slot first.
    fn grow<'g>(slot: &Slot, parent: Option<&Node>, _guard: &'g Guard) -> Option<&'g Node> {
        let node = Box::into_raw(Node::new());
        // Before the child can be found, unlinked and counted out.
        if let Some(parent) = parent {
            // Relaxed: this CPU is counted in, so the count is neither 0 nor DEAD, and the
            // increment orders nothing.
            parent.live.fetch_add(1, Relaxed);
        }

        // Release: publishes the node's slots, and its count in the parent; pairs with the Acquire
        // in `child`. Relaxed on failure: the caller restarts.
        let grown = slot.compare_exchange(ptr::null_mut(), node.cast(), Release, Relaxed);
        if grown.is_err() {
            if let Some(parent) = parent
                && !mutant(Mutant::FailedGrowthKeepsCount)
            {
                parent.part(1);
            }
            // SAFETY: the node came from `Box::into_raw` above and was not published, so this CPU
            // alone has the pointer.
            drop(unsafe { Box::from_raw(node) });
            return None;
        }

        // SAFETY: the node has just been published. This CPU is counted in, so the node does not
        // die before this CPU parts, and the guard defers the free after that.
        Some(unsafe { &*node })
    }

    /// Replaces `old` by `new` under `key`. Returns false, changing nothing, if `key` does not hold
    /// `old`.
    ///
    /// # Safety
    /// `new` stays allocated until the value has been removed or replaced *and* every guard pinned
    /// before the removal has been dropped.
    pub unsafe fn replace(&self, key: u32, old: &T, new: NonNull<T>, guard: &Guard) -> bool {
        Self::check_pinned(guard);
        let old = ptr::from_ref(old).cast_mut().cast();
        self.find(key, guard).is_some_and(|slot| {
            // Release: publishes the value; pairs with the Acquire in `get`, in `walk_to` and in
            // `remove`. Relaxed on failure: the found value is not followed.
            slot.compare_exchange(old, new.as_ptr().cast(), Release, Relaxed)
                .is_ok()
        })
    }

    /// Removes `expected` from `key`. Returns the inserted pointer to the caller that emptied the
    /// slot, and `None`, changing nothing, if `key` does not hold `expected`.
    ///
    /// The caller that gets the pointer may free the value after the epoch. A node that loses its
    /// last value is `garbage`.
    pub fn remove(
        &self,
        key: u32,
        expected: &T,
        guard: &Guard,
        garbage: &Garbage,
    ) -> Option<NonNull<T>> {
        Self::check_pinned(guard);
        let mut slot = self.root_slot(key)?;
        let mut path = Path::new();
        for level in (0..self.levels - 1).rev() {
            let node = Self::child(slot, guard)?;
            path.push(node, slot);
            slot = &node.slots[Self::index(key, level)];
        }

        let expected = ptr::from_ref(expected).cast_mut().cast();
        // Acquire: pairs with the Release in `insert` and `replace`, so that the value is counted
        // in before it is counted out, and complete before it is freed. Relaxed on failure: the
        // found value is not followed.
        let removed = if mutant(Mutant::ReleaserErasesSuccessor) {
            slot.swap(ptr::null_mut(), Acquire)
        } else {
            slot.compare_exchange(expected, ptr::null_mut(), Acquire, Relaxed)
                .ok()?
        };

        path.part(1, 0, guard, garbage);
        NonNull::new(removed.cast())
    }
}

impl<T> fmt::Debug for Radix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Radix")
            .field("bits", &self.bits)
            .finish_non_exhaustive()
    }
}

impl<T> Drop for Radix<T> {
    /// Frees the nodes. The table does not own its values and leaves the values alone.
    fn drop(&mut self) {
        fn free(slot: &Slot, levels_below: u32) {
            if levels_below == 0 {
                return;
            }
            // Relaxed: a drop has exclusive access to the table.
            let node = slot.load(Relaxed).cast::<Node>();
            if node.is_null() {
                return;
            }

            // SAFETY: the node came from `Box::into_raw` in `grow` and is linked, so the epoch does
            // not free the node. A drop has exclusive access to the table.
            let node = unsafe { Box::from_raw(node) };
            for slot in &node.slots {
                free(slot, levels_below - 1);
            }
        }

        for slot in &self.root {
            free(slot, self.levels - 1);
        }
    }
}
