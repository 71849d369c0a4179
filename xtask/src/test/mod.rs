//! `cargo xtask test`: everything that has to hold, in gates. Each gate runs whether or not those
//! before it passed.

mod crates;
mod gates;
mod select;
pub(crate) mod tally;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::{ArgAction, ArgMatches, Command};

use crate::cli::{Options, flag, option};
use crate::process::interrupted;
use crate::{console, project};
use gates::Gate;
use tally::Tally;

const AFTER_HELP: &str = "\
The tests are divided into gates. Each provides by itself what it needs, and
runs whether or not those before it passed. The last line is `N passed, N
failed`; the exit status is 0 only if none failed.

Examples:
  cargo xtask test                            every gate, about an hour
                                              on two CPUs
  cargo xtask test --list                     the gates: their slugs and names
  cargo xtask test --only fmt --only clippy   these gates
  cargo xtask test --only boot                the gates with this in their name
  cargo xtask test --no-boot                  the gates that need no emulator";

/// Options of `cargo xtask test`.
#[derive(Clone, Debug)]
pub(crate) struct TestOptions {
    /// True if gates that boot an emulated machine are left out.
    pub(crate) no_boot: bool,
    /// Slugs, or parts of the names, of the only gates to run; none for every gate.
    pub(crate) only: Vec<String>,
    /// True if the gates are listed, and none is run.
    pub(crate) list: bool,
}

impl Options for TestOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            flag("no-boot", "Leave out the gates that need an emulator"),
            option(
                "only",
                "NAME",
                "Run the gate with this slug, or the gates with this in their name; may be \
                 repeated",
            )
            .action(ArgAction::Append),
            flag("list", "Print each gate's slug and name, and run none"),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        let only = matches.remove_many("only");
        Self {
            no_boot: matches.get_flag("no-boot"),
            only: only.into_iter().flatten().collect(),
            list: matches.get_flag("list"),
        }
    }
}

/// Runs the gates that the options ask for, and tells whether every test passed.
pub(crate) fn test(options: &TestOptions) -> Result<bool> {
    let gates = select::gates(gates::all(), options)?;
    if options.list {
        gates.iter().for_each(|gate| console::say(&gate.line()));
        return Ok(true);
    }

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
