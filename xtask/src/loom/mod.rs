//! `cargo xtask loom`: the library's own code under every interleaving, up to a bound; and again
//! with deliberate faults in it, each of which a model has to notice.

pub mod programs;
mod report;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{ArgMatches, Command, value_parser};

use crate::cli::{Options, flag, option};
use crate::provision::toolchain::cargo;
use crate::{console, names, parallel};
use programs::{Outcome, Programs};
use report::{Model, Mutant, Report};

/// The longest exploration of one model with `--deep`.
const DEEP: Duration = Duration::from_secs(300);

/// The longest exploration of a model that does not notice its fault.
const MUTANT: Duration = Duration::from_secs(120);

const AFTER_HELP: &str = "\
Without options, every model is explored up to its own bound of preemptions, and
every mutant is run against the model that has to catch it; if nothing fails,
the tables of docs/proof.md are written anew. The outcome goes to
target/reports/loom.json as well. The exit status is 0 only if every model holds
and every mutant is caught.

Examples:
  cargo xtask loom                           everything: some six minutes on
                                             two CPUs
  cargo xtask loom --protocol lpi_lifetime   one protocol and its mutants
  cargo xtask loom --mutants                 the mutants alone
  cargo xtask loom --preemptions 2           with this bound for all models
  cargo xtask loom --brief                   one preemption fewer each, as in
                                             `cargo xtask test`
  cargo xtask loom --deep                    one more preemption each, for the
                                             night
  cargo xtask loom --sweep                   every mutant of a few kinds, for
                                             the night; see `--sweep --help`";

/// Options of `cargo xtask loom`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoomOptions {
    /// The only protocol, if one was named: a file of `loom-tests/tests/models`.
    protocol: Option<String>,
    /// The bound of every model, in place of the model's own.
    preemptions: Option<u8>,
    /// True if only the mutants are run.
    mutants: bool,
    /// True if each model gets one preemption fewer.
    brief: bool,
    /// True if each model gets one preemption more, and no mutant is run.
    deep: bool,
    /// Arguments of the sweep, which are its package's to read, if it is asked for.
    sweep: Option<Vec<OsString>>,
}

impl LoomOptions {
    /// Returns the options for one preemption fewer in each model, and every mutant.
    pub(crate) fn brief() -> Self {
        Self {
            brief: true,
            ..Self::default()
        }
    }
}

impl Options for LoomOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            option(
                "protocol",
                "NAME",
                "Only this protocol: a file of loom-tests/tests/models",
            )
            .value_parser(protocol),
            option(
                "preemptions",
                "N",
                "Preemptions explored in each model [default: the model's own bound, 1 to 5]",
            )
            .value_parser(value_parser!(u8).range(1..=8)),
            flag("mutants", "Only the mutants"),
            flag(
                "brief",
                "One preemption fewer in each model; the mutants as they are",
            )
            .conflicts_with_all(["deep", "preemptions"]),
            flag("deep", "One preemption more in each model, and no mutants")
                .conflicts_with_all(["mutants", "preemptions"]),
            option(
                "sweep",
                "ARGS",
                "Make every mutant of a few kinds, and find the gate that notices each",
            )
            .num_args(0..)
            .allow_hyphen_values(true)
            .conflicts_with_all(["protocol", "preemptions", "mutants", "deep"])
            .value_parser(value_parser!(OsString)),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            protocol: matches.remove_one("protocol"),
            preemptions: matches.remove_one("preemptions"),
            mutants: matches.get_flag("mutants"),
            brief: matches.get_flag("brief"),
            deep: matches.get_flag("deep"),
            sweep: matches
                .remove_many("sweep")
                .map(|arguments| arguments.collect()),
        }
    }
}

/// Reads the name of a protocol.
fn protocol(text: &str) -> Result<String, String> {
    let protocols = names::files("loom-tests/tests/models", &["main"]);
    if protocols.iter().any(|protocol| protocol == text) {
        Ok(text.to_owned())
    } else {
        Err(names::unknown("protocol", &protocols))
    }
}

/// A model to run, with a fault or without.
struct Job<'a> {
    protocol: &'a str,
    model: &'a str,
    mutant: Option<&'a programs::MutantRecord>,
}

/// Runs models and mutants, and tells whether every model holds and every mutant is caught.
///
/// A full run in which nothing fails also writes its tables into `docs/proof.md`.
pub(crate) fn loom(options: &LoomOptions) -> Result<bool> {
    if let Some(arguments) = &options.sweep {
        return Err(sweep(arguments).exec()).context("cannot run cargo");
    }
    let report = explore(options)?;
    let passed = report.failed() == 0;
    if passed && *options == LoomOptions::default() {
        report.publish()?;
    }
    Ok(passed)
}

/// Returns the command that sweeps: the package in `xtask/sweep`, which needs a reader of Rust.
pub(crate) fn sweep(arguments: &[impl AsRef<OsStr>]) -> process::Command {
    let mut command = cargo("run");
    command
        .args(["--package", "xtask-sweep", "--"])
        .args(arguments);
    command
}

/// Runs the models and mutants that the options ask for, and reports on them.
pub(crate) fn explore(options: &LoomOptions) -> Result<Report> {
    let began = Instant::now();
    let wanted = |protocol: &str| {
        options
            .protocol
            .as_deref()
            .is_none_or(|only| only == protocol)
    };
    let models = if options.mutants {
        None
    } else {
        Some(Programs::build(false)?)
    };
    let mutated = if options.deep {
        None
    } else {
        Some(Programs::build(true)?)
    };

    let plain = models.iter().flat_map(|programs| {
        programs
            .models()
            .filter(|(protocol, _)| wanted(protocol))
            .map(|(protocol, model)| Job {
                protocol,
                model,
                mutant: None,
            })
    });
    let faulty = mutated.iter().flat_map(|programs| {
        programs
            .faults
            .iter()
            .filter(|fault| wanted(&fault.protocol))
            .map(|fault| Job {
                protocol: &fault.protocol,
                model: &fault.test,
                mutant: Some(fault),
            })
    });
    let jobs: Vec<Job<'_>> = plain.chain(faulty).collect();
    announce(options, &jobs);

    let outcomes = run_all(&jobs, |job| {
        let (programs, most) = match job.mutant {
            None => (&models, options.deep.then_some(DEEP)),
            Some(_) => (&mutated, Some(MUTANT)),
        };
        let programs = programs.as_ref().expect("built for the jobs that it has");
        let mut command = programs.command(job.protocol, job.model);
        if let Some(most) = most {
            command.env("LOOM_MAX_DURATION", most.as_secs().to_string());
        }
        if let Some(bound) = options.preemptions.filter(|_| job.mutant.is_none()) {
            command.env("LOOM_MAX_PREEMPTIONS", bound.to_string());
        }
        if options.brief && job.mutant.is_none() {
            command.env("LOOM_BRIEF", "1");
        }
        if options.deep {
            command.env("LOOM_DEEP", "1");
        }
        if let Some(fault) = job.mutant {
            command.env("VGIC_MUTANT", &fault.name);
        }
        Outcome::of(&mut command)
    })?;

    let mut report = Report::default();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        match job.mutant {
            None => report
                .models
                .push(Model::new(job.protocol, job.model, outcome)),
            Some(fault) => report.mutants.push(Mutant::new(fault, outcome)),
        }
    }
    report.finish(began.elapsed(), options.deep)?;
    Ok(report)
}

/// Prints how much there is to explore.
fn announce(options: &LoomOptions, jobs: &[Job<'_>]) {
    let mutants = jobs.iter().filter(|job| job.mutant.is_some()).count();
    let models = jobs.len() - mutants;
    let what = match (models, mutants) {
        (models, 0) => format!("{models} models"),
        (0, mutants) => format!("{mutants} mutants"),
        (models, mutants) => format!("{models} models and {mutants} mutants"),
    };
    console::step(format!("Exploring {what}, {} at a time", parallel::cpus()));
    if options.deep {
        let longest = DEEP * jobs.len() as u32 / parallel::cpus() as u32;
        console::detail(format!(
            "one preemption more than usual, each model for {} minutes at most: at most {} minutes",
            DEEP.as_secs() / 60,
            longest.as_secs().div_ceil(60)
        ));
    }
}

/// Runs the jobs side by side, prints how each went, and returns the outcomes in the jobs' order.
fn run_all<'a>(
    jobs: &[Job<'a>],
    run: impl Fn(&Job<'a>) -> Result<Outcome> + Sync,
) -> Result<Vec<Outcome>> {
    let done = AtomicUsize::new(0);
    parallel::map(parallel::cpus(), jobs, |_, job| {
        let outcome = run(job)?;
        let count = done.fetch_add(1, Ordering::Relaxed) + 1;
        console::detail(format!("[{count}/{}] {}", jobs.len(), line(job, &outcome)));
        Ok(outcome)
    })
}

/// Describes how a job went.
fn line(job: &Job<'_>, outcome: &Outcome) -> String {
    let (protocol, model) = (job.protocol, job.model);
    let count = format!(
        "{} executions, {:.1} s",
        outcome.executions, outcome.seconds
    );
    match (job.mutant, outcome.failed()) {
        (None, false) => format!("{protocol}::{model}: {count}"),
        (None, true) => format!(
            "{} {protocol}::{model} in execution {}: {}",
            console::bad("FAILED"),
            outcome.executions,
            outcome.message
        ),
        (Some(fault), true) => format!(
            "{} {} by {protocol}::{model}: {count}",
            console::good("caught"),
            fault.name
        ),
        (Some(fault), false) => format!(
            "{} {} {protocol}::{model}: {count} {}",
            console::bad("SURVIVED"),
            fault.name,
            outcome.message
        ),
    }
}
