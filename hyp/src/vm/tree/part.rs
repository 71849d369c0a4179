//! The device tree of a VM with a part of the machine. Addresses are those of QEMU's `virt` board.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use vgic::Config;
use vgic::description::device_tree::{self as description, LEVEL_HIGH, gic_node, interrupt};

use crate::cpu::clock;
use crate::machine::entropy;
use crate::pci::window::Window;
use crate::vcpu::interrupts::TIMERS;
use crate::vm::{Wiring, console, devices};

/// Handles of nodes that others refer to. ITSes have those after the interrupt controller's.
const CLOCK: u32 = 1;
const GIC: u32 = 2;

/// Checks that the node of the timers can have the frequency of so slow a clock, in 32 bits.
///
/// # Errors
/// The greatest slowdown that it can have.
pub(crate) fn check_slowdown(slowdown: u32) -> Result<(), String> {
    let most = u64::from(u32::MAX) / clock::frequency();
    if u64::from(slowdown) <= most.max(1) {
        return Ok(());
    }
    Err(format!(
        "hyp.slowdown={slowdown}: give a number from 1 to {most}, for a counter of {} Hz",
        clock::frequency()
    ))
}

/// Returns the tree of a VM with this interrupt controller, wiring and RAM, whose kernel has these
/// arguments and the initial RAM disk at these guest-physical addresses. `slowdown` seconds of the
/// machine are one to the guest. `windows` are those of the host bridge, if the VM has PCI
/// functions.
pub(crate) fn build(
    config: &Config,
    wiring: &Wiring,
    ram: &Range<usize>,
    initrd: Option<&Range<usize>>,
    arguments: &str,
    slowdown: u32,
    windows: Option<&[Window]>,
) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    add(root, "compatible", "linux,dummy-virt");
    add(root, "#address-cells", 2u32);
    add(root, "#size-cells", 2u32);
    add(root, "interrupt-parent", GIC);

    root.add_child(chosen(initrd, arguments));
    let mut memory = node(format!("memory@{:x}", ram.start));
    add(&mut memory, "device_type", "memory");
    add(&mut memory, "reg", reg(ram));
    root.add_child(memory);
    root.add_child(cpus(config));

    let mut psci = node("psci");
    add(
        &mut psci,
        "compatible",
        Vec::from(["arm,psci-1.0", "arm,psci-0.2"]),
    );
    add(&mut psci, "method", "hvc");
    root.add_child(psci);

    root.add_child(timer(wiring, slowdown));
    root.add_child(written(&gic_node(config, GIC)));
    root.add_child(clock());
    root.add_child(uart(wiring));
    if let Some(windows) = windows {
        root.add_child(host_bridge(windows));
    }
    tree.to_dtb()
}

fn chosen(initrd: Option<&Range<usize>>, arguments: &str) -> DeviceTreeNode {
    let mut chosen = node("chosen");
    add(&mut chosen, "bootargs", arguments);
    add(
        &mut chosen,
        "stdout-path",
        &*format!("/pl011@{:x}", console::BASE),
    );
    if let Some(seed) = entropy::seed() {
        // Each start of the VM replaces it by a new one.
        add(&mut chosen, entropy::PROPERTY, &seed[..]);
    }
    // The BARs of PCI functions are where the hypervisor has put them.
    add(&mut chosen, "linux,pci-probe-only", 1u32);
    if let Some(initrd) = initrd {
        add(&mut chosen, "linux,initrd-start", initrd.start as u64);
        add(&mut chosen, "linux,initrd-end", initrd.end as u64);
    }
    chosen
}

fn cpus(config: &Config) -> DeviceTreeNode {
    let mut cpus = node("cpus");
    add(&mut cpus, "#address-cells", 2u32);
    add(&mut cpus, "#size-cells", 0u32);
    for affinity in &config.vcpus {
        let affinity = affinity.mpidr();
        let mut cpu = node(format!("cpu@{affinity:x}"));
        add(&mut cpu, "device_type", "cpu");
        add(&mut cpu, "compatible", "arm,armv8");
        add(&mut cpu, "reg", affinity);
        add(&mut cpu, "enable-method", "psci");
        cpus.add_child(cpu);
    }
    cpus
}

/// Returns the node of the timers: secure and non-secure physical, virtual, of EL2. A VM has the
/// second and the third. A guest prefers the node's frequency to that of `CNTFRQ_EL0`: its seconds
/// are as long as the node says.
fn timer(wiring: &Wiring, slowdown: u32) -> DeviceTreeNode {
    let [virtual_timer, physical_timer] = TIMERS;
    let all = [29, physical_timer, virtual_timer, 26];
    let interrupts = all.map(|physical| {
        let ppi = wiring.ppi(physical).expect("the timers have PPIs");
        interrupt(ppi, LEVEL_HIGH)
    });
    let mut timer = node("timer");
    add(&mut timer, "compatible", "arm,armv8-timer");
    add(&mut timer, "interrupts", interrupts.concat());
    add(&mut timer, "always-on", &[][..] as &[u8]);
    if slowdown > 1 {
        let frequency = clock::frequency() as u32 * slowdown;
        add(&mut timer, "clock-frequency", frequency);
    }
    timer
}

fn clock() -> DeviceTreeNode {
    let mut clock = node("apb-pclk");
    add(&mut clock, "compatible", "fixed-clock");
    add(&mut clock, "#clock-cells", 0u32);
    add(&mut clock, "clock-frequency", 24_000_000u32);
    add(&mut clock, "phandle", CLOCK);
    clock
}

fn uart(wiring: &Wiring) -> DeviceTreeNode {
    let mut uart = node(format!("pl011@{:x}", console::BASE));
    let registers = console::BASE as usize..(console::BASE + console::SIZE) as usize;
    add(
        &mut uart,
        "compatible",
        Vec::from(["arm,pl011", "arm,primecell"]),
    );
    add(&mut uart, "reg", reg(&registers));
    let cells = interrupt(wiring.console, LEVEL_HIGH);
    add(&mut uart, "interrupts", cells);
    add(&mut uart, "clocks", [CLOCK, CLOCK]);
    add(&mut uart, "clock-names", Vec::from(["uartclk", "apb_pclk"]));
    uart
}

/// Returns the node of a host bridge whose bus has no interrupt lines. The BARs stay as they are.
fn host_bridge(windows: &[Window]) -> DeviceTreeNode {
    /// First cell of a bus address: memory that is reached by 32 or 64 bits.
    const MEMORY_32: u32 = 2 << 24;
    const MEMORY_64: u32 = 3 << 24;
    let range = |window: &Window| {
        let is_high = window.bus + window.size > 1 << 32;
        let kind = if is_high { MEMORY_64 } else { MEMORY_32 };
        let numbers = [window.bus, window.cpu, window.size].map(u64::to_be_bytes);
        [&kind.to_be_bytes()[..], &numbers.concat()].concat()
    };
    let ranges: Vec<u8> = windows.iter().flat_map(range).collect();
    let registers = devices::ECAM as usize..(devices::ECAM + devices::ECAM_SIZE) as usize;

    let mut bridge = node(format!("pcie@{:x}", devices::ECAM));
    add(&mut bridge, "compatible", "pci-host-ecam-generic");
    add(&mut bridge, "device_type", "pci");
    add(&mut bridge, "#address-cells", 3u32);
    add(&mut bridge, "#size-cells", 2u32);
    add(&mut bridge, "reg", reg(&registers));
    add(&mut bridge, "bus-range", [0u32, 0]);
    add(&mut bridge, "ranges", ranges);
    // The requester IDs of functions are their DeviceIDs.
    add(&mut bridge, "msi-map", [0, GIC + 1, 0, 0x1_0000]);
    add(&mut bridge, "dma-coherent", &[][..] as &[u8]);
    bridge
}

/// Returns the four cells of a range.
fn reg(range: &Range<usize>) -> Vec<u8> {
    let [start, size] = [range.start, range.len()].map(|number| (number as u64).to_be_bytes());
    [start, size].concat()
}

/// Returns a node of the library's as dtoolkit writes it.
pub(super) fn written(description: &description::Node) -> DeviceTreeNode {
    let mut node = node(description.name.clone());
    for description::Property { name, value } in &description.properties {
        add(&mut node, name, value.to_bytes());
    }
    for child in &description.children {
        node.add_child(written(child));
    }
    node
}

fn node(name: impl Into<String>) -> DeviceTreeNode {
    DeviceTreeNode::new(name).expect("the name is well-formed")
}

fn add(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    let property = DeviceTreeProperty::new(name, value);
    node.add_property(property.expect("the name is well-formed"));
}
