//! The programs of `perf/el2`, each for the machine that it runs on, and hyp.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use xtask::boot::hypervisor::{self, built, flatten};
use xtask::console;
use xtask::kvm;
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
    build(scratch, &[], &[])
}

/// Builds a hypervisor that measures by itself, and a guest that tells it of the events; images go
/// to `scratch`.
pub(crate) fn measuring_programs(scratch: &Path) -> Result<Programs> {
    build(scratch, &["--features", "pmu"], &["--features", "calls"])
}

/// Builds the programs with more arguments for cargo: those of the hypervisor, and of the guest.
fn build(scratch: &Path, of_hyp: &[&str], of_guest: &[&str]) -> Result<Programs> {
    let bare_metal = toolchain::bare_metal()?;
    // Without the library's counters, as in production.
    let arguments = [&["--no-default-features"], of_hyp].concat();
    let (hyp, hyp_elf) = hypervisor::build_with(scratch, &arguments)?;
    let plugin = plugin()?;
    console::step("Building the guest that is counted");
    let mut build = kvm::package(bare_metal.cargo("build"), "el2-guest");
    let build = build.args(["--bin", "el2-guest"]).args(of_guest);
    let elf = built(build, "the guest")?;
    let guest = scratch.join("guest.bin");
    fs::write(&guest, flatten(&fs::read(&elf)?)?)?;
    Ok(Programs {
        plugin,
        guest,
        hyp,
        hyp_elf,
    })
}

/// Builds the plugin.
pub(crate) fn plugin() -> Result<PathBuf> {
    console::step("Building the plugin that counts");
    let mut command = kvm::package(cargo("build"), "el2-plugin");
    built(&mut command, "the plugin")
}

/// Builds the program whose calls are known, an ELF file.
pub(crate) fn known() -> Result<PathBuf> {
    let bare_metal = toolchain::bare_metal()?;
    let mut command = kvm::package(bare_metal.cargo("build"), "el2-known");
    built(&mut command, "the program of known calls")
}
