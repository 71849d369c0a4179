//! Linux KVM in the emulated machine: our client of /dev/kvm (`perf/el2/kvm`) as the first process
//! of one of Debian's kernels, with a bare-metal guest beside it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::boot::hypervisor::built;
use crate::boot::initramfs::Initramfs;
use crate::provision::apt::{self, For};
use crate::provision::kernel::{self, Drivers, Kernel};
use crate::provision::toolchain::{self, cargo};
use crate::{console, project};

/// The release of the kernel whose KVM is compared with.
pub const RELEASE: &str = "6.12";

/// A kernel with KVM, and its initial RAM disk with the client and a guest.
#[derive(Debug)]
pub struct Host {
    /// The kernel.
    pub kernel: Kernel,
    initramfs: PathBuf,
}

impl Host {
    /// Builds the client and packs it with the flat image of a guest. Files go to `scratch`.
    pub fn new(guest: &Path, scratch: &Path) -> Result<Self> {
        Self::with_drivers(guest, scratch, Drivers::Workload)
    }

    /// Builds the client as [`Host::new`] does, and packs it also with the drivers by which it
    /// passes a device through.
    pub fn with_device(guest: &Path, scratch: &Path) -> Result<Self> {
        Self::with_drivers(guest, scratch, Drivers::Vfio)
    }

    fn with_drivers(guest: &Path, scratch: &Path, drivers: Drivers) -> Result<Self> {
        let kernel = kernel::provide(RELEASE, drivers, &apt::Lazy::new(For::Guest))?;
        toolchain::linux()?;
        console::step("Building the client of /dev/kvm");
        let mut command = package(cargo("build"), "el2-kvm");
        command
            .args(["--target", project::ARM64_LINUX])
            // Rust's own linker: no C compiler for arm64 is needed.
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");

        let client = built(&mut command, "the client of /dev/kvm")?;
        let mut archive = Initramfs::default();
        archive.file("init", &fs::read(client)?)?;
        archive.file("guest", &fs::read(guest)?)?;
        // The client mounts file systems there.
        for directory in ["dev", "proc", "sys"] {
            archive.directory(directory)?;
        }
        if drivers == Drivers::Vfio {
            // In the order of their names.
            archive.directory("modules")?;
            for module in &kernel.modules {
                let name = module.file_name().unwrap_or_default().to_string_lossy();
                archive.file(&format!("modules/{name}"), &fs::read(module)?)?;
            }
        }
        let initramfs = scratch.join("initramfs");
        fs::write(&initramfs, archive.finish()?).context("cannot write the initial RAM disk")?;
        Ok(Self { kernel, initramfs })
    }

    /// Adds the kernel, and the client's arguments, to QEMU's command line.
    pub fn boot(&self, command: &mut Command, arguments: &str) {
        self.boot_with(command, "", arguments);
    }

    /// Adds the kernel with a parameter, and the client's arguments, to QEMU's command line.
    pub fn boot_with(&self, command: &mut Command, parameter: &str, arguments: &str) {
        // nokaslr: the addresses of functions are those of the symbols.
        let append = format!("console=ttyAMA0 quiet nokaslr panic=-1 {parameter} -- {arguments}");
        command
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", append.trim_end_matches([' ', '-'])]);
    }
}

/// Turns a cargo command into a build of a package of the workspace in `perf/el2`, with a target
/// directory of its own.
pub fn package(mut cargo: Command, package: &str) -> Command {
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
