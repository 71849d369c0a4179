//! The programs, the emulated machine, and a run of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::super::el2::machine::{CLIENTS_FILES, MODULE, plugin_argument, watch_to_the_end};
use xtask::boot::hypervisor::{self, built, flatten};
use xtask::console;
use xtask::kvm::{self, Host};
use xtask::provision::qemu::Qemu;
use xtask::provision::toolchain::{self, cargo};

/// QEMU's arguments for the machine, which the report names.
pub(crate) const FLAGS: &str =
    "-machine virt,gic-version=3,virtualization=on -cpu neoverse-n1 -m 512M";

/// The emulation of the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threads {
    /// One thread runs all CPUs in turn, an instruction a nanosecond. Counts are repeatable.
    One,
    /// Each CPU has a thread: CPUs interleave at any instruction.
    Many,
}

impl Threads {
    /// Returns QEMU's arguments.
    pub(crate) const fn flags(self) -> &'static str {
        match self {
            Self::One => "-accel tcg,thread=single -icount shift=0,sleep=off",
            Self::Many => "-accel tcg,thread=multi",
        }
    }

    /// Returns the plugin's argument.
    const fn argument(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Many => ",threads=multi",
        }
    }
}

/// CPUs of the program whose lines are known.
const KNOWN_CPUS: u16 = 4;

/// Functions of a PCI device.
const FUNCTIONS: u16 = 8;

/// The programs of a run.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The plugin, a shared library.
    plugin: PathBuf,
    /// The guest, a flat binary.
    guest: PathBuf,
    /// The program whose lines are known, a flat binary.
    known: PathBuf,
    /// The hypervisor, a flat image.
    hyp: PathBuf,
    /// The hypervisor as an ELF file.
    pub(crate) hyp_elf: PathBuf,
}

/// Builds the programs; images go to `scratch`.
pub(crate) fn programs(scratch: &Path) -> Result<Programs> {
    let bare_metal = toolchain::bare_metal()?;
    // Without the library's counters, as in production.
    let (hyp, hyp_elf) = hypervisor::build_with(scratch, &["--no-default-features"])?;
    console::step("Building the guest and the plugin that counts lines");
    let plugin = built(&mut kvm::package(cargo("build"), "el2-lines"), "the plugin")?;
    let bare = |name: &str| {
        let mut build = kvm::package(bare_metal.cargo("build"), "el2-guest");
        let elf = built(build.args(["--bin", name]), "the guest")?;
        let path = scratch.join(name);
        fs::write(&path, flatten(&fs::read(&elf)?)?)?;
        Ok::<_, anyhow::Error>(path)
    };
    let (guest, known) = (bare("el2-crowd")?, bare("el2-sharing")?);
    Ok(Programs {
        plugin,
        guest,
        known,
        hyp,
        hyp_elf,
    })
}

/// Builds the client of /dev/kvm with the guest.
pub(crate) fn kvm_host(programs: &Programs, scratch: &Path) -> Result<Host> {
    Host::new(&programs.guest, scratch)
}

/// The set-up that the runs have in common.
pub(crate) struct Run<'a> {
    qemu: &'a Qemu,
    programs: &'a Programs,
    threads: Threads,
    scratch: &'a Path,
}

/// The outcome of a run.
pub(crate) struct Counted {
    /// The plugin's counts, as it wrote them.
    pub(crate) counts: String,
    /// The lines of the console.
    pub(crate) console: Vec<String>,
}

impl<'a> Run<'a> {
    /// Sets runs up, whose output goes to `scratch`.
    pub(crate) fn new(
        qemu: &'a Qemu,
        programs: &'a Programs,
        threads: Threads,
        scratch: &'a Path,
    ) -> Self {
        Self {
            qemu,
            programs,
            threads,
            scratch,
        }
    }

    /// Runs the program whose lines are known.
    pub(crate) fn of_known_lines(&self) -> Result<Counted> {
        self.run(KNOWN_CPUS, |command| {
            command.arg("-kernel").arg(&self.programs.known);
        })
    }

    /// Runs the guest under hyp. As many devices as there are CPUs send messages when they are told
    /// to.
    pub(crate) fn under_hyp(&self, cpus: u16) -> Result<Counted> {
        let guest = self.programs.guest.display();
        let module = format!("guest-loader,addr={MODULE:#x},kernel={guest}");
        self.run(cpus, |command| {
            command
                .arg("-kernel")
                .arg(&self.programs.hyp)
                .args(["-device", &module]);
            for number in 0..cpus {
                let (slot, function) = (1 + number / FUNCTIONS, number % FUNCTIONS);
                let device = format!("edu,addr={slot:x}.{function},multifunction=on");
                command.args(["-device", &device]);
            }
        })
    }

    /// Runs the guest under the KVM of a Linux kernel.
    pub(crate) fn under_kvm(&self, host: &Host, cpus: u16) -> Result<Counted> {
        let map = self.map();
        self.run(cpus, |command| {
            command.args(CLIENTS_FILES);
            host.boot(command, &format!("crowd {} {cpus}", map.display()));
        })
    }

    /// Returns the path of the map of the kernel's code.
    pub(crate) fn map(&self) -> PathBuf {
        self.scratch.join("map")
    }

    /// Runs the machine with the arguments that `add` adds.
    fn run(&self, cpus: u16, add: impl FnOnce(&mut Command)) -> Result<Counted> {
        let out = self.scratch.join("lines");
        let mut command = self.qemu.command()?;
        command
            .args(FLAGS.split_whitespace())
            .args(self.threads.flags().split_whitespace())
            .args(["-smp", &cpus.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-monitor", "none", "-plugin"])
            .arg(
                plugin_argument(&self.programs.plugin, &[("out", &out)]) + self.threads.argument(),
            );
        add(&mut command);

        let console = watch_to_the_end(&mut command)?;
        let counts = fs::read_to_string(&out).context("the plugin left no counts")?;
        fs::remove_file(&out)?;
        Ok(Counted { counts, console })
    }
}
