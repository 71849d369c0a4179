//! A GICv2 in the guest's device tree in place of the machine's GICv3 (the bindings
//! `arm,cortex-a15-gic` and `arm,gic-v2m-frame`).
//!
//! The new nodes have the handles of the old ones: of the interrupt controller, and, for the GICv2m
//! frame, of the first ITS. References stay valid. The specifiers of PPIs get the CPUs.

use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use vgic::Config;
use vgic::description::device_tree::{gic_node, ppi_specifier, v2m_node};
use vgic::intid::IntId;

use super::edit;
use super::part::written;
use crate::machine::tree;

/// Cells of an interrupt specifier, in bytes.
const SPECIFIER: usize = 12;

/// Replaces the interrupt controller of the tree by that of `config`, a GICv2.
///
/// # Panics
/// If the tree has no GICv3 to which others refer.
pub(crate) fn replace(blob: &mut [u8], config: &Config) {
    let fdt = Fdt::new(blob).expect("the tree is well-formed");
    let old = tree::gic(&fdt).expect("the tree has the interrupt controller");
    let own = handle(&old).expect("devices refer to the interrupt controller");
    let of_its = tree::its(&fdt).and_then(|its| handle(&its));
    let mut gic = gic_node(config, own);
    let frames = config.gicv2.iter().flat_map(|gicv2| &gicv2.v2m);
    gic.children = frames.map(|frame| v2m_node(frame, of_its)).collect();

    let mut edited = DeviceTree::from_fdt(&fdt);
    edited.root.remove_child(old.name());
    edited
        .root
        .children_mut()
        .for_each(|node| add_cpus(node, config));
    edited.root.add_child(written(&gic));
    edit::write(blob, &edited);
}

/// Returns the handle of a node.
fn handle(node: &FdtNode<'_>) -> Option<u32> {
    node.property("phandle")?.value_as().ok()
}

/// Adds the CPUs to the specifiers of PPIs of a node and its descendants. A node with an interrupt
/// parent of its own stays as it is.
fn add_cpus(node: &mut DeviceTreeNode, config: &Config) {
    if node.property("interrupt-parent").is_some() {
        return;
    }
    if let Some(interrupts) = node.property("interrupts")
        && interrupts.value().len().is_multiple_of(SPECIFIER)
    {
        let specifiers = interrupts.value().chunks(SPECIFIER);
        let with_cpus: Vec<u8> = specifiers.flat_map(|old| specifier(old, config)).collect();
        let property = DeviceTreeProperty::new("interrupts", with_cpus);
        node.add_property(property.expect("the name is well-formed"));
    }
    node.children_mut()
        .for_each(|child| add_cpus(child, config));
}

/// Returns a specifier, with the CPUs if it is that of a PPI.
fn specifier(old: &[u8], config: &Config) -> Vec<u8> {
    /// First cell of a PPI's specifier.
    const PPI: u32 = 1;
    let mut cells = old.chunks(4).map(|cell| {
        let cell = cell.try_into().expect("a cell has four bytes");
        u32::from_be_bytes(cell)
    });
    let cells = [(); SPECIFIER / 4].map(|()| cells.next().unwrap_or_default());
    let new = match cells {
        [PPI, number, flags] => IntId::ppi(number.saturating_add(IntId::FIRST_PPI))
            .map(|ppi| ppi_specifier(config, ppi, flags)),
        _ => None,
    };
    let new = new.unwrap_or(cells);
    new.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}
