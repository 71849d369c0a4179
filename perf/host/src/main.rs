//! Measures the library on the host, for `cargo xtask perf`, which judges what this prints.
//!
//! * `perf-host instructions` does each of them in a function that callgrind is told to count;
//! * `perf-host figures` times them in turns, round after round, so that what disturbs one disturbs all,
//!   and prints JSON.

mod figures;
mod instructions;
mod memory;

use std::process::ExitCode;

/// How the program is called.
const USAGE: &str = "usage: perf-host instructions [FILTER] | figures THREADS SECONDS
Run by `cargo xtask perf`.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["instructions"] => instructions::run(""),
        ["instructions", filter] => instructions::run(filter),
        ["figures", threads, seconds] => match (threads.parse(), seconds.parse()) {
            (Ok(threads), Ok(seconds)) => figures::run(threads, seconds),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::FAILURE;
            }
        },
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
