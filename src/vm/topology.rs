//! Map from affinity to vCPU, in O(1) and by the fields of SGI generation.
//!
//! `ICC_SGI1R_EL1` names up to 16 targets that share `Aff3.Aff2.Aff1` and a range of `Aff0` (IHI
//! 0069, 12.2.19). A *group* is such a range: 16 consecutive values of `Aff0`. An open-addressing
//! hash, at most half full, finds the groups. Sparse affinities cost memory for existing groups
//! only, and the last of 4,095 vCPUs is found as fast as the first.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::intid::{Affinity, VcpuId};

/// Number of vCPUs in a group.
const GROUP: usize = 16;

/// Member of a group that no vCPU has.
const ABSENT: u16 = u16::MAX;

/// Fields of `ICC_SGI<n>R_EL1` that name a group: `Aff3`, `RS`, `Aff2`, `Aff1`.
const KEY: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;

/// Key of an empty slot.
const EMPTY: u64 = u64::MAX;

/// The up to 16 vCPUs that differ only in the low four bits of `Aff0`.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// Masked value of `ICC_SGI<n>R_EL1` that names the group, or [`EMPTY`].
    key: u64,
    members: [u16; GROUP],
}

impl Group {
    /// Returns the vCPU with `bits` as the low four bits of `Aff0`. Ignores higher bits.
    #[inline]
    pub(crate) fn member(&self, bits: usize) -> Option<VcpuId> {
        let member = self.members[bits % GROUP];
        (member != ABSENT).then_some(VcpuId(member))
    }
}

/// An immutable map of the VM's vCPUs. Adding or removing a vCPU replaces the map.
pub(crate) struct Topology {
    /// Affinities by [`VcpuId`]. A removed vCPU keeps its affinity until its index is given away.
    affinities: Vec<Affinity>,
    /// The vCPUs that have been removed.
    removed: Vec<VcpuId>,
    groups: Box<[Group]>,
}

impl Topology {
    /// Creates the map of at most [`VcpuId::MAX_COUNT`] vCPUs, from affinities in [`VcpuId`] order.
    pub(crate) fn new(affinities: Vec<Affinity>) -> Self {
        Self::of(affinities, Vec::new())
    }

    /// Creates the map of `affinities` without the vCPUs `removed`.
    fn of(affinities: Vec<Affinity>, removed: Vec<VcpuId>) -> Self {
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

        for group in &mut groups {
            for member in &mut group.members {
                if removed.iter().any(|vcpu| vcpu.0 == *member) {
                    *member = ABSENT;
                }
            }
        }

        Self {
            affinities,
            removed,
            groups,
        }
    }

    /// Returns the index for a vCPU with `affinity` in a VM with `room`: the one that the affinity
    /// had before a removal, else the next one, else one of another removed vCPU.
    pub(crate) fn index_for(&self, affinity: Affinity, room: usize) -> Option<VcpuId> {
        let mut removed = self.removed.iter().copied();
        let own = (removed.clone()).find(|vcpu| self.affinities[vcpu.index()] == affinity);
        let next = Some(self.len()).filter(|len| *len < room);
        own.or_else(|| next.and_then(VcpuId::new))
            .or_else(|| removed.next())
    }

    /// Returns the map with a vCPU of `affinity` at the index `vcpu`, one that
    /// [`Topology::index_for`] has returned.
    pub(crate) fn with(&self, vcpu: VcpuId, affinity: Affinity) -> Self {
        let mut affinities = self.affinities.clone();
        match affinities.get_mut(vcpu.index()) {
            Some(old) => *old = affinity,
            None => affinities.push(affinity),
        }
        let mut removed = self.removed.clone();
        removed.retain(|other| *other != vcpu);
        Self::of(affinities, removed)
    }

    /// Returns the map without `vcpu`.
    pub(crate) fn without(&self, vcpu: VcpuId) -> Self {
        let mut removed = self.removed.clone();
        removed.push(vcpu);
        Self::of(self.affinities.clone(), removed)
    }

    /// Returns the number of indices given to vCPUs, removed ones included.
    pub(crate) fn len(&self) -> usize {
        self.affinities.len()
    }

    /// Returns the affinity of `vcpu`, which may have been removed, or `None` if no vCPU has been
    /// added there.
    pub(crate) fn affinity(&self, vcpu: VcpuId) -> Option<Affinity> {
        self.affinities.get(vcpu.index()).copied()
    }

    /// Returns the vCPU with `affinity`.
    pub(crate) fn find(&self, affinity: Affinity) -> Option<VcpuId> {
        self.group(affinity.sgi_group())?
            .member(usize::from(affinity.aff0()))
    }

    /// Returns the group that `value` names: a value of `ICC_SGI<n>R_EL1` or of
    /// [`Affinity::sgi_group`].
    #[inline]
    pub(crate) fn group(&self, value: u64) -> Option<&Group> {
        let key = value & KEY;
        let mut slot = hash(key, self.groups.len());
        loop {
            let group = self.groups.get(slot)?;
            if group.key == key {
                return Some(group);
            }
            // At most half of the slots are taken, so the search meets an empty slot.
            if group.key == EMPTY {
                return None;
            }
            slot = (slot + 1) & (self.groups.len() - 1);
        }
    }
}

/// Returns the first slot to search for `key`, by multiplicative hashing. `slots` is a power of
/// two, at most 2^13.
#[inline]
pub(super) fn hash(key: u64, slots: usize) -> usize {
    /// The best of some thousand random odd numbers: in `machines_of_every_shape_are_spread` no
    /// search passes more than three slots.
    const MULTIPLIER: u64 = 0x8e2c_a234_2190_581b;
    // The 13 high bits of the product: the number of slots is at most 2^13.
    const { assert!((2 * VcpuId::MAX_COUNT).next_power_of_two() == 1 << (u64::BITS - 51)) };
    (key.wrapping_mul(MULTIPLIER) >> 51) as usize & (slots - 1)
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

    /// Returns the most slots that a search for a present group passes.
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
        /// Map from the index of a vCPU to its Aff3, Aff2, Aff1 and Aff0.
        type Fields = fn(u32) -> [u32; 4];
        let shapes: [(u32, Fields); 20] = [
            (4095, |n| [0, n >> 8, n >> 4 & 15, n & 15]),
            (4095, |n| [0, n >> 8, n & 255, 0]),
            (4095, |n| [n >> 8, n & 255, 0, 0]),
            (4095, |n| [n >> 8, n >> 4 & 15, n & 15, 0]),
            (4095, |n| [n >> 10, n >> 5 & 31, n & 31, 0]),
            (4095, |n| [0, 0, n >> 8, n & 255]),
            (4095, |n| [0, n >> 6, n >> 2 & 15, n & 3]),
            (4095, |n| [0, n >> 4, 0, (n & 15) << 4]),
            (2048, |n| [0, n >> 3, n & 7, 0]),
            (1024, |n| [0, n >> 2, n & 3, 0]),
            (512, |n| [0, 0, n >> 4, n & 15]),
            (512, |n| [0, n >> 8, n & 255, 0]),
            (80, |n| [0, n >> 1, n & 1, 0]),
            (256, |n| [0, n, 0, 0]),
            (512, |n| [0, n >> 2, n & 3, 0]),
            (256, |n| [n, 0, 0, 0]),
            (256, |n| [n >> 4, n & 15, 0, 0]),
            (128, |n| [n >> 6, n & 63, 0, 0]),
            (512, |n| [0, 0, n >> 8, n & 255]),
            (64, |n| [0, 0, n, 0]),
        ];

        for (shape, (count, fields)) in shapes.into_iter().enumerate() {
            let affinities = (0..count)
                .map(|n| {
                    let [aff3, aff2, aff1, aff0] = fields(n).map(|field| field as u8);
                    Affinity::new(aff3, aff2, aff1, aff0)
                })
                .collect();
            let longest = longest_search(affinities);
            assert!(longest <= 3, "shape {shape}: {longest}");
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

    #[test]
    fn an_affinity_has_its_index_again_while_there_is_room() {
        let affinity = |n| Affinity::new(0, 0, n, 0);
        let topology = Topology::new((0..3).map(affinity).collect()).without(VcpuId(1));
        assert_eq!((topology.len(), topology.find(affinity(1))), (3, None));
        assert_eq!(topology.affinity(VcpuId(1)), Some(affinity(1)));

        // Its own index, a new one, and the index of another one.
        for (room, n, wanted) in [(4, 1, 1), (4, 9, 3), (3, 1, 1), (3, 9, 1)] {
            let index = topology.index_for(affinity(n), room);
            assert_eq!(index, VcpuId::new(wanted), "{n}, with room for {room}");
            let with = topology.with(index.unwrap(), affinity(n));
            assert_eq!(with.find(affinity(n)), index);
        }
        let full = topology.with(VcpuId(1), affinity(9));
        assert_eq!(full.index_for(affinity(1), 3), None);
    }
}
