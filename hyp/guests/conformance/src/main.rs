//! The guest that tests a GICv3, by the rules of IHI 0069.
//!
//! Its options are those of every such guest ([`conformance`]), and `hops=N`: it runs no cases, and
//! is saved and restored N times ([`hops`]).
#![no_std]
#![no_main]

mod cases;
mod gic;
mod harness;
mod hops;
mod machine;

use conformance::{console, cpu, cpus, exception, mmio, psci, run};

use gic::interface;
use machine::Machine;

conformance::guest!(first, acknowledge, end);

/// Runs the cases, on CPU 0. `tree` is the address of the device tree.
fn first(tree: usize) -> ! {
    let machine = Machine::read(tree);
    let hops = machine.argument("hops").map(str::parse);
    match hops {
        Some(count) => hops::run(&machine, count.unwrap_or(1)),
        None => run::run(&machine, cases::ALL),
    }
    psci::system_off()
}

/// Acknowledges the interrupt of an exception: of Group 1 by an IRQ, of Group 0 by an FIQ.
fn acknowledge(by_fiq: bool) -> u32 {
    match by_fiq {
        false => interface::acknowledge(),
        true => interface::acknowledge_0(),
    }
}

/// Ends an interrupt that [`acknowledge`] has returned.
fn end(by_fiq: bool, intid: u32) {
    match by_fiq {
        false => interface::end(intid),
        true => interface::end_0(intid),
    }
}
