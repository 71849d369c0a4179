//! Measures the library on the host. `cargo xtask perf` judges the output.
//!
//! * `perf-host instructions` runs each operation in a function counted by callgrind.
//! * `perf-host counted` runs one operation for `perf` to count. `perf-host list` lists the names.
//! * `perf-host figures` times every operation in turns, round after round, and prints JSON. A
//!   disturbance then affects all operations alike.
//! * `perf-host pair` runs two loads in turns, and prints the ratio of their costs.

mod counted;
mod figures;
mod instructions;
mod pairs;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use counted::Switch;
use perf_host::memory::Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// Usage of the program.
const USAGE: &str = "usage: perf-host instructions [FILTER] | figures THREADS SECONDS
       | pair LOAD LOAD SECONDS | list THREADS
       | counted NAME THREADS [CONTROL-PIPE ACKNOWLEDGE-PIPE]
Run by `cargo xtask perf`.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    match *arguments {
        ["instructions"] => instructions::run(""),
        ["instructions", filter] => instructions::run(filter),
        ["figures", threads, seconds] => figures::run(threads.parse()?, seconds.parse()?),
        ["pair", one, other, seconds] => {
            let time = Duration::from_secs(seconds.parse()?);
            println!("{}", pairs::compare_two(one, other, time));
        }
        ["list", threads] => counted::list(threads.parse()?),
        ["counted", name, threads] => counted::run(name, threads.parse()?, None)?,
        ["counted", name, threads, control, acknowledged] => {
            let switch = Switch::open(Path::new(control), Path::new(acknowledged))?;
            counted::run(name, threads.parse()?, Some(switch))?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
