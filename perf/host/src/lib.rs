//! Measurements on the host: a VM on the software CPU interface after its guest's set-up, the
//! operations and loads by name, and the baselines.
//!
//! Criterion times the operations (`benches/`). `perf-host` counts and times them for
//! `cargo xtask perf`. `perf/peers` runs the loads on another library.
#![allow(
    missing_docs,
    reason = "only this repository's programs use the crate, and names suffice"
)]

pub mod baselines;
pub mod catalog;
pub mod memory;
pub mod operation;
pub mod runners;
pub mod threads;
pub mod vm;
