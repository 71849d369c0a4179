//! Node of the interrupt controller in a device tree, by the bindings `arm,gic-v3` and
//! `arm,gic-v3-its`.
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

use crate::config::{Config, ITS_SIZE, ItsConfig};
use crate::intid::IntId;

/// First cell of an interrupt specifier for a PPI.
const PPI: u32 = 1;
/// Last cell of an interrupt specifier: level-sensitive, active high.
const LEVEL_HIGH: u32 = 4;

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
///
/// `phandle` is the controller's, which the root's `interrupt-parent` names. ITS n has the handle
/// `phandle + 1 + n`, which a device's `msi-parent` or a host bridge's `msi-map` names.
///
/// The node belongs into a parent with `#address-cells` and `#size-cells` of 2: the root as a rule.
#[must_use]
pub fn gic_node(config: &Config, phandle: u32) -> Node {
    let frames = 1 + config.redistributors.len();
    let maintenance = config.maintenance.raw().saturating_sub(IntId::FIRST_PPI);
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
            cells("interrupts", [PPI, maintenance, LEVEL_HIGH]),
            cells("phandle", [phandle]),
        ],
        children: its
            .map(|(n, its)| its_node(its, Some(phandle.wrapping_add(n))))
            .collect(),
    }
}

/// Adds to the controller's `node` the ranges of SPIs that PCI functions and other devices may use
/// as message-signalled interrupts (`msi-controller` and `mbi-ranges` of the binding `arm,gic-v3`):
/// INTID of the first SPI, and number of SPIs.
///
/// For a VM without an ITS. The `msi-parent` or `msi-map` of a host bridge then names the
/// controller's handle. The guest programs functions with the address of `GICD_SETSPI_NSR`
/// ([`Config::message_address`](crate::Config::message_address)) and an SPI's INTID, and the
/// embedder passes a function's write on by [`Vgic::bus_write`](crate::Vgic::bus_write). No SPI of
/// a range may have a line.
///
/// ```
/// use vgic::Config;
/// use vgic::description::device_tree::{Value, gic_node, with_messages};
/// use vgic::intid::{Affinity, IntId};
///
/// let config = Config::new(vec![Affinity::new(0, 0, 0, 0)]);
/// let first = IntId::spi(128).unwrap();
/// let node = with_messages(gic_node(&config, 1), [(first, 256)]);
/// assert_eq!(node.property("mbi-ranges"), Some(&Value::Cells(vec![128, 256])));
/// ```
#[must_use]
pub fn with_messages(mut node: Node, ranges: impl IntoIterator<Item = (IntId, u32)>) -> Node {
    let ranges = ranges.into_iter();
    let spans = ranges.flat_map(|(first, count)| [first.raw(), count]);
    node.properties
        .extend([empty("msi-controller"), cells("mbi-ranges", spans)]);
    node
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
