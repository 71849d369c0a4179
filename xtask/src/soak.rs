//! `cargo xtask schedules` and `cargo xtask stress`: whole VMs under random load, by the package `soak`.
//!
//! Each way of running it has other code generated, and so a place of its own in `target/soak`.

use std::process::Command;

use anyhow::Result;

use crate::cli::{Sanitizer, ScheduleOptions, StressOptions};
use crate::process::{self, Show};
use crate::provision::toolchain::{self, cargo, nightly};
use crate::{console, project};

/// Runs schedules of shuttle's; whether all went well.
pub(crate) fn schedules(options: &ScheduleOptions) -> Result<bool> {
    console::step("Whole VMs under random schedules");
    let mut command = scheduled(options.jobs);
    command.arg(format!("seed={}", options.seed));
    if let Some(schedules) = options.schedules {
        command.arg(format!("schedules={schedules}"));
    }
    let seconds = options
        .seconds
        .or(options.schedules.is_none().then_some(60));
    if let Some(seconds) = seconds {
        command.arg(format!("seconds={seconds}"));
    }
    if options.verbose {
        command.arg("verbose=1");
    }
    let finished = process::finish(&mut command, Show::Lines)?;
    if !finished.success && !finished.stdout.contains("FAILED with seed") {
        console::detail("it did not come back; with --verbose it says which seed it was at");
    }
    Ok(finished.success)
}

/// The command that runs schedules, without what it is to run.
pub(crate) fn scheduled(jobs: u16) -> Command {
    let mut command = cargo("run");
    soak(&mut command, "shuttle", "--cfg shuttle -D warnings");
    command.args(["--", &format!("jobs={jobs}")]);
    command
}

/// Runs VMs with real threads; whether all went well.
pub(crate) fn stress(options: &StressOptions) -> Result<bool> {
    let mut command = match options.sanitizer {
        None => {
            console::step("Whole VMs with real threads");
            let mut command = cargo("run");
            soak(&mut command, "threads", "");
            command
        }
        Some(sanitizer) => {
            let (name, flags) = match sanitizer {
                // ThreadSanitizer does not understand the fences that crossbeam-epoch uses otherwise.
                Sanitizer::Thread => (
                    "thread",
                    "-Zsanitizer=thread --cfg crossbeam_sanitize_thread",
                ),
                Sanitizer::Address => ("address", "-Zsanitizer=address"),
            };
            let nightly = nightly(&["rust-src"])?;
            console::step(format!(
                "Whole VMs with real threads, under the {name} sanitizer"
            ));
            let mut command = nightly.cargo("run");
            soak(&mut command, name, flags);
            // The standard library has to be watched too, and only what is not built for this machine's own
            // use, as build scripts are.
            command.args(["-Zbuild-std", "--target", &toolchain::host()?]);
            command
        }
    };
    command.arg("--").args([
        format!("seconds={}", options.seconds),
        format!("seed={}", options.seed),
        format!("threads={}", options.threads),
    ]);
    Ok(process::finish(&mut command, Show::Lines)?.success)
}

fn soak(command: &mut Command, place: &str, flags: &str) {
    command
        .args(["--package", "soak", "--profile", "checked"])
        .env("RUSTFLAGS", flags)
        .env(
            "CARGO_TARGET_DIR",
            project::root().join("target/soak").join(place),
        );
}
