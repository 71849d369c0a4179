//! Rust: cargo, the bare-metal target by a precompiled core library or one built from its source,
//! and the nightly toolchain.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{Apt, For};
use super::cached;
use crate::console;
use crate::process::{self, Show, interrupted};
use crate::project::{self, ARM64_LINUX, BARE_METAL, UEFI};

/// The way to build for the bare-metal target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareMetal {
    /// The target's libraries are installed.
    Installed,
    /// The target's libraries are built along, from the library source beside the compiler.
    FromSource,
}

impl BareMetal {
    /// Returns a cargo command, such as `cargo build`, for the bare-metal target.
    pub fn cargo(self, subcommand: &str) -> Command {
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

/// Returns a cargo command in the checkout, by the cargo that runs xtask.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(project::root()).arg(subcommand);
    command
}

/// Makes the bare-metal target available, by the means that this machine has.
pub fn bare_metal() -> Result<BareMetal> {
    let sysroot = sysroot()?;
    if has_target(&sysroot, BARE_METAL) {
        return Ok(BareMetal::Installed);
    }
    if !has_source(&sysroot) {
        console::step(format!("Adding the Rust target {BARE_METAL} (once)"));
        if rustup(&["target", "add", BARE_METAL]) && has_target(&sysroot, BARE_METAL) {
            return Ok(BareMetal::Installed);
        }
        console::detail("rustup does not; trying the library's source instead");
        if !rustup(&["component", "add", "rust-src"]) && !interrupted() {
            debian_source(&sysroot).with_context(|| {
                missing(
                    &format!("Rust's core library for {BARE_METAL}"),
                    &["target", "add", BARE_METAL],
                    has_rustup(),
                )
            })?;
        }
    }
    ensure!(
        has_source(&sysroot),
        "rustup added rust-src, but its library is not there"
    );
    console::detail(format!(
        "Rust's core library is built for {BARE_METAL} from its source"
    ));
    Ok(BareMetal::FromSource)
}

/// Makes the target for Linux programs inside the emulated machine available.
pub fn linux() -> Result<()> {
    target(ARM64_LINUX)
}

/// Makes the target for UEFI applications available.
pub(crate) fn uefi() -> Result<()> {
    target(UEFI)
}

/// Makes a target's precompiled libraries available.
fn target(target: &str) -> Result<()> {
    let sysroot = sysroot()?;
    if has_target(&sysroot, target) {
        return Ok(());
    }
    console::step(format!("Adding the Rust target {target} (once)"));
    ensure!(
        rustup(&["target", "add", target]) && has_target(&sysroot, target),
        missing(
            &format!("Rust's library for {target}"),
            &["target", "add", target],
            has_rustup(),
        )
    );
    Ok(())
}

/// Fetches the library's source from Debian, at exactly the compiler's version, and links it to
/// where the compiler's own would be.
fn debian_source(sysroot: &Path) -> Result<()> {
    let printed = process::run(rustc().arg("--version"), Show::OnFailure)?;
    let version = printed
        .split(' ')
        .nth(1)
        .context("rustc prints no version")?;
    let name = format!("rust-src-{version}");
    let place = cached(&name, &format!("Rust {version}'s library source"), |into| {
        let apt = Apt::open(For::Compiler)?;
        let mut versions = apt
            .versions("rust-src")?
            .into_iter()
            .map(|(package, _)| package);
        let matching = versions.find(|package| package.version.starts_with(version));
        apt.unpack(
            &[matching.context("Debian has no rust-src of that version")?],
            into,
        )
    })?;
    let library = place.join(format!("usr/src/rustc-{version}/library"));
    let link = sysroot.join("lib/rustlib/src/rust/library");
    fs::create_dir_all(link.parent().unwrap_or(sysroot))?;
    // A link that is there already points to a cache that is gone.
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(library, &link).with_context(|| format!("cannot create {}", link.display()))
}

/// Makes a component such as `clippy` available.
pub(crate) fn component(name: &str, program: &str) -> Result<()> {
    let present = process::finish(Command::new(program).arg("--version"), Show::OnFailure);
    if present.is_ok_and(|finished| finished.success) {
        return Ok(());
    }
    console::step(format!("Adding the Rust component {name} (once)"));
    if !rustup(&["component", "add", name]) {
        bail!(missing(name, &["component", "add", name], has_rustup()));
    }
    Ok(())
}

/// The nightly toolchain.
pub(crate) struct Nightly(());

impl Nightly {
    /// Returns a cargo command in the checkout, by that toolchain.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = self.program("cargo");
        command.arg(subcommand);
        command
    }

    /// Returns the command of a program, run in the checkout, that finds that toolchain's cargo.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("rustup");
        command
            .current_dir(project::root())
            .args(["run", "nightly"])
            .arg(program);
        command
    }
}

/// Makes the nightly toolchain available, with these components.
pub(crate) fn nightly(components: &[&str]) -> Result<Nightly> {
    let list = ["component", "list", "--toolchain", "nightly", "--installed"];
    let listed = process::finish(Command::new("rustup").args(list), Show::OnFailure);
    let installed = listed.map_or(String::new(), |listed| listed.stdout);
    // A name may be followed by the machine it is for: miri-x86_64-unknown-linux-gnu.
    let is_there = |component: &&str| installed.lines().any(|name| name.starts_with(*component));
    if !installed.is_empty() && components.iter().all(is_there) {
        return Ok(Nightly(()));
    }
    console::step("Adding Rust's nightly toolchain (once)");
    let mut arguments = vec!["toolchain", "install", "nightly", "--profile", "minimal"];
    arguments.push("--no-self-update");
    for component in components {
        arguments.extend(["--component", component]);
    }
    if !rustup(&arguments) {
        let what = match components {
            [] => "Rust's nightly toolchain".to_owned(),
            some => format!("Rust's nightly toolchain with {}", some.join(" and ")),
        };
        bail!(missing(&what, &arguments, has_rustup()));
    }
    Ok(Nightly(()))
}

/// Returns the machine that the compiler runs on, such as `x86_64-unknown-linux-gnu`.
pub(crate) fn host() -> Result<String> {
    let printed = process::run(rustc().arg("-vV"), Show::OnFailure).context("no Rust compiler")?;
    let host = printed.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Returns the version line of the compiler, or `unknown`.
pub fn compiler() -> String {
    process::run(rustc().arg("--version"), Show::OnFailure)
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Says that a part of Rust is missing, and how it gets here by these arguments for rustup.
fn missing(what: &str, arguments: &[&str], has_rustup: bool) -> String {
    let why = match has_rustup {
        true => "rustup did not add it. Run",
        false => "there is no rustup to add it. Install rustup (https://rustup.rs), run",
    };
    let arguments = arguments.join(" ");
    format!("{what} is missing, and {why}\n  rustup {arguments}\nand this again")
}

/// Tells whether rustup is installed.
fn has_rustup() -> bool {
    process::finish(Command::new("rustup").arg("--version"), Show::OnFailure).is_ok()
}

/// Runs rustup, and tells whether it succeeded.
fn rustup(arguments: &[&str]) -> bool {
    let finished = process::finish(Command::new("rustup").args(arguments), Show::Lines);
    finished.is_ok_and(|finished| finished.success)
}

/// Returns a command of the compiler that the checkout is built with.
fn rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(project::root());
    command
}

/// Returns the directory of the compiler's libraries.
fn sysroot() -> Result<PathBuf> {
    let printed = process::run(rustc().args(["--print", "sysroot"]), Show::OnFailure)
        .context("no Rust compiler")?;
    Ok(printed.trim_end().into())
}

/// Tells whether a target's libraries are installed.
fn has_target(sysroot: &Path, target: &str) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir()
}

/// Tells whether the libraries' source is installed.
fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_part_is_named_with_or_without_rustup() {
        let arguments = ["component", "add", "miri"];
        let with = missing("miri", &arguments, true);
        assert!(with.starts_with("miri is missing, and rustup did not add it"));
        let without = missing("miri", &arguments, false);
        assert!(without.contains("there is no rustup") && without.contains("https://rustup.rs"));
        for text in [with, without] {
            assert!(text.contains("\n  rustup component add miri\n"), "{text}");
        }
    }
}
