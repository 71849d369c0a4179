//! `hyp`, a small EL2 hypervisor for one VM with the whole machine, or for VMs with a part of it
//! each, which share its CPUs.
//!
//! The boot loader enters `hyp` like a Linux kernel, with the machine's device tree. `hyp` moves to
//! the top of RAM and starts the guests' kernels, boot modules, at EL1. A guest with the whole
//! machine has all devices of the machine, and all its memory but the hypervisor's own. Only the
//! interrupt controller is emulated: its frames, and every interrupt that a guest takes, are
//! [`vgic`]'s.
//!
//! In the order in which to read them; [`cpu`], [`vcpu`], [`vm`] and [`schedule`] know each other:
//! * [`memory`]: the hypervisor's memory, translation tables of both stages, the heap.
//! * [`machine`]: the machine's device tree.
//! * [`gic`]: the physical interrupt controller.
//! * [`smmu`]: confines the DMA of devices.
//! * [`pci`]: PCI functions, and the configuration space as a VM sees it.
//! * [`cpu`]: per-CPU data and the EL2 control registers.
//! * [`vcpu`]: a vCPU: its registers, power and interrupts.
//! * [`vm`]: a VM: memory, interrupt controller, console, PSCI, start, reset and death.
//! * [`snapshot`]: a VM in a file of the host's.
//! * [`schedule`]: which CPU runs which vCPU.
//! * [`exception`]: the vectors, traps, exceptions injected into the guest.
//! * [`console`]: lines on the machine's console.
//! * [`terminal`]: the machine's console as the terminal of several VMs.
//! * [`mod@report`]: the counters at the end of the run.
//! * `measure`, with the feature `pmu`: cycles and instructions at EL2.
//! * [`whole`], [`parts`]: the VM with the whole machine, or those with a part of it.
//! * [`boot`] and [`start`]: from the first instruction to the guest's.
//! * [`mod@panic`]: the report of a fault of the hypervisor.
//!
//! If the machine has an SMMU, it is the hypervisor's, and the devices behind it reach only the
//! guest's memory and the ITS. Other devices write memory without asking the hypervisor: a guest
//! with the whole machine is trusted not to point them at the hypervisor's memory.
#![no_std]
#![no_main]

extern crate alloc;

mod backtrace;
mod boot;
mod console;
mod cpu;
mod exception;
mod gic;
mod machine;
#[cfg(feature = "pmu")]
mod measure;
mod memory;
mod panic;
mod parts;
mod pci;
mod report;
mod schedule;
mod smmu;
mod snapshot;
mod start;
mod terminal;
mod vcpu;
mod vm;
mod whole;
