//! Soak test of the vGIC: a whole VM under every kind of load at once, over and over.
//!
//! `cargo xtask stress` runs real threads, also under the sanitizers. `cargo xtask schedules` runs
//! shuttle: one thread at a time, with a switch at every atomic access of the library. A seed
//! therefore repeats a failure exactly. [`world`] puts together the load for both.
//!
//! | module | content |
//! |---|---|
//! | [`vm`] | the VM, its embedder, and drivers of its ITSes |
//! | [`guest`], [`cpu`] | the guest's code on a vCPU; CPUs running vCPUs |
//! | [`actors`] | devices and guest drivers giving the VM work |
//! | [`oracle`] | the properties checked of each interrupt |
//! | [`world`] | a run with all of these parts, and the properties checked at the end |
//! | `stalls` | runs in which one CPU stops for ever |

mod actors;
mod cpu;
mod guest;
mod oracle;
mod random;
#[cfg(shuttle)]
mod schedules;
#[cfg(shuttle)]
mod stalls;
#[cfg(not(shuttle))]
mod stress;
mod threads;
mod vm;
mod world;

use std::process::ExitCode;

#[cfg(shuttle)]
use schedules::main as soak;
#[cfg(not(shuttle))]
use stress::main as soak;

/// The arguments given by `cargo xtask`, as `name=number`.
struct Arguments(Vec<String>);

impl Arguments {
    fn number(&self, name: &str) -> Option<u64> {
        self.0.iter().find_map(|argument| {
            let number = argument.strip_prefix(name)?.strip_prefix('=')?;
            Some(number.parse().expect("a number"))
        })
    }
}

fn main() -> ExitCode {
    soak(&Arguments(std::env::args().skip(1).collect()))
}
