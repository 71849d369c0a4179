//! A bare-metal guest for EL1 that tests the interrupt controller it finds, from inside, one named case for
//! each rule of the architecture (IHI 0069).
//!
//! It cannot tell whether a hypervisor imitates the controller, and runs the same on an emulator's own,
//! which is the oracle for its cases. The command line in the device tree chooses: `filter=TEXT` for
//! the cases whose name or rule contains it, `list` to name them only, `alone` for those that one CPU runs.
#![no_std]
#![no_main]

mod cases;
mod console;
mod cpu;
mod cpus;
mod exception;
mod gic;
mod harness;
mod machine;
mod mmio;
mod psci;
mod start;

use console::println;
use machine::Machine;

/// CPU 0, with the address of the device tree.
extern "C" fn first(tree: usize) -> ! {
    let machine = Machine::read(tree);
    harness::run(&machine);
    psci::system_off()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("Bail out! {info}");
    psci::system_off()
}
