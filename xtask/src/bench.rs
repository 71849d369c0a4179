//! `cargo xtask bench`: the benchmarks of `benches/`, timed, or each once to see that it
//! works.

use std::process::Command;

use anyhow::Result;
use clap::{Arg, ArgMatches};

use crate::cli::{Options, flag};
use crate::process::{self, Show};
use crate::provision::toolchain::cargo;
use crate::{console, names};

const AFTER_HELP: &str = "\
Examples:
  cargo xtask bench                  every one, a quarter of an hour; the same
                                     as `cargo bench`
  cargo xtask bench lpi_lookup/64k   those whose name contains this
  cargo xtask bench --quick          each once, with the library's own checks
                                     compiled in";

/// The folders of the files that name the benchmarks.
const FOLDERS: [&str; 3] = ["benches", "benches/common", "perf/host/src"];

/// Options of `cargo xtask bench`.
#[derive(Clone, Debug, Default)]
pub(crate) struct BenchOptions {
    /// True if each benchmark is done once and not timed.
    pub(crate) quick: bool,
    /// A part of the names of the benchmarks to run.
    pub(crate) filter: Option<String>,
}

impl Options for BenchOptions {
    fn declare(command: clap::Command) -> clap::Command {
        command.after_help(AFTER_HELP).args([
            flag(
                "quick",
                "Do everything once and time nothing: shows that the benchmarks work and that \
                 their counts hold",
            ),
            Arg::new("filter")
                .value_name("FILTER")
                .help("Only benchmarks whose name contains this")
                .value_parser(filter),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            quick: matches.get_flag("quick"),
            filter: matches.remove_one("filter"),
        }
    }
}

/// Checks that a filter can be in the name of a benchmark.
fn filter(text: &str) -> Result<String, String> {
    if names::may_be_part(text, &FOLDERS) {
        Ok(text.to_owned())
    } else {
        let groups = names::files("benches", &[]).join(", ");
        Err(format!(
            "it is in no benchmark's name; the groups are {groups}"
        ))
    }
}

/// Returns the command that runs the benchmarks.
pub(crate) fn command(options: &BenchOptions) -> Command {
    // Criterion does each benchmark once when it is run as a test.
    let mut command = cargo(if options.quick { "test" } else { "bench" });
    command.args(["--package", "perf-host", "--benches"]);
    if options.quick {
        // Built in moments, and with debug assertions.
        command.args(["--profile", "loom"]);
    }
    if let Some(filter) = &options.filter {
        command.arg("--").arg(filter);
    }
    command
}

/// Runs the benchmarks, and tells whether each of them worked.
pub(crate) fn bench(options: &BenchOptions) -> Result<bool> {
    console::step(if options.quick {
        "Every benchmark once"
    } else {
        "Benchmarks"
    });
    let finished = process::finish(&mut command(options), Show::Lines)?;
    Ok(finished.success)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<String> {
        let command = command(&BenchOptions::parsed(words).unwrap());
        let arguments = command.get_args();
        arguments
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_filter_is_for_the_benchmarks_and_not_for_cargo() {
        let all = arguments(&["sgi"]);
        assert!(
            all.ends_with(&["--".to_owned(), "sgi".to_owned()]),
            "{all:?}"
        );
        assert!(all.contains(&"bench".to_owned()));
    }

    #[test]
    fn quick_times_nothing() {
        let quick = arguments(&["--quick"]);
        assert!(quick.contains(&"test".to_owned()) && quick.contains(&"--benches".to_owned()));
    }
}
