//! The programs of `perf/el2`, each for the machine that it runs on, and hyp.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use xtask::boot::hypervisor::{self, built, flatten};
use xtask::boot::initramfs::Initramfs;
use xtask::console;
use xtask::project;
use xtask::provision::toolchain::{self, cargo};

/// The programs of a run.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The plugin, a shared library.
    pub(crate) plugin: PathBuf,
    /// The guest, a flat binary.
    pub(crate) guest: PathBuf,
    /// The hypervisor, a flat image.
    pub(crate) hyp: PathBuf,
    /// The hypervisor as an ELF file.
    pub(crate) hyp_elf: PathBuf,
}

/// Builds the programs; images go to `scratch`.
pub(crate) fn programs(scratch: &Path) -> Result<Programs> {
    let bare_metal = toolchain::bare_metal()?;
    // Without the library's counters, as in production.
    let (hyp, hyp_elf) = hypervisor::build_with(scratch, &["--no-default-features"])?;
    console::step("Building the guest and the plugin that counts");
    let plugin = built(&mut ours(cargo("build"), "el2-plugin"), "the plugin")?;
    let elf = built(
        &mut ours(bare_metal.cargo("build"), "el2-guest"),
        "the guest",
    )?;
    let guest = scratch.join("guest.bin");
    fs::write(&guest, flatten(&fs::read(&elf)?)?)?;
    Ok(Programs {
        plugin,
        guest,
        hyp,
        hyp_elf,
    })
}

/// Builds the client of /dev/kvm and packs it, with the guest, into an initial RAM disk in
/// `scratch`.
pub(crate) fn initramfs(programs: &Programs, scratch: &Path) -> Result<PathBuf> {
    toolchain::linux()?;
    console::step("Building the client of /dev/kvm");
    let mut command = ours(cargo("build"), "el2-kvm");
    command
        .args(["--target", project::ARM64_LINUX])
        // Rust's own linker: no C compiler for arm64 is needed.
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");

    let client = built(&mut command, "the client of /dev/kvm")?;
    let mut initramfs = Initramfs::default();
    initramfs.file("init", &fs::read(client)?)?;
    initramfs.file("guest", &fs::read(&programs.guest)?)?;
    // The client mounts file systems there.
    initramfs.directory("dev")?;
    initramfs.directory("proc")?;
    let path = scratch.join("initramfs");
    fs::write(&path, initramfs.finish()?).context("cannot write the initial RAM disk")?;
    Ok(path)
}

/// Turns a cargo command into a build of a package of the workspace in `perf/el2`, with a target
/// directory of its own.
fn ours(mut cargo: Command, package: &str) -> Command {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| project::root().join("target"), PathBuf::from);
    cargo
        .arg("--manifest-path")
        .arg(project::root().join("perf/el2/Cargo.toml"))
        .arg("--target-dir")
        .arg(target.join("perf-el2"))
        .args(["--release", "--locked", "--package", package]);
    cargo
}
