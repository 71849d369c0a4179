//! The brake of the epoch: a participant that keeps the epoch from advancing while nothing waits to
//! be freed.
//!
//! crossbeam-epoch tries to advance the epoch with every 128th pin of each CPU, whether anything
//! waits or not. A try reads the state of every CPU, a cache line that the CPU writes with each
//! pin. The try begins with the participant registered last, and ends at the first participant in
//! an old epoch. The brake is registered last, and stays in an old epoch while nothing waits. Then
//! a try reads only lines that nobody writes.
//!
//! A CPU that has passed objects on to the domain releases the brake, by
//! [`CpuPin::collect_garbage`](super::CpuPin::collect_garbage). So each call that leaves objects to
//! the epoch counts them ([`CpuPin::leaves_garbage`](super::CpuPin::leaves_garbage)), and ends with
//! [`CpuPin::collect`](super::CpuPin::collect): otherwise the objects stay until another call does.
//!
//! The end of the release goes into the epoch behind the objects, and the brake is on again once
//! all objects are freed. A single end waits in the epoch at a time. If more has been passed on
//! meanwhile, another end follows.
//!
//! To crossbeam-epoch the brake is a participant like a CPU, and no object is freed earlier for the
//! brake. Models explore few pins, and have no brake but the state in [`Releases`].
#![expect(unsafe_code)]
// UNSAFETY: a participant of the epoch that CPUs use in turn.

use alloc::sync::{Arc, Weak};
use core::cell::UnsafeCell;

use crossbeam_epoch::{Collector, Guard, LocalHandle};

use super::releases::{Numbers, Releases};

/// A participant of the epoch.
struct Participant {
    /// Present while the brake is on.
    guard: Option<Guard>,
    handle: LocalHandle,
}

/// The part of the brake that one CPU at a time uses.
#[derive(Default)]
struct Own {
    /// Present from the first registration of a CPU on.
    participant: Option<Participant>,
    /// Number of the last release whose end was deferred to the epoch.
    deferred: u64,
}

/// The brake of a domain.
#[derive(Default)]
pub(super) struct Brake {
    releases: Releases,
    own: UnsafeCell<Own>,
}

// SAFETY: one CPU at a time uses `own`: `Releases::settle` passes it on, with Release and Acquire.
// A participant refers to no thread: it is not `Send` because of cells that its user alone
// accesses.
unsafe impl Send for Brake {}
// SAFETY: one CPU at a time uses `own`, and the rest is atomic.
unsafe impl Sync for Brake {}

impl Brake {
    /// Makes the brake the participant of `collector` that was registered last, unless another CPU
    /// adjusts the brake meanwhile: then each try to advance reads the lines of a few CPUs more.
    /// Allocates.
    pub(super) fn register_last(self: &Arc<Self>, collector: &Collector) {
        if cfg!(loom) {
            return;
        }

        let mut new = Some(collector.register());
        self.settle(|own, numbers| {
            if let Some(handle) = new.take() {
                let guard = None;
                own.participant = Some(Participant { guard, handle });
            }
            self.adjust(own, numbers);
        });
    }

    /// Releases the brake until all is freed that CPUs have passed on to the domain. May allocate.
    pub(super) fn release(self: &Arc<Self>) {
        if !cfg!(loom) {
            self.releases.begin();
            self.settle(|own, numbers| self.adjust(own, numbers));
        }
    }

    /// Ends the releases up to `number` of a brake, if the domain still exists.
    fn end(brake: &Weak<Self>, number: u64) {
        if let Some(brake) = brake.upgrade() {
            brake.releases.end(number);
            brake.settle(|own, numbers| brake.adjust(own, numbers));
        }
    }

    /// Engages the brake, whose own part is `own`, if every release has ended. Otherwise releases
    /// it, and defers the end of the last release to the epoch unless an end waits there.
    fn adjust(self: &Arc<Self>, own: &mut Own, numbers: Numbers) {
        let Some(Participant { guard, handle }) = &mut own.participant else {
            return;
        };
        let Numbers { begun, ended } = numbers;
        if begun == ended {
            guard.get_or_insert_with(|| handle.pin());
            return;
        }

        *guard = None;

        if own.deferred <= ended {
            own.deferred = begun;
            // Weak: the collector owns the deferred call, and the domain owns both. An `Arc` would
            // keep the brake alive from inside its own collector.
            let brake = Arc::downgrade(self);

            let guard = handle.pin();
            guard.defer(move || Self::end(&brake, begun));
            guard.flush();
        }
    }

    /// Calls `adjust` with the brake's own part and the numbers, unless another CPU is about to.
    fn settle(&self, mut adjust: impl FnMut(&mut Own, Numbers)) {
        self.releases.settle(|numbers| {
            // SAFETY: `Releases::settle` calls this on one CPU at a time. A call from a function
            // that the epoch runs inside `adjust` finds the brake in use.
            adjust(unsafe { &mut *self.own.get() }, numbers);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;

    use crate::epoch::{CpuLocal, Domain};
    use crate::intid::CpuId;
    use crate::sync::AtomicU8;
    use crate::sync::Ordering::Relaxed;

    /// Enters and leaves the epoch on a CPU so often that crossbeam-epoch collects a few times.
    fn come_and_go(cpu: &CpuLocal) {
        for _ in 0..512 {
            let _ = cpu.pin().guard();
        }
    }

    /// Returns true if the brake of a CPU's domain is on.
    fn is_on(cpu: &CpuLocal) -> bool {
        let mut is_on = false;
        cpu.domain.brake.settle(|own, numbers| {
            let participant = own.participant.as_ref().expect("a CPU has registered");
            is_on = participant.guard.is_some();
            assert_eq!(is_on, numbers.begun == numbers.ended);
        });
        is_on
    }

    #[test]
    fn pins_alone_free_what_was_passed_on_and_engage_the_brake() {
        let domain = Domain::new();
        let [one, other] = [0, 1].map(|n| domain.register(CpuId(n)).unwrap());
        assert!(is_on(&one));

        for _ in 0..3 {
            come_and_go(&other);
            let freed = Arc::new(AtomicU8::new(0));
            let mark = freed.clone();
            // Relaxed, here and below: one thread stores and loads the mark.
            one.pin().guard().defer(move || mark.store(1, Relaxed));
            one.pin().leaves_garbage();
            one.pin().collect_garbage();
            assert!(freed.load(Relaxed) == 0 && !is_on(&one));
            come_and_go(&other);
            assert!(freed.load(Relaxed) == 1 && is_on(&one));
        }
    }

    #[test]
    fn the_brake_is_off_while_a_cpu_holds_objects_back() {
        let domain = Domain::new();
        let [one, other] = [0, 1].map(|n| domain.register(CpuId(n)).unwrap());
        let pin = other.pin();
        let _ = pin.guard();
        one.pin().leaves_garbage();
        one.pin().collect_garbage();
        come_and_go(&one);
        assert!(!is_on(&one));
        drop(pin);
        come_and_go(&one);
        assert!(is_on(&one));
    }

    #[test]
    fn a_brake_is_on_or_off_when_another_cpu_registers() {
        let domain = Domain::new();
        let one = domain.register(CpuId(0)).unwrap();
        one.pin().leaves_garbage();
        one.pin().collect_garbage();
        let other = domain.register(CpuId(1)).unwrap();
        assert!(!is_on(&one));
        come_and_go(&other);
        assert!(is_on(&one));
        let _third = domain.register(CpuId(2)).unwrap();
        assert!(is_on(&one));
    }
}
