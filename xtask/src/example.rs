//! The hypervisor of `examples/el2`, as a stranger would have it: it is built, booted on an
//! emulated machine, and held to the counts that it prints.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::boot::checks::Check;
use crate::boot::hypervisor::built;
use crate::boot::report;
use crate::boot::run::{self, Ended};
use crate::provision::qemu::{self, Board};
use crate::provision::toolchain;
use crate::{console, project};

/// The time that the boot may take on a slow host. It takes a second or two.
const LIMIT: Duration = Duration::from_secs(30);

/// The VMs.
const VMS: usize = 2;

/// More than any count.
const MANY: u64 = 1_000_000;

/// The counts of a VM, and the least and the most that each may be.
const COUNTS: [(&str, u64, u64); 7] = [
    // Exact: the guest sends an interrupt only after the one before has arrived.
    ("sgi", 200, 200),
    ("timer", 100, 100),
    ("spi", 100, 100),
    ("lpi", 100, 100),
    // Every second round sleeps, and vCPU 1 in each.
    ("idle", 50, MANY),
    ("moves", 5, MANY),
    ("refs", 0, 0),
];

/// Returns a cargo command on the example's workspace, for the bare-metal target.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    Ok(on_the_example(toolchain::bare_metal()?.cargo(subcommand)))
}

/// Turns a cargo command into one on the example's workspace.
pub(crate) fn on_the_example(mut cargo: Command) -> Command {
    let place = project::root().join("target/example");
    cargo
        .arg("--manifest-path")
        .arg(project::root().join("examples/el2/Cargo.toml"))
        .env("CARGO_TARGET_DIR", place);
    cargo
}

/// Builds and boots the example, and tells whether its counts are right.
pub(crate) fn boot(reports: &Path) -> Result<bool> {
    let qemu = qemu::provide()?;
    console::step("Building the example");
    let mut build = cargo("build")?;
    let program = built(build.arg("--release"), "the example")?;

    std::fs::create_dir_all(reports)?;
    let mut command = qemu.board(&Board {
        gic: 3,
        options: "virtualization=on",
        cpu: "neoverse-n1",
        cpus: 2,
    })?;
    command
        .args(["-m", "256M"])
        .args(["-accel", "tcg,thread=multi"])
        .args(["-serial", "stdio", "-monitor", "none"])
        .arg("-kernel")
        .arg(program);
    let run = run::watched(&mut command, &reports.join("example.log"), LIMIT)?;

    let texts: Vec<&str> = run.lines.iter().map(|line| line.text.as_str()).collect();
    let checks = checks(&run.ended, &texts);
    report::print_checks(&checks);
    Ok(checks.iter().all(|check| check.passed))
}

/// Checks the end of the machine, and the lines of its console.
fn checks(ended: &Ended, lines: &[&str]) -> Vec<Check> {
    let mut checks = vec![Check::equal(
        "the machine powered itself off",
        u64::from(*ended == Ended::PoweredOff),
        1,
        &format!("{ended}"),
    )];
    for vm in 0..VMS {
        let prefix = format!("@el2 vm{vm} ");
        let line = lines.iter().find_map(|line| line.strip_prefix(&prefix));
        for (name, least, most) in COUNTS {
            let found = line.and_then(|line| count(line, name));
            checks.push(Check::within(
                format!("vm{vm} {name}"),
                found.unwrap_or(u64::MAX),
                least,
                most,
                "an interrupt was lost, or came twice; or the line is missing",
            ));
        }
    }
    checks.push(Check::equal(
        "lines of the console",
        lines.iter().filter(|line| !line.is_empty()).count() as u64,
        VMS as u64,
        "one for each VM, and no warning",
    ));
    checks
}

/// Finds a count in a line of words like `name=1`.
fn count(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split(' ');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 2] = [
        "@el2 vm0 sgi=200 timer=100 spi=100 lpi=100 idle=281 moves=67 refs=0",
        "@el2 vm1 sgi=200 timer=100 spi=100 lpi=100 idle=269 moves=57 refs=0",
    ];

    fn failures(ended: &Ended, lines: &[&str]) -> usize {
        let checks = checks(ended, lines);
        checks.iter().filter(|check| !check.passed).count()
    }

    #[test]
    fn a_run_without_a_fault_passes_in_any_order() {
        assert_eq!(failures(&Ended::PoweredOff, &GOOD), 0);
        assert_eq!(failures(&Ended::PoweredOff, &[GOOD[1], "", GOOD[0]]), 0);
    }

    /// Counts comments too. The program of the guests is apart.
    #[test]
    fn the_hypervisor_can_be_read_in_one_sitting() {
        let source = project::root().join("examples/el2/src");
        let lines = ["main.rs", "machine.rs", "vm.rs"].map(|file| {
            let text = std::fs::read_to_string(source.join(file)).unwrap();
            text.lines().count()
        });
        assert!(lines.iter().sum::<usize>() < 600, "{lines:?}");
    }

    #[test]
    fn each_fault_fails() {
        assert_eq!(failures(&Ended::TimedOut, &GOOD), 1);
        for (right, wrong) in [
            ("sgi=200", "sgi=199"),
            ("timer=100", "timer=101"),
            ("moves=67", "moves=0"),
            ("refs=0", "refs=1"),
        ] {
            let line = GOOD[0].replace(right, wrong);
            assert_eq!(
                failures(&Ended::PoweredOff, &[&line, GOOD[1]]),
                1,
                "{wrong}"
            );
        }
        let panic = ["@el2 panicked", GOOD[0], GOOD[1]];
        assert_eq!(failures(&Ended::PoweredOff, &panic), 1);
        assert!(failures(&Ended::PoweredOff, &GOOD[..1]) > 1);
    }
}
