//! `cargo xtask schedules` and `cargo xtask stress`: whole VMs under random load, by the package `loom-tests/soak`.
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

/// Runs VMs with real threads; whether all went well.
pub(crate) fn stress(options: &StressOptions) -> Result<bool> {
    let mut command = match options.sanitizer {
        None => built(cargo("build"), "threads", "", None)?,
        Some(sanitizer) => {
            let (name, flags) = match sanitizer {
                // ThreadSanitizer does not understand the fences that crossbeam-epoch uses otherwise.
                Sanitizer::Thread => (
                    "thread",
                    "-Zsanitizer=thread --cfg crossbeam_sanitize_thread",
                ),
                Sanitizer::Address => ("address", "-Zsanitizer=address"),
            };
            let mut build = nightly(&["rust-src"])?.cargo("build");
            // The standard library has to be watched too; and not what only runs in the build, which is
            // for no target that is named.
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

/// Builds the program with `flags`, by the cargo command `build`, in a place of its own; the command that
/// runs it.
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
