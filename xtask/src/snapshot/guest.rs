//! The guest: Debian's kernel, and a file system with busybox and the witness.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::boot::hypervisor::built;
use crate::boot::initramfs::Initramfs;
use crate::console;
use crate::project;
use crate::provision::apt::{self, For};
use crate::provision::toolchain::{self, cargo};
use crate::provision::{busybox, kernel};

/// The release of the kernel.
const RELEASE: &str = "6.12";

/// A guest, ready to be started.
#[derive(Debug)]
pub(super) struct Guest {
    /// The kernel's version.
    pub(super) kernel_name: String,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// Puts the guest together. The file system goes to `scratch`.
pub(super) fn prepare(scratch: &Path) -> Result<Guest> {
    let apt = apt::Lazy::new(For::Guest);
    let debian = kernel::provide(RELEASE, kernel::Drivers::Workload, &apt)?;
    let busybox = busybox::provide(&apt)?;
    let witness = witness()?;

    let mut initramfs = Initramfs::default();
    initramfs.file("init", include_bytes!("../../../hyp/guests/witness/init"))?;
    initramfs.file("busybox", &fs::read(busybox)?)?;
    initramfs.file("witness", &fs::read(witness)?)?;
    initramfs.directory("modules")?;
    // The VM has no other device with a driver.
    let is_needed = |path: &&PathBuf| path.to_string_lossy().contains("rng");
    for module in debian.modules.iter().filter(is_needed) {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        initramfs.file(&format!("modules/{name}"), &fs::read(module)?)?;
    }
    let initrd = scratch.join("initramfs");
    fs::write(&initrd, initramfs.finish()?).context("cannot write the initial RAM disk")?;
    Ok(Guest {
        kernel_name: debian.version,
        kernel: debian.image,
        initrd,
    })
}

/// Builds the witness, and returns its path.
fn witness() -> Result<PathBuf> {
    toolchain::linux()?;
    console::step("Building the witness");
    let mut command = cargo("build");
    command
        .args(["--release", "--package", "witness"])
        .args(["--target", project::ARM64_LINUX])
        // Rust's own linker: no C compiler for arm64 is needed.
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    built(&mut command, "the witness")
}
