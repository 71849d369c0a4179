//! The VM with the whole machine.
#![expect(unsafe_code)]
// UNSAFETY: takes the guest's memory, and reads the host bridge.

use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Range;

use dtoolkit::fdt::Fdt;
use vgic::Config;
use vgic::config::GITS_TRANSLATER;

use crate::boot::modules::BootModules;
use crate::gic;
use crate::machine::{Machine, tree};
use crate::memory::cache;
use crate::memory::dma::{DmaTables, Placed};
use crate::memory::ranges::Pages;
use crate::memory::stage2::{FIRST_VMID, Stage2};
use crate::pci::ecam::Ecam;
use crate::pci::function;
use crate::println;
use crate::smmu::{self, Smmu};
use crate::vm::memory::GuestMemory;
use crate::vm::options::{Direct, Options};
use crate::vm::saved::Moments;
use crate::vm::tree::{edit, gicv2, idle_states, second_its};
use crate::vm::v2m::MsiFrame;
use crate::vm::{Boot, Description, Extent, Vm, Wiring, controller, image};

/// Returns the VM with the whole machine. Its guest starts with its kernel, or with the firmware in
/// flash memory.
pub(crate) fn create(
    mut machine: Machine,
    modules: &BootModules,
    home: Range<usize>,
    memory: Pages,
) -> &'static Vm {
    // SAFETY: the boot loader's tree lies in the guest's memory, and `boot`, its last reader, is
    // done.
    let tree = unsafe {
        core::slice::from_raw_parts_mut(modules.tree.start as *mut u8, modules.tree.len())
    };
    let has_its = !gic::get().its.is_empty();
    edit::hide_hypervisor(tree, &home, has_its);
    if let Some(smmu) = smmu::get() {
        smmu.attach_all(machine_dma(smmu, &machine, &memory));
    }
    let options = options(tree);
    let config = if options.has_gicv2 {
        let config = controller::gicv2_of_machine(&machine, has_its);
        gicv2::replace(tree, &config);
        config
    } else {
        if has_its {
            machine.gic.its.extend(second_its::add(tree, &machine));
        }
        controller::of_machine(&machine, has_its)
    };
    idle_states::add(tree);
    cache::clean_and_invalidate(&modules.tree);

    let ram = memory.iter().next().expect("the guest has RAM").start;
    let (entry, tree_address) = match modules.kernels.first() {
        Some(kernel) => {
            let mut keep = alloc::vec![modules.tree.clone(), home.clone()];
            keep.extend(modules.initrd.clone());
            // SAFETY: nothing that the boot loader has loaded is needed any more but the parts in
            // `keep`.
            let kernel = unsafe { image::load(&kernel.image, &memory, &keep) };
            (kernel.start, modules.tree.start)
        }
        // Firmware finds the device tree at the beginning of RAM, where QEMU puts it.
        None => {
            // SAFETY: nothing that the boot loader has loaded is needed any more but the tree.
            unsafe {
                core::ptr::copy(tree.as_ptr(), ram as *mut u8, tree.len());
            }
            cache::clean_and_invalidate(&(ram..ram + tree.len()));
            (machine.flash[0].start, ram)
        }
    };
    println!("hyp: guest at {entry:#x}, its device tree at {tree_address:#x}");

    let mut devices = machine.devices.clone();
    memory.iter().for_each(|range| devices.remove(range));
    devices.remove(&home);
    // Accesses to the interrupt controller's frames trap: the frames are not mapped. The SMMU is
    // the hypervisor's alone.
    let frames = machine.gic.frames().chain(&machine.smmu);
    frames.for_each(|frame| devices.remove(frame));
    let mut executable = memory.clone();
    for bank in &machine.flash {
        executable.add(bank);
        devices.remove(bank);
    }

    let description = Description {
        name: String::from("vm0"),
        extent: Extent::Whole,
        stage2: Stage2::identity(&executable, &devices),
        devices: None,
        msi_frame: msi_frame(&machine, &config),
        entropy: None,
        // SAFETY: all memory but the hypervisor's home is the guest's from now on.
        memory: unsafe { GuestMemory::identity(&memory) },
        boot: Boot::Once {
            entry: entry as u64,
            argument: tree_address as u64,
        },
        is_daemon: false,
        moments: Moments::of(&options),
        direct: match options.has_gicv2 {
            true => Direct::Off,
            false => options.direct,
        },
        changes: None,
        hop: None,
        snapshot: None,
        incoming: None,
        config: Config {
            extended_spis: options.extended_spis,
            extended_ppis: options.extended_ppis,
            ..config
        },
        wiring: Wiring::new(false),
        extended_range: options.extended_range,
        weight: scheduler::NORMAL_WEIGHT,
    };
    Vm::new(0, description)
}

/// Returns the options of the VM on the guest's command line.
///
/// # Panics
/// If an option is malformed, or is not for this VM.
fn options(tree: &[u8]) -> Options {
    let fdt = Fdt::new(tree).expect("the tree is well-formed");
    let options = Options::of_machine(tree::command_line(&fdt));
    options.unwrap_or_else(|error| panic!("the guest's command line: {error}"))
}

/// Returns the frame for the MSIs of the functions of the root bus, if the configuration has one.
fn msi_frame(machine: &Machine, config: &Config) -> Option<MsiFrame> {
    let frame = config.gicv2.as_ref()?.v2m.first()?;
    let bridge = machine.pci.as_ref()?;
    // SAFETY: the device tree describes the host bridge, and the final tables map the root bus.
    let ecam = unsafe { Ecam::new(&bridge.bus_0()) };
    let functions = function::addresses(&ecam, 0);
    let devices = functions.filter_map(|bdf| bridge.devices.id_of(bdf));
    Some(MsiFrame::new(0, frame, devices.collect()))
}

/// Returns the tables of all devices of the machine: the guest's `memory`, and the ITSes, by
/// identity.
fn machine_dma(smmu: &Smmu, machine: &Machine, memory: &Pages) -> Arc<DmaTables> {
    let memory = memory.iter().map(Placed::identity);
    let its = machine.gic.its.iter();
    let translaters = its.map(|its| Placed::page_of(its.start + GITS_TRANSLATER as usize));
    Arc::new(DmaTables::new(
        smmu.reach(),
        FIRST_VMID,
        memory,
        translaters,
    ))
}
