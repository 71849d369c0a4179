//! Idle states of the guest's CPUs, added to its device tree (the binding `arm,idle-state`).
//!
//! QEMU's tree has none. A guest that finds them leaves a CPU by PSCI `CPU_SUSPEND`
//! ([`crate::vm::psci`]) instead of WFI when it expects a longer pause.

use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property, ToPropertyValue};

use super::edit;
use crate::vm::psci::POWER_DOWN;

/// An idle state.
struct IdleState {
    /// Name of the node.
    name: &'static str,
    /// `power_state` of `CPU_SUSPEND`.
    parameter: u32,
    /// Microseconds until an interrupt is taken.
    latency: u32,
    /// Microseconds for which a stay pays off.
    residency: u32,
}

/// The states, the shallowest first. In standby the vCPU keeps its registers. The times are those
/// of an emulated machine.
const STATES: [IdleState; 2] = [
    IdleState {
        name: "standby",
        parameter: 0,
        latency: 50,
        residency: 500,
    },
    IdleState {
        name: "power-down",
        parameter: POWER_DOWN,
        latency: 200,
        residency: 3000,
    },
];

/// Adds the idle states to a tree that has none. QEMU's tree says of a single CPU that nothing
/// starts it; Linux takes idle states only from a CPU of PSCI.
///
/// # Panics
/// If the tree has no room for them.
pub(crate) fn add(blob: &mut [u8]) {
    let fdt = Fdt::new(blob).expect("the tree is well-formed");
    let first = 1 + largest_handle(&fdt.root());
    let mut edited = DeviceTree::from_fdt(&fdt);
    let Some(cpus) = edited.root.child_mut("cpus") else {
        return;
    };
    if cpus.child_mut("idle-states").is_some() {
        return;
    }

    let handles = (first..).take(STATES.len());
    let list: Vec<u8> = handles.clone().flat_map(u32::to_be_bytes).collect();
    for cpu in cpus.children_mut().filter(|node| is_cpu(node)) {
        if cpu.property("enable-method").is_none() {
            cpu.add_property(property("enable-method", "psci"));
        }
        cpu.add_property(property("cpu-idle-states", list.clone()));
    }

    let mut states = node("idle-states");
    states.add_property(property("entry-method", "psci"));
    for (handle, state) in handles.zip(&STATES) {
        states.add_child(state_node(handle, state));
    }
    cpus.add_child(states);

    edit::write(blob, &edited);
}

/// Returns true for the node of a CPU.
fn is_cpu(node: &DeviceTreeNode) -> bool {
    let kind = node.property("device_type");
    kind.is_some_and(|kind| kind.value_as() == Ok("cpu"))
}

/// Returns the node of a state.
fn state_node(handle: u32, state: &IdleState) -> DeviceTreeNode {
    let mut node = node(state.name);
    node.add_property(property("compatible", "arm,idle-state"));
    for (name, value) in [
        ("arm,psci-suspend-param", state.parameter),
        ("entry-latency-us", state.latency),
        ("exit-latency-us", state.latency),
        ("min-residency-us", state.residency),
        ("phandle", handle),
    ] {
        node.add_property(property(name, value));
    }
    node
}

/// Returns the largest handle of the node and its descendants.
fn largest_handle(node: &FdtNode<'_>) -> u32 {
    let own = node
        .property("phandle")
        .and_then(|handle| handle.value_as().ok());
    let below = node.children().map(|child| largest_handle(&child)).max();
    own.max(below).unwrap_or(0)
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new(name).expect("the name is well-formed")
}

fn property(name: &str, value: impl ToPropertyValue) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value).expect("the name is well-formed")
}
