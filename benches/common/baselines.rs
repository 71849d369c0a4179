//! How others look an interrupt up by its INTID, behind one interface.
//!
//! Each holds objects with a reference count: a lookup takes a reference and gives it back, as a hypervisor
//! does that has no epoch to stand in for it.
#![expect(unsafe_code)]
// UNSAFETY: shares objects by pointer between threads that the epoch, or a lock, keeps apart.

use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::ArcSwapOption;
use crossbeam_epoch::{Collector, LocalHandle};
use vgic::radix::Radix;

/// What is looked up: one line, like the library's interrupts.
#[repr(align(64))]
pub(crate) struct Object {
    pub(crate) state: AtomicU64,
    references: AtomicU64,
}

impl Object {
    pub(crate) fn new(key: u32) -> Self {
        Self {
            state: AtomicU64::new(key.into()),
            references: AtomicU64::new(1),
        }
    }

    /// Increment if not zero.
    fn get(&self) -> bool {
        self.references
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |count| {
                (count != 0).then(|| count + 1)
            })
            .is_ok()
    }

    fn put(&self) {
        self.references.fetch_sub(1, Ordering::Release);
    }
}

/// A table of objects.
pub(crate) trait Table: Sync {
    /// What a thread needs to look up.
    type Local;
    /// Name in the results.
    const NAME: &'static str;
    /// Filled with keys from 0 on.
    fn filled(count: u32) -> Self;
    /// For the thread that calls.
    fn local(&self) -> Self::Local;
    /// Takes a reference, reads the object, gives the reference back.
    fn owned(&self, local: &Self::Local, key: u32) -> Option<u64>;
}

/// This library's.
pub(crate) struct Ours {
    radix: Radix<Object>,
    collector: Collector,
    objects: Vec<NonNull<Object>>,
}

// SAFETY: the objects are shared, and freed when the table is dropped.

unsafe impl Sync for Ours {}

impl Ours {
    /// Looks up under a guard, without a reference.
    #[inline]
    pub(crate) fn borrowed(&self, local: &LocalHandle, key: u32) -> Option<u64> {
        let guard = local.pin();
        Some(self.radix.get(key, &guard)?.state.load(Ordering::Relaxed))
    }

    /// The same by a thread that is pinned already, as the library's callers are.
    #[inline]
    pub(crate) fn pinned(&self, guard: &crossbeam_epoch::Guard, key: u32) -> Option<u64> {
        Some(self.radix.get(key, guard)?.state.load(Ordering::Relaxed))
    }
}

impl Table for Ours {
    type Local = LocalHandle;
    const NAME: &'static str = "vgic";

    fn filled(count: u32) -> Self {
        let table = Self {
            radix: Radix::new(16),
            collector: Collector::new(),
            objects: (0..count)
                .map(|key| NonNull::from(Box::leak(Box::new(Object::new(key)))))
                .collect(),
        };
        let local = table.collector.register();
        let guard = local.pin();
        for (key, &object) in (0..).zip(&table.objects) {
            // SAFETY: freed after the table.
            let inserted = unsafe { table.radix.insert(key, object, &guard).is_ok() };
            assert!(inserted);
        }
        table
    }

    fn local(&self) -> LocalHandle {
        self.collector.register()
    }

    #[inline]
    fn owned(&self, local: &LocalHandle, key: u32) -> Option<u64> {
        let guard = local.pin();
        let object = self.radix.get(key, &guard)?;
        if !object.get() {
            return None;
        }
        let state = object.state.load(Ordering::Relaxed);
        object.put();
        Some(state)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let local = self.collector.register();
        for (key, &object) in (0..).zip(&self.objects) {
            // SAFETY: leaked in `filled`; nobody reads any more.
            unsafe {
                self.radix.remove(key, object.as_ref(), &local.pin());
                drop(Box::from_raw(object.as_ptr()));
            }
        }
    }
}

/// A list under a spin lock: KVM's `lpi_list_lock` of 2016.
pub(crate) struct SpinList {
    locked: AtomicBool,
    list: std::cell::UnsafeCell<Vec<Arc<Object>>>,
}

// SAFETY: the list is touched under the lock only.

unsafe impl Sync for SpinList {}

impl Table for SpinList {
    type Local = ();
    const NAME: &'static str = "spin-locked list";

    fn filled(count: u32) -> Self {
        let list = (0..count).map(|key| Arc::new(Object::new(key))).collect();
        Self {
            locked: AtomicBool::new(false),
            list: std::cell::UnsafeCell::new(list),
        }
    }

    fn local(&self) {}

    fn owned(&self, (): &(), key: u32) -> Option<u64> {
        while self.locked.swap(true, Ordering::Acquire) {
            while self.locked.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
        // SAFETY: we hold the lock.
        let list = unsafe { &*self.list.get() };
        let found = list
            .iter()
            .find(|object| object.state.load(Ordering::Relaxed) == u64::from(key))
            .cloned();
        self.locked.store(false, Ordering::Release);
        Some(found?.state.load(Ordering::Relaxed))
    }
}

/// A tree under a reader-writer lock: the shape of Xen's.
pub(crate) struct RwTree(RwLock<BTreeMap<u32, Arc<Object>>>);

impl Table for RwTree {
    type Local = ();
    const NAME: &'static str = "rwlock and tree";

    fn filled(count: u32) -> Self {
        Self(RwLock::new(
            (0..count)
                .map(|key| (key, Arc::new(Object::new(key))))
                .collect(),
        ))
    }

    fn local(&self) {}

    fn owned(&self, (): &(), key: u32) -> Option<u64> {
        let found = self.0.read().unwrap().get(&key).cloned();
        Some(found?.state.load(Ordering::Relaxed))
    }
}

/// A hash table under one lock: the shape of `arm_vgic`'s.
pub(crate) struct MutexMap(Mutex<HashMap<u32, Arc<Object>>>);

impl Table for MutexMap {
    type Local = ();
    const NAME: &'static str = "mutex and hash table";

    fn filled(count: u32) -> Self {
        Self(Mutex::new(
            (0..count)
                .map(|key| (key, Arc::new(Object::new(key))))
                .collect(),
        ))
    }

    fn local(&self) {}

    fn owned(&self, (): &(), key: u32) -> Option<u64> {
        let found = self.0.lock().unwrap().get(&key).cloned();
        Some(found?.state.load(Ordering::Relaxed))
    }
}

/// An array of arc-swap cells, one for each INTID.
pub(crate) struct ArcSwaps(Vec<ArcSwapOption<Object>>);

impl Table for ArcSwaps {
    type Local = ();
    const NAME: &'static str = "arc-swap per slot";

    fn filled(count: u32) -> Self {
        Self(
            (0..1 << 16)
                .map(|key| ArcSwapOption::new((key < count).then(|| Arc::new(Object::new(key)))))
                .collect(),
        )
    }

    fn local(&self) {}

    fn owned(&self, (): &(), key: u32) -> Option<u64> {
        let found = self.0.get(key as usize)?.load_full();
        Some(found?.state.load(Ordering::Relaxed))
    }
}
