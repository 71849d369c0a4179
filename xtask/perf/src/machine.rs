//! The machine and the code that a run was measured on.

use std::fs;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

use xtask::instructions;
use xtask::process::{self, Show};
use xtask::project;
use xtask::provision::toolchain::compiler;

/// The files of the checkout that a run writes.
const WRITTEN: [&str; 4] = [
    "perf/RESULTS.md",
    "perf/el2.svg",
    "perf/instructions.json",
    "docs/performance.md",
];

/// The profile of what is measured.
const FLAGS: &str = "release: opt-level 3, lto fat, codegen-units 1";

/// The machine, the code, and how it was built.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// Processes that wanted a CPU when the run began: more than `cpus` means that it was
    /// disturbed.
    pub(crate) load: String,
    pub(crate) compiler: String,
    pub(crate) flags: String,
    pub(crate) commit: String,
}

impl Machine {
    /// Describes the machine in one line.
    pub(crate) fn line(&self) -> String {
        let Self {
            cpu,
            cpus,
            kernel,
            load,
            compiler,
            flags,
            commit,
        } = self;
        format!(
            "Commit {commit}; {cpu}, {cpus} CPUs, load {load} when it began, kernel {kernel}; \
             {compiler}, {flags}."
        )
    }

    /// Looks at this machine, now.
    pub(crate) fn here() -> Self {
        let printed = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(project::root());
            process::run(&mut command, Show::OnFailure)
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        let first_word = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace()
                .next()
                .unwrap_or("unknown")
                .to_owned()
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find(|line| line.starts_with("model name") || line.starts_with("CPU part"))
            .and_then(|line| line.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        Self {
            cpu: cpu.to_owned(),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            kernel: first_word("/proc/sys/kernel/osrelease"),
            load: first_word("/proc/loadavg"),
            compiler: compiler(),
            flags: match instructions::flags() {
                Some(flags) => format!("{FLAGS}, {flags}"),
                None => FLAGS.to_owned(),
            },
            commit: printed("git", &["rev-parse", "--short", "HEAD"]) + changed(),
        }
    }
}

/// Returns a mark for a checkout that is not as it was committed. Files that a run writes do not
/// count.
fn changed() -> &'static str {
    let mut diff = Command::new("git");
    diff.args(["diff", "--quiet", "HEAD", "--", "."])
        .args(WRITTEN.map(|path| format!(":!{path}")))
        .current_dir(project::root());
    match process::finish(&mut diff, Show::OnFailure) {
        Ok(finished) if finished.success => "",
        _ => "-dirty",
    }
}
