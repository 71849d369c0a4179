//! A Linux program that makes interrupts of every kind, counts them, and notices if anything but
//! time has passed: it runs in a VM that is saved, and restored elsewhere, at random moments.
//!
//! * Each CPU has a thread that sleeps until the next tick of its own ([`ticks`]): timer
//!   interrupts.
//! * Each CPU plays ping-pong with the next one ([`pings`]): IPIs.
//! * A thread reads the entropy device, if there is one ([`random`]): MSIs.
//! * A thread computes in floating-point registers ([`sums`]).
//! * A thread reads the console, and answers ([`input`]); the witness prints all the time.
//! * A thread reads the kernel's messages ([`kernel`]): from now on there must be no warning.
//!
//! Every line but an answer is `@witness n=N ...`: its number, the time, the counts so far, and
//! [`interrupts`]. A line `@witness fault=...` says what is wrong.

mod counts;
mod input;
mod interrupts;
mod kernel;
mod pings;
mod random;
mod sums;
mod ticks;

use std::fmt::Display;
use std::thread;
use std::time::Duration;

use counts::{Counts, Progress};
use interrupts::Interrupts;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_millis(50);

/// Lines within which every count must have grown: an emulator takes its time.
const PATIENCE: u64 = 200;

fn main() {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let counts = Counts::new(cpus);
    kernel::watch();
    for cpu in 0..cpus {
        ticks::start(&counts, cpu);
        if cpus > 1 {
            pings::start(&counts, cpu, (cpu + 1) % cpus);
        }
    }
    sums::start();
    let has_random = random::start(&counts);
    println!("@witness cpus={cpus} random={}", u8::from(has_random));
    input::start(&counts);

    let mut interrupts = Interrupts::default();
    let mut progress = Progress::default();
    let mut number = 0;
    while !counts.is_over() {
        thread::sleep(INTERVAL);
        number += 1;
        interrupts.look();
        if number % PATIENCE == 0 {
            progress.check(&counts, has_random);
        }
        println!("@witness n={number} {counts} {interrupts}");
    }
    println!("@witness end={number}");
}

/// Prints a fault.
fn fault(what: impl Display) {
    println!("@witness fault={what}");
}
