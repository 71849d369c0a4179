//! `cargo xtask fuzz`: the library against hostile guests, by libFuzzer.
//!
//! A run begins with the inputs in `fuzz/corpus`. Inputs that reach new code are kept in
//! `target/cache/fuzz` for the next run; `--minimize` makes the smallest set of both that reaches
//! all of it the new `fuzz/corpus`. An input that made the library fail is left in
//! `fuzz/artifacts`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::builder::PossibleValue;
use clap::{ArgMatches, ValueEnum, value_parser};

use crate::cli::{Options, defaulted, flag, option};
use crate::process::{self, Show};
use crate::provision::crate_program;
use crate::provision::toolchain::{Nightly, nightly};
use crate::{console, parallel, project};

/// The version of cargo-fuzz that is installed where none is cached.
const CARGO_FUZZ: &str = "0.13.2";

/// Longest input, in bytes: some hundred operations.
const LONGEST: usize = 4096;

/// The time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

const AFTER_HELP: &str = "\
The exit status is 0 only if no input made the library panic, lose count, or
work too long for one trap.

Examples:
  cargo xtask fuzz                two minutes of each target
  cargo xtask fuzz --target its --seconds 3600
  cargo xtask fuzz --minimize     the fewest inputs that reach the same, as
                                  fuzz/corpus";

/// Options of `cargo xtask fuzz`.
#[derive(Clone, Debug)]
pub(crate) struct FuzzOptions {
    /// The only target, if one was named.
    pub(crate) target: Option<Target>,
    /// Seconds for which each target is tried.
    pub(crate) seconds: u32,
    /// True if `fuzz/corpus` is minimized, and nothing new tried.
    pub(crate) minimize: bool,
}

impl Options for FuzzOptions {
    fn declare(command: clap::Command) -> clap::Command {
        command.after_help(AFTER_HELP).args([
            option("target", "NAME", "Only this target").value_parser(value_parser!(Target)),
            option("seconds", "SECONDS", "How long to try each target")
                .default_value("120")
                .value_parser(value_parser!(u32).range(1..)),
            flag(
                "minimize",
                "Try nothing new: replace fuzz/corpus by the fewest inputs that reach all that is \
                 reached so far",
            ),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            target: matches.remove_one("target"),
            seconds: defaulted(matches, "seconds"),
            minimize: matches.get_flag("minimize"),
        }
    }
}

impl FuzzOptions {
    /// Returns the targets that the options ask for.
    pub(crate) fn targets(&self) -> Vec<Target> {
        match self.target {
            Some(target) => vec![target],
            None => Target::value_variants().to_vec(),
        }
    }
}

/// A fuzz target: an interface of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Accesses of the register frames.
    Mmio,
    /// ITS commands and tables.
    Its,
    /// Trapped system registers and the CPU interface.
    Sysreg,
    /// The embedder's configuration.
    Config,
    /// The embedder's calls, in any order.
    AnyOrder,
    /// Saved states, KVM's attributes and tables.
    State,
    /// The frames of a GICv2.
    Gicv2,
}

impl ValueEnum for Target {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Mmio,
            Self::Its,
            Self::Sysreg,
            Self::Config,
            Self::AnyOrder,
            Self::State,
            Self::Gicv2,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Mmio => "Accesses of the register frames",
            Self::Its => "ITS commands and tables",
            Self::Sysreg => "Trapped system registers and the CPU interface",
            Self::Config => "The embedder's configuration",
            Self::AnyOrder => "The embedder's calls, in any order",
            Self::State => "Saved states, KVM's attributes and tables",
            Self::Gicv2 => "Accesses of the frames of a GICv2",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl Target {
    /// Returns the target's name, in `fuzz/` and on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Its => "its",
            Self::Sysreg => "sysreg",
            Self::Config => "config",
            Self::AnyOrder => "any_order",
            Self::State => "state",
            Self::Gicv2 => "gicv2",
        }
    }
}

/// Fuzzes the targets that the options ask for, as many at a time as there are CPUs, and returns
/// the names of those that failed.
pub(crate) fn failures(options: &FuzzOptions) -> Result<Vec<&'static str>> {
    let targets = options.targets();
    let tool = Tool::new()?;
    console::step("Building the fuzz targets");
    process::run(&mut tool.command("build"), Show::Lines)?;

    if options.minimize {
        for target in targets {
            minimize(&tool, target)?;
        }
        return Ok(Vec::new());
    }

    let width = parallel::cpus();
    let mut failed = Vec::new();
    for batch in targets.chunks(width) {
        let names = batch.iter().map(|target| target.name());
        console::step(format!(
            "Fuzzing {} for {} s",
            names.collect::<Vec<_>>().join(" and "),
            options.seconds
        ));
        let outcomes = with_progress(options.seconds, || {
            thread::scope(|scope| {
                let runs: Vec<_> = batch
                    .iter()
                    .map(|&target| {
                        let tool = &tool;
                        scope.spawn(move || attack(tool, target, options.seconds))
                    })
                    .collect();
                runs.into_iter()
                    .map(|run| run.join().unwrap_or_else(|_| Ok(false)))
                    .collect::<Result<Vec<_>>>()
            })
        })?;
        for (target, held) in batch.iter().zip(outcomes) {
            if !held {
                failed.push(target.name());
            }
        }
    }
    Ok(failed)
}

/// Fuzzes the targets that the options ask for, and tells whether every one held.
pub(crate) fn fuzz_all(options: &FuzzOptions) -> Result<bool> {
    let failed = failures(options)?;
    for name in &failed {
        console::detail(format!("{}: {name}", console::bad("FAILED")));
    }
    Ok(failed.is_empty())
}

/// Fuzzes one target, and tells whether it held.
fn attack(tool: &Tool, target: Target, seconds: u32) -> Result<bool> {
    let name = target.name();
    let (found, kept) = corpora(target)?;
    let mut command = tool.command("run");
    // libFuzzer adds new inputs to the first corpus.
    command.arg(name).args([&found, &kept]).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={LONGEST}"),
        // Long inputs from the start: a failure takes several operations.
        "-len_control=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);

    let finished = process::finish(&mut command, Show::Silent)?;
    if finished.success {
        let executed = statistic(&finished.stderr, "number_of_executed_units");
        let kept = fs::read_dir(&found)?.count();
        console::detail(format!("{name}: {executed} inputs held, {kept} kept"));
        return Ok(true);
    }
    let report = finished.stderr.lines();
    for line in report.skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR")) {
        console::detail(line);
    }
    Ok(false)
}

/// Returns the directory of inputs that earlier runs on this machine found, and the repository's.
fn corpora(target: Target) -> Result<(PathBuf, PathBuf)> {
    let found = project::cache().join("fuzz").join(target.name());
    let kept = project::root().join("fuzz/corpus").join(target.name());
    for corpus in [&found, &kept] {
        fs::create_dir_all(corpus)
            .with_context(|| format!("cannot create {}", corpus.display()))?;
    }
    Ok((found, kept))
}

/// Replaces the repository's inputs by the fewest that reach all the code that any input reaches.
fn minimize(tool: &Tool, target: Target) -> Result<()> {
    let name = target.name();
    let (found, kept) = corpora(target)?;
    let fewest = project::root().join("target/fuzz/fewest").join(name);
    if fewest.exists() {
        fs::remove_dir_all(&fewest)?;
    }
    fs::create_dir_all(&fewest)?;

    console::step(format!("Minimizing the inputs of {name}"));
    let mut command = tool.command("run");
    command.arg(name).args([&fewest, &kept, &found]).arg("--");
    // Covered code counts, not how often it runs.
    command.args(["-set_cover_merge=1", "-use_counters=0"]);
    process::run(&mut command, Show::OnFailure)?;

    fs::remove_dir_all(&kept)?;
    fs::rename(&fewest, &kept)?;
    console::detail(format!("{} inputs", fs::read_dir(&kept)?.count()));
    Ok(())
}

/// Finds the value in one of libFuzzer's final lines, such as
/// `stat::number_of_executed_units: 1234`.
fn statistic<'a>(printed: &'a str, name: &str) -> &'a str {
    printed
        .lines()
        .find_map(|line| {
            line.strip_prefix("stat::")?
                .strip_prefix(name)?
                .strip_prefix(':')
        })
        .map_or("?", str::trim)
}

/// Runs `work`, and prints now and then how many of its `seconds` have passed.
fn with_progress<T>(seconds: u32, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while waiting.recv_timeout(PROGRESS) == Err(mpsc::RecvTimeoutError::Timeout) {
                console::detail(format!("{} of {seconds} s", began.elapsed().as_secs()));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// cargo-fuzz, and the toolchain that it needs.
struct Tool {
    nightly: Nightly,
    program: PathBuf,
}

impl Tool {
    /// Provides the tool: from the cache, or installed into it.
    fn new() -> Result<Self> {
        let nightly = nightly(&[])?;
        let program = crate_program(nightly.cargo("install"), "cargo-fuzz", CARGO_FUZZ)?;
        Ok(Self { nightly, program })
    }

    /// Returns a cargo-fuzz command.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = self.nightly.program(&self.program);
        // Its builds share nothing with the others and so have a target directory of their own.
        // A small quarantine: freed memory that is kept from reuse for longer costs a third of the
        // speed.
        command
            .arg(subcommand)
            .env("ASAN_OPTIONS", "quarantine_size_mb=8:malloc_context_size=4")
            .env("CARGO_TARGET_DIR", project::root().join("target/fuzz"));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_statistics_are_found() {
        let printed = "Done\nstat::number_of_executed_units: 1234\nstat::x: 5\n";
        assert_eq!(statistic(printed, "number_of_executed_units"), "1234");
        assert_eq!(statistic(printed, "peak_rss_mb"), "?");
    }
}
