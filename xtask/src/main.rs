//! `cargo xtask TASK`; the tasks themselves are the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
