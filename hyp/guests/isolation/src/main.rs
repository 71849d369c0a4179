//! One program, two guests that share a machine under `hyp`.
//!
//! * The [`victim`] sends interrupts from each of its vCPUs to all others, in every way that there
//!   is, and counts: each must arrive once, at its target, and in time, and nothing else may
//!   arrive.
//! * The [`attacker`] tries to prevent that, until the machine is switched off.
//!
//! The argument string, whose address is in `x0` at the entry, chooses the role.
#![no_std]
#![no_main]

mod arguments;
mod attacker;
mod console;
mod cpu;
mod features;
mod gic;
mod its;
mod memory;
mod psci;
mod random;
mod start;
mod vectors;
mod victim;

use core::panic::PanicInfo;

use arguments::{Arguments, Role};

/// Runs the guest's role. Called on the first vCPU, once it can run Rust.
fn main(arguments: &'static str) -> ! {
    match Arguments::parse(arguments) {
        Arguments {
            role: Role::Victim,
            seconds,
            seed,
        } => victim::run(seconds, seed),
        Arguments { seed, .. } => attacker::run(seed),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("@panic cpu {}: {}", cpu::index(), info);
    psci::system_off()
}
