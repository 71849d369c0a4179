//! Which vCPU has which affinity, in O(1) and in the shape that SGI generation asks.
//!
//! `ICC_SGI1R_EL1` names up to 16 targets that share `Aff3.Aff2.Aff1` and a range of `Aff0`
//! (IHI 0069, 12.2.19). A *group* here is exactly that: 16 consecutive `Aff0` values. Groups are found
//! by an open-addressing hash that is at most half full, so sparse affinities cost memory for the groups
//! that exist, and the last of 512 vCPUs is found as fast as the first.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::intid::{Affinity, VcpuId};

/// vCPUs in one group.
const GROUP: usize = 16;

const ABSENT: u16 = u16::MAX;

/// The fields of `ICC_SGI<n>R_EL1` that name a group: `Aff3`, `RS`, `Aff2`, `Aff1`.
const KEY: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;

/// The key of an empty slot.
const EMPTY: u64 = u64::MAX;

/// vCPUs that differ in the low four bits of `Aff0` only.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// As `ICC_SGI<n>R_EL1` has it, so that a write of that is looked up as it is; or [`EMPTY`].
    key: u64,
    members: [u16; GROUP],
}

impl Group {
    /// The vCPU with these low four bits; higher ones are ignored.
    #[inline]
    pub(crate) fn member(&self, bits: usize) -> Option<VcpuId> {
        let member = self.members[bits % GROUP];
        (member != ABSENT).then_some(VcpuId(member))
    }
}

/// An immutable map of the VM's vCPUs; replaced whole when a vCPU is added.
pub(crate) struct Topology {
    affinities: Vec<Affinity>,
    groups: Box<[Group]>,
}

impl Topology {
    /// The topology of these vCPUs, in [`VcpuId`] order; at most [`VcpuId::MAX_COUNT`].
    pub(crate) fn new(affinities: Vec<Affinity>) -> Self {
        let empty = Group {
            key: EMPTY,
            members: [ABSENT; GROUP],
        };
        let slots = (affinities.len() * 2).next_power_of_two();
        let mut groups = vec![empty; slots].into_boxed_slice();
        for (index, affinity) in affinities.iter().enumerate() {
            let key = affinity.sgi_group();
            let mut slot = hash(key, slots);
            while groups[slot].key != key && groups[slot].key != EMPTY {
                slot = (slot + 1) & (slots - 1);
            }
            groups[slot].key = key;
            groups[slot].members[usize::from(affinity.aff0() & 0xf)] = index as u16;
        }
        Self { affinities, groups }
    }

    /// vCPUs present.
    pub(crate) fn len(&self) -> usize {
        self.affinities.len()
    }

    pub(crate) fn affinities(&self) -> &[Affinity] {
        &self.affinities
    }

    pub(crate) fn affinity(&self, vcpu: VcpuId) -> Option<Affinity> {
        self.affinities.get(vcpu.index()).copied()
    }

    /// The vCPU with this affinity.
    pub(crate) fn find(&self, affinity: Affinity) -> Option<VcpuId> {
        self.group(affinity.sgi_group())?
            .member(usize::from(affinity.aff0()))
    }

    /// The vCPUs that a value of `ICC_SGI<n>R_EL1` may name, or [`Affinity::sgi_group`].
    #[inline]
    pub(crate) fn group(&self, value: u64) -> Option<&Group> {
        let key = value & KEY;
        let mut slot = hash(key, self.groups.len());
        loop {
            let group = self.groups.get(slot)?;
            if group.key == key {
                return Some(group);
            }
            // At most half of the slots are taken, so there is an empty one.
            if group.key == EMPTY {
                return None;
            }
            slot = (slot + 1) & (self.groups.len() - 1);
        }
    }
}

/// Fibonacci hashing: the high bits of the product spread regular affinities well.
#[inline]
fn hash(key: u64, slots: usize) -> usize {
    // Aff1, Aff2 and RS beside Aff3; and Aff2 once more so far down that the bits taken below depend on it.
    let folded = (key >> 16) as u32 ^ (key >> 44) as u32;
    let folded = folded ^ folded >> 8;
    (folded.wrapping_mul(0x9e37_79b9) >> 7) as usize & (slots - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_sparse_affinities_and_nothing_else() {
        let affinities: Vec<Affinity> = (0..512_u32)
            .map(|n| {
                Affinity::new(
                    (n >> 8) as u8,
                    (n >> 4) as u8 & 0xf,
                    255,
                    (n & 3) as u8 * 70,
                )
            })
            .collect();
        let mut unique = affinities.clone();
        unique.sort_unstable();
        unique.dedup();
        let topology = Topology::new(unique.clone());
        for (index, affinity) in unique.iter().enumerate() {
            assert_eq!(topology.find(*affinity), VcpuId::new(index));
        }
        for absent in [0, 1, 0xff01, 0xffff_ffff, 0x0000_ff47] {
            assert_eq!(topology.find(Affinity::from_packed(absent)), None);
        }
    }

    /// Slots looked at for the last group found, if every group is looked for.
    fn longest_search(affinities: Vec<Affinity>) -> usize {
        let keys: Vec<u64> = affinities.iter().map(|one| one.sgi_group()).collect();
        let topology = Topology::new(affinities);
        let slots = topology.groups.len();
        keys.into_iter()
            .map(|key| {
                let first = hash(key, slots);
                let found = topology.groups.iter().position(|group| group.key == key);
                (found.unwrap().wrapping_sub(first) & (slots - 1)) + 1
            })
            .max()
            .unwrap()
    }

    #[test]
    fn machines_of_every_shape_are_spread() {
        // How vCPU n's Aff3, Aff2, Aff1 and Aff0 are made.
        type Fields = fn(u32) -> [u32; 4];
        let shapes: [(u32, Fields); 9] = [
            (512, |n| [0, 0, n >> 4, n & 15]),
            (512, |n| [0, n >> 8, n & 255, 0]),
            (80, |n| [0, n >> 1, n & 1, 0]),
            (256, |n| [0, n, 0, 0]),
            (512, |n| [0, n >> 2, n & 3, 0]),
            (256, |n| [n, 0, 0, 0]),
            (256, |n| [n >> 4, n & 15, 0, 0]),
            (128, |n| [n >> 6, n & 63, 0, 0]),
            (512, |n| [0, 0, n >> 8, n & 255]),
        ];
        for (shape, (count, fields)) in shapes.into_iter().enumerate() {
            let affinities = (0..count)
                .map(|n| {
                    let [aff3, aff2, aff1, aff0] = fields(n).map(|field| field as u8);
                    Affinity::new(aff3, aff2, aff1, aff0)
                })
                .collect();
            let longest = longest_search(affinities);
            assert!(longest <= 4, "shape {shape}: {longest}");
        }
    }

    #[test]
    fn vcpu_order_is_independent_of_affinity_order() {
        let topology = Topology::new((0..40).rev().map(|n| Affinity::new(0, 0, 0, n)).collect());
        assert_eq!(topology.len(), 40);
        assert_eq!(topology.find(Affinity::new(0, 0, 0, 39)), VcpuId::new(0));
        let group = topology
            .group(Affinity::new(0, 0, 0, 32).sgi_group())
            .unwrap();
        assert_eq!((0..GROUP).filter_map(|bits| group.member(bits)).count(), 8);
        assert_eq!(group.member(7), VcpuId::new(0));
        assert_eq!(group.member(8), None);
    }
}
