//! Options of `cargo xtask snapshot`.

use clap::{ArgMatches, Command, value_parser};

use crate::cli::{Options, defaulted, option};

const AFTER_HELP: &str = "\
A VM with stock Debian works; at a random moment it is stopped and saved into a
file, its memory included, and QEMU is killed. Another QEMU, with another number
of CPUs, starts the hypervisor, which finds the file and restores the VM. That
is a round. A program in the VM has timers, IPIs, MSIs and a console at work all
the time, counts its interrupts, and notices whatever else changes. At the end,
files that are damaged or of another VM or machine must be refused. The outcome
goes to target/reports/snapshot.json, the consoles to snapshot.log. The exit
status is 0 only if every check holds.

Examples:
  cargo xtask snapshot                     20 rounds
  cargo xtask snapshot --rounds 1000       more of them
  cargo xtask snapshot --seed 7            the moments of a run that told it
  cargo xtask snapshot --cpu neoverse-v1   with vectors of 32 bytes";

/// Options of `cargo xtask snapshot`.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotOptions {
    /// Saves, each restored on a new machine.
    pub(crate) rounds: u32,
    /// The seed of the moments and of the numbers of CPUs; without it, one by the clock.
    pub(crate) seed: Option<u32>,
    /// vCPUs of the VM.
    pub(crate) vcpus: u16,
    /// RAM of the VM, in MiB.
    pub(crate) memory: u32,
    /// The CPU model that QEMU emulates.
    pub(crate) cpu: String,
}

impl Options for SnapshotOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            option("rounds", "N", "How often the VM is saved and restored")
                .default_value("20")
                .value_parser(value_parser!(u32).range(1..)),
            option(
                "seed",
                "S",
                "The seed of the moments [default: by the clock]",
            )
            .value_parser(value_parser!(u32)),
            option("vcpus", "N", "vCPUs of the VM")
                .default_value("4")
                .value_parser(value_parser!(u16).range(1..=16)),
            option("memory", "MIB", "RAM of the VM")
                .default_value("192")
                .value_parser(value_parser!(u32).range(128..=4096)),
            option("cpu", "MODEL", "The CPU that QEMU emulates").default_value("neoverse-n1"),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            rounds: defaulted(matches, "rounds"),
            seed: matches.remove_one("seed"),
            vcpus: defaulted(matches, "vcpus"),
            memory: defaulted(matches, "memory"),
            cpu: defaulted(matches, "cpu"),
        }
    }
}
