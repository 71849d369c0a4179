//! `cargo xtask test`: everything that has to hold, in gates. Each gate runs whether or not those
//! before it passed.

mod gates;
mod tally;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::{ArgMatches, Command};

use crate::cli::{Options, flag};
use crate::process::interrupted;
use crate::{console, project};
use gates::Gate;
use tally::Tally;

const AFTER_HELP: &str = "\
The tests are divided into gates. Each provides by itself what it needs, and runs whether or not
those before it passed. The last line is `N passed, N failed`; the exit status is 0 only if none
failed.

Examples:
  cargo xtask test                              every gate, about twenty minutes on two CPUs
  cargo xtask test --no-boot                    the gates that need no emulator";

/// Options of `cargo xtask test`.
#[derive(Clone, Debug)]
pub(crate) struct TestOptions {
    /// Whether gates that boot an emulated machine are left out.
    pub(crate) no_boot: bool,
}

impl Options for TestOptions {
    fn declare(command: Command) -> Command {
        command
            .after_help(AFTER_HELP)
            .args([flag("no-boot", "Leave out the gates that need an emulator")])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            no_boot: matches.get_flag("no-boot"),
        }
    }
}

/// Runs the gates that the options ask for, and tells whether every test passed.
pub(crate) fn test(options: &TestOptions) -> Result<bool> {
    let mut gates = gates::all();
    gates.retain(|gate| !(options.no_boot && gate.boots));

    let began = Instant::now();
    let mut total = Tally::default();
    let mut failed = Vec::new();
    let count = gates.len();
    for (number, gate) in (1..).zip(gates) {
        let name = gate.name.clone();
        console::step(format!("[{number}/{count}] {name}"));
        let tally = run(gate)?;
        total.add(tally);
        if tally.failed > 0 {
            failed.push(name);
        }
    }

    console::step(format!(
        "Everything took {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    for name in failed {
        console::detail(format!("{}: {name}", console::bad("FAILED")));
    }
    console::say(&format!("{} passed, {} failed", total.passed, total.failed));
    Ok(total.failed == 0)
}

/// Runs one gate, and prints how it went. An error counts as a failed test.
fn run(gate: Gate) -> Result<Tally> {
    let began = Instant::now();
    let name = gate.name.clone();
    let reports = project::reports().join("test").join(name.replace(' ', "-"));
    let tally = gate.run(&reports).unwrap_or_else(|error| {
        console::detail(format!("{error:#}"));
        Tally::of(false)
    });
    if interrupted() {
        bail!("interrupted in {name}");
    }

    let outcome = match tally.failed {
        0 => console::good("passed"),
        _ => console::bad("FAILED"),
    };
    console::detail(format!(
        "{outcome} after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(tally)
}
