//! A trial of the directory that was written: an emulated machine boots it as it is.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{GuestKind, ImageOptions};
use crate::boot::guest::BootDisk;
use crate::boot::run::{self, Ended, Run};
use crate::boot::{machine, part};
use crate::provision::apt::{self, For};
use crate::provision::firmware;
use crate::provision::qemu::{self, Board};
use crate::{console, project};

/// The machine's CPUs.
const CPUS: u16 = 4;

/// The machine's RAM beyond the VM's, in MiB: the firmware's and the hypervisor's.
const BESIDE: u32 = 512;

/// The longest run.
const LIMIT: Duration = Duration::from_secs(600);

/// QEMU's arguments by which its CPUs count instructions, one a nanosecond.
const COUNTED: [&str; 4] = [
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
];

/// The beginnings of the lines that a run must have: the hypervisor's report, and besides it the
/// line of a guest that has come to its end.
const REPORT: &str = "@vgic {";
const END_OF_CASES: &str = "# passed ";
const END_OF_WORKLOAD: &str = "@workload final ";
const MEASUREMENT: &str = "@pmu {";

/// The beginning of a line that no run may have: a case that fails.
const FAILED: &str = "not ok ";

/// Boots the directory, and tells whether the guest comes to its end. The console goes to
/// `reports`.
pub(super) fn boot(options: &ImageOptions, directory: &Path, reports: &Path) -> Result<bool> {
    let qemu = qemu::provide()?;
    let firmware = firmware::provide(&apt::Lazy::new(For::Guest))?;
    let mut command = qemu.board(&Board {
        gic: 3,
        options: "virtualization=on,iommu=smmuv3,acpi=on",
        cpu: "neoverse-n1",
        cpus: CPUS,
    })?;
    command
        .args(["-m", &format!("{}M", options.memory + BESIDE)])
        .args(["-serial", "stdio", "-monitor", "none"]);
    if options.guest == GuestKind::Events {
        command.args(COUNTED);
    }
    let boot_disk = BootDisk {
        flash: firmware.flash,
        directory: directory.to_owned(),
    };
    machine::firmware(&mut command, &boot_disk, None);

    console::step("Booting it on an emulated machine");
    project::begin_report(reports, "image.log")?;
    let log = reports.join("image.log");
    let Run { ended, lines, .. } = run::watched(&mut command, &log, LIMIT)?;
    let lines = part::named_lines(lines);
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    let missing = missing(options.guest, &texts);

    console::step(format!("{ended}, console {}", log.display()));
    for fault in &missing {
        console::detail(console::bad(fault));
    }
    Ok(ended == Ended::PoweredOff && missing.is_empty())
}

/// Returns the faults that the lines of a run show.
fn missing(guest: GuestKind, lines: &[&str]) -> Vec<String> {
    let end = match guest {
        GuestKind::Conformance => END_OF_CASES,
        GuestKind::Linux => END_OF_WORKLOAD,
        GuestKind::Events => MEASUREMENT,
    };
    let has = |beginning: &&str| lines.iter().any(|line| line.starts_with(beginning));
    let absent = [end, REPORT]
        .into_iter()
        .filter(|beginning| !has(beginning));
    let failed = lines.iter().filter(|line| line.starts_with(FAILED));
    absent
        .map(|beginning| format!("no line begins with `{beginning}`"))
        .chain(failed.map(|line| (*line).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_the_lines_of_its_guest_and_the_hypervisors() {
        let lines = ["ok 1 - a [b]", "# passed 1", "@vgic {}"];
        assert!(missing(GuestKind::Conformance, &lines).is_empty());
        assert_eq!(missing(GuestKind::Conformance, &lines[..2]).len(), 1);
        assert_eq!(missing(GuestKind::Events, &lines).len(), 1);
        let measured = ["@pmu {} @end", "@vgic {}"];
        assert!(missing(GuestKind::Events, &measured).is_empty());
    }

    #[test]
    fn a_case_that_fails_is_named() {
        let lines = ["not ok 1 - a [b]", "# passed 0", "@vgic {}"];
        assert_eq!(missing(GuestKind::Conformance, &lines), [lines[0]]);
    }
}
