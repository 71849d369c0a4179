//! A radix table from a small integer to a pointer: lock-free lookup, epoch-reclaimed nodes.
//!
//! It holds the LPIs of a VM, the devices of an ITS and the events of a device. The table does not own
//! what it points to; whoever inserts keeps it alive until it is removed and the epoch has passed.
//!
//! # Shape
//! A key has `bits` bits. The root is an array indexed by the top bits and lives as long as the table.
//! Below it, every level consumes [`NODE_BITS`] bits. 65,536 LPIs are two dependent loads away; a device
//! with up to 256 events is a flat array. [`walk`] is about going through all of it.
//!
//! # Life of a node
//! A node counts in `live` its non-null slots and the inserters at work in it. Whoever takes the count
//! to zero tries to move it from 0 to [`DEAD`]; the winner unlinks the node from its parent and defers
//! the free to the epoch. An inserter that meets a dead node helps to unlink it and starts again, so no
//! value is ever put into a node that readers can no longer reach.
//!
//! # Publication
//! A slot is written with Release (or stronger) and read with Acquire: a reader that sees a pointer sees
//! what it points to initialised.
#![expect(unsafe_code)]
// UNSAFETY: dereferences nodes and values through raw pointers, protected by epoch guards.

mod walk;

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crossbeam_epoch::{Guard, Shared};

use crate::steps::step;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::{AtomicPtr, AtomicUsize, Mutant, Watched, mutant, relaxed_by};

pub use walk::Cursor;

/// Key bits that one level below the root consumes.
// Two, so that loom sees growth, sharing and reclamation of nodes with a handful of keys.
pub const NODE_BITS: u32 = if cfg!(loom) { 2 } else { 8 };
const NODE_SLOTS: usize = 1 << NODE_BITS;

/// Most levels of a table: 32 key bits.
const MAX_LEVELS: usize = 32usize.div_ceil(NODE_BITS as usize);

/// The count of a node that has been, or is about to be, unlinked.
const DEAD: usize = usize::MAX;

type Slot = AtomicPtr<()>;

struct Node {
    live: AtomicUsize,
    slots: [Slot; NODE_SLOTS],
    watched: Watched,
}

impl Node {
    /// An empty node in which the caller is at work.
    fn new() -> Box<Self> {
        Box::new(Self {
            live: AtomicUsize::new(1),
            slots: core::array::from_fn(|_| Slot::new(ptr::null_mut())),
            watched: Watched::default(),
        })
    }

    /// Announces an inserter, or a child; fails when the node is dead.
    fn join(&self) -> bool {
        // AcqRel/Acquire: the count orders nothing by itself, but entering must not be seen before
        // an earlier leave: pairs with `part`.
        self.live
            .fetch_update(AcqRel, Acquire, |live| {
                (live != DEAD || mutant(Mutant::DeadNodeEntered)).then(|| live.wrapping_add(1))
            })
            .is_ok()
    }

    /// Takes back `count` entries or children; true for the one CPU whose leave killed the node.
    fn part(&self, count: usize) -> bool {
        // AcqRel: all that was done inside happens before the node's death: pairs with the other leaves,
        // and with `join`.
        self.live.fetch_sub(count, AcqRel) == count
            && (mutant(Mutant::NodeDiesUnchecked)
                || self.live.compare_exchange(0, DEAD, AcqRel, Relaxed).is_ok())
    }
}

/// The way down to a slot: the nodes passed below the root, each with its slot in its parent.
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

    /// Walks up. The lowest node loses `lowest` counts, every other `each`, and one more where the
    /// child below it died; nodes that die of it are unlinked and freed after the epoch.
    fn part(&self, lowest: usize, each: usize, guard: &Guard) {
        let mut follow_up = lowest;
        for (node, slot) in self.nodes[..self.depth].iter().rev().flatten() {
            let died = follow_up > 0 && node.part(follow_up);
            follow_up = each;
            if died {
                let raw = ptr::from_ref(*node).cast_mut();
                if unlink(slot, raw) {
                    follow_up += 1;
                }
                if mutant(Mutant::NodeFreedAtOnce) {
                    node.watched.end();
                    continue;
                }
                node.watched.defer();
                // SAFETY: a dead node gets no new values; it is unlinked, by us or by an inserter
                // that helped; and only the CPU that moved it to DEAD comes here.
                unsafe { guard.defer_destroy(Shared::from(raw.cast_const())) };
            }
        }
    }
}

/// Unlinks a dead node from its parent's slot; true for the one CPU that did.
fn unlink(slot: &Slot, node: *mut Node) -> bool {
    // AcqRel: pairs with the Acquire in `child` and `grow`: who sees the null also sees the node dead.
    slot.compare_exchange(node.cast(), ptr::null_mut(), AcqRel, Relaxed)
        .is_ok()
}

/// A table of pointers to `T` by integer key.
pub struct Radix<T> {
    root: Box<[Slot]>,
    /// Key bits that the levels below the root consume; below 32.
    below_root: u32,
    levels: u32,
    bits: u32,
    values: PhantomData<*const T>,
}

// SAFETY: the table hands out `&T` to any CPU and stores pointers that came from any CPU.
unsafe impl<T: Send + Sync> Send for Radix<T> {}
// SAFETY: as above; all shared state is atomic.
unsafe impl<T: Send + Sync> Sync for Radix<T> {}

impl<T> Radix<T> {
    /// An empty table for keys below `2^bits`; `bits` 0-32. Allocates the root.
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

    /// One past the largest key, saturated at `u32::MAX`.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        1_u32.checked_shl(self.bits).unwrap_or(u32::MAX)
    }

    #[inline]
    fn root_slot(&self, key: u32) -> Option<&Slot> {
        self.root.get((key >> (self.below_root & 31)) as usize)
    }

    /// The index into a node at `level` levels above the values.
    #[inline]
    fn index(key: u32, level: u32) -> usize {
        Self::index_by(key, level * NODE_BITS)
    }

    /// The index into a node above `below` key bits; below 32.
    #[inline]
    fn index_by(key: u32, below: u32) -> usize {
        (key >> (below & 31)) as usize & (NODE_SLOTS - 1)
    }

    /// The slot of `key` if every node on its way exists.
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

    /// Panics in debug builds unless `guard` pins a CPU: `crossbeam_epoch::unprotected` does not.
    #[inline]
    fn check_pinned(guard: &Guard) {
        debug_assert!(guard.collector().is_some(), "a lookup outside the epoch");
    }

    #[inline]
    fn child<'g>(slot: &Slot, _guard: &'g Guard) -> Option<&'g Node> {
        step();
        // Acquire: pairs with the AcqRel in `insert`.
        let node = slot.load(Acquire).cast::<Node>();
        // SAFETY: slots above the lowest level hold null or a node, and a node that was reachable
        // after the guard was pinned is not freed while it is.
        let node = unsafe { node.as_ref() }?;
        node.watched.read();
        Some(node)
    }

    /// Looks up `key`. Two dependent loads for keys of up to 16 bits; takes no lock, writes nothing.
    #[inline]
    #[must_use]
    pub fn get<'g>(&'g self, key: u32, guard: &'g Guard) -> Option<&'g T> {
        Self::check_pinned(guard);
        // Acquire: pairs with the AcqRel in `insert` and `replace`.
        let value = self.find(key, guard)?.load(Acquire).cast::<T>();
        // SAFETY: by the contract of `insert`, what is reachable while the guard is pinned stays
        // allocated as long as it is.
        unsafe { value.as_ref() }
    }

    /// Whether no key has a value, as far as no other CPU changes that.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Relaxed: the answer is of now. A node goes with the last value in it.
        self.root.iter().all(|slot| slot.load(Relaxed).is_null())
    }

    /// Puts `value` where `key` has none. Fails with what stands there, or with `None` when `key` is
    /// out of range. Allocates the nodes that are missing on the way.
    ///
    /// # Safety
    /// `value` stays allocated until it has been removed or replaced *and* every guard pinned before
    /// that has been dropped.
    pub unsafe fn insert<'g>(
        &'g self,
        key: u32,
        value: NonNull<T>,
        guard: &'g Guard,
    ) -> Result<(), Option<&'g T>> {
        Self::check_pinned(guard);
        'restart: loop {
            let mut slot = self.root_slot(key).ok_or(None)?;
            let mut path = Path::new();
            for level in (0..self.levels - 1).rev() {
                let node = match Self::child(slot, guard) {
                    Some(node) if node.join() => node,
                    Some(dead) => {
                        if unlink(slot, ptr::from_ref(dead).cast_mut())
                            && let Some(parent) = path.lowest()
                        {
                            // One child less; it cannot die of it while we are inside.
                            parent.part(1);
                        }
                        path.part(1, 1, guard);
                        continue 'restart;
                    }
                    None => match Self::grow(slot, path.lowest(), guard) {
                        Some(node) => node,
                        None => {
                            path.part(1, 1, guard);
                            continue 'restart;
                        }
                    },
                };
                path.push(node, slot);
                slot = &node.slots[Self::index(key, level)];
            }
            // AcqRel: publishes the value; pairs with the Acquire in `get`.
            let order = relaxed_by(Mutant::SlotFilledRelaxed, AcqRel);
            return match slot.compare_exchange(
                ptr::null_mut(),
                value.as_ptr().cast(),
                order,
                Acquire,
            ) {
                Ok(_) => {
                    // Our entry into the lowest node stays, as the count of the value.
                    path.part(0, 1, guard);
                    Ok(())
                }
                Err(found) => {
                    path.part(1, 1, guard);
                    // SAFETY: as in `get`.
                    Err(unsafe { found.cast::<T>().as_ref() })
                }
            };
        }
    }

    /// Hangs a new node, entered by the caller, into an empty slot of `parent` (which the caller has
    /// entered; `None` for the root). `None` if another CPU was faster.
    fn grow<'g>(slot: &Slot, parent: Option<&Node>, _guard: &'g Guard) -> Option<&'g Node> {
        let node = Box::into_raw(Node::new());
        if let Some(parent) = parent {
            // Relaxed: we are inside, so the count is neither 0 nor DEAD and orders nothing.
            parent.live.fetch_add(1, Relaxed);
        }
        // AcqRel: publishes the node's slots; pairs with the Acquire in `child`.
        let grown = slot.compare_exchange(ptr::null_mut(), node.cast(), AcqRel, Relaxed);
        if grown.is_err() {
            if let Some(parent) = parent {
                parent.part(1);
            }
            // SAFETY: the node was not published; it is ours alone.
            drop(unsafe { Box::from_raw(node) });
            return None;
        }
        // SAFETY: just published, and entered by us, so it is not freed before we leave it.
        Some(unsafe { &*node })
    }

    /// Puts `new` in the place of `old`; false if `key` does not hold `old`.
    ///
    /// # Safety
    /// As for [`Radix::insert`].
    pub unsafe fn replace(&self, key: u32, old: &T, new: NonNull<T>, guard: &Guard) -> bool {
        Self::check_pinned(guard);
        let old = ptr::from_ref(old).cast_mut().cast();
        self.find(key, guard).is_some_and(|slot| {
            // AcqRel: publishes the value; pairs with the Acquire in `get`.
            slot.compare_exchange(old, new.as_ptr().cast(), AcqRel, Relaxed)
                .is_ok()
        })
    }

    /// Empties the slot of `key` if it holds `expected`, and returns the pointer that was inserted to
    /// the one caller that did. That caller may free the value after the epoch.
    pub fn remove(&self, key: u32, expected: &T, guard: &Guard) -> Option<NonNull<T>> {
        Self::check_pinned(guard);
        let mut slot = self.root_slot(key)?;
        let mut path = Path::new();
        for level in (0..self.levels - 1).rev() {
            let node = Self::child(slot, guard)?;
            path.push(node, slot);
            slot = &node.slots[Self::index(key, level)];
        }
        let expected = ptr::from_ref(expected).cast_mut().cast();
        // AcqRel: pairs with `insert` and `replace`: whatever was done to the value happens before it is
        // freed.
        let removed = if mutant(Mutant::ReleaserErasesSuccessor) {
            slot.swap(ptr::null_mut(), AcqRel)
        } else {
            slot.compare_exchange(expected, ptr::null_mut(), AcqRel, Relaxed)
                .ok()?
        };
        path.part(1, 0, guard);
        NonNull::new(removed.cast())
    }
}

impl<T> Drop for Radix<T> {
    /// Frees the nodes. The values are not the table's and are left alone.
    fn drop(&mut self) {
        fn free(slot: &Slot, levels_below: u32) {
            if levels_below == 0 {
                return;
            }
            // Relaxed: exclusive access.
            let node = slot.load(Relaxed).cast::<Node>();
            if node.is_null() {
                return;
            }
            // SAFETY: exclusive access to the table, so its nodes are ours.
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use crossbeam_epoch::Collector;

    fn leak(value: u32) -> &'static u32 {
        Box::leak(Box::new(value))
    }

    fn insert(table: &Radix<u32>, key: u32, value: &'static u32, guard: &Guard) -> bool {
        // SAFETY: the value is never freed.
        unsafe { table.insert(key, NonNull::from(value), guard) }.is_ok()
    }

    #[test]
    fn behaves_like_a_map_at_every_depth() {
        let (every_depth, rounds): (&[u32], _) = if cfg!(miri) {
            (&[5, 17], 30)
        } else {
            (&[0, 1, 5, 8, 9, 16, 17, 32], 2000)
        };
        for &bits in every_depth {
            let collector = Collector::new();
            let handle = collector.register();
            let guard = handle.pin();
            let table = Radix::new(bits);
            let mask = table.capacity() - 1;
            let mut map = BTreeMap::new();
            let mut random = 0x1234_5678_u32;
            for _ in 0..rounds {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let key = (random >> 3) & mask & 0x8003_03ff;
                if random.is_multiple_of(3) {
                    if let Some(value) = map.remove(&key) {
                        let removed = table.remove(key, value, &guard);
                        assert_eq!(removed, Some(NonNull::from(value)));
                        assert_eq!(table.remove(key, value, &guard), None);
                    }
                } else {
                    let value = leak(random);
                    let fresh = insert(&table, key, value, &guard);
                    assert_eq!(fresh, !map.contains_key(&key));
                    map.entry(key).or_insert(value);
                }
                assert_eq!(table.get(key, &guard), map.get(&key).copied());
                let from = random & mask;
                let expected = map.range(from..).next().map(|(key, value)| (*key, *value));
                assert_eq!(table.next(from, &guard), expected);
            }
            for steps in [1, 3, 100] {
                let walked = walk::tests::walk(&table, steps, &guard);
                assert!(walked.into_iter().eq(map.iter().map(|(k, v)| (*k, *v))));
            }
            let last = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
            let value = leak(last);
            if insert(&table, last, value, &guard) {
                assert_eq!(
                    walk::tests::walk(&table, 100, &guard).last(),
                    Some(&(last, value))
                );
                assert!(table.remove(last, value, &guard).is_some());
            }
            assert!(bits == 32 || !insert(&table, mask + 1, leak(0), &guard));
            for (key, value) in map {
                assert!(table.remove(key, value, &guard).is_some());
            }
            assert!(table.is_empty(), "a node is left");
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a lookup outside the epoch")]
    fn a_lookup_needs_the_epoch() {
        // SAFETY: the table is not shared.
        let nobody = unsafe { crossbeam_epoch::unprotected() };
        let _ = Radix::<u32>::new(9).get(0, nobody);
    }

    #[test]
    fn nodes_come_and_go_under_readers() {
        let collector = Collector::new();
        let table = Radix::<u32>::new(16);
        std::thread::scope(|scope| {
            for thread in 0..3_u32 {
                let (table, collector) = (&table, &collector);
                scope.spawn(move || {
                    let handle = collector.register();
                    let value = leak(thread);
                    for round in 0..if cfg!(miri) { 10 } else { 20_000 } {
                        let guard = handle.pin();
                        let key = round % 3 * 256 + thread;
                        assert!(insert(table, key, value, &guard));
                        assert_eq!(table.get(key, &guard), Some(value));
                        assert!(table.remove(key, value, &guard).is_some());
                    }
                });
            }
        });
        assert!(table.is_empty());
    }
}
