//! Selection of a deliberate fault of the library, and the list of all faults.

use vgic::internals::{self, MUTANTS};

/// The variable naming the fault.
const VARIABLE: &str = "VGIC_MUTANT";

/// Selects the fault named by the environment, if any.
pub(crate) fn select() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    let Some(fault) = MUTANTS.iter().find(|fault| fault.name == name) else {
        eprintln!("{VARIABLE}: there is no {name}");
        std::process::exit(2);
    };
    internals::select(fault.mutant);
}

/// Prints all faults, a line each, for the runner.
pub fn list() {
    for fault in MUTANTS {
        println!(
            "mutant: {}|{}|{}|{}|{}",
            fault.name,
            fault.protocol,
            fault.test,
            fault.record,
            fault.what.trim()
        );
    }
}
