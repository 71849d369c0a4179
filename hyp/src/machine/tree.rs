//! Queries of a device tree that allocate no memory.

use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Cells, Node, Property, ToCellInt};
use vgic::intid::IntId;

use crate::console::uart::Kind;

/// Returns true if the node is compatible with `kind`.
pub(crate) fn is_compatible(node: &FdtNode<'_>, kind: &str) -> bool {
    node.compatible()
        .is_some_and(|mut kinds| kinds.any(|known| known == kind))
}

/// Returns the ranges of the node's `reg`, in its parent's addresses.
///
/// # Panics
/// If a range does not fit the parent's cells.
pub(crate) fn regs<'a>(node: &FdtNode<'a>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    let regs = node.reg().expect("well-formed reg");
    regs.into_iter()
        .flatten()
        .map(|reg| range(reg.address, reg.size))
}

/// Returns the windows of the node's `ranges`, in its parent's addresses.
///
/// # Panics
/// If a window does not fit the cells.
pub(crate) fn windows<'a>(node: &FdtNode<'a>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    let windows = node.ranges().expect("well-formed ranges");
    (windows.into_iter().flatten()).map(|window| range(window.parent_bus_address, window.length))
}

/// Returns true if the node is a bus with its parent's addresses: its `ranges` is empty.
pub(crate) fn is_transparent(node: &FdtNode<'_>) -> bool {
    node.property("ranges")
        .is_some_and(|ranges| ranges.value().is_empty())
}

/// Returns the ranges of RAM.
pub(crate) fn memory<'a>(tree: &Fdt<'a>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    (tree.root().children())
        .filter(is_memory)
        .flat_map(|node| regs(&node))
}

/// Returns the banks of flash memory.
pub(crate) fn flash<'a>(tree: &Fdt<'a>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    (tree.root().children())
        .filter(|node| is_compatible(node, "cfi-flash"))
        .flat_map(|node| regs(&node))
}

/// Returns true if the node describes RAM.
pub(crate) fn is_memory(node: &FdtNode<'_>) -> bool {
    let kind = node
        .property("device_type")
        .and_then(|kind| kind.value_as::<&str>().ok());
    kind == Some("memory")
}

/// Returns the affinities of the CPUs, in the tree's order.
pub(crate) fn cpus<'a>(tree: &Fdt<'a>) -> impl Iterator<Item = u64> + use<'a> {
    let nodes = tree
        .find_node("/cpus")
        .into_iter()
        .flat_map(|cpus| cpus.children());
    nodes
        .filter(|node| node.name_without_address() == "cpu")
        .map(|node| {
            let reg = node.reg().ok().flatten().and_then(|mut regs| regs.next());
            reg.expect("a CPU has an affinity")
                .address()
                .expect("it has at most 64 bits")
        })
}

/// A UART that `/chosen` names as the console.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    /// Kind of the UART.
    pub(crate) kind: Kind,
    /// Registers.
    pub(crate) registers: Range<usize>,
    /// SPI, if the tree names one.
    pub(crate) spi: Option<u32>,
}

/// Returns the console, if `/chosen` names a UART of a known kind.
pub(crate) fn console(tree: &Fdt<'_>) -> Option<Console> {
    let chosen = tree.find_node("/chosen")?;
    let path = chosen.property("stdout-path")?.value_as::<&str>().ok()?;
    // The line's settings may follow the path.
    let node = tree.find_node(path.split(':').next()?)?;
    Some(Console {
        kind: kind_of_uart(&node)?,
        registers: regs(&node).next()?,
        spi: spi(&node),
    })
}

/// Returns the kind of a UART by what its node is compatible with.
fn kind_of_uart(node: &FdtNode<'_>) -> Option<Kind> {
    let number = |name: &str| node.property(name)?.value_as::<u32>().ok();
    let is = |kind: &str| is_compatible(node, kind);
    if is("arm,pl011") {
        return Some(Kind::Pl011);
    }
    if is("arm,sbsa-uart") {
        return Some(Kind::Sbsa);
    }
    (is("ns16550a") || is("ns16550") || is("snps,dw-apb-uart")).then(|| Kind::Ns16550 {
        shift: number("reg-shift").unwrap_or(0),
        width: number("reg-io-width").unwrap_or(1),
    })
}

/// Returns the SPI of a node, by the binding of GICv3: kind (0: SPI), number, flags.
fn spi(node: &FdtNode<'_>) -> Option<u32> {
    let interrupts = node.property("interrupts")?;
    let [kind, number, _] = interrupts.as_prop_encoded_array([1, 1, 1]).ok()?.next()?;
    let is_spi = kind.to_int::<u32>().ok()? == 0;
    is_spi.then_some(IntId::FIRST_SPI + number.to_int::<u32>().ok()?)
}

/// Returns the node of the SMMU.
///
/// # Panics
/// If there are several. The hypervisor would leave devices unconfined.
pub(crate) fn smmu<'a>(tree: &Fdt<'a>) -> Option<FdtNode<'a>> {
    let mut nodes = (tree.root().children()).filter(|node| is_compatible(node, "arm,smmu-v3"));
    let first = nodes.next()?;
    assert!(nodes.next().is_none(), "the machine has more than one SMMU");
    Some(first)
}

/// Returns the node of the interrupt controller.
pub(crate) fn gic<'a>(tree: &Fdt<'a>) -> Option<FdtNode<'a>> {
    (tree.root().children()).find(|node| is_compatible(node, "arm,gic-v3"))
}

/// Returns the node of the first ITS, which translates the MSIs of PCI functions.
pub(crate) fn its<'a>(tree: &Fdt<'a>) -> Option<FdtNode<'a>> {
    (gic(tree)?.children()).find(|child| is_compatible(child, "arm,gic-v3-its"))
}

/// Returns the memory that somebody else than software on the CPUs may use: the reservations of the
/// tree, and the children of `/reserved-memory`.
pub(crate) fn reserved<'a>(tree: &Fdt<'a>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    let reservations = tree.memory_reservations().map(|reservation| {
        let start = reservation.address() as usize;
        start..start.saturating_add(reservation.size() as usize)
    });
    let node = tree.find_node("/reserved-memory");
    let children = node.into_iter().flat_map(|node| node.children());
    reservations.chain(children.flat_map(|child| regs(&child)))
}

/// Returns the guests' kernels: modules of `/chosen`, as multiboot describes them.
pub(crate) fn kernels<'a>(
    tree: &Fdt<'a>,
) -> impl Iterator<Item = (FdtNode<'a>, Range<usize>)> + use<'a> {
    modules_of(tree, "multiboot,kernel")
}

/// Returns the guests' initial RAM disks: modules of `/chosen`, too.
pub(crate) fn ram_disks<'a>(tree: &Fdt<'a>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    modules_of(tree, "multiboot,ramdisk").map(|(_, range)| range)
}

/// Returns all modules of the boot loader.
pub(crate) fn modules<'a>(tree: &Fdt<'a>) -> impl Iterator<Item = FdtNode<'a>> + use<'a> {
    let chosen = tree.find_node("/chosen").into_iter();
    chosen
        .flat_map(|chosen| chosen.children())
        .filter(|node| is_compatible(node, "multiboot,module"))
}

/// Returns the modules of a kind, and their addresses.
fn modules_of<'a>(
    tree: &Fdt<'a>,
    kind: &'static str,
) -> impl Iterator<Item = (FdtNode<'a>, Range<usize>)> + use<'a> {
    let modules = modules(tree).filter(move |module| is_compatible(module, kind));
    modules.filter_map(|module| {
        // QEMU writes two cells each here, whatever the parent's cells.
        let mut reg = module.property("reg")?.as_prop_encoded_array([2, 2]).ok()?;
        let [address, size] = reg.next()?;
        Some((module, range(address, size)))
    })
}

/// Returns the command line of the module's kernel.
pub(crate) fn arguments<'a>(module: &FdtNode<'a>) -> &'a str {
    let arguments = module.property("bootargs");
    arguments.map_or("", |property| property.value_as().unwrap_or_default())
}

/// Returns the command line of the guest with the whole machine.
pub(crate) fn command_line<'a>(tree: &Fdt<'a>) -> &'a str {
    let chosen = tree.find_node("/chosen");
    let arguments = chosen.and_then(|chosen| chosen.property("bootargs"));
    arguments.map_or("", |property| property.value_as().unwrap_or_default())
}

/// Returns the guest's initial RAM disk.
pub(crate) fn initrd(tree: &Fdt<'_>) -> Option<Range<usize>> {
    let chosen = tree.find_node("/chosen")?;
    let address = |name| {
        let value = chosen.property(name)?.value_as::<Cells<'_>>().ok()?;
        value.to_int::<u64>().ok()
    };
    Some(address("linux,initrd-start")? as usize..address("linux,initrd-end")? as usize)
}

fn range(address: Cells<'_>, size: Cells<'_>) -> Range<usize> {
    let (address, size): (u64, u64) = match (address.to_int(), size.to_int()) {
        (Ok(address), Ok(size)) => (address, size),
        _ => panic!("an address in the device tree has more than 64 bits"),
    };
    address as usize..(address + size) as usize
}
