//! The tests that may notice a mutant, cheap ones first, and the mutants that each can notice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::loom::programs::{Outcome, Programs};
use xtask::process::{self, Show};
use xtask::provision::toolchain::cargo;
use xtask::{console, parallel, project};

use crate::copy::Copy;
use crate::kind::Kind;

/// The variable that selects a mutant.
const SELECT: &str = "VGIC_SWEEP";

/// The variable that names the file of the mutants that were reached.
const REACHED: &str = "VGIC_SWEEP_REACHED";

/// The longest that a program of tests may take beyond twenty times what it takes without a mutant.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that a model may take. loom itself ends an execution that does not.
const LONGEST: Duration = Duration::from_secs(3600);

/// Executions of a model between two looks at their limit.
const LOOK: u64 = 50;

/// Executions of a model that show which code it reaches.
const GLANCE: u64 = 200;

/// Sequences of operations against the reference model for each mutant.
const SEQUENCES: &str = "200";

/// The way in which a test runs.
enum Way {
    /// As a model of the programs, by its protocol and name.
    Model(String, String),
    /// As a program of tests, all of which run.
    Program(PathBuf),
}

/// A test, or a program of tests.
pub(crate) struct Gate {
    /// The name in records: `loom kick::publish_against_block`, `unit`.
    pub(crate) name: String,
    way: Way,
    /// Seconds that it takes without a mutant, up to the limit.
    pub(crate) seconds: f64,
    /// Mutants whose code it reaches, and whether it does beside another thread.
    reaches: BTreeMap<usize, bool>,
}

impl Gate {
    /// Tells whether the gate may notice a mutant: it reaches the code, and can tell.
    pub(crate) fn may_notice(&self, mutant: usize, kind: Kind) -> bool {
        let is_model = matches!(self.way, Way::Model(..));
        match self.reaches.get(&mutant) {
            Some(beside) => !kind.is_of_memory() || is_model && *beside,
            None => false,
        }
    }
}

/// All gates, built.
pub(crate) struct Gates {
    models: Programs,
    pub(crate) all: Vec<Gate>,
}

/// The end of a gate's run with a mutant.
pub(crate) struct Run {
    /// True if the gate failed, crashed or did not end.
    pub(crate) noticed: bool,
    /// The failure, or empty.
    pub(crate) message: String,
    pub(crate) seconds: f64,
    /// True if more executions may tell more.
    pub(crate) cut_off: bool,
}

impl Gates {
    /// Builds the models of a copy.
    pub(crate) fn models(copy: &Copy) -> Result<Self> {
        let models = Programs::build_copy(&copy.root)?;
        let all = models.models().map(|(protocol, model)| {
            let way = Way::Model(protocol.to_owned(), model.to_owned());
            Gate::new(format!("loom {protocol}::{model}"), way)
        });
        Ok(Self {
            all: all.collect(),
            models,
        })
    }

    /// Builds all gates of a copy, and finds the mutants that each reaches.
    pub(crate) fn all(copy: &Copy) -> Result<Self> {
        let mut gates = Self::models(copy)?;
        for (name, program) in programs(&copy.root)? {
            gates.all.push(Gate::new(name, Way::Program(program)));
        }
        gates.look(&copy.root)?;
        gates
            .all
            .sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        Ok(gates)
    }

    /// Finds a gate by its name.
    pub(crate) fn find(&self, name: &str) -> Option<&Gate> {
        self.all.iter().find(|gate| gate.name == name)
    }

    /// Runs each gate without a mutant.
    fn look(&mut self, root: &Path) -> Result<()> {
        console::step(format!(
            "Looking what each of {} gates reaches",
            self.all.len()
        ));
        let reports = root.join("reached");
        fs::create_dir_all(&reports)?;
        let found = parallel::map(parallel::cpus(), &self.all, |_, gate| {
            let report = reports.join(gate.name.replace([' ', ':'], "-"));
            if report.exists() {
                fs::remove_file(&report)?;
            }
            let mut command = self.command(gate);
            command.env(REACHED, &report);
            let run = finish(gate, &mut command, GLANCE)?;
            ensure!(!run.noticed, "{}: {}", gate.name, run.message);
            let text = fs::read_to_string(&report).unwrap_or_default();
            let reaches = text.lines().filter_map(|line| {
                let (number, beside) = line.split_once(' ')?;
                Some((number.parse().ok()?, beside.parse().ok()?))
            });
            Ok((run.seconds, reaches.collect()))
        })?;
        for (gate, (seconds, reaches)) in self.all.iter_mut().zip(found) {
            (gate.seconds, gate.reaches) = (seconds, reaches);
        }
        let reached = self.all.iter().any(|gate| !gate.reaches.is_empty());
        ensure!(reached, "no gate has the switches of the sweep");
        Ok(())
    }

    /// Runs a gate with a mutant; a model for so many executions at most.
    pub(crate) fn run(&self, gate: &Gate, mutant: usize, executions: u64) -> Result<Run> {
        let mut command = self.command(gate);
        command.env(SELECT, mutant.to_string());
        finish(gate, &mut command, executions)
    }

    /// Returns the command that runs a gate.
    fn command(&self, gate: &Gate) -> Command {
        let mut command = match &gate.way {
            Way::Model(protocol, model) => self.models.command(protocol, model),
            Way::Program(path) => {
                let mut command = Command::new(path);
                command.current_dir(project::root());
                command
            }
        };
        command
            .env("PROPTEST_CASES", SEQUENCES)
            // A failure of a mutant is no regression of the library.
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            .env("RUST_BACKTRACE", "0");
        command
    }
}

/// Runs a gate's command to its end, or until it is clear that it has none.
fn finish(gate: &Gate, command: &mut Command, executions: u64) -> Result<Run> {
    if let Way::Model(..) = gate.way {
        // A number, not a time: a busy machine finds what an idle one does.
        command
            .env("LOOM_MAX_PERMUTATIONS", executions.to_string())
            // loom looks at the limit now and then only.
            .env("LOOM_CHECKPOINT_INTERVAL", LOOK.to_string());
        let outcome = Outcome::within(command, LONGEST)?;
        return Ok(Run {
            noticed: !outcome.passed(),
            // loom stops before the execution that would be the last.
            cut_off: outcome.executions + 1 >= executions,
            seconds: outcome.seconds,
            message: outcome.message,
        });
    }
    let began = Instant::now();
    let patience = PATIENCE + Duration::from_secs_f64(20.0 * gate.seconds);
    let finished = process::finish_within(command, Show::Silent, patience)?;
    let failed = |line: &&str| line.starts_with("test ") && line.ends_with("FAILED");
    let message = match finished.stdout.lines().find(failed) {
        _ if finished.late => "it did not end",
        _ if finished.success => "",
        Some(line) => line,
        None => "it crashed",
    };
    Ok(Run {
        noticed: !finished.success,
        message: message.to_owned(),
        seconds: began.elapsed().as_secs_f64(),
        cut_off: false,
    })
}

impl Gate {
    fn new(name: String, way: Way) -> Self {
        Self {
            name,
            way,
            seconds: 0.0,
            reaches: BTreeMap::new(),
        }
    }
}

/// Tests of the checkout's texts, not of the library.
const NOT_OF_THE_LIBRARY: &str = "house";

/// Builds the programs of tests of a copy: the library's own, and those in `tests/`.
fn programs(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    console::step("Building the tests with every mutant of the sweep");
    let mut build = cargo("test");
    build
        .current_dir(root)
        .args(["--package", "vgic", "--profile", "loom"])
        .args(["--lib", "--no-run"])
        .args(tests()?.iter().flat_map(|name| ["--test", name]))
        .arg("--message-format=json-render-diagnostics")
        // Not the checkout's, whose packages cargo takes for those of the copy.
        .env("CARGO_TARGET_DIR", root.join("target/tests"));
    let artifacts = process::run(&mut build, Show::Progress)?;
    let executables = artifacts.lines().filter_map(|line| {
        let artifact: Value = serde_json::from_str(line).ok()?;
        let path = artifact.get("executable")?.as_str()?;
        let name = artifact.get("target")?.get("name")?.as_str()?;
        let name = match name {
            "vgic" => "unit".to_owned(),
            name => format!("test {name}"),
        };
        Some((name, PathBuf::from(path)))
    });
    let executables: Vec<_> = executables.collect();
    ensure!(!executables.is_empty(), "cargo did not build the tests");
    Ok(executables)
}

/// Lists the programs in `tests/`: files, and folders with a `main.rs`.
fn tests() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(project::root().join("tests"))? {
        let path = entry?.path();
        let is_program = path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").exists();
        if let Some(name) = path.file_stem().filter(|_| is_program) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.retain(|name| name != NOT_OF_THE_LIBRARY);
    names.sort();
    Ok(names)
}

/// Returns a number that changes with the code of the copy and of the tests.
pub(crate) fn code(copy: &Copy) -> Result<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for folder in ["src", "loom-tests", "tests"] {
        for path in files(&copy.root.join(folder))? {
            path.hash(&mut hasher);
            fs::read(&path)
                .with_context(|| format!("cannot read {}", path.display()))?
                .hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Lists the Rust files in a folder and below it, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
