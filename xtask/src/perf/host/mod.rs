//! The library on this machine: what its operations cost, alone and by several threads, and beside others.
//!
//! * [`instructions`]: exact counts by callgrind, held against a committed table;
//! * [`figures`]: times and rates, held against the targets;
//! * [`counters`], [`perf_stat`]: the CPU's own counters, where there are any;
//! * [`machine`]: what it was measured on.

pub(crate) mod counters;
pub(crate) mod figures;
pub(crate) mod instructions;
pub(crate) mod machine;
mod perf_stat;

use std::path::PathBuf;

use anyhow::Result;

use crate::console;
use crate::process::{self, Show};
use crate::project;
use crate::provision::toolchain::cargo;

/// Builds `perf/host`, optimised as the library is for hyp, and returns the program.
fn program() -> Result<PathBuf> {
    console::step("Building what is measured");
    let place = project::root().join("target/perf");
    let mut command = cargo("build");
    command
        .args(["--release", "--package", "perf-host"])
        .env("CARGO_TARGET_DIR", &place);
    process::run(&mut command, Show::Lines)?;
    Ok(place.join("release/perf-host"))
}
