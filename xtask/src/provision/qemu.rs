//! QEMU: the one installed if it is recent, else one unpacked into the cache.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, For};
use super::cached;
use crate::console;
use crate::process::{self, Show};

const PROGRAM: &str = "qemu-system-aarch64";

/// The oldest QEMU (major, minor) whose `virt` board has an SMMU with stage 2.
const OLDEST: (u32, u32) = (9, 2);

/// A QEMU that can be started.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    /// The directory of an unpacked QEMU; none if it is installed.
    unpacked: Option<PathBuf>,
    /// Its version, as it prints it.
    pub version: String,
}

/// QEMU's `virt` board.
#[derive(Debug)]
pub struct Board<'a> {
    /// Version of the GIC: 3 or 4.
    pub gic: u8,
    /// Further options of the machine, such as `virtualization=on`.
    pub options: &'a str,
    /// QEMU's name of the CPUs.
    pub cpu: &'a str,
    /// Number of the CPUs.
    pub cpus: u16,
}

impl Qemu {
    /// Returns a command that starts a board with no devices but those that the board has, and
    /// with the default RAM. When the board is powered off or reset, QEMU ends.
    pub fn board(&self, board: &Board<'_>) -> Result<Command> {
        let mut command = self.command()?;
        command
            .args([
                "-machine",
                &format!("virt,gic-version={},{}", board.gic, board.options),
            ])
            .args(["-cpu", board.cpu])
            .args(["-smp", &board.cpus.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"]);
        Ok(command)
    }

    /// Returns a command that starts it.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.unpacked {
            command.env("LD_LIBRARY_PATH", library_path(root)?);
            command.arg("-L").arg(root.join("usr/share/qemu"));
        }
        Ok(command)
    }

    /// Starts a QEMU to ask for its version.
    fn try_new(program: PathBuf, unpacked: Option<PathBuf>) -> Result<Self> {
        let mut qemu = Self {
            program,
            unpacked,
            version: String::new(),
        };
        let printed = process::run(qemu.command()?.arg("--version"), Show::OnFailure)?;
        qemu.version = version(&printed)
            .context("QEMU prints no version")?
            .to_owned();
        Ok(qemu)
    }

    /// Tells whether it is recent enough.
    fn is_recent(&self) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse().ok());
        let version = numbers.next().flatten().zip(numbers.next().flatten());
        version.is_some_and(|version| version >= OLDEST)
    }
}

/// Returns a QEMU that is recent enough.
pub fn provide() -> Result<Qemu> {
    if let Ok(qemu) = Qemu::try_new(PROGRAM.into(), None)
        && qemu.is_recent()
    {
        console::detail(format!("QEMU {}: installed", qemu.version));
        return Ok(qemu);
    }
    fetch().with_context(|| {
        format!(
            "no QEMU {}.{} or newer. Install one, on Debian 12 by\n  \
             sudo apt install -t bookworm-backports qemu-system-arm\n\
             (with bookworm-backports in apt's sources), on later releases by\n  \
             sudo apt install qemu-system-arm\n\
             and run this again",
            OLDEST.0, OLDEST.1
        )
    })
}

/// Unpacks a QEMU into the cache.
fn fetch() -> Result<Qemu> {
    let place = cached("qemu", "QEMU", |into| {
        let apt = Apt::open(For::Host)?;
        apt.unpack(&apt.missing_for("qemu-system-arm")?, into)?;
        // Documentation, icons and the like make up half of it.
        for unneeded in ["usr/share/doc", "usr/share/man", "usr/share/icons"] {
            let path = into.join(unneeded);
            if path.exists() {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    })?;
    let program = place.join("usr/bin").join(PROGRAM);
    let qemu = Qemu::try_new(program, Some(place.clone())).with_context(|| {
        format!(
            "the unpacked QEMU does not start (was it fetched for another system? then remove {})",
            place.display()
        )
    })?;
    if !qemu.is_recent() {
        bail!(
            "this machine's Debian mirror has QEMU {} only",
            qemu.version
        );
    }
    Ok(qemu)
}

/// Returns the directories of an unpacked package tree that hold shared libraries.
fn library_path(root: &Path) -> Result<OsString> {
    let mut directories = Vec::new();
    for lib in [root.join("lib"), root.join("usr/lib")] {
        let Ok(entries) = fs::read_dir(&lib) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.to_string_lossy().contains("-linux-gnu") {
                directories.push(path);
            }
        }
    }
    directories.extend(
        env::var_os("LD_LIBRARY_PATH")
            .iter()
            .flat_map(env::split_paths),
    );
    Ok(env::join_paths(directories)?)
}

/// Finds the version in the first line of `--version`.
fn version(printed: &str) -> Option<&str> {
    printed
        .lines()
        .next()?
        .split_once(" version ")?
        .1
        .split(' ')
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu(version: &str) -> Qemu {
        Qemu {
            program: PROGRAM.into(),
            unpacked: None,
            version: version.to_owned(),
        }
    }

    #[test]
    fn the_version_is_found_and_judged() {
        let printed = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)\n";
        assert_eq!(version(printed), Some("10.0.2"));
        assert_eq!(version("something else"), None);
        assert!(qemu("10.0.2").is_recent());
        assert!(qemu("9.2.0").is_recent());
        assert!(!qemu("9.1.3").is_recent());
        assert!(!qemu("8.2.2").is_recent());
        assert!(!qemu("").is_recent());
    }
}
