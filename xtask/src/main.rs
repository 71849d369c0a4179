//! The project's tasks, run as `cargo xtask TASK`.
//!
//! * `boot` boots a guest under `hyp` on an emulated machine and checks every interrupt's
//!   book-keeping against what the guest saw.
//!
//! A task sets up what it needs by itself ([`provision`]) and caches it in `target/cache`.

mod boot;
mod cli;
mod console;
mod process;
mod project;
mod provision;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    process::end_on_signals();
    let outcome = match cli.task {
        cli::Task::Boot(options) => boot::boot(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if process::interrupted() => {
            eprintln!("interrupted");
            // What a shell reports for a command that SIGINT ended.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
