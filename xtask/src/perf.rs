//! `cargo xtask perf`: builds and runs the package in `xtask/perf`, which measures.
//!
//! Its plots, debug information and disassembly need more crates than all other tasks together.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::cli::Options;
use crate::provision::toolchain::cargo;

/// Arguments of `cargo xtask perf`, which are the package's to read.
#[derive(Clone, Debug)]
pub(crate) struct PerfOptions {
    arguments: Vec<OsString>,
}

impl Options for PerfOptions {
    fn declare(command: Command) -> Command {
        // `--help` is the package's too.
        command.disable_help_flag(true).arg(
            Arg::new("arguments")
                .value_name("ARGS")
                .help("See `cargo xtask perf --help`")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(value_parser!(OsString)),
        )
    }

    fn read(matches: &mut ArgMatches) -> Self {
        let arguments = matches.remove_many("arguments");
        Self {
            arguments: arguments.into_iter().flatten().collect(),
        }
    }
}

/// Becomes the package's program; returns only if it cannot be built or run.
pub(crate) fn perf(options: &PerfOptions) -> Result<bool> {
    let mut command = cargo("run");
    command
        .args(["--package", "xtask-perf", "--"])
        .args(&options.arguments);
    Err(command.exec()).context("cannot run cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_the_packages() {
        let options = PerfOptions::parsed(&["--el2", "--kvm", "--help"]).unwrap();
        assert_eq!(options.arguments, ["--el2", "--kvm", "--help"]);
        assert!(PerfOptions::parsed(&[]).unwrap().arguments.is_empty());
    }
}
