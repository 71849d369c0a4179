//! What is measured on the host: a VM on the software CPU interface with all of its guest's set-up done,
//! the operations and loads by name, and the baselines beside them.
//!
//! Criterion times them (`benches/`), `perf-host` counts and times them for `cargo xtask perf`, and
//! `perf/peers` does the same work by others.
#![allow(
    missing_docs,
    reason = "programs of ours read this; names say what is what"
)]

pub mod baselines;
pub mod catalog;
pub mod memory;
pub mod operation;
pub mod runners;
pub mod threads;
pub mod vm;
