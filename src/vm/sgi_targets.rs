//! Targets of SGIs to one vCPU, found without the epoch.
//!
//! A bucket holds two guesses: indices of vCPUs for which the value of `ICC_SGI<n>R_EL1` hashes to
//! the bucket. The vCPU decides whether a guess is right, by its own value
//! ([`Vcpu::sgi_to_itself`]), so a guess may be stale. SGIs to a vCPU whose bucket was full, and to
//! several vCPUs, take the way through the [`topology`](super::topology). Saves 81 of the 636
//! instructions of an SGI to a running vCPU, a full barrier among them.

use alloc::boxed::Box;

use crate::intid::VcpuId;
use crate::sync::AtomicU16;
use crate::sync::Ordering::Relaxed;
use crate::vm::topology::hash;
use crate::vm::vcpu::Vcpu;

/// Guesses of a bucket. With as many buckets as twice the vCPUs, some 3 in 100 vCPUs find no room.
const GUESSES: usize = 2;

/// A guess that names no vCPU.
const NONE: u16 = u16::MAX;

/// The guesses for the vCPUs of a VM.
pub(crate) struct SgiTargets(Box<[[AtomicU16; GUESSES]]>);

impl SgiTargets {
    /// Makes the guesses of a VM with room for `vcpus`, none so far.
    pub(crate) fn new(vcpus: usize) -> Self {
        let buckets = (vcpus * 2).next_power_of_two();
        let empty = || core::array::from_fn(|_| AtomicU16::new(NONE));
        Self((0..buckets).map(|_| empty()).collect())
    }

    /// Adds a guess for a vCPU that has been added to `vcpus`, in place of a guess that is wrong by
    /// now. Adds none if the bucket is full. Under the lock `Vm::growth`.
    pub(crate) fn add(&self, vcpus: &[Vcpu], id: VcpuId) {
        let home = |id: u16| {
            let value = vcpus.get(usize::from(id))?.sgi_to_itself();
            Some(hash(value, self.0.len()))
        };
        let Some(bucket) = home(id.0) else {
            return;
        };

        for guess in &self.0[bucket] {
            // Relaxed: guesses order nothing.
            let found = guess.load(Relaxed);
            if found == id.0 || home(found) != Some(bucket) {
                // Relaxed: guesses order nothing.
                guess.store(id.0, Relaxed);
                return;
            }
        }
    }

    /// Returns the one of `vcpus` that an SGI with `value` is for, if a guess is right. `value` is
    /// that of `ICC_SGI<n>R_EL1`, without the INTID.
    #[inline]
    pub(crate) fn find<'v>(&self, vcpus: &'v [Vcpu], value: u64) -> Option<&'v Vcpu> {
        let bucket = self.0.get(hash(value, self.0.len()))?;
        bucket.iter().find_map(|guess| {
            // Relaxed: guesses order nothing.
            let vcpu = vcpus.get(usize::from(guess.load(Relaxed)))?;
            (vcpu.sgi_to_itself() == value).then_some(vcpu)
        })
    }
}
