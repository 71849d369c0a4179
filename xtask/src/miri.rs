//! Miri: the interpreter that knows undefined behaviour, and gives loads the old values that Rust's
//! memory model allows.

use std::process::Command;

use anyhow::Result;

use crate::project;
use crate::provision::toolchain::nightly;

/// Flags of Miri.
const FLAGS: [&str; 4] = [
    // crossbeam-epoch is not made for the stricter model, stacked borrows.
    "-Zmiri-tree-borrows",
    // A list in crossbeam-epoch reaches a whole object by a reference to its atomic part.
    "-Zmiri-tree-borrows-no-precise-interior-mut",
    // crossbeam-epoch keeps marks in the low bits of pointers, and so makes pointers of integers.
    "-Zmiri-permissive-provenance",
    // Objects left to the epoch at the end are not freed; and tests leak shared ones.
    "-Zmiri-ignore-leaks",
];

/// Returns the command `cargo miri`, whose schedules and loads are those of `seed`.
pub(crate) fn cargo_miri(seed: u64) -> Result<Command> {
    let mut cargo = nightly(&["miri", "rust-src"])?.cargo("miri");
    cargo
        .env(
            "MIRIFLAGS",
            format!("{} -Zmiri-seed={seed}", FLAGS.join(" ")),
        )
        // Backtraces of tests that are to panic are slow, and of no interest.
        .env("RUST_BACKTRACE", "0")
        .env("CARGO_TARGET_DIR", project::root().join("target/miri"));
    Ok(cargo)
}
