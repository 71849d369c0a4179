//! A client of /dev/kvm that runs bare-metal guests, as the first process of an arm64 Linux.
//!
//! A VM is like the guest's machine under `hyp`: RAM, distributor, redistributors and ITS at the
//! same addresses, the console, the vCPUs. The kernel's command line says which guest runs:
//!
//! * `-- measured FILE`: the measured guest ([`measured`]). Two vCPUs run, each pinned to a CPU,
//!   and one vCPU never runs. A second VM has two vCPUs, both pinned to one CPU. A guest without a
//!   device tree has no device that sends MSIs: the client sends them when the guest asks. Before
//!   the guest starts, the client writes the map of the kernel's code ([`symbols`]) to a file of
//!   the emulator's host.
//! * `-- passed-through FILE`: the measured guest, with the MSIs of a device of the machine, which
//!   VFIO passes through ([`passed_through`]).
//! * `-- crowd FILE VCPUS`: the guest whose vCPUs all take part in a load ([`crowd`]), each pinned
//!   to a CPU. The client writes the map of the kernel's code first.
//! * `-- conformance VCPUS WORD...`: the [`conformance`] guest, with the words as its command line.
//! * `-- hops VCPUS FILE WORD...`: a guest that asks to be saved and restored ([`hops`]), by a file
//!   of the emulator's host.

#[cfg(target_arch = "aarch64")]
mod board;
#[cfg(target_arch = "aarch64")]
mod conformance;
#[cfg(target_arch = "aarch64")]
mod console;
#[cfg(target_arch = "aarch64")]
mod crowd;
#[cfg(target_arch = "aarch64")]
#[path = "../../event.rs"]
mod event;
#[cfg(target_arch = "aarch64")]
mod hops;
#[cfg(target_arch = "aarch64")]
mod host_file;
#[cfg(target_arch = "aarch64")]
mod measured;
#[cfg(target_arch = "aarch64")]
#[path = "../../names.rs"]
mod names;
#[cfg(target_arch = "aarch64")]
mod passed_through;
#[cfg(target_arch = "aarch64")]
mod run;
#[cfg(target_arch = "aarch64")]
mod state;
#[cfg(target_arch = "aarch64")]
mod symbols;
#[cfg(target_arch = "aarch64")]
mod system;
#[cfg(target_arch = "aarch64")]
mod tree;
#[cfg(target_arch = "aarch64")]
mod vm;

#[cfg(target_arch = "aarch64")]
fn main() {
    system::mount_all();
    system::handle_kicks();
    if let Err(error) = run() {
        console::say(&format!("client: failed: {error:#}"));
    }
    system::power_off();
}

/// The file with the guest.
#[cfg(target_arch = "aarch64")]
const GUEST: &str = "/guest";

/// Runs the guest that the arguments name.
#[cfg(target_arch = "aarch64")]
fn run() -> anyhow::Result<()> {
    use anyhow::Context;

    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |word: Option<&String>| {
        let number = word.and_then(|word| word.parse().ok());
        number.context("no number of vCPUs")
    };
    match words.first().context("no guest")?.as_str() {
        word @ ("measured" | "passed-through") => {
            symbols::write_map(words.get(1).context("no file")?)?;
            measured::run_guest(GUEST, word == "passed-through")
        }
        "crowd" => {
            symbols::write_map(words.get(1).context("no file")?)?;
            crowd::run_guest(GUEST, number(words.get(2))?)
        }
        "conformance" => {
            let vcpus = number(words.get(1))?;
            conformance::run_guest(GUEST, vcpus, &words[2..].join(" "))
        }
        "hops" => {
            let vcpus = number(words.get(1))?;
            let file = words.get(2).context("no file")?;
            hops::run_guest(GUEST, vcpus, file, &words[3..].join(" "))
        }
        word => anyhow::bail!("`{word}` is no guest"),
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn main() {
    eprintln!("this runs on arm64 Linux only");
}
