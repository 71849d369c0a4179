//! The machine's description: by ACPI, or the device tree that the firmware has.

#![expect(unsafe_code)]
// UNSAFETY: reads tables at the addresses that the firmware tells.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use aarch64_cpu::registers::{CNTPCT_EL0, Readable};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use machine_tree::acpi::{self, Windows};
use machine_tree::machine::Window;
use machine_tree::tree;
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, image_handle};
use uefi::proto::pci::configuration::ResourceRangeType;
use uefi::proto::pci::root_bridge::PciRootBridgeIo;
use uefi::proto::rng::Rng;
use uefi::table::cfg::ConfigTableEntry;
use uefi::{Guid, guid, println, system};

/// The device tree in the firmware's table of tables (the Embedded Base Boot Requirements).
const DEVICE_TREE: Guid = guid!("b1b621d5-f19c-41a5-830b-d9152c69aae0");

/// Returns the machine's device tree, without the part that a boot loader writes. Of two
/// descriptions that of ACPI counts, as servers keep it. A machine `has_console` if the
/// configuration names one.
///
/// # Errors
/// Why the hypervisor cannot run on the machine.
pub(crate) fn describe(has_console: bool) -> Result<DeviceTree, String> {
    if let Some(rsdp) = table(ConfigTableEntry::ACPI2_GUID) {
        // SAFETY: the firmware keeps the tables where it says, mapped by identity.
        let (machine, remarks) = unsafe { acpi::read(rsdp, &bridges()) }?;
        println!(
            "hyp.efi: by ACPI {} CPUs, {} regions of redistributors, {} ITSes, {} host bridges",
            machine.cpus.len(),
            machine.redistributors.len(),
            machine.its.len(),
            machine.bridges.len(),
        );
        for remark in remarks {
            println!("hyp.efi: {remark}");
        }
        if machine.console.is_none() && !has_console {
            return Err("there is no console".into());
        }
        return Ok(tree::build(&machine));
    }

    let address = table(DEVICE_TREE).ok_or("the firmware has neither ACPI nor a device tree")?;
    // SAFETY: the firmware keeps the tree where it says, mapped by identity, with its size.
    let blob = unsafe {
        let size = (address as *const u32).add(1).read_unaligned();
        core::slice::from_raw_parts(address as *const u8, u32::from_be(size) as usize)
    };
    let fdt = Fdt::new(blob).map_err(|error| format!("the device tree is broken: {error}"))?;
    println!("hyp.efi: by the firmware's device tree");
    Ok(DeviceTree::from_fdt(&fdt))
}

/// Returns the address of a table of the firmware's.
fn table(guid: Guid) -> Option<usize> {
    system::with_config_table(|tables| {
        let table = tables.iter().find(|table| table.guid == guid)?;
        Some(table.address.addr())
    })
}

/// Returns the host bridges that the firmware drives.
fn bridges() -> Vec<Windows> {
    let handles = boot::find_handles::<PciRootBridgeIo>().unwrap_or_default();
    let bridge = |handle| {
        let parameters = OpenProtocolParams {
            handle,
            agent: image_handle(),
            controller: None,
        };
        // SAFETY: the protocol stays, and is only asked: the driver of the bus keeps it.
        let bridge = unsafe {
            boot::open_protocol::<PciRootBridgeIo>(parameters, OpenProtocolAttributes::GetProtocol)
        };
        let bridge = bridge.ok()?;
        let resources = bridge.configuration().ok()?;

        let buses = (resources.iter())
            .find(|resource| resource.resource_range_type == ResourceRangeType::Bus);
        let is_memory = |resource: &&_| is_memory(resource);
        let windows = resources.iter().filter(is_memory).map(|resource| Window {
            bus: (resource.address_min).wrapping_add(resource.translation_offset),
            cpu: resource.address_min,
            size: resource.address_length,
        });
        Some(Windows {
            segment: bridge.segment_nr() as u16,
            first_bus: buses.map_or(0, |buses| buses.address_min as u8),
            windows: windows.collect(),
        })
    };
    handles.into_iter().filter_map(bridge).collect()
}

/// Returns true for memory of a bus.
fn is_memory(resource: &uefi::proto::pci::configuration::QwordAddressSpaceDescriptor) -> bool {
    resource.resource_range_type == ResourceRangeType::Memory && resource.address_length > 0
}

/// Returns a random seed: of the firmware's generator, or else the configuration's, if there is one,
/// with the time of this start in it.
pub(crate) fn seed(configured: Option<[u8; 32]>) -> Option<[u8; 32]> {
    if let Some(seed) = generated() {
        return Some(seed);
    }
    let mut seed = configured?;
    let counter = CNTPCT_EL0.get().to_le_bytes();
    let time = uefi::runtime::get_time().map_or([0; 4], |time| {
        [time.day(), time.hour(), time.minute(), time.second()]
    });
    for (byte, own) in seed.iter_mut().zip(counter.into_iter().chain(time)) {
        *byte ^= own;
    }
    Some(seed)
}

/// Returns a seed of the firmware's generator, if there is one.
fn generated() -> Option<[u8; 32]> {
    let handle = boot::get_handle_for_protocol::<Rng>().ok()?;
    let mut generator = boot::open_protocol_exclusive::<Rng>(handle).ok()?;
    let mut seed = [0; 32];
    generator.get_rng(None, &mut seed).ok()?;
    Some(seed)
}
