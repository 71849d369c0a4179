//! A guest with a part of the machine: the hypervisor's options for its VM, and its lines among
//! those of the console.

use super::lines::Line;
use super::{BootOptions, machine};

/// The VM's name. Each of its lines begins with the name.
const NAME: &str = "guest";

/// The PCI functions of the board that the workload needs, as [`super::machine`] places them: a
/// disk, the network and the entropy device, each with MSI-X.
const FUNCTIONS: &str = "00:01.0,00:03.0,00:04.0";

/// The machine's RAM beyond the VM's, in MiB, for CPUs and vCPUs: the hypervisor's, and room for
/// the images that QEMU loads.
pub(super) const BESIDE: u32 = 320;

/// vCPUs whose timer interrupts an emulated machine has time for, beside all else, if it executes
/// an instruction a nanosecond. More of them have slower clocks, and Linux is told to keep their
/// ticks apart: each takes locks that all want.
const VCPUS_IN_TIME: u16 = 128;

/// Returns the words of the command line of a run that are options of its VM.
pub(super) fn of(options: &BootOptions) -> String {
    arguments(options, machine::memory(options))
}

/// Returns the words of the kernel's command line that are options of the VM with this RAM, in MiB.
fn arguments(options: &BootOptions, memory: u32) -> String {
    let vcpus = options.vcpus;
    let functions = match options.has_smmu() {
        true => format!(" hyp.pci={FUNCTIONS}"),
        false => String::new(),
    };
    let slowdown = match vcpus / VCPUS_IN_TIME {
        0 | 1 => String::new(),
        slowdown => format!(" hyp.slowdown={slowdown} skew_tick=1"),
    };
    format!("hyp.name={NAME} hyp.vcpus={vcpus} hyp.memory={memory}{functions}{slowdown}")
}

/// Takes the VM's name off its lines. Other lines are the hypervisor's.
pub(crate) fn named_lines(mut lines: Vec<Line>) -> Vec<Line> {
    for line in &mut lines {
        line.text = as_written(&line.text).to_owned();
    }
    lines
}

/// Returns a line of the console as the VM has written it, if it is the VM's.
pub(crate) fn as_written(line: &str) -> &str {
    let rest = line.strip_prefix(NAME);
    rest.and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::Options as _;

    #[test]
    fn a_vm_is_described_by_its_options() {
        let options = BootOptions::parsed(&["--vcpus", "8", "--cpus", "2"]).unwrap();
        assert_eq!(
            arguments(&options, 600),
            "hyp.name=guest hyp.vcpus=8 hyp.memory=600 hyp.pci=00:01.0,00:03.0,00:04.0"
        );
    }

    #[test]
    fn a_crowd_has_slower_clocks() {
        let options = BootOptions::parsed(&["--vcpus", "512", "--cpus", "4"]).unwrap();
        let arguments = arguments(&options, 2560);
        assert!(
            arguments.ends_with(" hyp.slowdown=4 skew_tick=1"),
            "{arguments}"
        );
    }

    #[test]
    fn lines_of_the_vm_are_as_it_wrote_them() {
        let texts = ["guest: @workload a: b", "@vgic {}", "guest", "guests: x"];
        let lines = texts.map(|text| Line {
            at: Duration::ZERO,
            text: text.to_owned(),
        });
        let texts: Vec<_> = named_lines(lines.into())
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert_eq!(texts, ["@workload a: b", "@vgic {}", "guest", "guests: x"]);
    }
}
