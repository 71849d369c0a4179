//! A second ITS for the guest, with the option `hyp.its=2` on its command line. The guest can then
//! test the rules of the architecture for several ITSes.
//!
//! The machine has no second ITS, and no device can reach it. The guest makes its events pending by
//! commands.

use core::ops::Range;

use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use vgic::config::ItsConfig;
use vgic::description::device_tree::its_node;

use super::edit;
use super::part::written;
use crate::machine::{Machine, tree};

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
        machine.is_free(&frames),
        "no room for an ITS at {frames:#x?}"
    );

    let mut children = fdt.root().children();
    let gic = children.find(|node| tree::is_compatible(node, "arm,gic-v3"));
    let gic = gic.expect("the tree has the interrupt controller");
    // No device refers to the ITS: it needs no handle.
    let node = its_node(&ItsConfig::at(frames.start as u64), None);

    let mut edited = DeviceTree::from_fdt(&fdt);
    (edited.root.child_mut(gic.name()))
        .expect("the node was there")
        .add_child(written(&node));
    edit::write(blob, &edited);
    Some(frames)
}
