//! Creates the VMs, and starts the CPUs.
#![expect(unsafe_code)]
// UNSAFETY: takes the guests' memory and `TPIDR_EL2`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL2, Writeable};

use vgic::Cpu;
use vgic::config::GITS_TRANSLATER;
use vgic::cpu_interface::ich::Ich;
use vgic::intid::CpuId;

use crate::boot::secondary;
use crate::cpu::percpu::{self, PerCpu, affinity};
use crate::cpu::this_cpu::ThisCpu;
use crate::cpu::{control, hyp_timer};
use crate::gic::{self, Gic};
use crate::machine::Machine;
use crate::memory::dma::{DmaTables, Placed};
use crate::memory::layout::{self, BLOCK, PAGE};
use crate::memory::ranges::Pages;
use crate::memory::stage1::Stage1;
use crate::memory::stage2::{FIRST_VMID, Stage2};
use crate::memory::{cache, heap};
use crate::pci::Bdf;
use crate::pci::ecam::Ecam;
use crate::pci::function::{Function, enumerate};
use crate::pci::window::{NoRoom, assign};
use crate::schedule;
use crate::smmu::{self, Smmu};
use crate::vcpu::interrupts;
use crate::vm::devices::{self, Bus, Devices};
use crate::vm::image::Load;
use crate::vm::memory::GuestMemory;
use crate::vm::options::{self, Options};
use crate::vm::tree::part as part_tree;
use crate::vm::tree::{edit, idle_states, second_its};
use crate::vm::{self, Boot, Description, Share, Vm, controller, image, lifetime};
use crate::{console, println, terminal};

/// Guest-physical address of the RAM of a VM with a part of the machine.
const RAM: usize = 0x4000_0000;

/// Weight of a VM that is as much worth as another, in its options.
const NORMAL_WEIGHT: u32 = 100;

/// Bytes of the stack for reporting faults.
const EMERGENCY_STACK_SIZE: usize = 16 << 10;

/// Memory filled by the boot loader, by physical address.
pub(crate) struct BootModules {
    /// The device tree.
    pub(crate) tree: Range<usize>,
    /// Kernels in order of address: the guest's, or one for each VM. Without any, the guest starts
    /// with the firmware in flash memory.
    pub(crate) kernels: Vec<Kernel>,
    /// Initial RAM disk of every guest that has none of its own.
    pub(crate) initrd: Option<Range<usize>>,
}

/// A guest's kernel.
pub(crate) struct Kernel {
    /// The kernel's image.
    pub(crate) image: Range<usize>,
    /// The kernel's command line, with the hypervisor's options for the VM.
    pub(crate) arguments: String,
    /// The guest's own initial RAM disk.
    pub(crate) ram_disk: Option<Range<usize>>,
}

impl BootModules {
    /// Returns true if each kernel is for a VM with a part of the machine: there are several, or
    /// its command line has options.
    fn are_for_parts(&self) -> bool {
        match &self.kernels[..] {
            [] => false,
            [kernel] => options::are_in(&kernel.arguments),
            _ => true,
        }
    }

    /// Returns everything that the boot loader has loaded for VMs with a part of the machine.
    fn ranges(&self) -> impl Iterator<Item = &Range<usize>> {
        let kernels = self.kernels.iter();
        let ranges = kernels.flat_map(|kernel| [Some(&kernel.image), kernel.ram_disk.as_ref()]);
        ranges
            .chain([Some(&self.tree), self.initrd.as_ref()])
            .flatten()
    }
}

/// Creates the per-CPU data and maps the stacks.
pub(crate) fn make_cpus(machine: &Machine, stage1: &mut Stage1) -> Vec<PerCpu> {
    let make = |(index, &affinity): (usize, &u64)| {
        let emergency: &mut [u128] =
            alloc::vec![0u128; EMERGENCY_STACK_SIZE / size_of::<u128>()].leak();
        let emergency_top = emergency.as_ptr_range().end.addr();
        PerCpu::new(index, affinity, stage1.add_stack(index), emergency_top)
    };

    machine.cpus.iter().enumerate().map(make).collect()
}

/// Continues from [`crate::boot`], at the final place and under the final tables, and never
/// returns. Creates a VM for each kernel that the boot loader passed. A single one gets the whole
/// machine.
pub(crate) fn run(
    machine: Machine,
    modules: BootModules,
    home: Range<usize>,
    memory: Pages,
    cpus: Vec<PerCpu>,
) -> ! {
    let cpus = percpu::init(cpus);
    let this = affinity(MPIDR_EL1.get());
    let boot_cpu = (cpus.iter().find(|cpu| cpu.affinity == this))
        .expect("the device tree describes the CPU that booted");
    TPIDR_EL2.set((&raw const *boot_cpu).addr() as u64);
    println!(
        "hyp: {} CPUs, {} MiB at {:#x} are the hypervisor's",
        cpus.len(),
        home.len() >> 20,
        home.start
    );

    // SAFETY: the device tree describes the GIC, the final tables map its frames, and only the
    // hypervisor drives them.
    gic::init(unsafe { Gic::start(&machine.gic, &machine.cpus) });
    if let Some(frame) = &machine.smmu {
        // SAFETY: the device tree describes the SMMU, the final tables map its registers, and only
        // the hypervisor drives it.
        unsafe { smmu::start(frame) };
    }
    schedule::init(cpus.len());
    let console_spi = machine.console_spi;
    let are_parts = modules.are_for_parts();
    let vms = if are_parts {
        let vcpus = layout::vcpus_in(home.len(), cpus.len());
        parts(&machine, &modules, memory, vcpus)
    } else {
        alloc::vec![whole_machine(machine, &modules, home, memory)]
    };
    vm::init(vms);

    bring_up_cpu(boot_cpu);
    secondary::start_all(cpus, boot_cpu);
    if let Some(spi) = console_spi.filter(|_| are_parts) {
        take_input(spi, boot_cpu);
    }
    heap::note_start();
    vm::all().iter().for_each(|vm| lifetime::start(vm));
    schedule::run(ThisCpu::get())
}

/// Makes the console, whose SPI is `spi`, interrupt `cpu` when something is typed.
fn take_input(spi: u32, cpu: &PerCpu) {
    terminal::start();
    let distributor = &gic::get().distributor;
    distributor.configure(spi, false);
    distributor.route(spi, cpu.affinity);
    distributor.enable(spi, true);
    console::listen();
}

/// Returns the VM with the whole machine. Its guest starts with its kernel, or with the firmware in
/// flash memory.
fn whole_machine(
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
    edit::hide_hypervisor(tree, &home);
    if let Some(smmu) = smmu::get() {
        smmu.attach_all(machine_dma(smmu, &machine, &memory));
    }
    machine.gic.its.extend(second_its::add(tree, &machine));
    idle_states::add(tree);
    cache::clean_and_invalidate(&modules.tree);

    let ram = memory.iter().next().expect("the guest has RAM").start;
    let (entry, tree_address) = match modules.kernels.first() {
        Some(kernel) => {
            let mut keep = alloc::vec![modules.tree.clone(), home.clone()];
            keep.extend(modules.initrd.clone());
            // SAFETY: nothing that the boot loader has loaded is needed any more but the parts in
            // `keep`.
            let kernel = unsafe { image::load(&kernel.image, ram, &keep) };
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

    let has_its = !gic::get().its.is_empty();
    let description = Description {
        name: String::from("vm0"),
        share: Share::Machine,
        stage2: Stage2::identity(&executable, &devices),
        devices: None,
        // SAFETY: all memory but the hypervisor's home is the guest's from now on.
        memory: unsafe { GuestMemory::identity(&memory) },
        boot: Boot::Once {
            entry: entry as u64,
            argument: tree_address as u64,
        },
        is_daemon: false,
        config: controller::of_machine(&machine, has_its),
        weight: scheduler::NORMAL_WEIGHT,
    };
    Vm::new(0, description)
}

/// Returns the tables of all devices of the machine: the guest's `memory`, and the ITSes, by
/// identity.
fn machine_dma(smmu: &Smmu, machine: &Machine, memory: &Pages) -> Arc<DmaTables> {
    let memory = memory.iter().map(Placed::identity);
    let its = machine.gic.its.iter();
    let doorbells = its.map(|its| Placed::page_of(its.start + GITS_TRANSLATER as usize));
    Arc::new(DmaTables::new(smmu.reach(), FIRST_VMID, memory, doorbells))
}

/// Resources for VMs with a part of the machine.
struct Supply<'m> {
    modules: &'m BootModules,
    /// Free RAM.
    memory: Pages,
    /// Number of vCPUs that the heap has room for.
    vcpus: usize,
    bus: Option<&'static Bus>,
    /// PCI functions that no VM has.
    functions: Vec<Function>,
    /// Physical `GITS_TRANSLATER`, if the machine has an ITS.
    doorbell: Option<usize>,
}

/// Returns a VM for every kernel, with RAM from `memory`, and at most `vcpus` vCPUs together. A VM
/// whose options cannot be met is refused by a line on the console.
///
/// # Panics
/// If every VM is refused.
fn parts(
    machine: &Machine,
    modules: &BootModules,
    mut memory: Pages,
    vcpus: usize,
) -> Vec<&'static Vm> {
    modules.ranges().for_each(|range| memory.remove(range));
    let (bus, functions) = pci_bus(machine).unzip();
    let its = machine.gic.its.first();
    let mut supply = Supply {
        modules,
        memory,
        vcpus,
        bus,
        functions: functions.unwrap_or_default(),
        doorbell: its.map(|its| its.start + GITS_TRANSLATER as usize),
    };

    let mut vms = Vec::new();
    for kernel in &modules.kernels {
        match part(&vms, kernel, &mut supply) {
            Ok(vm) => vms.push(vm),
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

/// Returns a VM with a part of the machine, beside `others`.
///
/// # Errors
/// Why the VM cannot be.
fn part(others: &[&Vm], kernel: &Kernel, supply: &mut Supply<'_>) -> Result<&'static Vm, String> {
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

    supply.vcpus = (supply.vcpus.checked_sub(vcpus)).ok_or_else(|| {
        let room = supply.vcpus;
        format!("the hypervisor's memory is enough for {room} vCPUs, not for {vcpus}")
    })?;
    let ram = take_ram(&mut supply.memory, (options.memory as usize) << 20).ok_or_else(|| {
        format!(
            "there are not {} MiB of RAM left in one piece",
            options.memory
        )
    })?;
    let functions = take_functions(supply, &options.functions)?;
    let windows = supply.bus.filter(|_| !functions.is_empty());
    let windows = windows.map(|bus| &bus.windows[..]);

    let initrd = kernel.ram_disk.as_ref().or(supply.modules.initrd.as_ref());
    let visible = RAM..RAM + ram.len();
    // SAFETY: the RAM has been taken from the free memory, in which no module lies.
    let load = unsafe {
        cache::fill_with_zeros(&ram);
        Load::plan(&ram, RAM, &kernel.image, initrd, |initrd| {
            part_tree::build(&config, &visible, initrd, &options.arguments, windows)
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
        devices: part_devices(index, supply, functions, &ram),
        // SAFETY: the RAM has been taken from the free memory.
        memory: unsafe { GuestMemory::at(RAM, &ram) },
        is_daemon: options.is_daemon,
        boot: Boot::Modules(load),
        config,
        weight: options.weight * scheduler::NORMAL_WEIGHT / NORMAL_WEIGHT,
    };
    Ok(Vm::new(index, description))
}

/// Takes PCI functions out of the supply.
///
/// # Errors
/// Which of them is not there.
fn take_functions(supply: &mut Supply<'_>, wanted: &[u16]) -> Result<Vec<Function>, String> {
    if !wanted.is_empty() && supply.bus.is_none() {
        return Err("no SMMU confines PCI functions".into());
    }
    let all = &mut supply.functions;
    let mut taken = Vec::new();
    for bdf in wanted.iter().copied().map(Bdf) {
        match all.iter().position(|function| function.bdf == bdf) {
            Some(place) => taken.push(all.remove(place)),
            None => {
                all.append(&mut taken);
                return Err(format!("PCI function {bdf} is not there, or another VM's"));
            }
        }
    }
    Ok(taken)
}

/// Returns the devices of VM number `index`, with RAM at the physical addresses `ram`.
fn part_devices(
    index: usize,
    supply: &Supply<'_>,
    functions: Vec<Function>,
    ram: &Range<usize>,
) -> Option<Devices> {
    let bus = supply.bus.filter(|_| !functions.is_empty())?;
    let memory = Placed {
        physical: ram.clone(),
        at: RAM,
    };
    let doorbell = supply.doorbell.map(|physical| Placed {
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

/// Prepares the calling CPU, whose data is `cpu`, to run vCPUs. The VMs are known.
pub(crate) fn bring_up_cpu(cpu: &'static PerCpu) {
    control::configure();
    let has_parts = vm::of_machine().is_none();
    if has_parts {
        control::configure_for_parts();
    }

    // SAFETY: this is EL2 with ICC_SRE_EL2.SRE set, and the interface stays on this CPU.
    let interface = unsafe { Ich::new() };
    let local = (vm::domain().register(CpuId(cpu.index as u16)))
        .unwrap_or_else(|error| panic!("CPU {}: {error}", cpu.index));
    let gic = gic::get();
    gic.start_cpu(cpu.index);
    hyp_timer::stop();
    let redistributor = gic.redistributor(cpu.index);
    // A guest whose vCPUs kick each other all the time must not keep its turn from ending.
    redistributor.make_urgent(hyp_timer::PPI);
    redistributor.enable(hyp_timer::PPI, true);
    if has_parts {
        (interrupts::TIMERS.iter()).for_each(|&timer| redistributor.enable(timer, true));
    }
    ThisCpu::equip(
        cpu,
        Cpu::new(local, interface),
        schedule::on(cpu.index),
        gic,
    );
}
