//! VMs with a part of the machine each: made of what their options ask for.
#![expect(unsafe_code)]
// UNSAFETY: takes the guests' memory, memory for the heap, and the host bridge.

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use vgic::config::GITS_TRANSLATER;
use vgic::intid::IntId;

use crate::boot::modules::{BootModules, Kernel};
use crate::console;
use crate::cpu::percpu;
use crate::gic::{self, lpi};
use crate::machine::{Machine, entropy};
use crate::memory::dma::{DmaTables, Placed};
use crate::memory::layout::{self, BLOCK, PAGE};
use crate::memory::ranges::Pages;
use crate::memory::stage2::{FIRST_VMID, Stage2};
use crate::memory::{cache, heap};
use crate::pci::Bdf;
use crate::pci::ecam::Ecam;
use crate::pci::function::{Function, enumerate};
use crate::pci::window::{NoRoom, assign};
use crate::println;
use crate::smmu;
use crate::vm::changes::Changes;
use crate::vm::devices::{self, Bus, Devices};
use crate::vm::hop::Hop;
use crate::vm::image::Load;
use crate::vm::memory::GuestMemory;
use crate::vm::options::{Direct, Options, USUAL_WEIGHT};
use crate::vm::saved::Moments;
use crate::vm::tree::part as tree;
use crate::vm::virtio::{self, EntropyDevice};
use crate::vm::{self, Boot, Description, Extent, Vm, Wiring, controller, kvm};

/// Guest-physical address of the RAM.
pub(crate) const RAM: usize = 0x4000_0000;

/// Parts of the machine that no VM has.
#[derive(Clone)]
struct Stock {
    /// RAM.
    memory: Pages,
    /// Number of LPIs of the machine, for the MSIs of PCI functions.
    lpis: u32,
    /// PCI functions.
    functions: Vec<Function>,
}

/// Common resources of all VMs with a part of the machine.
struct Common<'m> {
    modules: &'m BootModules,
    /// PCI bus, or why its functions are given to no VM.
    bus: Result<&'static Bus, String>,
    /// Physical `GITS_TRANSLATER`, if the machine has an ITS.
    translater: Option<usize>,
}

/// Returns a VM for every kernel, with RAM from `memory`. A VM whose options cannot be met is
/// refused by a line on the console. If every VM is refused, the machine is powered off.
pub(crate) fn create(
    machine: &Machine,
    modules: &BootModules,
    mut memory: Pages,
) -> Vec<&'static Vm> {
    modules.ranges().for_each(|range| memory.remove(range));
    if let Some(seed) = machine.seed {
        entropy::init(seed);
    }
    let (bus, functions) = match pci_bus(machine) {
        Ok((bus, functions)) => (Ok(bus), functions),
        Err(reason) => (Err(reason), Vec::new()),
    };
    let its = machine.gic.its.first();
    let common = Common {
        modules,
        bus,
        translater: its.map(|its| its.start + GITS_TRANSLATER as usize),
    };
    let mut stock = Stock {
        memory,
        lpis: lpi::COUNT as u32,
        functions,
    };

    let mut vms = Vec::new();
    for kernel in &modules.kernels {
        // A VM that is refused takes nothing.
        let mut rest = stock.clone();
        match make(&vms, kernel, &common, &mut rest) {
            Ok(vm) => {
                vms.push(vm);
                stock = rest;
            }
            Err(reason) => println!("hyp: no VM for \"{}\": {reason}", kernel.arguments),
        }
    }
    if vms.is_empty() {
        console::stop(format_args!("no VM can be had"));
    }
    vms
}

/// Takes the PCI bus over, if there is one and an SMMU confines its functions. Returns the bus and
/// its functions.
///
/// # Errors
/// Why no function can be given to a VM.
fn pci_bus(machine: &Machine) -> Result<(&'static Bus, Vec<Function>), String> {
    if gic::get().its.is_empty() {
        return Err("the machine has no LPIs for the MSIs of PCI functions".into());
    }
    let smmu = smmu::get().ok_or("no SMMU confines PCI functions")?;
    let bridge = machine.pci.as_ref().ok_or("there is no PCI bus")?;
    // SAFETY: the device tree describes the host bridge, and the final tables map the root bus.
    let ecam = unsafe { Ecam::new(&bridge.bus_0()) };
    let mut functions = enumerate(&ecam, 0);
    assign(&mut functions, &bridge.windows).map_err(|NoRoom { size }| {
        format!("there is no room for a BAR of {size:#x} bytes, and no PCI function is given")
    })?;

    let bus = Bus {
        ecam,
        smmu,
        windows: bridge.windows.clone(),
        streams: bridge.streams.clone(),
        devices: bridge.devices.clone(),
        all: functions.iter().map(|function| function.bdf).collect(),
    };
    Ok((Box::leak(Box::new(bus)), functions))
}

/// Returns a VM with a part of the machine out of `stock`, beside `others`.
///
/// # Errors
/// Why the VM cannot be.
fn make(
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
    let mut config = controller::of_part(vcpus, options.events);
    config.extended_spis = options.extended_spis;
    config.extended_ppis = options.extended_ppis;
    if options.kvm.is_some() {
        config.spis = kvm::INTERRUPTS - IntId::FIRST_SPI;
        if config.has_extended_range() {
            return Err("hyp.kvm: Linux KVM has no extended interrupts".into());
        }
    }
    config.validate().map_err(|error| error.to_string())?;
    let wiring = Wiring::new(options.is_wired_by_extended);
    if options.is_wired_by_extended && (config.extended_spis == 0 || config.extended_ppis == 0) {
        return Err("hyp.wired=extended wants hyp.espis and hyp.eppis".into());
    }
    tree::check_slowdown(options.slowdown)?;
    if options.has_gicv2 {
        return Err("hyp.gic=2 is for a guest with the whole machine".into());
    }
    let moments = Moments::of(&options);
    let changes = Changes::of(&options);
    let entropy = entropy_device(&options)?;
    let name = options.name.unwrap_or_else(|| format!("vm{index}"));
    if others.iter().any(|other| other.name == name) {
        return Err(format!("another VM has the name {name}"));
    }

    let ram = take_ram(&mut stock.memory, (options.memory as usize) << 20).ok_or_else(|| {
        format!(
            "there are not {} MiB of RAM left in one piece",
            options.memory
        )
    })?;
    let is_saved = moments.is_some() || options.snapshot.is_some() || options.kvm.is_some();
    let tables = options.snapshot.as_ref().map_or(0, |_| ram.len());
    let is_direct = options.direct != Direct::Off
        && !options.functions.is_empty()
        && gic::get().has_virtual_lpis();
    let virtual_pes = if is_direct { vcpus } else { 0 };
    let heap = layout::growth_for(
        vcpus,
        virtual_pes,
        options.events as usize,
        is_saved,
        tables,
        config.extended_spis as usize + vcpus * config.extended_ppis as usize,
    );
    let heap = take_ram(&mut stock.memory, heap)
        .ok_or_else(|| format!("there is no RAM left for what {vcpus} vCPUs and their GIC take"))?;
    let functions = take_functions(others, common, stock, &options.functions)?;
    let bus = common.bus.as_ref().ok().copied();
    let bus = bus.filter(|_| !functions.is_empty());
    if bus.is_some() {
        let (lpis, events) = (stock.lpis, options.events);
        stock.lpis = (lpis.checked_sub(events)).ok_or_else(|| {
            format!("there are {lpis} LPIs left, and {events} events want one each")
        })?;
        let lpis = stock.lpis;
        stock.lpis = (lpis.checked_sub(virtual_pes as u32)).ok_or_else(|| {
            format!("there are {lpis} LPIs left, and {vcpus} vCPUs want a doorbell each")
        })?;
    }
    let own = entropy.is_some().then_some(&[virtio::WINDOW][..]);
    let windows = own.or(bus.map(|bus| &bus.windows[..]));

    let initrd = kernel.ram_disk.as_ref().or(common.modules.initrd.as_ref());
    let visible = RAM..RAM + ram.len();
    // SAFETY: the RAM has been taken from the free memory, in which no module lies.
    let load = unsafe {
        Load::plan(&ram, RAM, &kernel.image, initrd, |initrd| {
            let (arguments, slowdown) = (&options.arguments, options.slowdown);
            tree::build(
                &config, &wiring, &visible, initrd, arguments, slowdown, windows,
            )
        })?
    };
    // SAFETY: RAM and heap have been taken from the free memory, which is mapped by identity, and
    // as the home is.
    unsafe {
        cache::fill_with_zeros(&ram);
        heap::add(layout::virtual_address(heap.start), heap.len());
    }

    println!(
        "hyp: {name} has {} MiB at {:#x}, {vcpus} vCPUs, {} PCI functions: {}",
        options.memory,
        ram.start,
        functions.len(),
        options.arguments
    );
    let is_moved = options.snapshot.is_some();
    let stage2 = Stage2::for_vm(index, &ram, RAM, is_moved, devices::registers(&functions));
    let description = Description {
        name,
        extent: Extent::Part,
        stage2,
        msi_frame: None,
        devices: bus.map(|bus| devices_of(index, bus, common.translater, functions, &ram)),
        // SAFETY: the RAM has been taken from the free memory.
        memory: unsafe { GuestMemory::at(RAM, &ram, is_moved) },
        is_daemon: options.is_daemon,
        moments,
        direct: options.direct,
        changes,
        entropy,
        hop: (options.kvm.and_then(|path| CString::new(path).ok())).map(Hop::new),
        snapshot: options.snapshot.and_then(|path| CString::new(path).ok()),
        incoming: options.incoming.and_then(|path| CString::new(path).ok()),
        boot: Boot::Modules(load),
        config,
        wiring,
        extended_range: options.extended_range,
        weight: options.weight * scheduler::NORMAL_WEIGHT / USUAL_WEIGHT,
    };
    Ok(Vm::new(index, description))
}

/// Returns the hypervisor's entropy device, if the options ask for it.
///
/// # Errors
/// Why it cannot be had.
fn entropy_device(options: &Options) -> Result<Option<EntropyDevice>, String> {
    if !options.has_entropy {
        return Ok(None);
    }
    if !options.functions.is_empty() {
        return Err("hyp.rng and hyp.pci are of two host bridges, and a VM has one".into());
    }
    let device = EntropyDevice::new();
    let device = device.ok_or("the boot loader has passed no seed for hyp.rng")?;
    Ok(Some(device))
}

/// Takes PCI functions out of the stock.
///
/// # Errors
/// Which of them is not to be had, and why.
fn take_functions(
    others: &[&Vm],
    common: &Common<'_>,
    stock: &mut Stock,
    wanted: &[u16],
) -> Result<Vec<Function>, String> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let bus = common.bus.clone()?;
    let mut taken: Vec<Function> = Vec::new();
    for bdf in wanted.iter().copied().map(Bdf) {
        let mut all = stock.functions.iter();
        if let Some(place) = all.position(|function| function.bdf == bdf) {
            if !bus.confines(bdf) {
                return Err(format!("no SMMU confines PCI function {bdf}"));
            }
            if let Some(other) = bus.alias_of(bdf) {
                return Err(format!(
                    "the SMMU or the ITS cannot tell PCI function {bdf} from {other}"
                ));
            }
            taken.push(stock.functions.remove(place));
            continue;
        }

        let owner = others.iter().find(|vm| {
            let devices = vm.devices.as_ref();
            devices.is_some_and(|devices| devices.has_function(bdf))
        });
        return Err(match owner {
            Some(owner) => format!("PCI function {bdf} belongs to {}", owner.name),
            None if taken.iter().any(|function| function.bdf == bdf) => {
                format!("PCI function {bdf} is named twice")
            }
            None => format!("there is no PCI function {bdf}"),
        });
    }
    Ok(taken)
}

/// Returns the devices of VM number `index`, with RAM at the physical addresses `ram`. The physical
/// `GITS_TRANSLATER` is at `translater`.
fn devices_of(
    index: usize,
    bus: &'static Bus,
    translater: Option<usize>,
    functions: Vec<Function>,
    ram: &Range<usize>,
) -> Devices {
    let memory = Placed {
        physical: ram.clone(),
        at: RAM,
    };
    let translater = translater.map(|physical| Placed {
        at: (controller::ITS + GITS_TRANSLATER) as usize / PAGE * PAGE,
        ..Placed::page_of(physical)
    });
    let vmid = FIRST_VMID + index as u16;
    let dma = DmaTables::new(
        bus.smmu.reach(),
        vmid,
        [memory].into_iter(),
        translater.into_iter(),
    );
    Devices::new(bus, functions, Arc::new(dma))
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
