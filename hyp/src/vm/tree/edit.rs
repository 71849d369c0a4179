//! The guest's device tree: the machine's, without the hypervisor's resources.
//!
//! The hypervisor's memory is cut out of the RAM. The modules of the boot loader are removed, and
//! so are the SMMU and the references to it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use crate::machine::tree;

/// Properties by which a node says that devices are behind an SMMU.
const SMMU_REFERENCES: [&str; 2] = ["iommus", "iommu-map"];

/// Turns the machine's tree into the guest's.
///
/// # Panics
/// If `home` is not in RAM that the tree describes, or the tree has no room.
pub(crate) fn hide_hypervisor(blob: &mut [u8], home: &Range<usize>) {
    let fdt = parse(blob);
    let (memory, reg) = memory_without(&fdt, home).expect("the hypervisor lives in RAM");
    let modules: Vec<String> = tree::modules(&fdt)
        .map(|node| node.name().to_string())
        .collect();
    let smmu = tree::smmu(&fdt).map(|node| node.name().to_string());

    let mut edited = DeviceTree::from_fdt(&fdt);
    let root = &mut edited.root;
    let reg = DeviceTreeProperty::new("reg", reg).expect("the name is well-formed");
    let node = root.child_mut(&memory).expect("the node was there");
    node.add_property(reg);
    if let Some(chosen) = root.child_mut("chosen") {
        for module in &modules {
            chosen.remove_child(module);
        }
    }
    if let Some(smmu) = smmu {
        root.remove_child(&smmu);
        remove_smmu_references(root);
    }
    write(blob, &edited);
}

/// Writes an edited tree to where it came from. Its size stays: the rest is room.
///
/// # Panics
/// If there is no room for it.
pub(super) fn write(blob: &mut [u8], edited: &DeviceTree) {
    const SIZE: Range<usize> = 4..8;
    let edited = edited.to_dtb();
    let room = blob.get_mut(..edited.len());
    room.expect("the boot loader's device tree has room for the hypervisor's edits")
        .copy_from_slice(&edited);
    let size = blob.len() as u32;
    blob[SIZE].copy_from_slice(&size.to_be_bytes());
}

/// Removes the references to an SMMU of a node and its descendants.
fn remove_smmu_references(node: &mut DeviceTreeNode) {
    for reference in SMMU_REFERENCES {
        node.remove_property(reference);
    }
    node.children_mut().for_each(remove_smmu_references);
}

/// Finds the memory node that contains `home`. Returns the node's name, and its `reg` without
/// `home`.
fn memory_without(tree: &Fdt<'_>, home: &Range<usize>) -> Option<(String, Vec<u8>)> {
    for node in tree.root().children().filter(tree::is_memory) {
        let mut reg = Vec::new();
        let mut is_found = false;
        for piece in node.reg().ok()?? {
            let (start, size): (u64, u64) = (piece.address().ok()?, piece.size().ok()?);
            let piece_is = start as usize..(start + size) as usize;
            let contains = piece_is.start <= home.start && home.end <= piece_is.end;
            is_found |= contains;
            let rest = match contains {
                true => [piece_is.start..home.start, home.end..piece_is.end],
                false => [piece_is, 0..0],
            };

            for part in rest.into_iter().filter(|part| !part.is_empty()) {
                let cells = [piece.address.as_ref().len(), piece.size.as_ref().len()];
                for (number, cells) in [part.start, part.len()].into_iter().zip(cells) {
                    reg.extend(&(number as u64).to_be_bytes()[8 - 4 * cells..]);
                }
            }
        }
        if is_found {
            return Some((node.name().to_string(), reg));
        }
    }
    None
}

fn parse(blob: &[u8]) -> Fdt<'_> {
    Fdt::new(blob).expect("the tree is well-formed")
}
