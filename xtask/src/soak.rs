//! `cargo xtask schedules` and `cargo xtask stress`: whole VMs under random load, by the package
//! `loom-tests/soak`.
//!
//! Each way of running it has other code generated, and so a target directory of its own in
//! `target/soak`.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{ArgMatches, ValueEnum, value_parser};

use crate::cli::{Options, defaulted, flag, option};
use crate::miri::cargo_miri;
use crate::process::{self, Show};
use crate::provision::toolchain::{self, cargo, nightly};
use crate::{console, parallel, project};

const AFTER_HELP_SCHEDULES: &str = "\
Threads run one at a time and change at every atomic access of the library, as
the schedule's seed says: an even one at random, an odd one by priorities. The
same seed gives the same run. With --weak, Miri changes the threads.

Examples:
  cargo xtask schedules                   a minute of them
  cargo xtask schedules --schedules 100000
                                          so many, however long it takes
  cargo xtask schedules --seed 4711 --schedules 1
                                          one that failed, once more
  cargo xtask schedules --seed $RANDOM    others than last time
  cargo xtask schedules --stalled         one CPU stops for ever, anywhere
  cargo xtask schedules --weak --schedules 20
                                          in Miri, loads return old values";

/// Options of `cargo xtask schedules`.
#[derive(Clone, Debug)]
pub(crate) struct ScheduleOptions {
    /// The first schedule's seed; those after it count up.
    pub(crate) seed: u64,
    /// The number of schedules; without it, as many as there is time for.
    pub(crate) schedules: Option<u64>,
    /// Seconds, at most.
    pub(crate) seconds: Option<u64>,
    /// Schedules run at the same time.
    pub(crate) jobs: u16,
    /// True if each seed is printed before it is run.
    pub(crate) verbose: bool,
    /// True if one CPU of each run stops for ever.
    pub(crate) stalled: bool,
    /// True if the memory is weakly ordered.
    pub(crate) weak: bool,
}

impl Options for ScheduleOptions {
    fn declare(command: clap::Command) -> clap::Command {
        command.after_help(AFTER_HELP_SCHEDULES).args([
            option(
                "seed",
                "S",
                "The first schedule's seed; those after it count up",
            )
            .default_value("1")
            .value_parser(value_parser!(u64)),
            option(
                "schedules",
                "N",
                "How many [default: as many as there is time for]",
            )
            .value_parser(value_parser!(u64).range(1..)),
            option(
                "seconds",
                "N",
                "For how long at most [default: 60, or without a limit if --schedules is given]",
            )
            .value_parser(value_parser!(u64)),
            option("jobs", "N", "Schedules run at the same time")
                .default_value("2")
                .value_parser(value_parser!(u16).range(1..=256)),
            flag("verbose", "Say each seed before it is run"),
            flag(
                "stalled",
                "Stop one CPU of each run for ever, and see that others go on",
            ),
            flag(
                "weak",
                "Weakly ordered memory, by Miri: some thousand times slower",
            )
            .conflicts_with_all(["stalled", "verbose"]),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            seed: defaulted(matches, "seed"),
            schedules: matches.remove_one("schedules"),
            seconds: matches.remove_one("seconds"),
            jobs: defaulted(matches, "jobs"),
            verbose: matches.get_flag("verbose"),
            stalled: matches.get_flag("stalled"),
            weak: matches.get_flag("weak"),
        }
    }
}

impl ScheduleOptions {
    /// Returns the seconds that the run may take, if there is a limit.
    fn limit(&self) -> Option<u64> {
        self.seconds
            .or(self.schedules.is_none().then_some(DEFAULT_SECONDS))
    }
}

/// Seconds of schedules if nothing else is asked for.
const DEFAULT_SECONDS: u64 = 60;

/// Operations of each device, driver and CPU of a VM in Miri.
const WEAK_OPERATIONS: u32 = 4;

/// The most VMs of a run in Miri.
const MOST_WEAK: u64 = 100_000;

const AFTER_HELP_STRESS: &str = "\
Every two seconds a VM is torn down, its counters are checked, and the next one
is built. The sanitizers need Rust's nightly toolchain with rust-src, which is
added through rustup where it is missing.

Examples:
  cargo xtask stress --seconds 600
  cargo xtask stress --sanitizer thread
  cargo xtask stress --sanitizer address --threads 32 --seed 7";

/// Options of `cargo xtask stress`.
#[derive(Clone, Debug)]
pub(crate) struct StressOptions {
    /// Seconds of the run.
    pub(crate) seconds: u64,
    /// The sanitizer that watches the run, if one does.
    pub(crate) sanitizer: Option<Sanitizer>,
    /// The seed of the threads' actions, though not of their timing.
    pub(crate) seed: u64,
    /// CPUs, devices and drivers together.
    pub(crate) threads: u16,
}

impl Options for StressOptions {
    fn declare(command: clap::Command) -> clap::Command {
        command.after_help(AFTER_HELP_STRESS).args([
            option("seconds", "N", "For how long")
                .default_value("60")
                .value_parser(value_parser!(u64)),
            option(
                "sanitizer",
                "thread|address",
                "Have every memory access watched",
            )
            .value_parser(value_parser!(Sanitizer)),
            option(
                "seed",
                "S",
                "Determines what the threads do, though not when",
            )
            .default_value("1")
            .value_parser(value_parser!(u64)),
            option("threads", "N", "CPUs, devices and drivers together")
                .default_value("12")
                .value_parser(value_parser!(u16).range(8..=64)),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            seconds: defaulted(matches, "seconds"),
            sanitizer: matches.remove_one("sanitizer"),
            seed: defaulted(matches, "seed"),
            threads: defaulted(matches, "threads"),
        }
    }
}

/// A watcher of every memory access of a stress run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sanitizer {
    /// ThreadSanitizer: data races.
    Thread,
    /// AddressSanitizer: accesses outside an allocation, or after it was freed.
    Address,
}

impl ValueEnum for Sanitizer {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Thread, Self::Address]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Thread => PossibleValue::new("thread").help("Data races"),
            Self::Address => PossibleValue::new("address")
                .help("Accesses outside what is allocated, or after it was freed"),
        })
    }
}

/// Runs random schedules of whole VMs under shuttle, and tells whether every one held.
pub(crate) fn schedules(options: &ScheduleOptions) -> Result<bool> {
    if options.weak {
        return weak(options);
    }

    let flags = "--cfg shuttle -D warnings";
    let mut command = built(cargo("build"), "shuttle", flags, None)?;

    console::step("Whole VMs under random schedules");
    command.args([
        format!("seed={}", options.seed),
        format!("jobs={}", options.jobs),
    ]);
    if let Some(schedules) = options.schedules {
        command.arg(format!("schedules={schedules}"));
    }
    if let Some(seconds) = options.limit() {
        command.arg(format!("seconds={seconds}"));
    }
    if options.verbose {
        command.arg("verbose=1");
    }
    if options.stalled {
        command.arg("stalled=1");
    }

    let finished = process::finish(&mut command, Show::Lines)?;
    if !finished.success && !finished.stdout.contains("FAILED with seed") {
        console::detail("it did not come back; with --verbose it says which seed it was at");
    }
    Ok(finished.success)
}

/// Runs whole VMs in Miri, which switches threads at random and lets loads return old values, and
/// tells whether every one held.
fn weak(options: &ScheduleOptions) -> Result<bool> {
    let vm = |seed: u64, operations: u32| -> Result<Command> {
        let mut command = cargo_miri(seed)?;
        command.args(["run", "--package", "soak", "--"]);
        command.args([format!("seed={seed}"), format!("operations={operations}")]);
        Ok(command)
    };

    console::step("Building whole VMs for Miri, and running an idle one");
    process::run(&mut vm(0, 0)?, Show::Lines)?;

    console::step("Whole VMs with weakly ordered memory");
    let began = Instant::now();
    let limit = options.limit().map_or(Duration::MAX, Duration::from_secs);
    let count = options.schedules.unwrap_or(MOST_WEAK).min(MOST_WEAK);
    let seeds: Vec<_> = (0..count).map(|n| options.seed.wrapping_add(n)).collect();
    let failed = AtomicBool::new(false);
    let ran = parallel::map(options.jobs.into(), &seeds, |_, seed| {
        if failed.load(Relaxed) || began.elapsed() >= limit {
            return Ok(false);
        }
        let finished = process::finish(&mut vm(*seed, WEAK_OPERATIONS)?, Show::Silent)?;
        if !finished.success {
            failed.store(true, Relaxed);
            console::detail(format!("FAILED with seed {seed}:\n{}", finished.stderr));
            console::detail(format!("once more: --weak --seed {seed} --schedules 1"));
            return Ok(true);
        }
        let time = began.elapsed().as_secs();
        console::detail(format!("{} after {time} s", finished.stdout.trim()));
        Ok(true)
    })?;

    let ran = ran.into_iter().filter(|ran| *ran).count();
    let failed = failed.into_inner();
    let outcome = if failed { "one failed" } else { "none failed" };
    console::step(format!(
        "{ran} VMs, {outcome}, {} s",
        began.elapsed().as_secs()
    ));
    Ok(!failed)
}

/// Runs whole VMs with real threads, and tells whether every one held.
pub(crate) fn stress(options: &StressOptions) -> Result<bool> {
    let mut command = match options.sanitizer {
        None => built(cargo("build"), "threads", "", None)?,
        Some(sanitizer) => {
            let (name, flags) = match sanitizer {
                // ThreadSanitizer does not understand crossbeam-epoch's usual fences.
                Sanitizer::Thread => (
                    "thread",
                    "-Zsanitizer=thread --cfg crossbeam_sanitize_thread",
                ),
                Sanitizer::Address => ("address", "-Zsanitizer=address"),
            };
            let mut build = nightly(&["rust-src"])?.cargo("build");
            // The standard library has to be watched too. Build scripts must not be: naming the
            // target keeps the flags from them.
            build.arg("-Zbuild-std");
            built(build, name, flags, Some(&toolchain::host()?))?
        }
    };

    console::step("Whole VMs with real threads");
    command.args([
        format!("seconds={}", options.seconds),
        format!("seed={}", options.seed),
        format!("threads={}", options.threads),
    ]);
    Ok(process::finish(&mut command, Show::Lines)?.success)
}

/// Builds the program with `flags`, by the cargo command `build`, in a target directory called
/// `place`, and returns the command that runs it.
fn built(mut build: Command, place: &str, flags: &str, target: Option<&str>) -> Result<Command> {
    console::step(format!("Building whole VMs for {place}"));
    let place = project::root().join("target/soak").join(place);
    build
        .args(["--package", "soak", "--profile", "checked"])
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &place);
    if let Some(target) = target {
        build.args(["--target", target]);
    }
    process::run(&mut build, Show::Lines)?;
    let program = place.join(target.unwrap_or_default()).join("checked/soak");
    Ok(Command::new(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_with_their_types() {
        let arguments = [
            "--seed",
            "7",
            "--schedules",
            "3",
            "--seconds",
            "5",
            "--verbose",
        ];
        let options = ScheduleOptions::parsed(&arguments).unwrap();
        assert_eq!((options.seed, options.jobs), (7, 2));
        assert_eq!((options.schedules, options.seconds), (Some(3), Some(5)));
        assert!(options.verbose);

        let options = StressOptions::parsed(&["--sanitizer", "thread"]).unwrap();
        assert_eq!(options.sanitizer, Some(Sanitizer::Thread));
        assert_eq!((options.seconds, options.threads), (60, 12));
        assert!(StressOptions::parsed(&["--sanitizer", "x"]).is_err());
    }
}
