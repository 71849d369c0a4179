//! Which deliberate fault of the library is made, and the list of all.

use vgic::sync::MUTANTS;

/// The variable that names the fault.
const VARIABLE: &str = "VGIC_MUTANT";

/// Selects the fault that the environment names, if it names one.
pub(crate) fn select() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    let Some(fault) = MUTANTS.iter().find(|fault| fault.name == name) else {
        eprintln!("{VARIABLE}: there is no {name}");
        std::process::exit(2);
    };
    vgic::sync::select(fault.mutant);
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
