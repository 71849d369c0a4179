//! The device tree, with the names and addresses of QEMU's `virt` board.

use anyhow::Result;
use kvm_state::Shape;
use vm_fdt::FdtWriter;

use crate::board::{CLOCK, CLOCK_INTID, UART};
use crate::vm::{GICD, GICD_SIZE, GICR, GICR_SIZE, GITS_SIZE, RAM};

/// INTID of the first SPI, from which trees count.
const FIRST_SPI: u32 = 32;

/// Kind of an SPI, and flag of a level that is active high.
const SPI: u32 = 0;
const HIGH: u32 = 4;

/// Bytes of the frame of a small device.
const FRAME: u64 = 0x1000;

/// Describes a machine, with the guest's command line. A guest that leaves for `hyp` must know of
/// no clock.
pub(crate) fn describe(shape: &Shape, has_clock: bool, arguments: &str) -> Result<Vec<u8>> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("compatible", "linux,dummy-virt")?;

    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", arguments)?;
    tree.end_node(chosen)?;

    let memory = tree.begin_node(&format!("memory@{RAM:x}"))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[RAM, shape.ram.1])?;
    tree.end_node(memory)?;

    let psci = tree.begin_node("psci")?;
    tree.property_string("compatible", "arm,psci-1.0")?;
    tree.property_string("method", "hvc")?;
    tree.end_node(psci)?;

    cpus(&mut tree, &shape.affinities)?;
    gic(&mut tree, shape)?;
    device(&mut tree, "pl011", UART, None)?;
    if has_clock {
        device(&mut tree, "pl031", CLOCK, Some(CLOCK_INTID))?;
    }
    tree.end_node(root)?;
    Ok(tree.finish()?)
}

/// Describes the vCPUs.
fn cpus(tree: &mut FdtWriter, affinities: &[u64]) -> Result<()> {
    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for &affinity in affinities {
        let cpu = tree.begin_node(&format!("cpu@{affinity:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u32("reg", u32::try_from(affinity)?)?;
        tree.end_node(cpu)?;
    }
    tree.end_node(cpus)?;
    Ok(())
}

/// Describes the interrupt controller and its ITSes.
fn gic(tree: &mut FdtWriter, shape: &Shape) -> Result<()> {
    let gic = tree.begin_node(&format!("intc@{GICD:x}"))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_null("ranges")?;
    let redistributors = shape.affinities.len() as u64 * GICR_SIZE;
    tree.property_array_u64("reg", &[GICD, GICD_SIZE, GICR, redistributors])?;

    for base in &shape.itses {
        let its = tree.begin_node(&format!("its@{base:x}"))?;
        tree.property_string("compatible", "arm,gic-v3-its")?;
        tree.property_null("msi-controller")?;
        tree.property_u32("#msi-cells", 1)?;
        tree.property_array_u64("reg", &[*base, GITS_SIZE])?;
        tree.end_node(its)?;
    }
    tree.end_node(gic)?;
    Ok(())
}

/// Describes a small device of Arm's and its interrupt.
fn device(tree: &mut FdtWriter, kind: &str, base: u64, intid: Option<u32>) -> Result<()> {
    let node = tree.begin_node(&format!("{kind}@{base:x}"))?;
    let compatible = [format!("arm,{kind}"), "arm,primecell".to_owned()];
    tree.property_string_list("compatible", compatible.to_vec())?;
    tree.property_array_u64("reg", &[base, FRAME])?;
    if let Some(intid) = intid {
        tree.property_array_u32("interrupts", &[SPI, intid - FIRST_SPI, HIGH])?;
    }
    tree.end_node(node)?;
    Ok(())
}
