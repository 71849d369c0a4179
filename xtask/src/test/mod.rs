//! `cargo xtask test`: everything that has to hold, each part whether or not those before it did.

mod gates;
mod tally;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::cli::TestOptions;
use crate::process::interrupted;
use crate::provision::toolchain;
use crate::{console, project};
use gates::Gate;
use tally::Tally;

/// Runs every test; whether all passed.
pub(crate) fn test(options: &TestOptions) -> Result<bool> {
    let began = Instant::now();
    toolchain::component("rustfmt", "cargo-fmt")?;
    toolchain::component("clippy", "cargo-clippy")?;
    let gates = gates::all(toolchain::bare_metal()?, options);
    let mut total = Tally::default();
    let mut failed = Vec::new();
    let count = gates.len();
    for (number, Gate { name, action }) in (1..).zip(gates) {
        console::step(format!("[{number}/{count}] {name}"));
        let gate_began = Instant::now();
        let reports = project::reports().join("test").join(name.replace(' ', "-"));
        let tally = action.run(&reports).unwrap_or_else(|error| {
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
            gate_began.elapsed().as_secs_f64()
        ));
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
