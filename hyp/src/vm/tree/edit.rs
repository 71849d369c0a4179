//! The guest's device tree: the machine's, without the hypervisor's resources.
//!
//! The hypervisor's memory is cut out of the RAM. The modules of the boot loader are removed, and
//! so are the SMMU and the references to it. On a machine that has no LPIs, the ITSes are removed
//! too.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use crate::machine::tree;

/// Properties by which a node says that devices are behind an SMMU.
const SMMU_REFERENCES: [&str; 2] = ["iommus", "iommu-map"];

/// Properties by which a node says that devices send their MSIs to an ITS.
const ITS_REFERENCES: [&str; 3] = ["msi-parent", "msi-map", "msi-map-mask"];

/// Turns the machine's tree into the guest's, which has ITSes only if `has_its`.
///
/// # Panics
/// If `home` is not in RAM that the tree describes, or the tree has no room.
pub(crate) fn hide_hypervisor(blob: &mut [u8], home: &Range<usize>, has_its: bool) {
    let fdt = parse(blob);
    let (memory, reg) = memory_without(&fdt, home).expect("the hypervisor lives in RAM");
    let modules: Vec<String> = tree::modules(&fdt)
        .map(|node| node.name().to_string())
        .collect();
    let smmu = tree::smmu(&fdt).map(|node| node.name().to_string());
    let gic = tree::gic(&fdt).filter(|_| !has_its);
    let children = gic.iter().flat_map(|gic| gic.children());
    let its: Vec<String> = children
        .filter(|node| tree::is_compatible(node, "arm,gic-v3-its"))
        .map(|node| node.name().to_string())
        .collect();

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
        remove_references(root, &SMMU_REFERENCES);
    }
    if let Some(gic) = gic {
        let gic = (root.child_mut(gic.name())).expect("the node was there");
        for name in &its {
            gic.remove_child(name);
        }
        remove_references(root, &ITS_REFERENCES);
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

/// Removes these properties of a node and its descendants.
fn remove_references(node: &mut DeviceTreeNode, references: &[&str]) {
    for reference in references {
        node.remove_property(reference);
    }
    (node.children_mut()).for_each(|child| remove_references(child, references));
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
