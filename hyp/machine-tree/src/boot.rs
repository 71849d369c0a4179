//! Memory, kernels and command lines: the part of a device tree that a boot loader writes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};

use crate::machine::Console;
use crate::tree::{add, node, reg, uart};

/// The things that a boot loader tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot<'a> {
    /// RAM that is free for the hypervisor and its guests, and the images below, which lie in it.
    pub memory: Vec<Range<u64>>,
    /// Command line of a guest with the whole machine.
    pub arguments: &'a str,
    /// Initial RAM disk of every guest that has none of its own.
    pub initrd: Option<Range<u64>>,
    /// Guests' kernels, in any order.
    pub kernels: Vec<Kernel<'a>>,
    /// Random seed.
    pub seed: Option<[u8; 32]>,
    /// Console in place of the tree's.
    pub console: Option<Console>,
}

/// A guest's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel<'a> {
    /// The image.
    pub image: Range<u64>,
    /// The command line.
    pub arguments: &'a str,
    /// The kernel's own initial RAM disk, behind the image and before the next one.
    pub initrd: Option<Range<u64>>,
}

/// Room for the edits of the hypervisor, in bytes: idle states and a piece of RAM more.
const ROOM: usize = 16 << 10;

/// Bytes of a tree's header up to its size, and of the size.
const SIZE: Range<usize> = 4..8;

/// Adds to a tree what the boot loader tells, in place of what the tree says of that, and returns
/// the tree's binary form.
pub fn complete(mut tree: DeviceTree, boot: &Boot<'_>) -> Vec<u8> {
    let root = &mut tree.root;
    let is_memory = |node: &&DeviceTreeNode| {
        let kind = node.property("device_type");
        kind.is_some_and(|kind| kind.value_as() == Ok("memory"))
    };
    let old: Vec<_> = (root.children().filter(is_memory))
        .map(|node| String::from(node.name()))
        .collect();
    for name in old {
        root.remove_child(&name);
    }
    // Cells of addresses in the root, as the two cells of `reg` want them.
    add(root, "#address-cells", 2u32);
    add(root, "#size-cells", 2u32);
    if let Some(first) = boot.memory.first() {
        let mut memory = node(format!("memory@{:x}", first.start));
        add(&mut memory, "device_type", "memory");
        let pieces: Vec<u8> = boot.memory.iter().flat_map(reg).collect();
        add(&mut memory, "reg", pieces);
        root.add_child(memory);
    }

    if root.child_mut("chosen").is_none() {
        root.add_child(node("chosen"));
    }
    let console = boot.console.as_ref().map(uart);
    let chosen = root.child_mut("chosen").expect("the node has been added");
    fill_chosen(chosen, boot);
    if let Some(uart) = console {
        add(chosen, "stdout-path", &*format!("/{}", uart.name()));
        root.remove_child(uart.name());
        root.add_child(uart);
    }

    let mut blob = tree.to_dtb();
    blob.resize(blob.len() + ROOM, 0);
    let size = (blob.len() as u32).to_be_bytes();
    blob[SIZE].copy_from_slice(&size);
    blob
}

/// Writes the command line and the modules.
fn fill_chosen(chosen: &mut DeviceTreeNode, boot: &Boot<'_>) {
    add(chosen, "bootargs", boot.arguments);
    if let Some(initrd) = &boot.initrd {
        add(chosen, "linux,initrd-start", initrd.start);
        add(chosen, "linux,initrd-end", initrd.end);
    }
    if let Some(seed) = &boot.seed {
        add(chosen, "rng-seed", &seed[..]);
    }
    for kernel in &boot.kernels {
        let mut module = module("kernel", &kernel.image);
        add(&mut module, "bootargs", kernel.arguments);
        chosen.add_child(module);
        if let Some(initrd) = &kernel.initrd {
            chosen.add_child(self::module("ramdisk", initrd));
        }
    }
}

/// Returns the node of a module (the binding `multiboot,module`).
fn module(kind: &str, place: &Range<u64>) -> DeviceTreeNode {
    let mut module = node(format!("module@{:x}", place.start));
    let kind = format!("multiboot,{kind}");
    let kinds = Vec::from([kind.as_str(), "multiboot,module"]);
    add(&mut module, "compatible", kinds);
    add(&mut module, "reg", reg(place));
    module
}
