//! Soaks the vGIC: a whole VM with everything that can happen to it at once, over and over.
//!
//! `cargo xtask stress` runs it with real threads, also under the sanitizers; `cargo xtask schedules` with
//! shuttle, which runs one thread at a time, switches at every atomic access of the library, and so can
//! repeat any failure from its seed. What happens is the same: [`world`] puts it together.
//!
//! | module | |
//! |---|---|
//! | [`vm`] | the VM, its embedder, and drivers of its ITSes |
//! | [`guest`], [`cpu`] | what a vCPU's guest does; how CPUs run vCPUs |
//! | [`actors`] | devices, and everything else that gives the VM work |
//! | [`oracle`] | what must be true of each interrupt |
//! | [`world`] | a run of all that, and what must be true at its end |

mod actors;
mod cpu;
mod guest;
mod oracle;
mod random;
#[cfg(shuttle)]
mod schedules;
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

/// What `cargo xtask` passes on, as `name=number`.
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
