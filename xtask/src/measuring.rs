//! The hypervisor that measures its work by the CPU's counters, and the guest that makes it do each
//! event many times (`perf/el2`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::boot::hypervisor::{self, built, flatten};
use crate::provision::toolchain;
use crate::{console, kvm};

/// The programs of a measurement.
#[derive(Debug)]
pub struct Programs {
    /// The hypervisor, a flat image.
    pub hyp: PathBuf,
    /// The hypervisor as an ELF file.
    pub hyp_elf: PathBuf,
    /// The guest, a flat binary.
    pub guest: PathBuf,
}

/// Builds a hypervisor that measures by itself, and a guest that tells it of the events; images go
/// to `scratch`.
pub fn by_counters(scratch: &Path) -> Result<Programs> {
    build(scratch, &["--features", "pmu"], &["--features", "calls"])
}

/// Builds a hypervisor that does not measure, and a guest whose events a plugin of the emulator
/// finds; images go to `scratch`.
pub fn by_plugin(scratch: &Path) -> Result<Programs> {
    build(scratch, &[], &[])
}

/// Builds the programs with more arguments for cargo: those of the hypervisor, and of the guest.
fn build(scratch: &Path, of_hyp: &[&str], of_guest: &[&str]) -> Result<Programs> {
    // Without the library's counters, as in production.
    let arguments = [&["--no-default-features"], of_hyp].concat();
    let (hyp, hyp_elf) = hypervisor::build_with(scratch, &arguments)?;

    console::step("Building the guest that is measured");
    let bare_metal = toolchain::bare_metal()?;
    let mut build = kvm::package(bare_metal.cargo("build"), "el2-guest");
    let build = build.args(["--bin", "el2-guest"]).args(of_guest);
    let elf = built(build, "the guest")?;
    let guest = scratch.join("guest.bin");
    fs::write(&guest, flatten(&fs::read(&elf)?)?)?;
    Ok(Programs {
        hyp,
        hyp_elf,
        guest,
    })
}
