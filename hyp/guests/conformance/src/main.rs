//! A bare-metal guest for EL1 that tests the interrupt controller from inside, one named case for
//! each rule of the architecture (IHI 0069).
//!
//! The guest cannot tell whether a hypervisor emulates the controller. On an emulator's own
//! controller it runs unchanged, as the oracle for its cases. Options on the command line in the
//! device tree: `filter=TEXT` selects the cases whose name or rule contains the text, `list` only
//! names them, and `alone` selects those that need one CPU. `lost=N` says that case number N did
//! not come to its end in an earlier run: it has failed, and the run goes on behind it. `hops=N`
//! runs no cases: the guest is saved and restored N times ([`hops`]).
#![no_std]
#![no_main]

mod cases;
mod console;
mod cpu;
mod cpus;
mod exception;
mod gic;
mod harness;
mod hops;
mod machine;
mod mmio;
mod psci;
mod start;

use console::println;
use machine::Machine;

/// Runs the cases, on CPU 0. `tree` is the address of the device tree.
extern "C" fn first(tree: usize) -> ! {
    let machine = Machine::read(tree);
    let hops = machine.argument("hops").map(str::parse);
    match hops {
        Some(count) => hops::run(&machine, count.unwrap_or(1)),
        None => harness::run(&machine),
    }
    psci::system_off()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("Bail out! {info}");
    psci::system_off()
}
