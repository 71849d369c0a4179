//! `hyp`, a small hypervisor at EL2 that boots one guest with the whole machine, or several that share its
//! CPUs.
//!
//! It is entered like a Linux kernel, with the machine's device tree; moves to the top of RAM; and starts
//! the guest's kernel, which the boot loader has put into memory as a module, at EL1 as if there were no
//! hypervisor: with all the machine's devices, and all its memory but the hypervisor's own. What the
//! guest does not have is the interrupt controller: the frames that it finds in its place, and every
//! interrupt that it takes, are [`vgic`]'s. Each vCPU lives on a CPU of its own.
//!
//! From the bottom up:
//! * [`memory`]: where the hypervisor lives, its own and the guest's translation tables, the heap.
//! * [`machine`]: what the device tree says, and what the guest's is to say.
//! * [`cpu`]: per-CPU data and the EL2 control registers.
//! * [`gic`]: the physical interrupt controller.
//! * [`exception`]: the vectors, what traps, exceptions for the guest.
//! * [`guest`]: loading it, its interrupt controller, its vCPUs' power, PSCI, the report at its end.
//! * [`vms`]: several guests in its place, without devices: what becomes of more than one kernel.
//! * [`boot`] and [`start`]: from the first instruction to the guest's.
//! * [`mod@panic`]: the report when something is wrong with the hypervisor.
//!
//! Devices write memory without asking the hypervisor (there is no SMMU), so the guest is trusted not to
//! point one at the hypervisor's.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod console;
mod cpu;
mod exception;
mod gic;
mod guest;
mod machine;
mod memory;
mod panic;
mod start;
mod vms;
