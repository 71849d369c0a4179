//! VMs with memory of their own that share the CPUs.
//!
//! If the boot loader passes more than one kernel, each becomes a VM: a machine with RAM, an
//! interrupt controller with an ITS, a write-only console and, for each CPU, a vCPU. The vCPUs of
//! one CPU run in turns ([`schedule`]). VMs have no device of the machine.
//!
//! The hypervisor does not trust VMs, nor do VMs trust each other. The registers that a VM may use
//! are switched ([`context`], [`world_switch`]), all others trap ([`trap`]).
//!
//! When the first VM powers its machine off, the run ends ([`shutdown`]).
#![expect(unsafe_code)]
// UNSAFETY: writes the VMs' memory, and sets the address of the vectors.

mod host;
pub(crate) mod schedule;
mod shutdown;
mod trap;
mod vcpu_run;
mod world_switch;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use vgic::config::ItsConfig;
use vgic::cpu_interface::ich::Ich;
use vgic::epoch::Domain;
use vgic::intid::{Affinity, CpuId, VcpuId};
use vgic::trace::Counter;
use vgic::{Config, Cpu, Vgic};

use crate::cpu::control;
use crate::cpu::el2_time::Longest;
use crate::cpu::percpu::{self, ExitReason, PerCpu};
use crate::gic::Gic;
use crate::machine::Machine;
use crate::memory::cache;
use crate::memory::layout::BLOCK;
use crate::memory::ranges::Pages;
use crate::memory::stage2::Stage2;
use crate::println;
use crate::start::{BootModules, Kernel};
use crate::vcpu::power::Power;
use crate::vm::console::Console;
use crate::vm::{image, psci};
use host::VmHost;

/// Guest-physical address of a VM's RAM.
const RAM: usize = 0x4000_0000;

/// Bytes of a VM's RAM.
const RAM_SIZE: usize = 16 << 20;

/// Address of a VM's ITS, as on QEMU's `virt` board. The addresses of the other frames, from
/// [`Config::new`], are that board's too.
const ITS: u64 = 0x0808_0000;

/// Limits on the memory that the hypervisor allocates for a VM's ITS.
const QUOTA: ItsConfig = ItsConfig {
    max_devices: 64,
    max_events: 4096,
    collections: 64,
    ..ItsConfig::at(ITS)
};

/// Number of a VM's LPIs.
const LPIS: u32 = 8192;

/// A VM's interrupt controller.
type Controller = Vgic<VmHost>;

/// A VM.
pub(crate) struct Vm {
    /// Index among the VMs.
    index: usize,
    stage2: Stage2,
    /// Interrupt controller. Lives until [`shutdown`] takes it apart.
    controller: &'static Controller,
    console: Console,
    vcpus: Vec<Vcpu>,
    /// Set when the VM has powered its machine off.
    powered_off: AtomicBool,
}

/// Data of a vCPU that all CPUs may use. The vCPU's number is that of its CPU.
struct Vcpu {
    power: Power,
    exits: [Counter; ExitReason::ALL.len()],
    /// Longest time from an exit to the next entry. Written by the vCPU's own CPU.
    longest_el2_time: Longest,
}

/// All VMs, and their common data.
pub(crate) struct Vms {
    all: Vec<Vm>,
    gic: &'static Gic,
    /// Epoch domain of the readers of unlinked objects.
    domain: Domain,
}

static VMS: Once<Vms> = Once::new();

/// Returns the VMs, if there are any.
pub(crate) fn get() -> Option<&'static Vms> {
    VMS.get()
}

/// Creates a VM for every kernel, with RAM from `memory`, and powers its first vCPU on.
///
/// # Panics
/// If there is not enough memory.
pub(crate) fn init(machine: &Machine, gic: Gic, modules: &BootModules, memory: Pages) {
    let gic = &*Box::leak(Box::new(gic));
    let mut free = memory;
    free.remove(&modules.tree);
    (modules.kernels.iter()).for_each(|kernel| free.remove(&kernel.image));

    let domain = Domain::new();
    let kernels = modules.kernels.iter().enumerate();
    let all = kernels.map(|(index, kernel)| {
        let ram = take_ram(&mut free);
        Vm::new(index, kernel, ram, machine, gic, &domain)
    });

    let all = all.collect();
    VMS.call_once(|| Vms { all, gic, domain });
}

/// Removes RAM for one VM from the free memory, and returns it.
fn take_ram(free: &mut Pages) -> Range<usize> {
    let pieces = free.iter().map(|piece| {
        let end = piece.end / BLOCK * BLOCK;
        end.saturating_sub(RAM_SIZE).max(piece.start)..end
    });
    let ram = pieces.filter(|piece| piece.len() == RAM_SIZE).last();
    let ram = ram.expect("there is RAM for every vm");
    free.remove(&ram);
    ram
}

impl Vm {
    fn new(
        index: usize,
        kernel: &Kernel,
        ram: Range<usize>,
        machine: &Machine,
        gic: &'static Gic,
        domain: &Domain,
    ) -> Self {
        let entry = load_kernel(&ram, kernel);
        println!(
            "hyp: vm{index} has {} MiB at {:#x}: {}",
            ram.len() >> 20,
            ram.start,
            kernel.arguments
        );

        let cpus = machine.cpus.iter();
        let mut config = Config::new(cpus.map(|&mpidr| Affinity::from_mpidr(mpidr)).collect());
        config.its.push(QUOTA);
        config.lpis = LPIS;

        let stage2 = Stage2::for_vm(index, &ram, RAM);
        let host = VmHost::new(gic, ram, machine.cpus.len());
        let controller = Vgic::new(domain, config, host)
            .unwrap_or_else(|error| panic!("no interrupt controller for vm{index}: {error}"));

        let vm = Self {
            index,
            stage2,
            controller: Box::leak(Box::new(controller)),
            console: Console::new(index),
            vcpus: machine.cpus.iter().map(|_| Vcpu::new()).collect(),
            powered_off: AtomicBool::new(false),
        };
        let first = &vm.vcpus[0].power;
        let was_off = first.power_on(entry as u64, RAM as u64);
        assert!(was_off, "the first vCPU is off");
        vm
    }

    /// Returns true if the VM has powered its machine off.
    fn is_powered_off(&self) -> bool {
        // Acquire: pairs with the Release in `power_off`.
        self.powered_off.load(Ordering::Acquire)
    }

    /// Powers the VM's machine off: none of its vCPUs runs any more.
    fn power_off(&self) {
        // Release: pairs with the Acquire in `is_powered_off`.
        self.powered_off.store(true, Ordering::Release);
    }
}

/// Fills a VM's RAM with zeros, its kernel and the kernel's arguments. Returns the entry point, as
/// a guest-physical address.
///
/// # Panics
/// If the RAM is too small.
fn load_kernel(ram: &Range<usize>, kernel: &Kernel) -> usize {
    // A zero ends the arguments: memory behind them is not written again.
    // SAFETY: the RAM is mapped, and nobody uses it yet.
    unsafe { (ram.start as *mut u8).write_bytes(0, ram.len()) };
    // SAFETY: the image is the boot loader's, and the RAM is the VM's alone.
    let place = unsafe { image::load(&kernel.image, ram.start, &[]) };

    let arguments = kernel.arguments.as_bytes();
    assert!(
        place.end <= ram.end && ram.start + arguments.len() < place.start,
        "{place:#x?} does not fit into {ram:#x?}"
    );
    // SAFETY: the RAM is mapped and nobody uses it yet. The arguments fit before the kernel.
    unsafe { (ram.start as *mut u8).copy_from(arguments.as_ptr(), arguments.len()) };
    cache::clean_and_invalidate(ram);
    place.start - ram.start + RAM
}

impl Vcpu {
    fn new() -> Self {
        Self {
            power: Power::new(),
            exits: Default::default(),
            longest_el2_time: Longest::default(),
        }
    }
}

impl Vms {
    /// Prepares the calling CPU, whose data is `cpu`, to run vCPUs.
    pub(crate) fn bring_up_cpu(&self, cpu: &PerCpu, interface: Ich) {
        control::configure_for_vms();
        world_switch::set_vectors();
        let local = (self.domain.register(CpuId(cpu.index as u16)))
            .unwrap_or_else(|error| panic!("CPU {}: {error}", cpu.index));
        self.gic.start_cpu(cpu.index);
        vcpu_run::start_timers(self.gic.redistributor(cpu.index));
        cpu.set_vgic_cpu(Cpu::new(local, interface));
    }
}

/// vCPUs of one VM, for PSCI.
struct VmPsci<'a>(&'a Vms, &'a Vm);

impl psci::Vcpus for VmPsci<'_> {
    fn find(&self, affinity: u64) -> Option<(usize, &Power)> {
        let index = percpu::find(affinity)?.index;
        Some((index, &self.1.vcpus[index].power))
    }

    fn kick(&self, cpu: usize) {
        self.0.gic.kick(cpu);
    }

    /// Returns false: a VM cannot be suspended.
    fn can_suspend_system(&self) -> bool {
        false
    }
}

/// Returns the vCPU on CPU number `cpu`, of any VM.
fn vcpu_of(cpu: usize) -> VcpuId {
    crate::vcpu::interrupts::vcpu_of(cpu)
}
