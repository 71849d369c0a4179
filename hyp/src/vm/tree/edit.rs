//! The guest's device tree: the machine's, without the hypervisor's resources.
//!
//! These edits are done in place, because they only shrink the tree. The hypervisor's memory is cut
//! off the RAM at whose end it lies. The module of the guest's kernel is removed, and so are the
//! SMMU and the references to it.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::Fdt;
use dtoolkit::fdt_mut::{FdtBuffer, FdtMut, FdtNodeMut};
use dtoolkit::{Node, Property};

use crate::machine::tree;

/// Properties by which a node says that devices are behind an SMMU.
const SMMU_REFERENCES: [&str; 2] = ["iommus", "iommu-map"];

/// Turns the machine's tree into the guest's.
///
/// # Panics
/// If `home` is not in RAM that the tree describes.
pub(crate) fn hide_hypervisor(blob: &mut [u8], home: &Range<usize>) {
    let (memory, reg) = shortened_memory(&parse(blob), home).expect("the hypervisor lives in RAM");
    let module = tree::kernels(&parse(blob))
        .next()
        .map(|(node, _)| node.name().to_string());
    let smmu = tree::smmu(&parse(blob)).map(|node| node.name().to_string());

    let mut edited = FdtMut::from_slice(blob).expect("the tree is well-formed");
    let mut root = edited.root_mut();
    let mut memory = root.child_mut(&memory).expect("the node was there");
    let mut property = memory.property_mut("reg").expect("the property was there");
    property
        .set_value(&*reg)
        .expect("the value is as long as before");
    if let Some(module) = module {
        let mut chosen = root.child_mut("chosen").expect("the node was there");
        chosen.remove_child(&module);
    }
    if let Some(smmu) = smmu {
        root.remove_child(&smmu);
        remove_smmu_references(&mut root);
    }
}

/// Removes the references to an SMMU of a node and its descendants.
fn remove_smmu_references<B: FdtBuffer>(node: &mut FdtNodeMut<'_, B>) {
    for reference in SMMU_REFERENCES {
        node.remove_property(reference);
    }
    let mut children = node.children_mut();
    while let Some(mut child) = children.next() {
        remove_smmu_references(&mut child);
    }
}

/// Finds the memory node that contains `home`. Returns the node's name, and its `reg` without
/// `home` and the memory above.
fn shortened_memory(
    tree: &Fdt<'_>,
    home: &Range<usize>,
) -> Option<(alloc::string::String, Vec<u8>)> {
    for node in tree.root().children().filter(tree::is_memory) {
        let mut value: Vec<u8> = node.property("reg")?.value().to_vec();
        let mut at = 0;
        for reg in node.reg().ok()?? {
            let (start, size): (u64, u64) = (reg.address().ok()?, reg.size().ok()?);
            let (address_bytes, size_bytes) =
                (reg.address.as_ref().len() * 4, reg.size.as_ref().len() * 4);
            let range = start as usize..(start + size) as usize;
            if range.start <= home.start && home.end <= range.end {
                let size = (home.start - range.start) as u64;
                let place = &mut value[at + address_bytes..][..size_bytes];
                place.copy_from_slice(&size.to_be_bytes()[8 - size_bytes..]);
                return Some((node.name().to_string(), value));
            }
            at += address_bytes + size_bytes;
        }
    }
    None
}

fn parse(blob: &[u8]) -> Fdt<'_> {
    Fdt::new(blob).expect("the tree is well-formed")
}
