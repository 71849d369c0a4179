//! The plugin's counts of a program whose calls are known (`perf/el2/known`), held against the
//! numbers of instructions in the program's source.

use std::fs;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};

use super::counts::Counts;
use super::event::Event;
use super::names;
use super::symbols::Kernel;
use super::{build, machine};
use xtask::console::{self, bad, good};
use xtask::project;
use xtask::provision::qemu;

/// A case of the program.
struct Case {
    name: &'static str,
    /// The number of the case's markers.
    event: Event,
    /// Instructions at EL2, without the way from EL1 and back.
    all: u64,
    /// Those below the functions that stand for the virtual interrupt controller.
    inclusive: u64,
}

/// Instructions of the way from EL1 to a case and back.
const WAY: u64 = 5;

/// Returns the case of an event: its instructions by function, as in the program's source.
const fn case(name: &'static str, event: Event, outside: u64, inclusive: u64) -> Case {
    Case {
        name,
        event,
        all: outside + inclusive,
        inclusive,
    }
}

/// Instructions of the program's functions `helper` and `vgic_alone`.
const HELPER: u64 = 5;
const ALONE: u64 = 7;

/// Instructions of an exception that is taken at EL2, without the controller's part.
const EXCEPTION: u64 = 1 + 9 + HELPER;

/// The cases.
const CASES: [Case; 9] = [
    case("nothing of the controller's", Event::Hypercall, 4, 0),
    case("the controller alone", Event::Read, 0, ALONE),
    case("a call", Event::Enable, 6 + 2 * HELPER, 5 + HELPER),
    case("a recursion", Event::SgiSelf, 2, 4 * 4 + 3 * 6 + 2),
    case("jumps", Event::SgiRunning, 5 + 2 + HELPER, 3 + 11 + HELPER),
    case("branches by register", Event::Spi, 4, 6 + HELPER + 5),
    case(
        "exceptions",
        Event::Lpi,
        4 + 2 * EXCEPTION,
        9 + 4 + 2 * ALONE,
    ),
    case(
        "another stack",
        Event::SgiWaiting,
        4 + 13 + HELPER,
        5 + 7 + HELPER + 4,
    ),
    case(
        "functions given up",
        Event::SgiAsleep,
        3 + 3 + HELPER,
        2 + 2,
    ),
];

/// Counts the program, and tells whether every case has its numbers.
pub(crate) fn check() -> Result<bool> {
    let scratch = project::scratch()?;
    let scratch = scratch.path();
    let qemu = qemu::provide()?;
    let plugin = build::plugin()?;
    let elf = build::known()?;

    console::step("Counting instructions of known calls");
    let run = machine::Run::new(&qemu, &plugin, scratch);
    let map = code_map(&fs::read(&elf)?)?;
    fs::write(run.map(), &map).context("cannot write the map of the code")?;
    let counts = Counts::read_some(&run.alone(&elf)?, &Kernel::read(&map))?;

    let mut met = true;
    for case in CASES {
        let sums = counts.of(case.event);
        let all = sums.vgic.instructions + sums.rest.instructions;
        let counted = (sums.rounds, all, sums.inclusive.instructions);
        let right = counted == (1, WAY + case.all, case.inclusive);
        met &= right;
        console::detail(format!(
            "{:<28} {all:>3} {:>3}  {}",
            case.name,
            sums.inclusive.instructions,
            if right {
                good("right")
            } else {
                bad(&format!("not {} {}", WAY + case.all, case.inclusive))
            }
        ));
    }
    Ok(met)
}

/// Formats the plugin's map of the program's code.
fn code_map(elf: &[u8]) -> Result<String> {
    let object = object::File::parse(elf)?;
    let text = object.section_by_name(".text").context("no code")?.index();
    let mut functions: Vec<(u64, &str)> = object
        .symbols()
        .filter(|symbol| symbol.section_index() == Some(text))
        .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?)))
        // Not the marks of code and data (`$x`, `$d`).
        .filter(|(_, name)| !name.starts_with('$'))
        .collect();
    functions.sort_unstable();
    Ok(names::code_map(&functions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_markers_of_its_own() {
        let numbers = CASES.map(|case| case.event as usize);
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }
}
