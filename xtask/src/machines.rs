//! `cargo xtask machines`: `hyp.efi` on many emulated machines, one after another.

use anyhow::Result;
use clap::{ArgMatches, Command};

use crate::boot::{self, BootOptions, Efi};
use crate::cli::{Options, option};
use crate::{console, project};

const AFTER_HELP: &str = "\
EDK2 starts hyp.efi, which starts Debian with the brief workload: on CPU models,
numbers of CPUs, topologies, and descriptions of the machine that differ. Each
run's report and console are in target/reports/machines. It takes half an hour.";

/// Options of `cargo xtask machines`.
#[derive(Clone, Debug)]
pub(crate) struct MachinesOptions {
    only: Option<String>,
}

impl Options for MachinesOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).arg(
            option(
                "only",
                "TEXT",
                "The machines with this in their names, which the runs print",
            )
            .value_parser(name),
        )
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            only: matches.remove_one("only"),
        }
    }
}

/// A machine.
struct Machine {
    cpu: &'static str,
    /// Number of CPUs, and how the machine says that they are connected.
    cpus: u16,
    topology: &'static str,
    efi: Efi,
    has_smmu: bool,
}

/// Declares a machine with an SMMU.
const fn machine(cpu: &'static str, cpus: u16, topology: &'static str, efi: Efi) -> Machine {
    Machine {
        cpu,
        cpus,
        topology,
        efi,
        has_smmu: true,
    }
}

/// Returns this machine without its SMMU.
const fn open(machine: Machine) -> Machine {
    Machine {
        has_smmu: false,
        ..machine
    }
}

/// The machines. Each differs from the others in more than one way: a fault is told from others by
/// the neighbours that do not have it.
const MACHINES: [Machine; 12] = [
    machine("neoverse-n1", 1, "", Efi::Acpi),
    machine("neoverse-n1", 2, "sockets=2", Efi::Tree),
    machine("neoverse-v1", 4, "sockets=2,clusters=2", Efi::Acpi),
    open(machine("neoverse-v1", 6, "clusters=3,cores=2", Efi::Tree)),
    machine("neoverse-n2", 3, "sockets=3", Efi::Acpi),
    open(machine("neoverse-n2", 8, "clusters=2,threads=2", Efi::Acpi)),
    machine("max", 5, "cores=5", Efi::Acpi),
    machine("max", 1, "", Efi::Tree),
    machine("cortex-a76", 7, "sockets=7", Efi::Acpi),
    open(machine("a64fx", 4, "clusters=4", Efi::Acpi)),
    machine("neoverse-n1", 12, "sockets=2,clusters=3,cores=2", Efi::Acpi),
    machine(
        "neoverse-n2",
        16,
        "sockets=2,clusters=2,threads=2",
        Efi::Tree,
    ),
];

impl Machine {
    /// Returns the machine in words, which are a file's name too.
    fn name(&self) -> String {
        let efi = match self.efi {
            Efi::Acpi => "acpi",
            Efi::Tree => "tree",
        };
        let smmu = if self.has_smmu { "smmu" } else { "open" };
        let parts = [self.cpu, &self.cpus.to_string(), self.topology, efi, smmu];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("-").replace(['=', ','], "")
    }

    /// Returns the options of a boot.
    fn options(&self) -> BootOptions {
        let qemu = match self.topology {
            "" => Vec::new(),
            topology => vec!["-smp".to_owned(), format!("{},{topology}", self.cpus)],
        };
        BootOptions {
            vcpus: self.cpus,
            cpu: self.cpu.to_owned(),
            efi: Some(self.efi),
            no_iommu: !self.has_smmu,
            brief: true,
            qemu,
            ..BootOptions::default()
        }
    }
}

/// Reads a part of a machine's name.
fn name(text: &str) -> Result<String, String> {
    let names = MACHINES.iter().map(Machine::name);
    let names: Vec<_> = names.collect();
    match names.iter().any(|name| name.contains(text)) {
        true => Ok(text.to_owned()),
        false => Err(format!("the machines are {}", names.join(", "))),
    }
}

/// Boots the machines, and tells whether all checks of all of them hold.
pub(crate) fn machines(options: &MachinesOptions) -> Result<bool> {
    let is_wanted = |machine: &&Machine| {
        let only = options.only.as_deref();
        only.is_none_or(|only| machine.name().contains(only))
    };
    let mut outcomes = Vec::new();
    for machine in MACHINES.iter().filter(is_wanted) {
        let name = machine.name();
        console::step(&name);
        let reports = project::reports().join("machines").join(&name);
        outcomes.push((name, boot::boot(&machine.options(), &reports)?));
    }

    console::step("All machines");
    for (name, holds) in &outcomes {
        let word = if *holds { "ok  " } else { "FAIL" };
        console::detail(format!("{word} {name}"));
    }
    Ok(outcomes.iter().all(|(_, holds)| *holds))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn machines_differ_and_cover_what_they_promise() {
        let names: BTreeSet<_> = MACHINES.iter().map(Machine::name).collect();
        assert_eq!(names.len(), MACHINES.len());
        for model in ["neoverse-n1", "neoverse-v1", "neoverse-n2", "max"] {
            let of_model = MACHINES.iter().filter(|machine| machine.cpu == model);
            let kinds: BTreeSet<_> = of_model.map(|it| it.efi == Efi::Acpi).collect();
            assert_eq!(kinds.len(), 2, "{model} by ACPI and by a tree");
        }
        let cpus = || MACHINES.iter().map(|machine| machine.cpus);
        assert_eq!((cpus().min(), cpus().max()), (Some(1), Some(16)));
    }

    #[test]
    fn a_machine_that_there_is_not_is_refused_by_the_names() {
        assert!(MachinesOptions::parsed(&["--only", "v1-4"]).is_ok());
        let error = MachinesOptions::parsed(&["--only", "cray"]).unwrap_err();
        assert!(error.to_string().contains("a64fx-4"), "{error}");
    }
}
