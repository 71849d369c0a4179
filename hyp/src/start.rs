//! Creates the guest or the VMs, and starts the CPUs.
#![expect(unsafe_code)]
// UNSAFETY: takes the guest's memory and `TPIDR_EL2`.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL2, Writeable};

use vgic::config::GITS_TRANSLATER;
use vgic::cpu_interface::ich::Ich;

use crate::boot::secondary;
use crate::cpu::control;
use crate::cpu::percpu::{self, PerCpu, affinity};
use crate::gic::Gic;
use crate::machine::Machine;
use crate::memory::cache;
use crate::memory::dma::{DmaTables, Placed};
use crate::memory::ranges::Pages;
use crate::memory::stage1::Stage1;
use crate::memory::stage2::{FIRST_VMID, Stage2};
use crate::println;
use crate::smmu::{self, Smmu};
use crate::vcpu::power;
use crate::vm::passthrough_host::PassthroughHost;
use crate::vm::tree::{edit, idle_states, second_its};
use crate::vm::{guest, image};
use crate::vms::{self, schedule};

/// Bytes of the stack for reporting faults.
const EMERGENCY_STACK_SIZE: usize = 16 << 10;

/// Memory filled by the boot loader, by physical address.
pub(crate) struct BootModules {
    /// The device tree.
    pub(crate) tree: Range<usize>,
    /// Kernels in order of address: the guest's, or one for each VM. Without any, the guest starts
    /// with the firmware in flash memory.
    pub(crate) kernels: Vec<Kernel>,
    /// The guest's initial RAM disk.
    pub(crate) initrd: Option<Range<usize>>,
}

/// A guest's kernel.
pub(crate) struct Kernel {
    /// The kernel's image.
    pub(crate) image: Range<usize>,
    /// The kernel's command line.
    pub(crate) arguments: String,
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
/// returns. Creates the VMs if the boot loader passed more than one kernel, otherwise the guest.
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
    let gic = unsafe { Gic::start(&machine.gic, &machine.cpus) };
    if let Some(frame) = &machine.smmu {
        // SAFETY: the device tree describes the SMMU, the final tables map its registers, and only
        // the hypervisor drives it.
        unsafe { smmu::start(frame) };
    }
    if modules.kernels.len() > 1 {
        vms::init(&machine, gic, &modules, memory);
    } else {
        make_guest(machine, gic, &modules, home, memory, boot_cpu);
    }

    bring_up_cpu(boot_cpu);
    secondary::start_all(cpus, boot_cpu);
    run_vcpus(boot_cpu)
}

/// Creates the guest, which has the whole machine, with its first vCPU on `boot_cpu`. The guest
/// starts with its kernel, or with the firmware in flash memory.
fn make_guest(
    mut machine: Machine,
    gic: Gic,
    modules: &BootModules,
    home: Range<usize>,
    memory: Pages,
    boot_cpu: &PerCpu,
) {
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

    let mut devices = machine.devices;
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
    let stage2 = Stage2::identity(&executable, &devices);

    let machine = Machine { devices, ..machine };
    guest::init(&machine, stage2, PassthroughHost::new(gic, memory));
    let was_off = (boot_cpu.power).power_on(entry as u64, tree_address as u64);
    assert!(was_off, "the boot CPU's vCPU is off");
}

/// Returns the tables of all devices of the machine: the guest's `memory`, and the ITSes, by
/// identity.
fn machine_dma(smmu: &Smmu, machine: &Machine, memory: &Pages) -> Arc<DmaTables> {
    let memory = memory.iter().map(Placed::identity);
    let its = machine.gic.its.iter();
    let doorbells = its.map(|its| Placed::page_of(its.start + GITS_TRANSLATER as usize));
    Arc::new(DmaTables::new(smmu.reach(), FIRST_VMID, memory, doorbells))
}

/// Prepares the calling CPU, whose data is `cpu`, to run vCPUs.
pub(crate) fn bring_up_cpu(cpu: &PerCpu) {
    control::configure();
    // SAFETY: this is EL2 with ICC_SRE_EL2.SRE set, and the interface stays on this CPU.
    let interface = unsafe { Ich::new() };
    match vms::get() {
        Some(vms) => vms.bring_up_cpu(cpu, interface),
        None => guest::get().bring_up_cpu(cpu, interface),
    }
}

/// Runs vCPUs on the calling CPU for ever. `cpu` is its data, and [`bring_up_cpu`] has been called.
pub(crate) fn run_vcpus(cpu: &'static PerCpu) -> ! {
    match vms::get() {
        Some(vms) => schedule::run(cpu, vms),
        None => power::wait_for_power_on(),
    }
}
