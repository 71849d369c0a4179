//! `cargo xtask perf`: builds and runs the package in `xtask/perf`, which measures.
//!
//! Its plots, debug information and disassembly need more crates than all other tasks together.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process;

use anyhow::{Context, Result, ensure};
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::cli::Options;
use crate::names;
use crate::provision::toolchain::cargo;

#[path = "../../perf/el2/event.rs"]
mod event;

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

/// Checks the one name among the arguments, that of an event to profile, before the package is
/// built.
fn check_event(arguments: &[OsString]) -> Result<()> {
    const PROFILE: &str = "--profile";
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    let after = |word: &str| Some(word.strip_prefix(PROFILE)?.strip_prefix('=')?.to_owned());
    let named = words.find_map(|word| match word {
        PROFILE => Some(String::new()),
        _ => after(word),
    });
    let name = match named {
        Some(name) if name.is_empty() => words.next().unwrap_or("-").to_owned(),
        Some(name) => name,
        None => return Ok(()),
    };
    let names = event::Event::ALL.map(event::Event::keyword);
    // Without a name, every event is profiled.
    ensure!(
        name.starts_with('-') || names.contains(&name.as_str()),
        "`{name}`: {}",
        names::unknown("event", &names.map(str::to_owned))
    );
    Ok(())
}

/// Becomes the package's program; returns only if an argument is wrong, or if the package cannot be
/// built or run.
pub(crate) fn perf(options: &PerfOptions) -> Result<bool> {
    check_event(&options.arguments)?;
    Err(command(&options.arguments).exec()).context("cannot run cargo")
}

/// Returns the command that builds the package and runs its program.
pub(crate) fn command(arguments: &[impl AsRef<OsStr>]) -> process::Command {
    let mut command = cargo("run");
    command
        .args(["--package", "xtask-perf", "--"])
        .args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_event_is_an_error_that_lists_the_others() {
        for words in [
            ["--el2", "--profile", "nope"],
            ["--el2", "--profile=nope", ""],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let error = check_event(&words).unwrap_err().to_string();
            assert!(
                error.contains("`nope`") && error.contains("sgi-self"),
                "{error}"
            );
        }
        for words in [
            &["--profile", "sgi-self"][..],
            &["--profile"],
            &["--profile", "--kvm"],
            &[],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(check_event(&words).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn every_argument_is_the_packages() {
        let options = PerfOptions::parsed(&["--el2", "--kvm", "--help"]).unwrap();
        assert_eq!(options.arguments, ["--el2", "--kvm", "--help"]);
        assert!(PerfOptions::parsed(&[]).unwrap().arguments.is_empty());
    }
}
