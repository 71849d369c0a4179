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
    let bare_metal = toolchain::bare_metal()?;
    // Without the library's counters, as in production.
    let (hyp, hyp_elf) = hypervisor::build_with(scratch, &["--no-default-features"])?;
    console::step("Building the guest and the plugin that counts");
    let plugin = built(
        &mut kvm::package(cargo("build"), "el2-plugin"),
        "the plugin",
    )?;
    let mut build = kvm::package(bare_metal.cargo("build"), "el2-guest");
    let elf = built(build.args(["--bin", "el2-guest"]), "the guest")?;
    let guest = scratch.join("guest.bin");
    fs::write(&guest, flatten(&fs::read(&elf)?)?)?;
    Ok(Programs {
        plugin,
        guest,
        hyp,
        hyp_elf,
    })
}
