//! Targets of SGIs to one vCPU, found without the epoch.
//!
//! A bucket holds two guesses: indices of vCPUs for which the value of `ICC_SGI<n>R_EL1` hashes to
//! the bucket. The vCPU decides whether a guess is right, by its own value
//! ([`Vcpu::sgi_to_itself`]), so a guess may be stale. SGIs to a vCPU whose bucket was full, and to
//! several vCPUs, take the way through the [`topology`](super::topology), as do those to a vCPU
//! whose SGIs the hardware has. Saves 93 of the 636 instructions of an SGI to a running vCPU, a
//! full barrier among them.

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
    /// now. Adds none if the bucket is full. The caller holds `Vm::growth`, or has the VM for
    /// itself.
    pub(crate) fn add(&self, vcpus: &[Vcpu], id: VcpuId) {
        let home = |id: u16| {
            let value = vcpus.get(usize::from(id))?.sgi_address();
            Some(hash(value, self.0.len()))
        };
        let bucket = home(id.0);
        let guesses = bucket.and_then(|bucket| self.0.get(bucket));
        for guess in guesses.into_iter().flatten() {
            // Relaxed: guesses order nothing.
            let found = guess.load(Relaxed);
            if found == id.0 || home(found) != bucket {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::epoch::VcpuKey;
    use crate::intid::Affinity;
    use alloc::vec::Vec;

    /// Makes vCPUs, of which the first have these affinities.
    fn vcpus(room: usize, affinities: impl Iterator<Item = Affinity>) -> (Vec<Vcpu>, SgiTargets) {
        let vcpus: Vec<Vcpu> = (0..room)
            .map(|n| Vcpu::new(VcpuKey::new(1, n), VcpuId(n as u16), 0))
            .collect();
        let targets = SgiTargets::new(room);
        for (vcpu, affinity) in vcpus.iter().zip(affinities) {
            vcpu.add(affinity);
            targets.add(&vcpus, vcpu.id);
        }
        (vcpus, targets)
    }

    fn value(affinity: Affinity) -> u64 {
        affinity.sgi_group() | 1 << (affinity.aff0() & 0xf)
    }

    #[test]
    fn most_vcpus_of_machines_of_every_shape_are_found() {
        // vCPUs, values of Aff1 for each of Aff2, and values of Aff0 for each of Aff1.
        for (room, aff1s, aff0s) in [
            (1, 1, 16),
            (16, 1, 16),
            (64, 16, 4),
            (512, 16, 16),
            (1024, 4, 255),
            (1024, 64, 1),
        ] {
            let affinity = |n: usize| {
                let fields = [n / aff0s / aff1s, n / aff0s % aff1s, n % aff0s];
                let [aff2, aff1, aff0] = fields.map(|field| field as u8);
                Affinity::new(0, aff2, aff1, aff0)
            };
            let (vcpus, targets) = vcpus(room, (0..room).map(affinity));
            let found = |n: &usize| {
                let found = targets.find(&vcpus, value(affinity(*n)));
                assert!(found.is_none_or(|vcpu| vcpu.id.index() == *n));
                found.is_some()
            };
            let count = (0..room).filter(found).count();
            assert!(
                count * 100 >= room * 93,
                "{count} of {room}, {aff1s}, {aff0s}"
            );
        }
    }

    #[test]
    fn a_value_that_names_several_vcpus_or_none_finds_none() {
        let (vcpus, targets) = vcpus(4, (0..3).map(|n| Affinity::new(0, 0, 0, n)));
        for value in [0, 0b11, 0b1000, 1 << 16 | 1, 1 << 40 | 1, u64::MAX] {
            assert!(targets.find(&vcpus, value).is_none(), "{value:#x}");
        }
    }

    #[test]
    fn a_guess_stays_while_the_hardware_has_the_sgis() {
        // In as many buckets as any VM has: all in one, which the first two fill.
        let targets = SgiTargets::new(VcpuId::MAX_COUNT);
        let affinity = |n: u32| Affinity::new(0, (n >> 16) as u8, (n >> 8) as u8, n as u8);
        let bucket = |n| hash(value(affinity(n)), targets.0.len());
        let same: Vec<u32> = (0..).filter(|n| bucket(*n) == bucket(0)).take(3).collect();
        let vcpus: Vec<Vcpu> = (0..3)
            .map(|n| Vcpu::new(VcpuKey::new(1, n), VcpuId(n as u16), 0))
            .collect();
        for n in [0, 1] {
            vcpus[n].add(affinity(same[n]));
            targets.add(&vcpus, VcpuId(n as u16));
        }
        vcpus[0].set_virtual_sgis(true);
        assert!(vcpus[0].has_virtual_sgis() && vcpus[0].is_present());
        assert!(targets.find(&vcpus, value(affinity(same[0]))).is_none());

        vcpus[2].add(affinity(same[2]));
        targets.add(&vcpus, VcpuId(2));
        vcpus[0].set_virtual_sgis(false);
        let found = targets.find(&vcpus, value(affinity(same[0])));
        assert_eq!(found.map(|vcpu| vcpu.id), Some(VcpuId(0)));

        vcpus[0].remove();
        vcpus[0].set_virtual_sgis(true);
        assert!(!vcpus[0].has_virtual_sgis() && !vcpus[0].is_present());
    }

    #[test]
    fn a_guess_is_wrong_once_the_vcpu_is_removed_and_gives_way() {
        let affinity = |n| Affinity::new(0, 0, n, 0);
        let (vcpus, targets) = vcpus(2, (0..2).map(affinity));
        for n in 2..200 {
            vcpus[1].remove();
            assert!(targets.find(&vcpus, value(affinity(n - 1))).is_none());
            vcpus[1].add(affinity(n));
            targets.add(&vcpus, VcpuId(1));
            assert!(targets.find(&vcpus, value(affinity(n - 1))).is_none());
            let found = targets.find(&vcpus, value(affinity(n)));
            assert_eq!(found.map(|vcpu| vcpu.id), Some(VcpuId(1)));
        }
    }
}
