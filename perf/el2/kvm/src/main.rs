//! A client of /dev/kvm that runs the measured guest, as the first process of an arm64 Linux.
//!
//! The VM is like the guest's machine under `hyp`: RAM, distributor, redistributors and ITS at the
//! same addresses, the console, two vCPUs that run, each pinned to a CPU, and one vCPU that never
//! runs. A second VM has two vCPUs, both pinned to one CPU. Two things differ. A guest without a
//! device tree has no device that sends MSIs: the client sends them when the guest asks. And
//! before the guest starts, the client prints the addresses of the kernel functions that the
//! report tells apart.

#[cfg(target_arch = "aarch64")]
mod console;
#[cfg(target_arch = "aarch64")]
#[path = "../../event.rs"]
mod event;
#[cfg(target_arch = "aarch64")]
#[path = "../../names.rs"]
mod names;
#[cfg(target_arch = "aarch64")]
mod run;
#[cfg(target_arch = "aarch64")]
mod symbols;
#[cfg(target_arch = "aarch64")]
mod system;
#[cfg(target_arch = "aarch64")]
mod vm;

#[cfg(target_arch = "aarch64")]
fn main() {
    system::mount_all();
    if let Err(error) = symbols::print().and_then(|()| run::run_guest("/guest")) {
        console::say(&format!("client: failed: {error:#}"));
    }
    system::power_off();
}

#[cfg(not(target_arch = "aarch64"))]
fn main() {
    eprintln!("this runs on arm64 Linux only");
}
