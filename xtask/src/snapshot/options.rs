//! Options of `cargo xtask snapshot`.

use clap::{ArgMatches, Command, value_parser};

use crate::cli::{Options, defaulted, flag, option};
use crate::interchange::Place;

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
        declare(command.after_help(AFTER_HELP), "20")
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

/// Declares the options, with so many rounds by default.
fn declare(command: Command, rounds: &'static str) -> Command {
    command.args([
        option("rounds", "N", "How often the VM is saved and restored")
            .default_value(rounds)
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

const AFTER_MIGRATE: &str = "\
A VM with stock Debian moves from one running machine to another on this host:
its RAM is copied while it works, then what it has written meanwhile, and the
rest within one stop. A round is such a move. The time of each stop is reported,
and the vGIC's part of it, once more where an instruction takes a nanosecond.
The outcome goes to target/reports/migrate.json. The exit status is 0 only if
every check of `cargo xtask snapshot` holds.

With --kvm, a bare-metal guest brings interrupts into every state that can be
saved, on four vCPUs, and moves between Linux KVM and hyp by KVM's attributes,
beginning with KVM. Before and after each hop it reads every register of its
interrupt controller; then it takes all that is pending, in order of priority,
and raises every event of its ITS. The exit status is 0 only if every hop is as
it has to be.

Examples:
  cargo xtask migrate                  5 rounds
  cargo xtask migrate --rounds 50      more of them
  cargo xtask migrate --kvm            KVM to hyp and back, twice
  cargo xtask migrate --kvm --hops 20  more of them
  cargo xtask migrate --kvm --alone hyp
                                       hyp to hyp, in the same form";

/// Options of `cargo xtask migrate`.
#[derive(Clone, Debug)]
pub(crate) struct MigrateOptions {
    /// Those of a VM with Linux.
    pub(crate) linux: SnapshotOptions,
    /// True if a bare-metal guest moves between Linux KVM and the hypervisor instead.
    pub(crate) kvm: bool,
    /// The hypervisor of all machines then, if there is only one.
    pub(crate) alone: Option<Place>,
    /// Moves of that guest from a machine to the next.
    pub(crate) hops: u32,
}

impl Options for MigrateOptions {
    fn declare(command: Command) -> Command {
        declare(command.after_help(AFTER_MIGRATE), "5").args([
            flag(
                "kvm",
                "A bare-metal guest moves between Linux KVM and the hypervisor",
            )
            .conflicts_with_all(["rounds", "seed", "vcpus", "memory"]),
            option("alone", "NAME", "Every machine runs this hypervisor")
                .requires("kvm")
                .value_parser(["hyp", "kvm"]),
            option("hops", "N", "Moves from a machine to the next")
                .default_value("4")
                .requires("kvm")
                .value_parser(value_parser!(u32).range(1..=1000)),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            linux: SnapshotOptions::read(matches),
            kvm: matches.get_flag("kvm"),
            alone: (matches.remove_one("alone")).map(|name: String| match name.as_str() {
                "hyp" => Place::Hyp,
                _ => Place::Kvm,
            }),
            hops: defaulted(matches, "hops"),
        }
    }
}

impl Default for MigrateOptions {
    /// Returns the options of a command line without any.
    fn default() -> Self {
        Self::parsed(&[]).expect("every option has a default")
    }
}
