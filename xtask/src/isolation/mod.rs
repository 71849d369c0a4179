//! `cargo xtask isolation`: two guests share the CPUs of one emulated machine under the hypervisor.
//! One measures its own interrupts, the other attacks.
//!
//! It is done twice: with a thread for each emulated CPU, so that things happen at the same time;
//! and on one CPU whose time is the instructions that it executes, so that times mean something
//! whatever else the host is doing, and the same seed gives the same run.

pub(crate) mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{ArgMatches, value_parser};

use crate::boot::hypervisor::{self, built, flatten};
use crate::boot::run;
use crate::cli::{Options, defaulted, option};
use crate::provision::qemu::{self, Board, Qemu};
use crate::provision::toolchain;
use crate::{console, project};
use verdict::Verdict;

const AFTER_HELP: &str = "\
The first guest sends itself interrupts of every kind between all its vCPUs, and
counts what arrives; the second does what it can to disturb that: random
accesses to its GIC, random ITS commands, interrupt storms, lines that never go
low, calls and traps. None of the first guest's interrupts may be lost, none may
be foreign, and none may come late. The outcome goes to
target/reports/isolation.json. The exit status is 0 only if every check holds.

Examples:
  cargo xtask isolation            other attacks every time
  cargo xtask isolation --seed 7   the attacks of a run that told its seed
  cargo xtask isolation --cpus 8 --seconds 300";

/// Options of `cargo xtask isolation`.
#[derive(Clone, Debug)]
pub(crate) struct IsolationOptions {
    /// Seconds of the run with a thread for each CPU; the other one has a tenth, in instructions.
    pub(crate) seconds: u32,
    /// The seed of the attacks; without it, one by the clock.
    pub(crate) seed: Option<u32>,
    /// Emulated CPUs, each with a vCPU of either guest.
    pub(crate) cpus: u16,
}

impl Options for IsolationOptions {
    fn declare(command: clap::Command) -> clap::Command {
        command.after_help(AFTER_HELP).args([
            option(
                "seconds",
                "N",
                "Seconds of the run with a thread for each CPU; the other one has a tenth, in \
                 instructions",
            )
            .default_value("10")
            .value_parser(value_parser!(u32).range(1..)),
            option(
                "seed",
                "S",
                "The seed of the attacks [default: by the clock]",
            )
            .value_parser(value_parser!(u32)),
            option(
                "cpus",
                "N",
                "Emulated CPUs, each with a vCPU of either guest",
            )
            .default_value("2")
            .value_parser(value_parser!(u16).range(1..=8)),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            seconds: defaulted(matches, "seconds"),
            seed: matches.remove_one("seed"),
            cpus: defaulted(matches, "cpus"),
        }
    }
}

/// The setting of one run of the machine.
#[derive(Clone, Copy, Debug)]
struct Setting {
    name: &'static str,
    /// QEMU's arguments for how it runs the CPUs.
    accelerator: &'static [&'static str],
    /// The CPU model that QEMU emulates.
    cpu: &'static str,
    /// True if an instruction takes a nanosecond, no more and no less.
    counted: bool,
    /// Interrupts of each kind, and attacks, that a second needs at least for the run to say
    /// something: few where the host's load decides.
    enough: u64,
    cpus: u16,
    seconds: u32,
    seed: u32,
}

impl Setting {
    /// Returns the time that the run may take on a slow host.
    fn limit(self) -> Duration {
        let pace = if self.counted { 120 } else { 10 };
        Duration::from_secs(120 + pace * u64::from(self.seconds))
    }
}

/// Runs both guests in both settings, and tells whether all checks hold.
pub(crate) fn isolation(options: &IsolationOptions, reports: &Path) -> Result<bool> {
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    let hypervisor = hypervisor::build_with_el2_time(scratch.path())?;
    let guest = build_guest(scratch.path())?;
    let path = project::begin_report(reports, "isolation.json")?;

    let seed = options.seed.unwrap_or_else(seed_by_the_clock);
    let settings = [
        Setting {
            name: "parallel",
            accelerator: &["-accel", "tcg,thread=multi"],
            // Every feature that there is, to be hidden from the guests.
            cpu: "max",
            counted: false,
            enough: 5,
            cpus: options.cpus,
            seconds: options.seconds,
            seed,
        },
        Setting {
            name: "counted",
            accelerator: &["-accel", "tcg", "-icount", "shift=0,sleep=off"],
            cpu: "neoverse-n1",
            counted: true,
            enough: 500,
            cpus: 1,
            seconds: options.seconds.div_ceil(10),
            seed,
        },
    ];

    let mut verdicts = Vec::new();
    for setting in settings {
        console::step(format!(
            "Two guests, {}: CPUs {}, seconds {}, seed {seed}",
            setting.name, setting.cpus, setting.seconds
        ));
        let log = reports.join(format!("isolation-{}.log", setting.name));
        let mut command = machine(&qemu, &hypervisor, &guest, setting)?;
        let run = run::watched(&mut command, &log, setting.limit())?;
        let verdict = Verdict::new(setting, &run);
        verdict.print();
        verdicts.push(verdict);
    }

    let json = serde_json::to_string_pretty(&verdicts)?;
    fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("report {}", path.display()));
    Ok(verdicts.iter().all(|verdict| verdict.passed))
}

/// Returns a seed that is another one every time.
pub(crate) fn seed_by_the_clock() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |now| now.subsec_nanos())
}

/// Builds the program that is both guests.
pub(crate) fn build_guest(scratch: &Path) -> Result<PathBuf> {
    console::step("Building the guests");
    let mut cargo = toolchain::bare_metal()?.cargo("build");
    cargo.args(["--release", "--package", "isolation"]);
    let elf = built(&mut cargo, "the guest")?;
    let path = scratch.join("isolation.bin");
    fs::write(&path, flatten(&fs::read(elf)?)?)?;
    Ok(path)
}

/// Returns the command that starts the emulated machine: no devices but the console, and two
/// kernels for the hypervisor to find, out of the way of the device tree and what else QEMU places.
fn machine(qemu: &Qemu, hypervisor: &Path, guest: &Path, setting: Setting) -> Result<Command> {
    const KERNELS: [u64; 2] = [0x4820_0000, 0x4840_0000];
    let Setting {
        cpu,
        cpus,
        seconds,
        seed,
        ..
    } = setting;
    let mut command = qemu.board(&Board {
        gic: 3,
        options: "virtualization=on",
        cpu,
        cpus,
    })?;
    command
        .args(["-m", "256M"])
        .args(setting.accelerator)
        .args(["-serial", "stdio", "-monitor", "none"])
        .arg("-kernel")
        .arg(hypervisor);
    let roles = [
        format!("victim seconds={seconds} seed={seed}"),
        format!("attacker seed={seed} hyp.daemon"),
    ];
    for (address, role) in KERNELS.into_iter().zip(roles) {
        let guest = guest.display();
        command.arg("-device").arg(format!(
            "guest-loader,addr={address:#x},kernel={guest},bootargs={role}"
        ));
    }
    Ok(command)
}
