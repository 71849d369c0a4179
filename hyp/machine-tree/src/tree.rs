//! A machine as a device tree.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};

use crate::machine::{Bridge, Console, IdRange, Interrupt, Its, Machine, Uart, Window};

/// Handles of nodes that others refer to. ITSes have those from `FIRST_ITS` on.
const GIC: u32 = 1;
const SMMU: u32 = 2;
const FIRST_ITS: u32 = 3;

/// First INTID of PPIs and of SPIs.
const FIRST_PPI: u32 = 16;
const FIRST_SPI: u32 = 32;

/// Cells of an interrupt specifier: kind, and how the line tells.
const SPI: u32 = 0;
const PPI: u32 = 1;
const RISING: u32 = 1;
const FALLING: u32 = 2;
const HIGH: u32 = 4;
const LOW: u32 = 8;

/// Bytes of registers.
const DISTRIBUTOR: u64 = 0x1_0000;
const ITS: u64 = 0x2_0000;
const SMMU_SIZE: u64 = 0x2_0000;
const UART: u64 = 0x1000;

/// Returns the tree of a machine, without its memory.
pub fn build(machine: &Machine) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    add(root, "compatible", "linux,dummy-virt");
    add(root, "model", "described by ACPI");
    add(root, "#address-cells", 2u32);
    add(root, "#size-cells", 2u32);
    add(root, "interrupt-parent", GIC);
    // Devices of servers snoop the CPUs' caches (Arm's Base System Architecture).
    add(root, "dma-coherent", &[][..] as &[u8]);
    root.add_child(cpus(machine));

    let mut psci = node("psci");
    let versions = Vec::from(["arm,psci-1.0", "arm,psci-0.2"]);
    add(&mut psci, "compatible", versions);
    add(&mut psci, "method", "smc");
    root.add_child(psci);

    root.add_child(timer(&machine.timers));
    root.add_child(gic(machine));
    if let Some(intid) = machine.monitors {
        let mut monitors = node("pmu");
        add(&mut monitors, "compatible", "arm,armv8-pmuv3");
        add(&mut monitors, "interrupts", ppi(intid, HIGH));
        root.add_child(monitors);
    }
    if let Some(address) = machine.smmu {
        root.add_child(smmu(address));
    }
    for bridge in &machine.bridges {
        root.add_child(host_bridge(bridge, machine));
    }

    let mut chosen = node("chosen");
    if let Some(console) = &machine.console {
        let uart = uart(console);
        add(&mut chosen, "stdout-path", &*format!("/{}", uart.name()));
        root.add_child(uart);
    }
    root.add_child(chosen);
    tree
}

fn cpus(machine: &Machine) -> DeviceTreeNode {
    let mut cpus = node("cpus");
    add(&mut cpus, "#address-cells", 2u32);
    add(&mut cpus, "#size-cells", 0u32);
    for cpu in &machine.cpus {
        let affinity = cpu.affinity;
        let mut cpu = node(format!("cpu@{affinity:x}"));
        add(&mut cpu, "device_type", "cpu");
        add(&mut cpu, "compatible", "arm,armv8");
        add(&mut cpu, "reg", affinity);
        add(&mut cpu, "enable-method", "psci");
        cpus.add_child(cpu);
    }
    cpus
}

fn timer(timers: &[Interrupt; 4]) -> DeviceTreeNode {
    let line = |timer: &Interrupt| match (timer.is_edge, timer.is_low) {
        (true, true) => FALLING,
        (true, false) => RISING,
        (false, true) => LOW,
        (false, false) => HIGH,
    };
    // A machine without EL3 may tell no interrupt of the secure timer, which nobody uses.
    let interrupts = timers.each_ref().map(|timer| {
        let intid = timer.intid.max(FIRST_PPI);
        ppi(intid, line(timer))
    });
    let mut timer = node("timer");
    add(&mut timer, "compatible", "arm,armv8-timer");
    add(&mut timer, "interrupts", interrupts.concat());
    add(&mut timer, "always-on", &[][..] as &[u8]);
    timer
}

fn gic(machine: &Machine) -> DeviceTreeNode {
    let distributor = machine.distributor..machine.distributor + DISTRIBUTOR;
    let regions = &machine.redistributors;
    let frames: Vec<u8> = core::iter::once(&distributor)
        .chain(regions)
        .flat_map(reg)
        .collect();

    let mut gic = node(format!("intc@{:x}", distributor.start));
    add(&mut gic, "compatible", "arm,gic-v3");
    add(&mut gic, "#interrupt-cells", 3u32);
    add(&mut gic, "interrupt-controller", &[][..] as &[u8]);
    add(&mut gic, "#redistributor-regions", regions.len() as u32);
    add(&mut gic, "reg", frames);
    add(&mut gic, "interrupts", ppi(machine.maintenance, HIGH));
    add(&mut gic, "phandle", GIC);
    add(&mut gic, "#address-cells", 2u32);
    add(&mut gic, "#size-cells", 2u32);
    add(&mut gic, "ranges", &[][..] as &[u8]);
    for (handle, its) in (FIRST_ITS..).zip(&machine.its) {
        gic.add_child(its_node(its, handle));
    }
    gic
}

fn its_node(its: &Its, handle: u32) -> DeviceTreeNode {
    let address = its.address;
    let mut node = node(format!("its@{address:x}"));
    add(&mut node, "compatible", "arm,gic-v3-its");
    add(&mut node, "msi-controller", &[][..] as &[u8]);
    add(&mut node, "#msi-cells", 1u32);
    add(&mut node, "reg", reg(&(address..address + ITS)));
    add(&mut node, "phandle", handle);
    node
}

fn smmu(address: u64) -> DeviceTreeNode {
    let mut smmu = node(format!("smmuv3@{address:x}"));
    add(&mut smmu, "compatible", "arm,smmu-v3");
    add(&mut smmu, "reg", reg(&(address..address + SMMU_SIZE)));
    add(&mut smmu, "#iommu-cells", 1u32);
    add(&mut smmu, "phandle", SMMU);
    smmu
}

/// Returns the node of a host bridge. Its functions have no interrupt lines: how these are wired is
/// in ACPI's byte code.
fn host_bridge(bridge: &Bridge, machine: &Machine) -> DeviceTreeNode {
    const BUS: u64 = 1 << 20;
    let buses = u64::from(bridge.buses.1 - bridge.buses.0) + 1;
    let ranges: Vec<u8> = bridge.windows.iter().flat_map(range).collect();
    let entry = |handle: u32, ids: &IdRange| [ids.from, handle, ids.to, ids.count];
    let streams: Vec<u32> = (bridge.streams.iter())
        .flat_map(|ids| entry(SMMU, ids))
        .collect();
    let devices: Vec<u32> = (bridge.devices.iter())
        .filter_map(|(its, ids)| Some(entry(handle_of(machine, *its)?, ids)))
        .flatten()
        .collect();

    let mut node = node(format!("pcie@{:x}", bridge.ecam));
    add(&mut node, "compatible", "pci-host-ecam-generic");
    add(&mut node, "device_type", "pci");
    add(&mut node, "#address-cells", 3u32);
    add(&mut node, "#size-cells", 2u32);
    let registers = bridge.ecam..bridge.ecam + buses * BUS;
    add(&mut node, "reg", reg(&registers));
    add(&mut node, "linux,pci-domain", u32::from(bridge.segment));
    let (first, last) = bridge.buses;
    add(
        &mut node,
        "bus-range",
        [first.into(), last.into()] as [u32; 2],
    );
    add(&mut node, "ranges", ranges);
    if !devices.is_empty() {
        add(&mut node, "msi-map", devices);
    }
    if !streams.is_empty() {
        add(&mut node, "iommu-map", streams);
    }
    node
}

/// Returns the seven cells of a window.
fn range(window: &Window) -> Vec<u8> {
    /// First cell of a bus address: memory that is reached by 32 or 64 bits.
    const MEMORY_32: u32 = 2 << 24;
    const MEMORY_64: u32 = 3 << 24;
    let is_high = window.bus + window.size > 1 << 32;
    let kind = if is_high { MEMORY_64 } else { MEMORY_32 };
    let numbers = [window.bus, window.cpu, window.size].map(u64::to_be_bytes);
    [&kind.to_be_bytes()[..], &numbers.concat()].concat()
}

/// Returns the handle of the ITS with this id.
fn handle_of(machine: &Machine, id: u32) -> Option<u32> {
    let place = machine.its.iter().position(|its| its.id == id)?;
    Some(FIRST_ITS + place as u32)
}

/// Returns the node of a UART.
pub(crate) fn uart(console: &Console) -> DeviceTreeNode {
    /// Rate of a UART of which nothing is told.
    const USUAL: u32 = 115_200;
    let address = console.address;
    let mut uart = node(format!("serial@{address:x}"));
    match console.kind {
        Uart::Sbsa => add(&mut uart, "compatible", "arm,sbsa-uart"),
        Uart::Ns16550 {
            shift,
            width,
            clock,
        } => {
            add(&mut uart, "compatible", "ns16550a");
            add(&mut uart, "reg-shift", shift);
            add(&mut uart, "reg-io-width", width);
            add(&mut uart, "clock-frequency", clock);
        }
    }
    add(&mut uart, "reg", reg(&(address..address + UART)));
    add(&mut uart, "current-speed", console.baud.unwrap_or(USUAL));
    if let Some(intid) = console.interrupt {
        add(&mut uart, "interrupts", [SPI, intid - FIRST_SPI, HIGH]);
    }
    uart
}

fn ppi(intid: u32, line: u32) -> [u32; 3] {
    [PPI, intid - FIRST_PPI, line]
}

/// Returns the four cells of a range.
pub(crate) fn reg(range: &Range<u64>) -> Vec<u8> {
    [range.start, range.end - range.start]
        .map(u64::to_be_bytes)
        .concat()
}

pub(crate) fn node(name: impl Into<String>) -> DeviceTreeNode {
    DeviceTreeNode::new(name).expect("the name is well-formed")
}

pub(crate) fn add(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    let property = DeviceTreeProperty::new(name, value);
    node.add_property(property.expect("the name is well-formed"));
}
