//! `cargo xtask bench`: the benchmarks of `benches/`, timed, or each once to see that it works.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::console;
use crate::process::{self, Show};
use crate::provision::toolchain::cargo;

/// Options of `cargo xtask bench`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                     all of them, a quarter of an hour; the same as `cargo bench`
  cargo xtask bench lpi_lookup/64k      those whose name contains this
  cargo xtask bench --quick             each once, with the library's own checks compiled in")]
pub(crate) struct BenchOptions {
    /// Do everything once and time nothing: whether the benchmarks work, and their counts hold
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only benchmarks whose name contains this
    pub(crate) filter: Option<String>,
}

/// The command that runs them.
pub(crate) fn command(options: &BenchOptions) -> Command {
    // Criterion does each benchmark once when it is run as a test.
    let mut command = cargo(if options.quick { "test" } else { "bench" });
    command.args(["--package", "vgic", "--benches"]);
    if options.quick {
        // Built in moments, and with debug assertions.
        command.args(["--profile", "loom"]);
    }
    if let Some(filter) = &options.filter {
        command.arg("--").arg(filter);
    }
    command
}

/// Runs them; whether all worked.
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

    fn arguments(quick: bool, filter: Option<&str>) -> Vec<String> {
        let filter = filter.map(str::to_owned);
        let command = command(&BenchOptions { quick, filter });
        let arguments = command.get_args();
        arguments
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_filter_is_for_the_benchmarks_and_not_for_cargo() {
        let all = arguments(false, Some("sgi"));
        assert!(
            all.ends_with(&["--".to_owned(), "sgi".to_owned()]),
            "{all:?}"
        );
        assert!(all.contains(&"bench".to_owned()));
    }

    #[test]
    fn quick_times_nothing() {
        let quick = arguments(true, None);
        assert!(quick.contains(&"test".to_owned()) && quick.contains(&"--benches".to_owned()));
    }
}
