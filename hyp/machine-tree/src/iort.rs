//! The paths of devices' identifiers to the SMMU and the ITSes (IORT, Arm DEN0049).

#![expect(unsafe_code)]
// UNSAFETY: tells the crate `acpi` the layout of a table.

use alloc::vec::Vec;

use acpi::AcpiTable;
use acpi::sdt::{SdtHeader, Signature};

use crate::machine::IdRange;

/// Table up to its nodes.
#[repr(C, packed)]
pub(crate) struct Header {
    header: SdtHeader,
    nodes: u32,
    offset: u32,
    _reserved: u32,
}

// SAFETY: the structure is the beginning of the table with this signature.
unsafe impl AcpiTable for Header {
    const SIGNATURE: Signature = Signature::IORT;

    fn header(&self) -> &SdtHeader {
        &self.header
    }
}

/// A table.
pub(crate) struct Iort<'a>(pub(crate) &'a [u8]);

/// Kinds of nodes.
const ITS_GROUP: u8 = 0;
const ROOT_COMPLEX: u8 = 2;
const SMMU_V1: u8 = 3;
const SMMU_V3: u8 = 4;

/// A mapping of identifiers to those at another node.
#[derive(Clone, Copy)]
struct Mapping {
    ids: IdRange,
    /// Offset of the other node in the table.
    to_whom: u32,
}

impl Iort<'_> {
    /// Returns the addresses of the SMMUs, if all of them are of version 3.
    pub(crate) fn smmus(&self) -> Option<Vec<u64>> {
        let is_smmu = |&offset: &u32| matches!(self.kind(offset), Some(SMMU_V1 | SMMU_V3));
        let smmus = self.nodes().into_iter().filter(is_smmu);
        smmus
            .map(|offset| match self.kind(offset) {
                Some(SMMU_V3) => self.long(offset + 16),
                _ => None,
            })
            .collect()
    }

    /// Returns the StreamIDs of the functions of a PCI segment, and their DeviceIDs, each with the
    /// id of its ITS. Functions that reach no SMMU have no StreamIDs.
    pub(crate) fn ids_of(&self, segment: u16) -> (Vec<IdRange>, Vec<(u32, IdRange)>) {
        let (mut streams, mut devices) = (Vec::new(), Vec::new());
        let is_ours = |&offset: &u32| {
            self.kind(offset) == Some(ROOT_COMPLEX)
                && self.word(offset + 28) == Some(segment.into())
        };
        for complex in self.nodes().into_iter().filter(is_ours) {
            for mapping in self.mappings(complex) {
                match self.kind(mapping.to_whom) {
                    Some(ITS_GROUP) => {
                        devices.extend(self.its_of(mapping.to_whom).zip(Some(mapping.ids)));
                    }
                    Some(SMMU_V3) => {
                        streams.push(mapping.ids);
                        devices.extend(self.through(mapping));
                    }
                    _ => {}
                }
            }
        }
        (streams, devices)
    }

    /// Returns the DeviceIDs that a mapping to an SMMU ends in, each with the id of its ITS.
    fn through(&self, mapping: Mapping) -> impl Iterator<Item = (u32, IdRange)> {
        let onwards = self.mappings(mapping.to_whom).into_iter();
        onwards.filter_map(move |next| {
            let ids = mapping.ids.then(next.ids)?;
            Some((self.its_of(next.to_whom)?, ids))
        })
    }

    /// Returns the id of the first ITS of a group.
    fn its_of(&self, group: u32) -> Option<u32> {
        if self.kind(group)? != ITS_GROUP || self.word(group + 16)? == 0 {
            return None;
        }
        self.word(group + 20)
    }

    /// Returns the offsets of the nodes.
    fn nodes(&self) -> Vec<u32> {
        let header = size_of::<SdtHeader>() as u32;
        let (count, first) = (self.word(header), self.word(header + 4));
        let mut offset = first.unwrap_or(0);
        let node = |_| {
            let this = offset;
            let length = self.bytes::<2>(this + 1).map(u16::from_le_bytes)?;
            offset = this.checked_add(length.into())?;
            // A node without a length would be its own successor.
            (length > 0).then_some(this)
        };
        (0..count.unwrap_or(0)).map_while(node).collect()
    }

    /// Returns the mappings of a node, without those of the node's own interrupts.
    fn mappings(&self, node: u32) -> Vec<Mapping> {
        const SIZE: u32 = 20;
        const SINGLE: u32 = 1;
        let (count, offset) = (self.word(node + 8), self.word(node + 12));
        let (Some(count), Some(offset)) = (count, offset) else {
            return Vec::new();
        };

        let mapping = |index: u32| {
            let at = node.checked_add(offset)?.checked_add(index * SIZE)?;
            let [from, last, to, to_whom, flags] =
                [0, 4, 8, 12, 16].map(|field| self.word(at + field));
            // The table has the number of identifiers less one.
            let ids = IdRange {
                from: from?,
                to: to?,
                count: last?.checked_add(1)?,
            };
            let to_whom = to_whom?;
            (flags? & SINGLE == 0).then_some(Mapping { ids, to_whom })
        };
        (0..count.min(u32::MAX / SIZE))
            .filter_map(mapping)
            .collect()
    }

    fn kind(&self, node: u32) -> Option<u8> {
        self.0.get(node as usize).copied()
    }

    fn word(&self, at: u32) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn long(&self, at: u32) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let bytes = self.0.get(at as usize..)?;
        bytes.first_chunk().copied()
    }
}
