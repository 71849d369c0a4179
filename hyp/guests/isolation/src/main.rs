//! One program, two guests that share a machine under `hyp`.
//!
//! * The [`victim`] sends interrupts from each of its vCPUs to all others, by every way that there is, and
//!   counts: each must arrive once, where it was sent, and in time, and nothing else may arrive.
//! * The [`attacker`] does what it can to prevent that, until the machine is switched off.
//!
//! Which one it is says the argument string, whose address it is entered with in `x0`.
#![no_std]
#![no_main]

mod arguments;
mod attacker;
mod console;
mod cpu;
mod gic;
mod its;
mod memory;
mod psci;
mod random;
mod start;
mod victim;

use core::panic::PanicInfo;

use arguments::{Arguments, Role};

/// Entered on the first vCPU, once it can run Rust.
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
