//! A second ITS for the guest, with the option `hyp.its=2` on its command line. The guest can then
//! test the rules of the architecture for several ITSes.
//!
//! The machine has no second ITS, and no device can reach it. The guest makes its events pending by
//! commands.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use super::{Machine, tree};
use crate::memory::ranges::Pages;

/// Option on the guest's command line.
const OPTION: &str = "hyp.its=2";

const ITS_SIZE: usize = vgic::config::ITS_SIZE as usize;

/// Adds the second ITS to the guest's tree, and returns its frames. Returns `None` without the
/// option.
///
/// # Panics
/// If the machine has no ITS, or there is no room for the frames or in the tree.
pub(crate) fn add(blob: &mut [u8], machine: &Machine) -> Option<Range<usize>> {
    let fdt = Fdt::new(blob).expect("the tree is well-formed");
    (tree::command_line(&fdt).split(' ')).find(|word| *word == OPTION)?;
    let first = machine.gic.its.first().expect("the machine has an ITS");
    let frames = first.start - ITS_SIZE..first.start;
    assert!(
        is_free(&frames, machine),
        "no room for an ITS at {frames:#x?}"
    );

    let (gic, its) = nodes(&fdt).expect("the tree has the ITS");
    let node = its_node_like(&its, &frames);

    let mut edited = DeviceTree::from_fdt(&fdt);
    (edited.root.child_mut(gic.name()))
        .expect("the node was there")
        .add_child(node);
    let edited = edited.to_dtb();
    let room = blob.get_mut(..edited.len());
    room.expect("the tree has room for an ITS")
        .copy_from_slice(&edited);
    Some(frames)
}

/// Returns true if no device and no RAM is in `frames`.
fn is_free(frames: &Range<usize>, machine: &Machine) -> bool {
    let mut free = Pages::default();
    free.add(frames);
    let taken = machine.devices.iter().chain(machine.memory.iter());
    taken.for_each(|range| free.remove(range));
    free.contains(frames)
}

/// Returns the nodes of the interrupt controller and of its first ITS.
fn nodes<'a>(fdt: &Fdt<'a>) -> Option<(FdtNode<'a>, FdtNode<'a>)> {
    let mut children = fdt.root().children();
    let gic = children.find(|node| tree::is_compatible(node, "arm,gic-v3"))?;
    let its = (gic.children()).find(|node| tree::is_compatible(node, "arm,gic-v3-its"))?;
    Some((gic, its))
}

/// Returns the node of an ITS like `other`, with registers at `frames`.
fn its_node_like(other: &FdtNode<'_>, frames: &Range<usize>) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(alloc::format!("its@{:x}", frames.start))
        .expect("the name is well-formed");
    for property in other.properties() {
        // A handle has one owner.
        let value = match property.name() {
            "phandle" | "linux,phandle" => continue,
            "reg" => reg_with_address(other, property.value(), frames.start),
            _ => property.value().to_vec(),
        };
        let property = DeviceTreeProperty::new(property.name().to_string(), value);
        node.add_property(property.expect("the name was good"));
    }
    node
}

/// Returns the `reg` of `node` with the address `to` and the old size.
fn reg_with_address(node: &FdtNode<'_>, reg: &[u8], to: usize) -> Vec<u8> {
    let first = node.reg().ok().flatten().and_then(|mut regs| regs.next());
    let bytes = first.map_or(0, |reg| reg.address.as_ref().len() * 4);
    let address = (to as u64).to_be_bytes();
    let skipped = address.len().saturating_sub(bytes);
    let mut value = reg.to_vec();
    value[..bytes].copy_from_slice(&address[skipped..]);
    value
}
