//! The parts of `cargo xtask test`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::tally::Tally;
use crate::bench::{self, BenchOptions};
use crate::boot;
use crate::cli::{BootOptions, Kernel, ScheduleOptions, TestOptions};
use crate::conformance::{self, ConformanceOptions};
use crate::fuzz::{self, FuzzOptions};
use crate::isolation::{self, IsolationOptions};
use crate::loom::{self, LoomOptions};
use crate::perf::host::instructions;
use crate::process::{self, Show};
use crate::project;
use crate::provision::toolchain::{BareMetal, cargo, nightly};
use crate::soak;

/// The boots: vCPUs and release of the kernel.
const BOOTS: [(u16, &str); 3] = [(4, "6.12"), (1, "6.12"), (2, "6.1")];

/// Seconds of fuzzing for each target: enough to find again what it found before, and more.
const FUZZING: u32 = 120;

/// The runs of the conformance guest: vCPUs, and whether QEMU's own GIC is the oracle beside it.
const CONFORMANCE: [(u16, bool); 3] = [(4, true), (1, false), (8, false)];

/// One part.
pub(crate) struct Gate {
    pub(crate) name: String,
    pub(crate) action: Action,
}

/// What a part does.
pub(crate) enum Action {
    /// Runs a command, which passes or fails as one test case.
    Command(Command),
    /// Runs test programs, which count their cases themselves.
    Suite(Command),
    /// Explores the models of the concurrent protocols, and runs the mutants: a test case each.
    Loom,
    /// The same by a toolchain that has to be provided first.
    Provided(fn() -> Result<Command>),
    /// Runs schedules of whole VMs, which pass or fail as one test case.
    Schedules(ScheduleOptions),
    /// Fuzzes each target, which passes or fails as one test case.
    Fuzz(FuzzOptions),
    /// Counts instructions; each operation passes or fails as one test case.
    Instructions,
    /// Boots a guest, which passes or fails as one test case.
    Boot(BootOptions),
    /// Lets one guest attack another, which passes or fails as one test case.
    Isolation(IsolationOptions),
    /// Runs the conformance guest, whose cases count.
    Conformance(ConformanceOptions),
}

impl Action {
    /// Does it.
    pub(crate) fn run(self, reports: &Path) -> Result<Tally> {
        match self {
            Self::Command(mut command) => {
                let finished = process::finish(&mut command, Show::Lines)?;
                Ok(Tally::of(finished.success))
            }
            Self::Suite(mut command) => {
                let finished = process::finish(&mut command, Show::Lines)?;
                Ok(Tally::of_cargo_test(&finished.stdout, finished.success))
            }
            Self::Loom => {
                let report = loom::explore(&LoomOptions::default())?;
                Ok(Tally {
                    passed: report.succeeded() as u64,
                    failed: report.failed() as u64,
                })
            }
            Self::Schedules(options) => soak::schedules(&options).map(Tally::of),
            Self::Provided(command) => Self::Suite(command()?).run(reports),
            Self::Fuzz(options) => {
                let failed = fuzz::failures(&options)?.len();
                Ok(Tally {
                    passed: (options.targets().len() - failed) as u64,
                    failed: failed as u64,
                })
            }
            Self::Conformance(options) => {
                let counts = conformance::conformance(&options, reports)?;
                Ok(Tally {
                    passed: counts.passed,
                    failed: counts.failed,
                })
            }
            Self::Instructions => {
                let outcome = instructions::check(false)?;
                let failed = outcome.regressed();
                Ok(Tally {
                    passed: (outcome.rows.len() - failed) as u64,
                    failed: failed as u64,
                })
            }
            Self::Boot(options) => boot::boot(&options, reports).map(Tally::of),
            Self::Isolation(options) => isolation::isolation(&options, reports).map(Tally::of),
        }
    }
}

/// All parts, quick ones first.
pub(crate) fn all(bare_metal: BareMetal, options: &TestOptions) -> Vec<Gate> {
    let mut gates = vec![
        command("formatting", cargo("fmt"), &["--all", "--check"]),
        command(
            "clippy on the host",
            cargo("clippy"),
            &[
                "--workspace",
                "--exclude",
                "hyp",
                "--exclude",
                "isolation",
                "--exclude",
                "conformance",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        command(
            "the library without std",
            bare_metal.cargo("build"),
            &["--package", "vgic", "--no-default-features"],
        ),
        command(
            "clippy on the library without std",
            bare_metal.cargo("clippy"),
            &[
                "--package",
                "vgic",
                "--no-default-features",
                "--",
                "-D",
                "warnings",
            ],
        ),
        command(
            "clippy on the hypervisor",
            bare_metal.cargo("clippy"),
            &[
                "--package",
                "hyp",
                "--features",
                "el2-time",
                "--",
                "-D",
                "warnings",
            ],
        ),
        // Apart from the hypervisor, whose features of what they share want a heap, which guests have not.
        command(
            "clippy on the hypervisor's guests",
            bare_metal.cargo("clippy"),
            &[
                "--package",
                "isolation",
                "--package",
                "conformance",
                "--",
                "-D",
                "warnings",
            ],
        ),
        nested(
            "formatting of what counts at EL2",
            cargo("fmt"),
            &["--all", "--check"],
        ),
        nested(
            "clippy on the plugin that counts at EL2",
            cargo("clippy"),
            &["--package", "el2-plugin", "--", "-D", "warnings"],
        ),
        nested(
            "clippy on the guest that is counted",
            bare_metal.cargo("clippy"),
            &["--package", "el2-guest", "--", "-D", "warnings"],
        ),
        documentation(
            "documentation",
            cargo("doc"),
            &[
                "--workspace",
                "--exclude",
                "hyp",
                "--exclude",
                "isolation",
                "--exclude",
                "conformance",
            ],
        ),
        documentation(
            "documentation of the hypervisor and its guest",
            bare_metal.cargo("doc"),
            &[
                "--package",
                "hyp",
                "--package",
                "conformance",
                "--document-private-items",
            ],
        ),
        suite(),
        benchmarks(),
        reference(),
        Gate {
            name: "loom models and mutants".to_owned(),
            action: Action::Loom,
        },
        schedules(),
        Gate {
            name: "Miri".to_owned(),
            action: Action::Provided(miri),
        },
    ];
    gates.push(Gate {
        name: "instruction counts".to_owned(),
        action: Action::Instructions,
    });
    gates.push(Gate {
        name: "fuzzing".to_owned(),
        action: Action::Fuzz(FuzzOptions {
            target: None,
            seconds: FUZZING,
            minimize: false,
        }),
    });
    if !options.no_boot {
        gates.push(Gate {
            name: "two guests".to_owned(),
            action: Action::Isolation(IsolationOptions {
                seconds: 10,
                seed: Some(1),
                cpus: 2,
            }),
        });
        gates.extend(CONFORMANCE.map(|(vcpus, oracle)| conformance_gate(vcpus, oracle)));
        gates.extend(BOOTS.map(|(vcpus, release)| boot_gate(vcpus, release)));
    }
    gates
}

/// A command on the workspace of `perf/el2`.
fn nested(name: &str, mut cargo: Command, arguments: &[&str]) -> Gate {
    cargo
        .arg("--manifest-path")
        .arg(project::root().join("perf/el2/Cargo.toml"));
    command(name, cargo, arguments)
}

fn command(name: &str, mut command: Command, arguments: &[&str]) -> Gate {
    command.args(arguments);
    Gate {
        name: name.to_owned(),
        action: Action::Command(command),
    }
}

fn documentation(name: &str, mut doc: Command, arguments: &[&str]) -> Gate {
    doc.arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings");
    command(name, doc, arguments)
}

/// Unit, integration and documentation tests on the host, those of these tasks included.
fn suite() -> Gate {
    let mut command = cargo("test");
    command.args([
        "--workspace",
        "--exclude",
        "hyp",
        "--exclude",
        "isolation",
        "--exclude",
        "conformance",
        "--no-fail-fast",
    ]);
    Gate {
        name: "tests on the host".to_owned(),
        action: Action::Suite(command),
    }
}

/// Every benchmark once: that they work, not how fast.
fn benchmarks() -> Gate {
    let quick = BenchOptions {
        quick: true,
        filter: None,
    };
    Gate {
        name: "benchmarks".to_owned(),
        action: Action::Command(bench::command(&quick)),
    }
}

/// The library against its reference model: a million operations in sequences of two hundred, give or take.
fn reference() -> Gate {
    let mut command = cargo("test");
    command
        .args(["--package", "vgic", "--profile", "loom", "--test", "model"])
        .env("PROPTEST_CASES", "5000");
    Gate {
        name: "the library against the reference model".to_owned(),
        action: Action::Suite(command),
    }
}

/// Whole VMs under random schedules, the same ones every time, as far as the time goes.
fn schedules() -> Gate {
    Gate {
        name: "random schedules".to_owned(),
        action: Action::Schedules(ScheduleOptions {
            seed: 1,
            schedules: None,
            seconds: Some(40),
            jobs: 2,
            verbose: false,
        }),
    }
}

/// The interpreter that knows what is undefined, over the tests of what is `unsafe` and over one short run
/// of a whole VM with threads. Few and short ones: it is some hundred times slower than the machine.
fn miri() -> Result<Command> {
    let flags = [
        // crossbeam-epoch is not made for the stricter model, stacked borrows.
        "-Zmiri-tree-borrows",
        // A list in crossbeam-epoch reaches a whole object by a reference to its part that is atomic.
        "-Zmiri-tree-borrows-no-precise-interior-mut",
        // It keeps marks in the low bits of pointers, and so makes pointers of integers.
        "-Zmiri-permissive-provenance",
        // What the epoch has deferred at the end is not freed; and tests leak what others point to.
        "-Zmiri-ignore-leaks",
    ];
    let mut command = nightly(&["miri", "rust-src"])?.cargo("miri");
    command
        .args([
            "test",
            "--package",
            "vgic",
            "--package",
            "soak",
            "--lib",
            "--bins",
            "--",
        ])
        .args([
            "ap_list::",
            "radix::",
            "sync::",
            "vcpu::registers",
            "vcpu::residency",
        ])
        .args([
            "a_vm_may_be_moved",
            "lifetimes::injectors",
            "lifetimes::discarded",
        ])
        .arg("short_lives")
        .env("MIRIFLAGS", flags.join(" "))
        // Of tests that are to panic: slow, and of no interest.
        .env("RUST_BACKTRACE", "0")
        .env("CARGO_TARGET_DIR", project::root().join("target/miri"));
    Ok(command)
}

fn boot_gate(vcpus: u16, release: &'static str) -> Gate {
    let options = BootOptions {
        vcpus,
        kernel: Kernel::Debian(release),
        ..BootOptions::default()
    };
    Gate {
        name: format!("boot {release} on {vcpus} vcpus"),
        action: Action::Boot(options),
    }
}

fn conformance_gate(vcpus: u16, oracle: bool) -> Gate {
    let options = ConformanceOptions {
        vcpus,
        hyp: !oracle,
        ..ConformanceOptions::default()
    };
    Gate {
        name: format!("conformance on {vcpus} vcpus"),
        action: Action::Conformance(options),
    }
}
