//! The programs built of `loom-tests`, and the outcome of running one of their models.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::console;
use crate::process::{self, Show};
use crate::project;
use crate::provision::toolchain::cargo;

/// Compiler flags of the models: the library's atomics, and crossbeam-epoch's, are loom's.
const FLAGS: &str = "--cfg loom --cfg crossbeam_loom -D warnings";

/// A deliberate fault, as `src/sync/mutant.rs` or the scheduler's `sync/mutant.rs` describes it.
pub(super) struct MutantRecord {
    /// Its identifier in the code.
    pub(super) name: String,
    /// The protocol whose model has to catch it.
    pub(super) protocol: String,
    /// The model that has to catch it.
    pub(super) test: String,
    /// The public record of a bug that it re-creates, or empty.
    pub(super) record: String,
    /// The fault in a sentence.
    pub(super) what: String,
}

/// A build of the models, and the faults that it can make.
pub struct Programs {
    program: PathBuf,
    /// Protocol and name.
    models: Vec<(String, String)>,
    /// The faults; an ordinary build has none.
    pub(super) faults: Vec<MutantRecord>,
}

impl Programs {
    /// Builds the models, able to make faults or not. Each of the two builds has a target
    /// directory of its own.
    pub(super) fn build(mutants: bool) -> Result<Self> {
        let (what, place, flags) = if mutants {
            ("the mutants", "target/loom-mutants", " --cfg vgic_mutants")
        } else {
            ("the models", "target/loom", "")
        };
        let root = project::root();
        Self::build_in(root, what, &root.join(place), flags)
    }

    /// Builds the models in a copy of the checkout. The build has a target directory of its own:
    /// cargo takes the packages of a copy for those of the checkout.
    pub fn build_copy(copy: &Path) -> Result<Self> {
        let what = "the models with every mutant of the sweep";
        let place = copy.join("target/models");
        Self::build_in(copy, what, &place, " --cfg vgic_mutants")
    }

    /// Builds the models of a checkout.
    fn build_in(root: &Path, what: &str, place: &Path, flags: &str) -> Result<Self> {
        console::step(format!("Building {what}"));
        let mut build = cargo("test");
        build
            .current_dir(root)
            .args(["--package", "loom-tests", "--profile", "loom"])
            // The package's program comes with its tests.
            .args(["--test", "models", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .env("RUSTFLAGS", format!("{FLAGS}{flags}"))
            .env("CARGO_TARGET_DIR", place);
        let artifacts = process::run(&mut build, Show::Progress)?;

        let find = |wanted: &str| {
            let found = artifacts
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .filter_map(|artifact| executable(&artifact))
                .find(|(name, _)| name == wanted);
            found
                .map(|(_, path)| path)
                .with_context(|| format!("cargo did not build {wanted}"))
        };

        let faults = if flags.is_empty() {
            Vec::new()
        } else {
            faults(&find("mutants")?)?
        };
        let program = find("models")?;
        let built = Self {
            models: models(&program)?,
            program,
            faults,
        };
        built.check()?;
        Ok(built)
    }

    /// Checks that every fault names a model that exists, and has a name of its own.
    fn check(&self) -> Result<()> {
        for MutantRecord {
            name,
            protocol,
            test,
            ..
        } in &self.faults
        {
            if !self.models().any(|model| model == (protocol, test)) {
                bail!("{name} is to be caught by {protocol}::{test}, which does not exist");
            }
            if self.faults.iter().filter(|one| one.name == *name).count() > 1 {
                bail!("two faults are called {name}");
            }
        }
        Ok(())
    }

    /// Lists the models, each with its protocol.
    pub fn models(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.models.iter();
        names.map(|(protocol, model)| (protocol.as_str(), model.as_str()))
    }

    /// Returns the command that runs one model.
    pub fn command(&self, protocol: &str, model: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("{protocol}::{model}")).args([
            "--exact",
            "--test-threads=1",
            "--nocapture",
        ]);
        command
    }
}

/// Reads the name and the path of an executable from one of cargo's messages.
fn executable(artifact: &Value) -> Option<(String, PathBuf)> {
    let path = artifact.get("executable")?.as_str()?;
    let name = artifact.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

/// Asks a program for its models, which it lists as `PROTOCOL::NAME: test`.
fn models(path: &PathBuf) -> Result<Vec<(String, String)>> {
    let mut list = Command::new(path);
    list.args(["--list", "--format", "terse"]);
    let listed = process::run(&mut list, Show::OnFailure)?;
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let models = names.filter_map(|name| name.split_once("::"));
    Ok(models
        .map(|(protocol, model)| (protocol.to_owned(), model.to_owned()))
        .collect())
}

/// Asks the program `mutants` for the faults that its build can make.
fn faults(path: &PathBuf) -> Result<Vec<MutantRecord>> {
    let listed = process::run(&mut Command::new(path), Show::OnFailure)?;
    listed
        .lines()
        .filter_map(|line| line.strip_prefix("mutant: "))
        .map(|line| {
            let mut fields = line.splitn(5, '|').map(str::to_owned);
            let mut field = || fields.next().context("a fault is not described in full");
            Ok(MutantRecord {
                name: field()?,
                protocol: field()?,
                test: field()?,
                record: field()?,
                what: field()?,
            })
        })
        .collect()
}

/// The outcome of running one model.
#[derive(Debug)]
pub struct Outcome {
    /// Executions explored, up to the one that failed if one did.
    pub executions: u64,
    /// The bound of the exploration.
    pub(super) preemptions: u64,
    /// True if everything within the bound was explored.
    pub(super) complete: bool,
    /// The reason of a failure; empty if the model held.
    pub message: String,
    /// True if a line of the output says how the exploration ended.
    told: bool,
    /// True if the program's exit status is 0.
    success: bool,
    /// The program's time.
    pub seconds: f64,
}

impl Outcome {
    /// Runs the model and reads its output.
    pub(super) fn of(command: &mut Command) -> Result<Self> {
        Self::within(command, Duration::MAX)
    }

    /// Runs the model for `most` at most, and reads its output.
    pub fn within(command: &mut Command, most: Duration) -> Result<Self> {
        let began = Instant::now();
        let finished = process::finish_within(command, Show::Silent, most)?;
        let mut outcome = Self::read(&finished.stdout, finished.success);
        outcome.seconds = began.elapsed().as_secs_f64();
        if finished.late {
            outcome.message = "it did not end".to_owned();
        } else if !outcome.told {
            let last = finished
                .stderr
                .lines()
                .rfind(|line| !line.trim().is_empty());
            outcome.message = format!("it did not run: {}", last.unwrap_or("it says nothing"));
        }
        Ok(outcome)
    }

    /// Reads the line `loom: executions=1 preemptions=2 complete=true`, or the first line that
    /// reports a failure, `loom: failed=1 at=FILE:LINE why`.
    fn read(printed: &str, success: bool) -> Self {
        let mut lines = printed.lines().filter_map(|line| line.split_once("loom: "));
        let text = lines.next().map(|(_, text)| text);
        let number = |name: &str| {
            let text = text?.split_once(name)?.1;
            text.split(' ').next()?.parse().ok()
        };
        let failed = text.and_then(|text| text.strip_prefix("failed="));
        let message = failed.and_then(|text| Some(text.split_once(" at=")?.1));
        // A failure of the exploration itself is none of the model.
        let astray = message.is_some_and(|why| why.starts_with("loom-tests/src/lib.rs"));
        Self {
            executions: number("executions=").or(number("failed=")).unwrap_or(0),
            preemptions: number("preemptions=").unwrap_or(0),
            complete: text.is_some_and(|text| text.contains("complete=true")),
            message: message.unwrap_or_default().to_owned(),
            told: text.is_some() && success != failed.is_some() && !astray,
            success,
            seconds: 0.0,
        }
    }

    /// Tells whether the model held.
    pub fn passed(&self) -> bool {
        self.told && self.success
    }

    /// Tells whether the model found a failure; a crash is none.
    pub(super) fn failed(&self) -> bool {
        self.told && !self.success
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_holds() {
        let outcome = Outcome::read(
            "test a ... loom: executions=12 preemptions=3 complete=true\nok\n",
            true,
        );
        assert!(outcome.passed() && !outcome.failed() && outcome.complete);
        assert_eq!((outcome.executions, outcome.preemptions), (12, 3));
    }

    #[test]
    fn a_model_that_fails_says_why() {
        let printed =
            "test a ... loom: failed=7 at=src/radix.rs:1 freed twice\nloom: failed=7 at=x:1 y";
        let outcome = Outcome::read(printed, false);
        assert!(outcome.failed() && !outcome.passed());
        assert_eq!(outcome.executions, 7);
        assert_eq!(outcome.message, "src/radix.rs:1 freed twice");
    }

    #[test]
    fn a_program_that_ends_otherwise_is_neither() {
        for (printed, success) in [
            ("", false),
            ("running 0 tests", true),
            ("loom: executions=1 preemptions=1 complete=true", false),
            (
                "loom: failed=1 at=loom-tests/src/lib.rs:9 no such thing",
                false,
            ),
        ] {
            let outcome = Outcome::read(printed, success);
            assert!(!outcome.failed() && !outcome.passed(), "{printed}");
        }
    }
}
