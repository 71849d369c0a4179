//! valgrind, for exact instruction counts: the one installed, else one unpacked into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{Apt, For};
use super::cached;
use crate::console;
use crate::process::{self, Show};

/// A valgrind that can be started.
#[derive(Debug)]
pub(crate) struct Valgrind {
    /// The directory of an unpacked valgrind; none if it is installed.
    unpacked: Option<PathBuf>,
    /// Its version, as it prints it.
    pub(crate) version: String,
}

impl Valgrind {
    /// Returns a command that starts it.
    pub(crate) fn command(&self) -> Command {
        match &self.unpacked {
            None => Command::new("valgrind"),
            Some(root) => {
                let mut command = Command::new(root.join("usr/bin/valgrind"));
                command.env("VALGRIND_LIB", root.join("usr/libexec/valgrind"));
                command
            }
        }
    }

    /// Starts a valgrind to ask for its version.
    fn try_new(unpacked: Option<PathBuf>) -> Result<Self> {
        let mut valgrind = Self {
            unpacked,
            version: String::new(),
        };
        let printed = process::run(valgrind.command().arg("--version"), Show::OnFailure)?;
        printed.trim().clone_into(&mut valgrind.version);
        Ok(valgrind)
    }
}

/// Returns a valgrind.
pub(crate) fn provide() -> Result<Valgrind> {
    if let Ok(valgrind) = Valgrind::try_new(None) {
        console::detail(format!("{}: installed", valgrind.version));
        return Ok(valgrind);
    }
    cached("valgrind", "valgrind", |into| {
        let apt = Apt::open(For::Host)?;
        apt.unpack(&apt.missing_for("valgrind")?, into)
    })
    .and_then(|place| Valgrind::try_new(Some(place)))
    .context("no valgrind. Install one by\n  sudo apt install valgrind\nand run this again")
}
