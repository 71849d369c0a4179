//! The guest that tests a GICv2, by the rules of IHI 0048. Its options are those of every such
//! guest ([`conformance`]).
#![no_std]
#![no_main]

mod cases;
mod gicc;
mod gicd;
mod harness;
mod machine;
mod reset;

use conformance::{cpu, cpus, exception, mmio, psci, run};

use machine::Machine;

conformance::guest!(first, acknowledge, end);

/// Runs the cases, on CPU 0. `tree` is the address of the device tree.
fn first(tree: usize) -> ! {
    run::run(&Machine::read_tree(tree), cases::ALL);
    psci::system_off()
}

/// Acknowledges the interrupt of an exception, by the register for both groups.
fn acknowledge(_by_fiq: bool) -> u32 {
    let read = gicc::acknowledge();
    if read == gicc::OF_GROUP_1 {
        // An interrupt that cannot be acknowledged would be signalled for ever.
        gicc::write(gicc::CTLR, 0);
    }
    read
}

/// Ends an interrupt that [`acknowledge`] has returned.
fn end(_by_fiq: bool, read: u32) {
    gicc::end(read);
}
