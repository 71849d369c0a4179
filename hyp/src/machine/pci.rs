//! The host bridge in the device tree (the binding `pci-host-ecam-generic`).

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property, ToCellInt};

use super::tree::{self, is_compatible, regs};
use crate::pci::id_map::IdMap;
use crate::pci::window::Window;

/// Host bridge of a PCI segment.
#[derive(Debug)]
pub(crate) struct HostBridge {
    /// Configuration space.
    pub(crate) ecam: Range<usize>,
    /// Memory of the bus that CPUs see.
    pub(crate) windows: Vec<Window>,
    /// StreamIDs of the functions at the SMMU.
    pub(crate) streams: IdMap,
    /// DeviceIDs of the functions at the ITS.
    pub(crate) devices: IdMap,
}

/// Bytes of the configuration space of a bus.
const BUS_SIZE: usize = 1 << 20;

impl HostBridge {
    /// Returns the configuration space of the root bus.
    pub(crate) fn bus_0(&self) -> Range<usize> {
        let start = self.ecam.start;
        start..(start + BUS_SIZE).min(self.ecam.end)
    }

    /// Returns the first host bridge of the machine.
    pub(crate) fn read(tree: &Fdt<'_>) -> Option<Self> {
        let mut nodes = tree.root().children();
        let node = nodes.find(|node| is_compatible(node, "pci-host-ecam-generic"))?;
        Some(Self {
            ecam: regs(&node).next()?,
            windows: windows(&node),
            streams: id_map(&node, "iommu-map", tree::smmu(tree)),
            devices: id_map(&node, "msi-map", tree::its(tree)),
        })
    }
}

/// Returns the windows of memory, without those of I/O.
fn windows(node: &FdtNode<'_>) -> Vec<Window> {
    /// Memory, in the first cell of a bus address.
    const MEMORY: u128 = 1 << (25 + 64);
    let ranges = node.ranges().expect("well-formed ranges");
    let windows = ranges.into_iter().flatten().map(|range| {
        let bus: u128 = range.child_bus_address().expect("three cells");
        let window = Window {
            bus: bus as u64,
            cpu: range.parent_bus_address().expect("at most 64 bits"),
            size: range.length().expect("at most 64 bits"),
        };
        (bus & MEMORY != 0).then_some(window)
    });
    windows.flatten().collect()
}

/// Returns the map of requester IDs to the IDs at `controller` in the property `name`: of each
/// entry the requester ID, the handle of a controller, its ID, and the number of IDs. The property
/// `name-mask` has the bits of a requester ID that count.
fn id_map(node: &FdtNode<'_>, name: &str, controller: Option<FdtNode<'_>>) -> IdMap {
    let number = |node: &FdtNode<'_>, name: &str| node.property(name)?.value_as::<u32>().ok();
    let handle = controller.and_then(|controller| number(&controller, "phandle"));
    let (Some(property), Some(handle)) = (node.property(name), handle) else {
        return IdMap::default();
    };
    let entries = property.as_prop_encoded_array([1, 1, 1, 1]);
    let entries = entries.expect("entries of four cells").filter_map(|entry| {
        let [from, to_whom, to, count] = entry.map(|cell| cell.to_int().expect("one cell"));
        // Other functions may be behind another controller, which the hypervisor does not drive.
        (to_whom == handle).then_some((from, to, count))
    });
    let mask = number(node, &format!("{name}-mask"));
    IdMap::new(mask.unwrap_or(u32::MAX), entries.collect())
}
