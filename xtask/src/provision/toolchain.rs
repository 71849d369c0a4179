//! The bare-metal target: a precompiled core library, or one built from its source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::console;
use crate::process::{self, Show};
use crate::project::{self, BARE_METAL};

/// How to build for the bare-metal target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BareMetal {
    /// The target's libraries are installed.
    Installed,
    /// The target's libraries are built along, from the library source beside the compiler.
    FromSource,
}

impl BareMetal {
    /// A cargo command, such as `cargo build`, for the bare-metal target.
    pub(crate) fn cargo(self, subcommand: &str) -> Command {
        let mut command = cargo(subcommand);
        command.args(["--target", BARE_METAL]);
        if self == Self::FromSource {
            // -Zbuild-std is nightly's; the stable compiler's own library builds with it.
            command
                .arg("-Zbuild-std=core,alloc")
                .env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

/// A cargo command in the checkout, by the cargo that runs us.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    command.current_dir(project::root()).arg(subcommand);
    command
}

/// Makes the bare-metal target available, by what this machine has.
pub(crate) fn bare_metal() -> Result<BareMetal> {
    let sysroot = sysroot()?;
    if has_target(&sysroot) {
        return Ok(BareMetal::Installed);
    }
    if !has_source(&sysroot) {
        console::step(format!("Adding the Rust target {BARE_METAL} (once)"));
        if rustup(&["target", "add", BARE_METAL]) && has_target(&sysroot) {
            return Ok(BareMetal::Installed);
        }
        console::detail("not available; trying the library's source instead");
        rustup(&["component", "add", "rust-src"]);
    }
    if has_source(&sysroot) {
        console::detail(format!(
            "Rust's core library is built for {BARE_METAL} from its source"
        ));
        return Ok(BareMetal::FromSource);
    }
    bail!(
        "no Rust core library for {BARE_METAL}. Run\n  rustup target add {BARE_METAL}\n\
         or install the source of your compiler's library (rustup component add rust-src, or the \
         package rust-src at the compiler's version), and run this again"
    )
}

/// Makes a component such as `clippy` available.
pub(crate) fn component(name: &str, program: &str) -> Result<()> {
    let present = process::finish(Command::new(program).arg("--version"), Show::OnFailure);
    if present.is_ok_and(|finished| finished.success) {
        return Ok(());
    }
    console::step(format!("Adding the Rust component {name} (once)"));
    if !rustup(&["component", "add", name]) {
        bail!("{name} is missing; run\n  rustup component add {name}\nand run this again");
    }
    Ok(())
}

fn rustup(arguments: &[&str]) -> bool {
    let finished = process::finish(Command::new("rustup").args(arguments), Show::Lines);
    finished.is_ok_and(|finished| finished.success)
}

fn sysroot() -> Result<PathBuf> {
    let printed = process::run(
        Command::new("rustc")
            .current_dir(project::root())
            .args(["--print", "sysroot"]),
        Show::OnFailure,
    )
    .context("no Rust compiler")?;
    Ok(printed.trim_end().into())
}

fn has_target(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(BARE_METAL)
        .join("lib")
        .is_dir()
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}
