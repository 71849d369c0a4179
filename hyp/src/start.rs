//! Starts the VMs and the CPUs.
#![expect(unsafe_code)]
// UNSAFETY: sets `TPIDR_EL2`, and takes devices by the addresses that the device tree gives.

use alloc::vec::Vec;
use core::ops::Range;

use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL2, Writeable};

use vgic::Cpu;
use vgic::cpu_interface::ich::Ich;
use vgic::intid::CpuId;

use crate::boot::modules::BootModules;
use crate::boot::secondary;
use crate::cpu::percpu::{self, EMERGENCY_STACK_SIZE, PerCpu, affinity};
use crate::cpu::this_cpu::ThisCpu;
use crate::cpu::{control, hyp_timer};
use crate::exception::debug_registers;
use crate::gic::{self, Gic};
use crate::machine::Machine;
use crate::memory::heap;
use crate::memory::ranges::Pages;
use crate::memory::stage1::Stage1;
use crate::schedule;
use crate::smmu;
use crate::vcpu::interrupts;
use crate::vm::{self, lifetime, snapshot};
use crate::{console, parts, println, terminal, whole};

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
/// returns. Creates the VM with the whole machine, or a VM with a part of it for each kernel that
/// the boot loader passed ([`BootModules::are_for_parts`]).
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
    let console_spi = machine.console.spi;
    let are_parts = modules.are_for_parts();
    let vms = if are_parts {
        parts::create(&machine, &modules, memory)
    } else {
        alloc::vec![whole::create(machine, &modules, home, memory)]
    };
    vm::init(vms);

    bring_up_cpu(boot_cpu);
    secondary::start_all(cpus, boot_cpu);
    if let Some(spi) = console_spi.filter(|_| are_parts) {
        take_input(spi, boot_cpu);
    }
    heap::note_start();
    let cpu = ThisCpu::get();
    for vm in vm::all() {
        if !snapshot::restore(cpu, vm) {
            lifetime::start(vm);
        }
    }
    // A snapshot may have been refused.
    lifetime::finish_if_over(cpu);
    schedule::run(cpu)
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

/// Prepares the calling CPU, whose data is `cpu`, to run vCPUs. The VMs are known.
pub(crate) fn bring_up_cpu(cpu: &'static PerCpu) {
    control::configure();
    let has_parts = vm::of_machine().is_none();
    if has_parts {
        control::configure_for_parts();
        debug_registers::clear();
    }

    #[cfg(feature = "pmu")]
    crate::measure::start();

    // SAFETY: this is EL2 with ICC_SRE_EL2.SRE set, and the interface stays on this CPU.
    let interface = unsafe { Ich::new() };
    let interface = vm::extend(interface).unwrap_or_else(|vm| {
        console::stop(format_args!(
            "{} has extended interrupts, and CPU {} says ICC_CTLR_EL1.ExtRange = 0; \
             hyp.extrange=assume tries it all the same",
            vm.name, cpu.index
        ))
    });
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
