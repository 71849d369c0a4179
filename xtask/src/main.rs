//! The project's tasks, run as `cargo xtask TASK`.
//!
//! * `boot` boots a guest under `hyp` on an emulated machine and checks every interrupt's
//!   book-keeping against what the guest saw.
//! * `test` runs everything that has to hold before a change goes in, a boot included.
//! * `schedules` and `stress` run whole VMs under random load.
//! * `loom` model-checks the concurrent protocols, and shows that it notices faults in them.
//! * `fuzz` lets a fuzzer play hostile guests and careless embedders.
//! * `isolation` has one guest attack while another measures its interrupts.
//! * `conformance` tests the interrupt controller from inside a guest, rule by rule.
//! * `bench` runs the benchmarks.
//! * `perf` measures, and holds the figures against their targets.
//!
//! All set up what they need by themselves ([`provision`]) and cache it in `target/cache`.

mod bench;
mod boot;
mod cli;
mod conformance;
mod console;
mod fuzz;
mod isolation;
mod loom;
mod perf;
mod process;
mod project;
mod provision;
mod soak;
mod test;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    process::end_on_signals();
    let outcome = match cli.task {
        cli::Task::Boot(options) => boot::boot(&options, &project::reports()),
        cli::Task::Test(options) => test::test(&options),
        cli::Task::Loom(options) => loom::loom(&options),
        cli::Task::Schedules(options) => soak::schedules(&options),
        cli::Task::Stress(options) => soak::stress(&options),
        cli::Task::Fuzz(options) => fuzz::fuzz_all(&options),
        cli::Task::Isolation(options) => isolation::isolation(&options, &project::reports()),
        cli::Task::Conformance(options) => {
            conformance::conformance(&options, &project::reports()).map(|counts| counts.failed == 0)
        }
        cli::Task::Bench(options) => bench::bench(&options),
        cli::Task::Perf(options) => perf::perf(&options, &project::reports()),
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
