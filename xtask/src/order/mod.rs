//! The order of barriers in the compiled hypervisors: the promises of `docs/barriers.md`, looked up
//! in the instructions of `hyp` and of `examples/el2`.
//!
//! | module | content |
//! |---|---|
//! | `instruction` | instructions by their encodings, as far as the rules tell them apart |
//! | `program` | the instructions, functions and branches of an ELF file |
//! | `neighbours` | instructions that have a barrier beside them |
//! | `paths` | no status of the list registers is read after a write without synchronisation |

mod instruction;
mod neighbours;
mod paths;
mod program;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::boot::hypervisor::{self, built};
use crate::console;
use crate::example;
use crate::project;
use crate::test::tally::Tally;
use program::Program;

/// A place where an instruction lacks its barrier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    address: u64,
    message: String,
}

/// Result of looking for one rule's barriers.
#[derive(Debug, Default)]
struct Outcome {
    /// Instructions that the rule is about.
    sites: usize,
    faults: Vec<Fault>,
}

impl Outcome {
    /// Tells whether the rule holds. A rule that finds nothing to look at has lost its subject.
    fn holds(&self) -> bool {
        self.sites > 0 && self.faults.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = if self.sites == 1 { "place" } else { "places" };
        write!(f, "{} {places}", self.sites)
    }
}

/// Builds the hypervisors and checks each rule on each of them, which is a test case.
pub(crate) fn check() -> Result<Tally> {
    let scratch = project::scratch()?;
    let (_, hyp) = hypervisor::build_with(scratch.path(), &[])?;
    let example = built(
        example::cargo("build")?.arg("--release"),
        "the hypervisor of the example",
    )?;
    let mut tally = check_program("hyp", &hyp)?;
    tally.add(check_program("examples/el2", &example)?);
    Ok(tally)
}

/// Checks each rule on the ELF file `elf`, and prints the outcomes.
fn check_program(name: &str, elf: &Path) -> Result<Tally> {
    console::step(format!("The order of barriers in {name}"));
    let file = fs::read(elf)?;
    let program = Program::parse(&file).with_context(|| elf.display().to_string())?;

    let mut tally = Tally::default();
    for (rule, outcome) in outcomes(&program) {
        let mark = if outcome.holds() {
            console::good("ok")
        } else {
            console::bad("FAILED")
        };
        console::detail(format!("{mark} {rule}: {outcome}"));
        for fault in &outcome.faults {
            let function = program.function_name(fault.address);
            console::detail(format!(
                "   {:#x} in {function}: {}",
                fault.address, fault.message
            ));
        }
        tally.add(Tally::of(outcome.holds()));
    }
    Ok(tally)
}

/// Returns each rule in a few words, with its outcome.
fn outcomes(program: &Program) -> Vec<(&'static str, Outcome)> {
    let mut outcomes = neighbours::check(program);
    outcomes.push((
        "a status of the list registers is read after synchronisation",
        paths::check(program),
    ));
    outcomes
}
