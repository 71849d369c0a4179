//! Options of `cargo xtask cloud`.

use anyhow::{Result, ensure};
use clap::{ArgMatches, Command, value_parser};

use crate::cli::{Options, defaulted, flag, option};

const AFTER_HELP: &str = "\
Every VM (a, b, c and so on, with 384 MiB of RAM each) is a stock Debian 6.12
with a disk, a network and an entropy device of its own, all by MSI-X and behind
the SMMU. The workload of `boot` runs in all of them at once, again and again
until they have been up for --seconds. A finished step is a line, such as
`a: net ok 4.5 s`. One more VM, attacker, is that of `isolation`. With --kill,
for which there are two VMs at least, the last VM is killed in the middle of a
step and started again, for as long as the others work; its last life is a whole
one. VMs that cannot be are asked for, too, and each must be refused by a line
that says why. Books must balance, guests must count what was delivered to them,
and a death must leave nothing. A run is given up after 5 minutes, one more for
each vCPU, and 10 times --seconds.

The outcome goes to target/reports/cloud.json, the console to cloud.log, and
each VM's own to cloud-NAME.log. The exit status is 0 only if every check holds.

Examples:
  cargo xtask cloud                          3 VMs with 4 vCPUs on 2 CPUs
  cargo xtask cloud --kill                   and one of them dies all the time
  cargo xtask cloud --gic 4 --kill           with MSIs that reach them directly
  cargo xtask cloud --vms 4 --vcpus 8        more of them
  cargo xtask cloud --vms 1 --seconds 0      one round of the workload, alone
                                             with the attacker";

/// Options of `cargo xtask cloud`.
#[derive(Clone, Debug)]
pub(crate) struct CloudOptions {
    /// VMs with Linux.
    pub(crate) vms: u16,
    /// vCPUs of each.
    pub(crate) vcpus: u16,
    /// The version of the machine's GIC: 3 or 4.
    pub(crate) gic: u8,
    /// Emulated CPUs, and vCPUs of the attacker.
    pub(crate) cpus: u16,
    /// Seconds that each VM is up at least.
    pub(crate) seconds: u32,
    /// True if the last VM is killed and started again.
    pub(crate) kill: bool,
    /// The seed of the attacks; without it, one by the clock.
    pub(crate) seed: Option<u32>,
    /// True if the console is shown.
    pub(crate) verbose: bool,
}

impl Options for CloudOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            // Each has three PCI functions, and the bus has room for 31.
            option("vms", "N", "VMs with Linux, 1 to 10")
                .default_value("3")
                .value_parser(value_parser!(u16).range(1..=10)),
            // A line of the console has room for the counts of so many.
            option("vcpus", "N", "vCPUs of each VM, 1 to 16")
                .default_value("4")
                .value_parser(value_parser!(u16).range(1..=16)),
            option("cpus", "N", "Emulated CPUs, which all VMs share, 1 to 8")
                .default_value("2")
                .value_parser(value_parser!(u16).range(1..=8)),
            option(
                "gic",
                "VERSION",
                "The GIC of the emulated machine: 3, or 4 for direct injection of MSIs",
            )
            .default_value("3")
            .value_parser(value_parser!(u8).range(3..=4)),
            option("seconds", "N", "Seconds for which each VM works at least")
                .default_value("60")
                .value_parser(value_parser!(u32).range(..=86_400)),
            flag(
                "kill",
                "Kill the last VM and start it again for as long as the others work",
            ),
            option(
                "seed",
                "S",
                "The seed of the attacks [default: by the clock]",
            )
            .value_parser(value_parser!(u32)),
            flag("verbose", "Show the console in place of the steps"),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            vms: defaulted(matches, "vms"),
            vcpus: defaulted(matches, "vcpus"),
            cpus: defaulted(matches, "cpus"),
            gic: defaulted(matches, "gic"),
            seconds: defaulted(matches, "seconds"),
            kill: matches.get_flag("kill"),
            seed: matches.remove_one("seed"),
            verbose: matches.get_flag("verbose"),
        }
    }
}

impl CloudOptions {
    /// Checks what the options are together.
    pub(super) fn validate(&self) -> Result<()> {
        ensure!(
            !self.kill || self.vms > 1,
            "--kill wants a VM that works meanwhile: --vms 2 or more"
        );
        Ok(())
    }

    /// Returns the VMs' names, in their order.
    pub(super) fn names(&self) -> Vec<String> {
        let letters = ('a'..='z').take(self.vms.into());
        letters.map(String::from).collect()
    }

    /// Returns the name of the VM that is killed, if one is.
    pub(super) fn victim(&self) -> Option<String> {
        self.names().pop().filter(|_| self.kill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(arguments: &[&str]) -> Result<CloudOptions, clap::Error> {
        CloudOptions::parsed(arguments)
    }

    #[test]
    fn the_defaults_are_the_promised_ones() {
        let options = cloud(&[]).unwrap();
        let numbers = [options.vms, options.vcpus, options.cpus];
        assert_eq!((numbers, options.seconds), ([3, 4, 2], 60));
        assert_eq!(options.gic, 3);
        assert!(!options.kill && !options.verbose && options.seed.is_none());
        assert_eq!(options.names(), ["a", "b", "c"]);
        assert_eq!(options.victim(), None);
    }

    #[test]
    fn every_option_is_read() {
        let options = cloud(&[
            "--vms",
            "4",
            "--vcpus",
            "8",
            "--cpus",
            "1",
            "--seconds",
            "0",
            "--gic",
            "4",
            "--kill",
            "--seed",
            "7",
            "--verbose",
        ]);
        let options = options.unwrap();
        let numbers = [options.vms, options.vcpus, options.cpus];
        assert_eq!((numbers, options.seconds), ([4, 8, 1], 0));
        assert_eq!((options.seed, options.verbose), (Some(7), true));
        assert_eq!(options.gic, 4);
        assert_eq!(options.victim().as_deref(), Some("d"));
    }

    #[test]
    fn a_vm_is_killed_only_beside_others() {
        assert!(cloud(&["--vms", "2", "--kill"]).unwrap().validate().is_ok());
        assert!(cloud(&["--vms", "1"]).unwrap().validate().is_ok());
        assert!(
            cloud(&["--vms", "1", "--kill"])
                .unwrap()
                .validate()
                .is_err()
        );
    }

    #[test]
    fn numbers_have_limits() {
        for arguments in [
            ["--vms", "0"],
            ["--vms", "11"],
            ["--vcpus", "17"],
            ["--cpus", "9"],
            ["--gic", "5"],
            ["--seconds", "86401"],
        ] {
            assert!(cloud(&arguments).is_err(), "{arguments:?}");
        }
    }
}
