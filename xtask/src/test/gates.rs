//! The gates: the parts of `cargo xtask test`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::crates;
use super::tally::Tally;
use crate::bench::{self, BenchOptions};
use crate::boot::{self, BootOptions, Direct, Efi, Kernel, hypervisor};
use crate::cloud::{self, CloudOptions};
use crate::conformance::{self, ConformanceOptions};
use crate::example;
use crate::fuzz::{self, FuzzOptions};
use crate::image::{self, ImageOptions};
use crate::instructions;
use crate::interchange;
use crate::isolation::{self, IsolationOptions};
use crate::loom::{self, LoomOptions};
use crate::miri::cargo_miri;
use crate::order;
use crate::perf;
use crate::process::{self, Show};
use crate::project;
use crate::provision::toolchain::{self, cargo};
use crate::snapshot::{self, MigrateOptions, SnapshotOptions};
use crate::soak::{self, ScheduleOptions};

/// The boots: vCPUs, release of the kernel, CPU model, and whether it is booted by firmware. A
/// Cortex-A76 has 40-bit physical addresses, a Neoverse N1 has 48-bit ones: the tables of stage 2
/// have another shape. With firmware, the kernel finds its devices by ACPI, not by the device tree.
const BOOTS: [(u16, &str, &str, bool); 3] = [
    (4, "6.12", "neoverse-n1", false),
    (1, "6.12", "neoverse-n1", false),
    (2, "6.1", "cortex-a76", true),
];

/// The boot of a VM with a part of the machine: vCPUs, and CPUs that they share.
const CROWD: (u16, u16) = (64, 2);

/// The boots on a GICv4: slug, vCPUs, CPUs if the vCPUs share them, and how MSIs are injected.
const DIRECT: [(&str, u16, Option<u16>, Direct); 2] = [
    ("boot-direct", 2, None, Direct::On),
    ("boot-switch", 4, Some(2), Direct::Switch),
];

/// The vCPUs of the boot with a GICv2.
const GICV2_VCPUS: u16 = 2;

/// The CPUs of the boot by UEFI firmware, and how ACPI tells them to be connected.
const EFI_CPUS: u16 = 4;
const EFI_BOARD: [&str; 2] = ["-smp", "4,sockets=2,clusters=2"];

/// Seconds of fuzzing for each target: enough to reach the code again that the corpus reaches, and
/// more.
const FUZZING: u32 = 15;

/// Seconds of the sweep's mutants.
const SWEEPING: &str = "30";

/// The runs of the conformance guest: vCPUs, CPUs if the vCPUs share them, CPU model, and whether
/// QEMU's own GIC is the oracle beside it. `max` has every feature that QEMU knows, for the cases
/// about the identification registers.
const CONFORMANCE: [(u16, Option<u16>, &str, bool); 3] = [
    (4, None, "neoverse-n1", true),
    (1, None, "max", false),
    (8, Some(4), "neoverse-n1", false),
];

/// The run of the conformance guest that is saved and restored: vCPUs, and CPUs that they share.
const SAVED: (u16, u16) = (8, 4);

/// vCPUs of the runs of the cases of a GICv2 on QEMU's own: an interface alone, and all that there
/// are.
const GICV2: [u16; 2] = [1, 8];

/// The packages that are not built for the host.
const BARE_METAL_ONLY: [&str; 4] = ["hyp", "hyp-efi", "isolation", "conformance"];

/// A part of the test run.
pub(crate) struct Gate {
    /// A short name that does not change, for `--only`.
    pub(crate) slug: String,
    /// The gate in a few words.
    pub(crate) name: String,
    /// True if it boots an emulated machine.
    pub(crate) boots: bool,
    action: Action,
}

/// The action of a gate.
enum Action {
    /// Runs a command, which passes or fails as one test case.
    Command(fn() -> Result<Command>),
    /// Runs test programs, which count their cases themselves.
    Suite(fn() -> Result<Command>),
    /// Runs steps that are a test case each.
    Cases(fn() -> Result<Tally>),
    /// Explores the models of the concurrent protocols, and runs the mutants: a test case each.
    Loom,
    /// Runs schedules of whole VMs, which pass or fail as one test case.
    Schedules(ScheduleOptions),
    /// Fuzzes each target, which passes or fails as one test case.
    Fuzz(FuzzOptions),
    /// Counts instructions; each operation passes or fails as one test case.
    Instructions,
    /// Boots a guest, which passes or fails as one test case.
    Boot(BootOptions),
    /// Writes what a real machine boots, and boots it, which passes or fails as one test case.
    Image(ImageOptions),
    /// Boots the example, which passes or fails as one test case.
    Example,
    /// Lets one guest attack another, which passes or fails as one test case.
    Isolation(IsolationOptions),
    /// Runs several VMs with Linux, which pass or fail as one test case.
    Cloud(CloudOptions),
    /// Saves and restores a VM with Linux, which passes or fails as one test case.
    Snapshot(SnapshotOptions),
    /// Moves a VM with Linux between machines, which passes or fails as one test case.
    Migrate(MigrateOptions),
    /// Moves a guest between machines, which passes or fails as one test case.
    Interchange(MigrateOptions),
    /// Runs the conformance guest, whose cases count.
    Conformance(ConformanceOptions),
}

impl Gate {
    /// Declares a gate that needs no emulated machine.
    fn new(slug: impl Into<String>, name: impl Into<String>, action: Action) -> Self {
        Self {
            slug: slug.into(),
            name: name.into(),
            boots: false,
            action,
        }
    }

    /// Declares a gate that boots an emulated machine.
    fn booting(slug: impl Into<String>, name: impl Into<String>, action: Action) -> Self {
        Self {
            boots: true,
            ..Self::new(slug, name, action)
        }
    }

    /// Formats the gate's slug and name in one line.
    pub(crate) fn line(&self) -> String {
        format!("{:<18} {}", self.slug, self.name)
    }

    /// Provides what the gate needs, runs it, and counts its test cases.
    pub(crate) fn run(self, reports: &Path) -> Result<Tally> {
        match self.action {
            Action::Command(command) => {
                let finished = process::finish(&mut command()?, Show::Lines)?;
                Ok(Tally::of(finished.success))
            }
            Action::Suite(command) => {
                let finished = process::finish(&mut command()?, Show::Lines)?;
                Ok(Tally::of_cargo_test(&finished.stdout, finished.success))
            }
            Action::Cases(cases) => cases(),
            Action::Loom => {
                let report = loom::explore(&LoomOptions::brief())?;
                Ok(Tally {
                    passed: report.succeeded() as u64,
                    failed: report.failed() as u64,
                })
            }
            Action::Schedules(options) => soak::schedules(&options).map(Tally::of),
            Action::Fuzz(options) => {
                let failed = fuzz::failures(&options)?.len();
                Ok(Tally {
                    passed: (options.targets().len() - failed) as u64,
                    failed: failed as u64,
                })
            }
            Action::Conformance(options) => {
                let counts = conformance::counts(&options, reports)?;
                Ok(Tally {
                    passed: counts.passed,
                    failed: counts.failed,
                })
            }
            Action::Instructions => {
                let outcome = instructions::check(false)?;
                let failed = outcome.regressed();
                Ok(Tally {
                    passed: (outcome.rows.len() - failed) as u64,
                    failed: failed as u64,
                })
            }
            Action::Boot(options) => boot::boot(&options, reports).map(Tally::of),
            Action::Image(options) => image::trial(&options, reports).map(Tally::of),
            Action::Example => example::boot(reports).map(Tally::of),
            Action::Isolation(options) => isolation::isolation(&options, reports).map(Tally::of),
            Action::Cloud(options) => cloud::cloud(&options, reports).map(Tally::of),
            Action::Snapshot(options) => snapshot::snapshot(&options, reports).map(Tally::of),
            Action::Interchange(options) => {
                interchange::interchange(&options, reports).map(Tally::of)
            }
            Action::Migrate(options) => snapshot::migrate(&options, reports).map(Tally::of),
        }
    }
}

/// Lists all gates, quick ones first. Nothing is built or provided before a gate runs.
pub(crate) fn all() -> Vec<Gate> {
    use Action::{Cases, Command, Suite};
    let mut gates = vec![
        Gate::new("fmt", "formatting", Command(|| fmt(cargo("fmt")))),
        Gate::new("clippy", "clippy on the host", Command(host_clippy)),
        Gate::new(
            "no-std",
            "the library without std",
            Command(|| {
                let mut build = toolchain::bare_metal()?.cargo("build");
                build.args(["--package", "vgic", "--no-default-features"]);
                Ok(build)
            }),
        ),
        Gate::new(
            "no-std-clippy",
            "clippy on the library without std",
            Command(|| bare_metal_clippy(&["--package", "vgic", "--no-default-features"])),
        ),
        Gate::new(
            "hyp-clippy",
            "clippy on the hypervisor",
            Command(|| bare_metal_clippy(&["--package", "hyp", "--features", "el2-time,pmu"])),
        ),
        Gate::new(
            "efi-clippy",
            "clippy on the UEFI application",
            Command(|| {
                toolchain::uefi()?;
                let mut cargo = cargo("clippy");
                cargo.args(["--target", project::UEFI]);
                // It checks the code, not the image in it: any file will do.
                cargo.env(hypervisor::IMAGE, project::root().join("Cargo.toml"));
                clippy(cargo, &["--package", "hyp-efi"])
            }),
        ),
        // Apart from the hypervisor: it wants shared dependencies with a heap, which guests lack.
        Gate::new(
            "guests-clippy",
            "clippy on the hypervisor's guests",
            Command(|| bare_metal_clippy(&["--package", "isolation", "--package", "conformance"])),
        ),
        Gate::new(
            "el2-fmt",
            "formatting of the programs that count at EL2",
            Command(|| fmt(nested(cargo("fmt")))),
        ),
        Gate::new(
            "el2-plugin-clippy",
            "clippy on the plugins that count at EL2",
            Command(|| {
                let plugins = ["--package", "el2-plugin", "--package", "el2-lines"];
                clippy(nested(cargo("clippy")), &plugins)
            }),
        ),
        Gate::new(
            "el2-guest-clippy",
            "clippy on the programs that are counted",
            Command(|| {
                let cargo = toolchain::bare_metal()?.cargo("clippy");
                let packages = ["--package", "el2-guest", "--package", "el2-known"];
                clippy(nested(cargo), &packages)
            }),
        ),
        Gate::new(
            "el2-calls-clippy",
            "clippy on the guest that is measured",
            Command(|| {
                let cargo = toolchain::bare_metal()?.cargo("clippy");
                let arguments = [
                    "--package",
                    "el2-guest",
                    "--bin",
                    "el2-guest",
                    "--features",
                    "calls",
                ];
                clippy(nested(cargo), &arguments)
            }),
        ),
        Gate::new(
            "el2-kvm-clippy",
            "clippy on the client of /dev/kvm",
            Command(|| {
                toolchain::linux()?;
                let mut cargo = nested(cargo("clippy"));
                cargo.args(["--target", project::ARM64_LINUX]);
                clippy(cargo, &["--package", "el2-kvm"])
            }),
        ),
        Gate::new(
            "example-fmt",
            "formatting of the example at EL2",
            Command(|| fmt(example::on_the_example(cargo("fmt")))),
        ),
        Gate::new(
            "example-clippy",
            "clippy on the example at EL2",
            Command(|| clippy(example::cargo("clippy")?, &["--locked"])),
        ),
        Gate::new("doc", "documentation", Command(host_documentation)),
        Gate::new(
            "hyp-doc",
            "documentation of the hypervisor and its guest",
            Command(hyp_documentation),
        ),
        Gate::new(
            "docs-rs",
            "documentation on docs.rs",
            Cases(crates::docs_rs),
        ),
        Gate::new("features", "every set of features", Cases(crates::features)),
        Gate::new(
            "minimal-versions",
            "an embedder with the oldest versions",
            Cases(crates::minimal_versions),
        ),
        Gate::new("package", "the packaged crate", Cases(crates::packaged)),
        Gate::new(
            "hyp-order",
            "barriers in the compiled hypervisors",
            Cases(order::check),
        ),
        Gate::new("deny", "licences and bans", Cases(crates::deny)),
        Gate::new("host", "tests on the host", Suite(host_tests)),
        Gate::new(
            "bench",
            "benchmarks",
            // Each once: that they work, not how fast.
            Command(|| {
                Ok(bench::command(&BenchOptions {
                    quick: true,
                    filter: None,
                }))
            }),
        ),
        Gate::new(
            "model",
            "the library against the reference model",
            Suite(reference),
        ),
        Gate::new("loom", "loom models and mutants", Action::Loom),
        Gate::new(
            "sweep",
            "a slice of the sweep of mutants",
            Command(|| Ok(loom::sweep(&["--slice", SWEEPING]))),
        ),
        Gate::new("states", "states of more CPUs than loom's", Suite(states)),
        Gate::new(
            "schedules",
            "random schedules",
            Action::Schedules(ScheduleOptions {
                seed: 1,
                schedules: None,
                seconds: Some(40),
                jobs: 2,
                verbose: false,
                stalled: false,
                weak: false,
            }),
        ),
        Gate::new(
            "stalled",
            "a CPU that stops anywhere",
            Action::Schedules(ScheduleOptions {
                seed: 1,
                schedules: None,
                seconds: Some(12),
                jobs: 2,
                verbose: false,
                stalled: true,
                weak: false,
            }),
        ),
        Gate::new("miri", "Miri", Suite(miri)),
        Gate::new("instructions", "instruction counts", Action::Instructions),
        Gate::new(
            "fuzz",
            "fuzzing",
            Action::Fuzz(FuzzOptions {
                target: None,
                seconds: FUZZING,
                minimize: false,
            }),
        ),
        Gate::booting(
            "el2-known",
            "counts at EL2 of known calls",
            Command(|| Ok(perf::command(&["--el2", "--known"]))),
        ),
        Gate::booting(
            "lines",
            "cache lines between CPUs at EL2",
            Command(|| Ok(perf::command(&["--lines"]))),
        ),
        Gate::booting("example", "boot the example at EL2", Action::Example),
        Gate::booting(
            "isolation",
            "two guests",
            Action::Isolation(IsolationOptions {
                seconds: 10,
                seed: Some(1),
                cpus: 2,
            }),
        ),
        Gate::booting(
            "cloud",
            "VMs with Linux and an attacker",
            Action::Cloud(CloudOptions {
                vms: 2,
                vcpus: 2,
                gic: 3,
                cpus: 2,
                seconds: 0,
                kill: true,
                seed: Some(1),
                verbose: false,
            }),
        ),
    ];
    gates.push(snapshot_gate());
    gates.push(migrate_gate());
    gates.push(interchange_gate());
    let conformance = |(vcpus, cpus, cpu, oracle)| conformance_gate(vcpus, cpus, cpu, oracle);
    gates.extend(CONFORMANCE.map(conformance));
    gates.push(saved_gate());
    gates.push(direct_conformance_gate());
    gates.extend(GICV2.map(gicv2_conformance_gate));
    let boot = |(vcpus, release, cpu, firmware)| boot_gate(vcpus, release, cpu, firmware);
    gates.extend(BOOTS.map(boot));
    gates.push(crowd_gate());
    gates.extend(DIRECT.map(direct_gate));
    gates.push(gicv2_gate());
    gates.push(efi_gate());
    gates.push(image_gate());
    gates
}

/// Turns a cargo command into one on the workspace of `perf/el2`.
fn nested(mut cargo: Command) -> Command {
    cargo
        .arg("--manifest-path")
        .arg(project::root().join("perf/el2/Cargo.toml"));
    cargo
}

/// Returns the command that checks the formatting of a workspace.
fn fmt(mut cargo: Command) -> Result<Command> {
    toolchain::component("rustfmt", "cargo-fmt")?;
    cargo.args(["--all", "--check"]);
    Ok(cargo)
}

/// Returns the command that runs clippy on some packages, with warnings as errors.
fn clippy(mut cargo: Command, packages: &[&str]) -> Result<Command> {
    toolchain::component("clippy", "cargo-clippy")?;
    cargo.args(packages).args(["--", "-D", "warnings"]);
    Ok(cargo)
}

/// Returns the command that runs clippy on packages for the bare-metal target.
fn bare_metal_clippy(packages: &[&str]) -> Result<Command> {
    clippy(toolchain::bare_metal()?.cargo("clippy"), packages)
}

/// Restricts a cargo command on the workspace to the packages that the host can build.
fn on_the_host(mut cargo: Command) -> Command {
    cargo.arg("--workspace");
    for package in BARE_METAL_ONLY {
        cargo.args(["--exclude", package]);
    }
    cargo
}

/// Returns the command that runs clippy on all that the host can build.
fn host_clippy() -> Result<Command> {
    clippy(on_the_host(cargo("clippy")), &["--all-targets"])
}

/// Adds to a documentation command: no dependencies, and warnings as errors.
fn documentation(mut doc: Command) -> Command {
    doc.arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings");
    doc
}

/// Returns the command that builds the documentation of all that the host can build.
fn host_documentation() -> Result<Command> {
    Ok(documentation(on_the_host(cargo("doc"))))
}

/// Returns the command that builds the documentation of the hypervisor and of one guest.
fn hyp_documentation() -> Result<Command> {
    let mut doc = documentation(toolchain::bare_metal()?.cargo("doc"));
    doc.args(["--package", "hyp", "--package", "conformance"])
        .arg("--document-private-items");
    Ok(doc)
}

/// Returns the command of the unit, integration and documentation tests, those of xtask included.
/// The models of states are a gate of their own: unoptimised, they take minutes.
fn host_tests() -> Result<Command> {
    let mut tests = on_the_host(cargo("test"));
    tests.args(["--no-fail-fast", "--exclude", "states"]);
    tests.args(["--features", "vgic/serde"]);
    Ok(tests)
}

/// Seed of the operations that the gate holds against the reference model.
const OPERATIONS: &str = "2026";

/// Returns the command that holds the library against its reference model: a million operations in
/// sequences of about two hundred, which a seed repeats. Other seeds are for longer runs
/// (`CONTRIBUTING.md`).
fn reference() -> Result<Command> {
    let mut tests = cargo("test");
    tests
        .args(["--package", "vgic", "--profile", "loom", "--test", "model"])
        .env("PROPTEST_CASES", "5000")
        .env("PROPTEST_RNG_SEED", OPERATIONS);
    Ok(tests)
}

/// Returns the command that visits the states of each scenario, and prints how many there are.
fn states() -> Result<Command> {
    let mut tests = cargo("test");
    tests
        .args([
            "--package",
            "states",
            "--profile",
            "loom",
            "--test",
            "states",
        ])
        .args(["--", "--nocapture"]);
    Ok(tests)
}

/// Returns the command that runs Miri over the tests of `unsafe` code, over one short run of a
/// whole VM with threads, and over one of the scheduler, whose models do not see the links of its
/// queues. Few and short ones: Miri is some hundred times slower than the machine.
fn miri() -> Result<Command> {
    let mut tests = cargo_miri(0)?;
    tests
        .args(["test", "--package", "vgic", "--package", "soak"])
        .args(["--package", "scheduler", "--test", "threads"])
        .args(["--lib", "--bins", "--test", "any_order", "--"])
        .args(["ap_list::", "radix::", "sync::"])
        .args(["ich_shadow::", "residency::"])
        .args(["a_vm_may_be_moved", "lifetimes::injectors"])
        .args(["lifetimes::discarded", "short_lives", "in_any_order"])
        .arg("no_token_is_lost");
    Ok(tests)
}

/// Declares the gate of a boot.
fn boot_gate(vcpus: u16, release: &'static str, cpu: &str, firmware: bool) -> Gate {
    let by = if firmware { " by firmware" } else { "" };
    let options = BootOptions {
        vcpus,
        kernel: Kernel::Debian(release),
        cpu: cpu.to_owned(),
        firmware,
        ..BootOptions::default()
    };
    Gate::booting(
        format!("boot-{release}-{vcpus}"),
        format!("boot {release} on {vcpus} vcpus of {cpu}{by}"),
        Action::Boot(options),
    )
}

/// Declares the gate of a boot with many vCPUs on few CPUs.
fn crowd_gate() -> Gate {
    let (vcpus, cpus) = CROWD;
    let options = BootOptions {
        vcpus,
        cpus: Some(cpus),
        ..BootOptions::default()
    };
    Gate::booting(
        format!("boot-{vcpus}-of-{cpus}"),
        format!("boot {vcpus} vcpus of {cpus} cpus"),
        Action::Boot(options),
    )
}

/// Declares the gate of a boot on a GICv4.
fn direct_gate((slug, vcpus, cpus, direct): (&str, u16, Option<u16>, Direct)) -> Gate {
    let options = BootOptions {
        vcpus,
        cpus,
        gic: 4,
        direct: Some(direct),
        brief: true,
        ..BootOptions::default()
    };
    let how = match direct {
        Direct::Off => "without direct MSIs",
        Direct::On => "with direct MSIs",
        Direct::Auto => "whose vCPUs choose how MSIs come",
        Direct::Switch => "with MSIs that change their path",
    };
    Gate::booting(
        slug,
        format!("boot {vcpus} vcpus on a GICv4, {how}"),
        Action::Boot(options),
    )
}

/// Declares the gate of a boot of a guest with a GICv2.
fn gicv2_gate() -> Gate {
    let options = BootOptions {
        vcpus: GICV2_VCPUS,
        gic: 2,
        brief: true,
        ..BootOptions::default()
    };
    Gate::booting(
        "boot-gicv2",
        format!("boot {GICV2_VCPUS} vcpus with a GICv2"),
        Action::Boot(options),
    )
}

/// Declares the gate of a boot of the hypervisor by UEFI firmware.
fn efi_gate() -> Gate {
    let options = BootOptions {
        vcpus: EFI_CPUS,
        efi: Some(Efi::Acpi),
        brief: true,
        lpis_on: true,
        qemu: EFI_BOARD.map(str::to_owned).to_vec(),
        ..BootOptions::default()
    };
    Gate::booting(
        "boot-efi",
        format!("boot hyp.efi by ACPI on {EFI_CPUS} cpus in two sockets"),
        Action::Boot(options),
    )
}

/// Declares the gate of what `cargo xtask image` writes in one file. The cases are few: that the
/// guest starts and ends is what counts here.
fn image_gate() -> Gate {
    let options = ImageOptions {
        one_file: true,
        append: Some("filter=ident.".to_owned()),
        ..ImageOptions::default()
    };
    Gate::booting(
        "image",
        "boot hyp.efi with a guest in it",
        Action::Image(options),
    )
}

/// Declares the gate of a run of the conformance guest.
fn conformance_gate(vcpus: u16, cpus: Option<u16>, cpu: &str, oracle: bool) -> Gate {
    let (slug, of) = match cpus {
        Some(cpus) => (format!("-of-{cpus}"), format!(" of {cpus} cpus")),
        None => (String::new(), String::new()),
    };
    let options = ConformanceOptions {
        vcpus,
        cpus,
        cpu: cpu.to_owned(),
        hyp: !oracle,
        ..ConformanceOptions::default()
    };
    Gate::booting(
        format!("conformance-{vcpus}{slug}"),
        format!("conformance on {vcpus} vcpus{of}"),
        Action::Conformance(options),
    )
}

/// Rounds of the gates: the hypervisor, the machine and the guest are the same in each.
const ROUNDS: u32 = 20;
const MOVES: u32 = 2;

/// Declares the gate of a VM with Linux that is saved and restored, on CPUs with SVE.
fn snapshot_gate() -> Gate {
    let options = SnapshotOptions {
        rounds: ROUNDS,
        seed: Some(1),
        vcpus: 4,
        memory: 192,
        cpu: "neoverse-v1".to_owned(),
    };
    Gate::booting(
        "snapshot",
        "a VM with Linux saved and restored elsewhere",
        Action::Snapshot(options),
    )
}

/// Declares the gate of a VM with Linux that moves between machines.
fn migrate_gate() -> Gate {
    let options = MigrateOptions {
        linux: SnapshotOptions {
            rounds: MOVES,
            seed: Some(1),
            vcpus: 4,
            memory: 192,
            cpu: "neoverse-n1".to_owned(),
        },
        kvm: false,
        alone: None,
        hops: 0,
    };
    Gate::booting(
        "migrate",
        "a VM with Linux moved between machines",
        Action::Migrate(options),
    )
}

/// Hops of the gate: the first ones differ in the SPIs.
const HOPS: u32 = 3;

/// Declares the gate of a guest that moves from Linux KVM to the hypervisor, back, and once more.
fn interchange_gate() -> Gate {
    let options = MigrateOptions {
        kvm: true,
        hops: HOPS,
        ..MigrateOptions::default()
    };
    Gate::booting(
        "interchange",
        "a guest moved from Linux KVM and back",
        Action::Interchange(options),
    )
}

/// Declares the gate of the run of the conformance guest that is saved and restored.
fn saved_gate() -> Gate {
    let (vcpus, cpus) = SAVED;
    let options = ConformanceOptions {
        vcpus,
        cpus: Some(cpus),
        saved: true,
        seed: Some(1),
        ..ConformanceOptions::default()
    };
    Gate::booting(
        "conformance-saved",
        format!("conformance on {vcpus} vcpus of {cpus} cpus, saved and restored"),
        Action::Conformance(options),
    )
}

/// Declares the gate of the cases of ITS commands whose LPIs are direct, on a GICv4.
fn direct_conformance_gate() -> Gate {
    let options = ConformanceOptions {
        gic: 4,
        hyp: true,
        filter: Some("its.".to_owned()),
        ..ConformanceOptions::default()
    };
    let vcpus = options.vcpus;
    Gate::booting(
        "conformance-direct",
        format!("conformance of ITS commands on {vcpus} vcpus, direct on a GICv4"),
        Action::Conformance(options),
    )
}

/// Declares the gate of a run of the cases of a GICv2 on QEMU's own.
fn gicv2_conformance_gate(vcpus: u16) -> Gate {
    let options = ConformanceOptions {
        gic: 2,
        vcpus,
        bare: true,
        ..ConformanceOptions::default()
    };
    Gate::booting(
        format!("conformance-gicv2-{vcpus}"),
        format!("conformance of QEMU's own GICv2 on {vcpus} vcpus"),
        Action::Conformance(options),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_words_and_unique() {
        let gates = all();
        for gate in &gates {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            assert!(gate.slug.chars().all(plain), "{}", gate.slug);
        }
        let mut slugs: Vec<_> = gates.iter().map(|gate| gate.slug.as_str()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), gates.len());
    }

    #[test]
    fn boots_cover_both_shapes_of_stage_2() {
        for model in ["neoverse-n1", "cortex-a76"] {
            assert!(BOOTS.iter().any(|(_, _, cpu, _)| *cpu == model), "{model}");
        }
    }

    #[test]
    fn gates_that_people_know_by_their_slug_exist() {
        let gates = all();
        for slug in [
            "fmt",
            "clippy",
            "no-std",
            "hyp-clippy",
            "doc",
            "docs-rs",
            "features",
            "minimal-versions",
            "package",
            "hyp-order",
            "deny",
            "host",
            "bench",
            "model",
            "loom",
            "states",
            "schedules",
            "stalled",
            "miri",
            "instructions",
            "fuzz",
            "el2-known",
            "lines",
            "example",
            "isolation",
            "cloud",
            "snapshot",
            "migrate",
            "interchange",
            "conformance-4",
            "conformance-saved",
            "conformance-direct",
            "conformance-gicv2-8",
            "boot-6.12-4",
            "boot-direct",
            "boot-switch",
            "boot-gicv2",
            "boot-efi",
            "image",
        ] {
            assert!(gates.iter().any(|gate| gate.slug == slug), "{slug}");
        }
    }
}
