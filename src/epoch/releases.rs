//! How many releases of a [`Brake`](super::brake::Brake) have begun and ended: the brake's atomics.
//!
//! # Who may touch what, and when
//! 1. Any CPU begins and ends releases, and settles the brake afterwards. No CPU waits for another.
//! 2. The CPU that has set `busy` alone adjusts the brake. A CPU that finds `busy` set leaves the
//!    brake to that CPU, which looks at the numbers again after it has cleared `busy`.

use crate::sync::Ordering::{AcqRel, Relaxed};
use crate::sync::{AtomicU8, AtomicU64, Mutant, mutant};

/// Releases of a brake, which have numbers from 1 on.
#[derive(Debug, Default)]
pub struct Releases {
    /// Number of the last release that has begun.
    begun: AtomicU64,
    /// Number of the last release that has ended, with all before.
    ended: AtomicU64,
    /// 1 while a CPU adjusts the brake.
    busy: AtomicU8,
}

/// Numbers of the last release that has begun, and of the last one that has ended. The brake is on
/// if they are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// Number of the last release that has begun.
    pub begun: u64,
    /// Number of the last release that has ended, with all before.
    pub ended: u64,
}

impl Releases {
    /// Begins a release. The caller settles the brake.
    #[inline]
    pub fn begin(&self) {
        // Relaxed: `settle` publishes the number.
        self.begun.fetch_add(1, Relaxed);
    }

    /// Ends all releases up to `number`. The caller settles the brake.
    #[inline]
    pub fn end(&self, number: u64) {
        // Relaxed: `settle` publishes the number.
        self.ended.fetch_max(number, Relaxed);
    }

    /// Returns the numbers.
    fn numbers(&self) -> Numbers {
        // Relaxed: read after a read-modify-write of `busy`, which acquires.
        Numbers {
            begun: self.begun.load(Relaxed),
            ended: self.ended.load(Relaxed),
        }
    }

    /// Calls `adjust` with the numbers, to adjust the brake, unless another CPU is about to.
    pub fn settle(&self, mut adjust: impl FnMut(Numbers)) {
        loop {
            // AcqRel: passes the numbers on to the CPU that has set `busy`, or takes the brake over
            // from the last one. Pairs with the swap below.
            if self.busy.swap(1, AcqRel) != 0 {
                return;
            }
            let numbers = self.numbers();
            adjust(numbers);

            // AcqRel: passes the brake on. Acquires the numbers of CPUs that found `busy` set.
            self.busy.swap(0, AcqRel);
            if self.numbers() == numbers || mutant(Mutant::ReleaseMissed) {
                return;
            }
        }
    }
}
