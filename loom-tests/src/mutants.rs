//! Selection of a deliberate fault of the code under test, and the list of all faults.

use vgic::internals::{self, MUTANTS};

/// The variable naming the fault.
const VARIABLE: &str = "VGIC_MUTANT";

/// Selects the fault named by the environment, if any.
pub(crate) fn select() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    if let Some(fault) = MUTANTS.iter().find(|fault| fault.name == name) {
        internals::select(fault.mutant);
    } else if let Some(fault) = scheduler::MUTANTS.iter().find(|fault| fault.name == name) {
        scheduler::select(fault.mutant);
    } else {
        eprintln!("{VARIABLE}: there is no {name}");
        std::process::exit(2);
    }
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
    for fault in scheduler::MUTANTS {
        let (name, test, what) = (fault.name, fault.test, fault.what.trim());
        println!("mutant: {name}|scheduler|{test}||{what}");
    }
}
