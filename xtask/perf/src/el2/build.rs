//! The programs of `perf/el2`, each for the machine that it runs on, and hyp.

use std::path::{Path, PathBuf};

use anyhow::Result;

use xtask::boot::hypervisor::built;
use xtask::console;
use xtask::kvm;
use xtask::measuring;
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
    with_plugin(measuring::by_plugin(scratch)?)
}

/// Builds a hypervisor that measures by itself, and a guest that tells it of the events; images go
/// to `scratch`.
pub(crate) fn measuring_programs(scratch: &Path) -> Result<Programs> {
    with_plugin(measuring::by_counters(scratch)?)
}

/// Builds the plugin beside the hypervisor and the guest.
fn with_plugin(built: measuring::Programs) -> Result<Programs> {
    Ok(Programs {
        plugin: plugin()?,
        guest: built.guest,
        hyp: built.hyp,
        hyp_elf: built.hyp_elf,
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
