//! VMs with a part of the machine each: made of what their options ask for.
#![expect(unsafe_code)]
// UNSAFETY: takes the guests' memory, and the host bridge.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use vgic::config::GITS_TRANSLATER;

use crate::boot::modules::{BootModules, Kernel};
use crate::cpu::percpu;
use crate::machine::{Machine, entropy};
use crate::memory::cache;
use crate::memory::dma::{DmaTables, Placed};
use crate::memory::layout::{BLOCK, PAGE};
use crate::memory::ranges::Pages;
use crate::memory::stage2::{FIRST_VMID, Stage2};
use crate::pci::Bdf;
use crate::pci::ecam::Ecam;
use crate::pci::function::{Function, enumerate};
use crate::pci::window::{NoRoom, assign};
use crate::println;
use crate::smmu;
use crate::vm::devices::{self, Bus, Devices};
use crate::vm::image::Load;
use crate::vm::memory::GuestMemory;
use crate::vm::options::Options;
use crate::vm::tree::part as tree;
use crate::vm::{self, Boot, Description, Share, Vm, controller};

/// Guest-physical address of the RAM.
const RAM: usize = 0x4000_0000;

/// Weight of a VM that is as much worth as another, in its options.
const NORMAL_WEIGHT: u32 = 100;

/// Parts of the machine that no VM has.
#[derive(Clone)]
struct Stock {
    /// RAM.
    memory: Pages,
    /// Number of vCPUs that the heap has room for.
    vcpus: usize,
    /// PCI functions.
    functions: Vec<Function>,
}

/// Common resources of all VMs with a part of the machine.
struct Common<'m> {
    modules: &'m BootModules,
    bus: Option<&'static Bus>,
    /// Physical `GITS_TRANSLATER`, if the machine has an ITS.
    doorbell: Option<usize>,
}

/// Returns a VM for every kernel, with RAM from `memory`, and at most `vcpus` vCPUs together. A VM
/// whose options cannot be met is refused by a line on the console.
///
/// # Panics
/// If every VM is refused.
pub(crate) fn create(
    machine: &Machine,
    modules: &BootModules,
    mut memory: Pages,
    vcpus: usize,
) -> Vec<&'static Vm> {
    modules.ranges().for_each(|range| memory.remove(range));
    if let Some(seed) = machine.seed {
        entropy::init(seed);
    }
    let (bus, functions) = pci_bus(machine).unzip();
    let its = machine.gic.its.first();
    let common = Common {
        modules,
        bus,
        doorbell: its.map(|its| its.start + GITS_TRANSLATER as usize),
    };
    let mut stock = Stock {
        memory,
        vcpus,
        functions: functions.unwrap_or_default(),
    };

    let mut vms = Vec::new();
    for kernel in &modules.kernels {
        // A VM that is refused takes nothing.
        let mut rest = stock.clone();
        match vm(&vms, kernel, &common, &mut rest) {
            Ok(vm) => {
                vms.push(vm);
                stock = rest;
            }
            Err(reason) => println!("hyp: no VM for \"{}\": {reason}", kernel.arguments),
        }
    }
    assert!(!vms.is_empty(), "no VM can be had");
    vms
}

/// Takes the PCI bus over, if there is one and an SMMU confines its functions. Returns the bus and
/// its functions.
fn pci_bus(machine: &Machine) -> Option<(&'static Bus, Vec<Function>)> {
    let smmu = smmu::get()?;
    let bridge = machine.pci.as_ref()?;
    // SAFETY: the device tree describes the host bridge, and the final tables map the root bus.
    let ecam = unsafe { Ecam::new(&bridge.bus_0()) };
    let mut functions = enumerate(&ecam, 0);
    if let Err(NoRoom { size }) = assign(&mut functions, &bridge.windows) {
        println!("hyp: no PCI function is given: there is no room for a BAR of {size:#x} bytes");
        return None;
    }

    let bus = Bus {
        ecam,
        smmu,
        windows: bridge.windows.clone(),
        streams: bridge.streams.clone(),
        devices: bridge.devices.clone(),
    };
    Some((Box::leak(Box::new(bus)), functions))
}

/// Returns a VM with a part of the machine out of `stock`, beside `others`.
///
/// # Errors
/// Why the VM cannot be.
fn vm(
    others: &[&Vm],
    kernel: &Kernel,
    common: &Common<'_>,
    stock: &mut Stock,
) -> Result<&'static Vm, String> {
    let index = others.len();
    if index == vm::MAX_VMS {
        return Err(format!("there are {index} VMs already"));
    }
    let options = Options::parse(&kernel.arguments).map_err(|error| error.to_string())?;
    let vcpus = options
        .vcpus
        .map_or(percpu::all().len(), |count| count as usize);
    let config = controller::of_part(vcpus, options.events);
    config.validate().map_err(|error| error.to_string())?;
    let name = options.name.unwrap_or_else(|| format!("vm{index}"));
    if others.iter().any(|other| other.name == name) {
        return Err(format!("another VM has the name {name}"));
    }

    stock.vcpus = (stock.vcpus.checked_sub(vcpus)).ok_or_else(|| {
        let room = stock.vcpus;
        format!("the hypervisor's memory is enough for {room} vCPUs, not for {vcpus}")
    })?;
    let ram = take_ram(&mut stock.memory, (options.memory as usize) << 20).ok_or_else(|| {
        format!(
            "there are not {} MiB of RAM left in one piece",
            options.memory
        )
    })?;
    let functions = take_functions(common, stock, &options.functions)?;
    let windows = common.bus.filter(|_| !functions.is_empty());
    let windows = windows.map(|bus| &bus.windows[..]);

    let initrd = kernel.ram_disk.as_ref().or(common.modules.initrd.as_ref());
    let visible = RAM..RAM + ram.len();
    // SAFETY: the RAM has been taken from the free memory, in which no module lies.
    let load = unsafe {
        cache::fill_with_zeros(&ram);
        Load::plan(&ram, RAM, &kernel.image, initrd, |initrd| {
            tree::build(&config, &visible, initrd, &options.arguments, windows)
        })?
    };

    println!(
        "hyp: {name} has {} MiB at {:#x}, {vcpus} vCPUs, {} PCI functions: {}",
        options.memory,
        ram.start,
        functions.len(),
        options.arguments
    );
    let stage2 = Stage2::for_vm(index, &ram, RAM, devices::registers(&functions));
    let description = Description {
        name,
        share: Share::Part,
        stage2,
        devices: devices_of(index, common, functions, &ram),
        // SAFETY: the RAM has been taken from the free memory.
        memory: unsafe { GuestMemory::at(RAM, &ram) },
        is_daemon: options.is_daemon,
        boot: Boot::Modules(load),
        config,
        weight: options.weight * scheduler::NORMAL_WEIGHT / NORMAL_WEIGHT,
    };
    Ok(Vm::new(index, description))
}

/// Takes PCI functions out of the stock.
///
/// # Errors
/// Which of them is not there.
fn take_functions(
    common: &Common<'_>,
    stock: &mut Stock,
    wanted: &[u16],
) -> Result<Vec<Function>, String> {
    if !wanted.is_empty() && common.bus.is_none() {
        return Err("no SMMU confines PCI functions".into());
    }
    let mut take = |bdf: Bdf| {
        let mut all = stock.functions.iter();
        let place = all.position(|function| function.bdf == bdf);
        let place =
            place.ok_or_else(|| format!("PCI function {bdf} is not there, or another VM's"))?;
        Ok(stock.functions.remove(place))
    };
    wanted.iter().map(|&bdf| take(Bdf(bdf))).collect()
}

/// Returns the devices of VM number `index`, with RAM at the physical addresses `ram`.
fn devices_of(
    index: usize,
    common: &Common<'_>,
    functions: Vec<Function>,
    ram: &Range<usize>,
) -> Option<Devices> {
    let bus = common.bus.filter(|_| !functions.is_empty())?;
    let memory = Placed {
        physical: ram.clone(),
        at: RAM,
    };
    let doorbell = common.doorbell.map(|physical| Placed {
        at: (controller::ITS + GITS_TRANSLATER) as usize / PAGE * PAGE,
        ..Placed::page_of(physical)
    });
    let vmid = FIRST_VMID + index as u16;
    let dma = DmaTables::new(
        bus.smmu.reach(),
        vmid,
        [memory].into_iter(),
        doorbell.into_iter(),
    );
    Some(Devices::new(bus, functions, Arc::new(dma)))
}

/// Removes `size` bytes of RAM in one piece from the free memory, and returns them.
fn take_ram(free: &mut Pages, size: usize) -> Option<Range<usize>> {
    let pieces = free.iter().map(|piece| {
        let end = piece.end / BLOCK * BLOCK;
        let start = end.saturating_sub(size) / BLOCK * BLOCK;
        start.max(piece.start.next_multiple_of(BLOCK))..end
    });
    let ram = pieces.filter(|piece| piece.len() >= size).last()?;
    free.remove(&ram);
    Some(ram)
}
