//! Node of the interrupt controller in a device tree, by the bindings `arm,gic-v3` and
//! `arm,gic-v3-its`, or, for a GICv2, `arm,cortex-a15-gic` and `arm,gic-v2m-frame`.
//!
//! A node is made of names, text and cells. Every writer of device trees has calls for these, or
//! takes the bytes of a value:
//!
//! ```
//! use vgic::Config;
//! use vgic::description::device_tree::{Node, gic_node};
//! use vgic::intid::Affinity;
//!
//! /// Prints a node as source text.
//! fn print(node: &Node, depth: usize) {
//!     println!("{:depth$}{} {{", "", node.name);
//!     for property in &node.properties {
//!         println!("{:depth$}    {} = {:x?};", "", property.name, property.value.to_bytes());
//!     }
//!     for child in &node.children {
//!         print(child, depth + 4);
//!     }
//!     println!("{:depth$}}};", "");
//! }
//!
//! let config = Config::new(vec![Affinity::new(0, 0, 0, 0)]).with_its(0x0808_0000);
//! let node = gic_node(&config, 1);
//! assert_eq!(node.name, "interrupt-controller@8000000");
//! assert_eq!(node.children[0].name, "msi-controller@8080000");
//! print(&node, 0);
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::config::{Config, Gicv2Config, ITS_SIZE, ItsConfig, V2M_SIZE, V2mConfig};
use crate::intid::{IntId, Kind};

/// First cell of an interrupt specifier.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EXTENDED_SPI: u32 = 2;
const EXTENDED_PPI: u32 = 3;

/// Last cell of an interrupt specifier: edge-triggered, on a rising edge.
pub const EDGE_RISING: u32 = 1;
/// Last cell of an interrupt specifier: level-sensitive, active high.
pub const LEVEL_HIGH: u32 = 4;
/// Lowest bit of the CPU mask in the last cell of a GICv2's specifier of a PPI.
const PPI_CPUS_SHIFT: u32 = 8;

/// A node of a device tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Name with the unit address, `interrupt-controller@8000000` for example.
    pub name: String,
    /// Properties, each name once.
    pub properties: Vec<Property>,
    /// Nodes below.
    pub children: Vec<Node>,
}

/// A property of a [`Node`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property {
    /// Name.
    pub name: &'static str,
    /// Value.
    pub value: Value,
}

/// Value of a [`Property`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// No value: the presence of the property is the information.
    Empty,
    /// A string, without the terminating zero.
    Text(&'static str),
    /// Cells, 32 bits each. A 64-bit number is two cells, the upper half first.
    Cells(Vec<u32>),
}

impl Value {
    /// Returns the bytes of the value in a flattened device tree: the string with a terminating
    /// zero, or the cells, big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::Text(text) => text.bytes().chain([0]).collect(),
            Self::Cells(cells) => cells.iter().flat_map(|cell| cell.to_be_bytes()).collect(),
        }
    }
}

impl Node {
    /// Returns the value of the property `name`.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Value> {
        let mut properties = self.properties.iter();
        properties
            .find(|property| property.name == name)
            .map(|found| &found.value)
    }
}

/// Returns the node of the interrupt controller, with a child for each ITS (binding `arm,gic-v3`).
/// With a GICv2 ([`Config::gicv2`]), the children are its GICv2m frames (binding
/// `arm,cortex-a15-gic`).
///
/// `phandle` is the controller's, which the root's `interrupt-parent` names. Child n has the handle
/// `phandle + 1 + n`, which a device's `msi-parent` or a host bridge's `msi-map` names.
///
/// The node belongs into a parent with `#address-cells` and `#size-cells` of 2: the root as a rule.
#[must_use]
pub fn gic_node(config: &Config, phandle: u32) -> Node {
    if let Some(gicv2) = &config.gicv2 {
        return gicv2_node(config, gicv2, phandle);
    }
    let frames = 1 + config.redistributors.len();
    let its = (1..).zip(&config.its);

    Node {
        name: format!("interrupt-controller@{:x}", config.distributor),
        properties: vec![
            text("compatible", "arm,gic-v3"),
            empty("interrupt-controller"),
            cells("#interrupt-cells", [3]),
            cells("#address-cells", [2]),
            cells("#size-cells", [2]),
            empty("ranges"),
            cells(
                "#redistributor-regions",
                [config.redistributors.len() as u32],
            ),
            cells("reg", config.frames().take(frames).flat_map(reg)),
            cells("interrupts", interrupt(config.maintenance, LEVEL_HIGH)),
            cells("phandle", [phandle]),
        ],
        children: its
            .map(|(n, its)| its_node(its, Some(phandle.wrapping_add(n))))
            .collect(),
    }
}

/// Returns the three cells of an interrupt specifier, a value of a device's `interrupts` (binding
/// `arm,gic-v3`): 0 for an SPI, 1 for a PPI, 2 for an extended SPI or 3 for an extended PPI, then
/// the number in that range, then `trigger`, [`LEVEL_HIGH`] or [`EDGE_RISING`].
///
/// No specifier names an SGI or an LPI: the cells are without meaning.
#[must_use]
pub const fn interrupt(intid: IntId, trigger: u32) -> [u32; 3] {
    let (range, first) = match (intid.kind(), intid.is_extended()) {
        (Kind::Sgi | Kind::Ppi, false) => (PPI, IntId::FIRST_PPI),
        (Kind::Sgi | Kind::Ppi, true) => (EXTENDED_PPI, IntId::FIRST_EXTENDED_PPI),
        (Kind::Spi | Kind::Lpi, false) => (SPI, IntId::FIRST_SPI),
        (Kind::Spi | Kind::Lpi, true) => (EXTENDED_SPI, IntId::FIRST_EXTENDED_SPI),
    };
    [range, intid.raw().saturating_sub(first), trigger]
}

/// Returns the node of a GICv2, which has no interrupt of its own: no virtualization extensions.
fn gicv2_node(config: &Config, gicv2: &Gicv2Config, phandle: u32) -> Node {
    let v2m = (1..).zip(&gicv2.v2m);

    Node {
        name: format!("interrupt-controller@{:x}", config.distributor),
        properties: vec![
            text("compatible", "arm,cortex-a15-gic"),
            empty("interrupt-controller"),
            cells("#interrupt-cells", [3]),
            cells("#address-cells", [2]),
            cells("#size-cells", [2]),
            empty("ranges"),
            // The distributor and the CPU interface.
            cells("reg", config.frames().take(2).flat_map(reg)),
            cells("phandle", [phandle]),
        ],
        children: v2m
            .map(|(n, v2m)| v2m_node(v2m, Some(phandle.wrapping_add(n))))
            .collect(),
    }
}

/// Returns the three cells of the interrupt specifier of a PPI of the VM, like [`interrupt`]. A
/// GICv2's has the CPUs in bits 15:8 of the last cell: all vCPUs of the VM.
#[must_use]
pub fn ppi_specifier(config: &Config, ppi: IntId, trigger: u32) -> [u32; 3] {
    let cpus = match config.gicv2 {
        None => 0,
        Some(_) => u32::from(config.gicv2_cpus()),
    };

    let [range, number, trigger] = interrupt(ppi, trigger);
    [range, number, trigger | cpus << PPI_CPUS_SHIFT]
}

/// Returns the node of a GICv2m frame, a child of the controller's node (binding
/// `arm,gic-v2m-frame`). The guest reads the frame's SPIs in `MSI_TYPER`. `phandle` is the frame's,
/// if any node refers to the frame.
#[must_use]
pub fn v2m_node(v2m: &V2mConfig, phandle: Option<u32>) -> Node {
    let mut properties = vec![
        text("compatible", "arm,gic-v2m-frame"),
        empty("msi-controller"),
        cells("reg", reg((v2m.base, V2M_SIZE))),
    ];
    properties.extend(phandle.map(|phandle| cells("phandle", [phandle])));

    Node {
        name: format!("v2m@{:x}", v2m.base),
        properties,
        children: Vec::new(),
    }
}

/// Returns the node of an ITS, a child of the controller's node (binding `arm,gic-v3-its`).
/// `phandle` is the ITS's, if any node refers to the ITS.
#[must_use]
pub fn its_node(its: &ItsConfig, phandle: Option<u32>) -> Node {
    let mut properties = vec![
        text("compatible", "arm,gic-v3-its"),
        empty("msi-controller"),
        cells("#msi-cells", [1]),
        cells("reg", reg((its.base, ITS_SIZE))),
    ];
    properties.extend(phandle.map(|phandle| cells("phandle", [phandle])));

    Node {
        name: format!("msi-controller@{:x}", its.base),
        properties,
        children: Vec::new(),
    }
}

/// Returns the four cells of an address and a size.
fn reg((base, size): (u64, u64)) -> [u32; 4] {
    [
        (base >> 32) as u32,
        base as u32,
        (size >> 32) as u32,
        size as u32,
    ]
}

/// Returns a property without a value.
fn empty(name: &'static str) -> Property {
    let value = Value::Empty;
    Property { name, value }
}

/// Returns a property of a string.
fn text(name: &'static str, text: &'static str) -> Property {
    let value = Value::Text(text);
    Property { name, value }
}

/// Returns a property of cells.
fn cells(name: &'static str, cells: impl IntoIterator<Item = u32>) -> Property {
    let value = Value::Cells(cells.into_iter().collect());
    Property { name, value }
}
