//! The project's tasks, run as `cargo xtask TASK`.
//!
//! * `boot` boots a guest under `hyp` on an emulated machine and holds the vGIC's interrupt counts
//!   against the guest's.
//! * `test` runs everything that has to hold before a change goes in, a boot included.
//! * `schedules` and `stress` run whole VMs under random load.
//! * `loom` model-checks the concurrent protocols, and shows that it notices faults in them.
//! * `fuzz` lets a fuzzer play hostile guests and careless embedders.
//! * `isolation` has one guest attack while another measures its interrupts.
//! * `cloud` runs several VMs with Linux side by side, and kills one again and again.
//! * `snapshot` saves a VM with Linux and restores it on another machine, again and again.
//! * `migrate` moves such a VM between two machines that run.
//! * `conformance` tests the interrupt controller from inside a guest, rule by rule.
//! * `migrate` moves a guest between machines, with Linux KVM or the hypervisor.
//! * `image` writes the hypervisor and a guest for a real machine, which its UEFI firmware boots.
//! * `bench` runs the benchmarks.
//! * `perf` measures, and holds the figures against their targets.
//!
//! A task provides what it needs by itself ([`provision`]) and caches it in `target/cache`.
//!
//! The public modules are those that `xtask-perf` and `xtask-sweep` are built on: the packages in
//! `xtask/perf` and `xtask/sweep` that `cargo xtask perf` and `cargo xtask loom --sweep` build and
//! run, so that their dependencies are built when they are needed.

#[macro_use]
mod object;

mod bench;
pub mod boot;
mod cli;
mod cloud;
mod conformance;
pub mod console;
pub mod docs;
mod example;
mod fuzz;
mod image;
pub mod instructions;
mod interchange;
mod isolation;
pub mod kvm;
pub mod loom;
mod machines;
pub mod measuring;
mod miri;
mod names;
mod order;
pub mod parallel;
mod perf;
pub mod process;
pub mod project;
pub mod provision;
mod snapshot;
mod soak;
mod test;

use std::process::ExitCode;

use anyhow::Result;

/// Runs the task that the command line names.
pub fn main() -> ExitCode {
    let task = cli::parse();
    finish(task)
}

/// Runs a task to its end, and turns its outcome into an exit status: 0 only for `Ok(true)`.
///
/// A signal that asks the process to end makes the task fail, and the status say so.
pub fn finish(task: impl FnOnce() -> Result<bool>) -> ExitCode {
    process::end_on_signals();
    match task() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if process::interrupted() => {
            eprintln!("interrupted");
            // A shell reports this for a command that SIGINT ended.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
