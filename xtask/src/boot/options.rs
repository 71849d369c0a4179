//! Options of `cargo xtask boot`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::cli::{Options, defaulted, flag, option};

const AFTER_HELP: &str = "\
The guest's console goes to the terminal and to target/reports/console.log, the
outcome to target/reports/boot.json. The exit status is 0 only if every check
holds. With --interactive, Ctrl-A x ends the machine at any time.

QEMU 9.2 or newer is used if it is installed. Otherwise QEMU, and always
Debian's kernel and busybox, come by apt from this machine's Debian mirror.
Without apt, install qemu-system-aarch64 and supply the guest: --kernel PATH,
with --initrd PATH if it wants one.

Examples:
  cargo xtask boot                         Debian's 6.12 kernel on 4 vCPUs
  cargo xtask boot --vcpus 64 --kernel 6.1 an older kernel on many
  cargo xtask boot --vcpus 64 --cpus 2     vCPUs that share two CPUs
  cargo xtask boot --gic 4                 MSIs that reach the guest directly
  cargo xtask boot --gic 2 --vcpus 8       a guest with a GICv2
  cargo xtask boot --interactive           a shell in the guest; type once its
                                           prompt is there; `poweroff -f` ends
                                           it
  cargo xtask boot --firmware              EDK2, GRUB, and Linux with ACPI
  cargo xtask boot --efi acpi              EDK2 starts the hypervisor, hyp.efi
  cargo xtask boot --bare                  the same without the hypervisor
  cargo xtask boot --kernel ./test.flat    your own image, without the workload
  cargo xtask boot -- -device edu          one more device for the guest";

/// The largest number of emulated CPUs.
pub(super) const MOST_CPUS: i64 = 64;

/// The largest number of vCPUs with a GICv2.
const MOST_GICV2_VCPUS: u16 = 8;

/// Options of `cargo xtask boot`.
#[derive(Clone, Debug)]
pub(crate) struct BootOptions {
    /// vCPUs.
    pub(crate) vcpus: u16,
    /// Emulated CPUs that the vCPUs share, in a VM with a part of the machine. Without the number,
    /// each vCPU has a CPU for itself, and the VM has the whole machine.
    pub(crate) cpus: Option<u16>,
    /// The guest's kernel.
    pub(crate) kernel: Kernel,
    /// An initial RAM disk in place of the built-in workload.
    pub(crate) initrd: Option<PathBuf>,
    /// An addition to the guest kernel's command line.
    pub(crate) append: Option<String>,
    /// The CPU model that QEMU emulates.
    pub(crate) cpu: String,
    /// The version of the machine's GIC: 3 or 4. With 2, the guest has a GICv2, and the machine a
    /// GICv3 if the hypervisor runs.
    pub(crate) gic: u8,
    /// Direct injection of MSIs. Without it, the hypervisor's choice.
    pub(crate) direct: Option<Direct>,
    /// The guest's RAM in MiB. A guest with the whole machine shares it with the hypervisor.
    pub(crate) memory: Option<u32>,
    /// True if the terminal is the guest's, with a shell in place of the workload.
    pub(crate) interactive: bool,
    /// Seconds after which the run is given up.
    pub(crate) timeout: Option<u64>,
    /// True if the guest runs on the emulated machine's own GIC, without the hypervisor.
    pub(crate) bare: bool,
    /// True if UEFI firmware and a boot loader start the guest's kernel.
    pub(crate) firmware: bool,
    /// A directory that the firmware boots from, in place of the boot loader and the kernel.
    pub(crate) boot_disk: Option<PathBuf>,
    /// True if the workload's long steps are left out.
    pub(crate) brief: bool,
    /// How the machine describes itself, if UEFI firmware starts the hypervisor.
    pub(crate) efi: Option<Efi>,
    /// True if the guest is in the hypervisor's UEFI application, and not in files beside it.
    pub(crate) one_file: bool,
    /// True if LPIs are enabled before the firmware starts.
    pub(crate) lpis_on: bool,
    /// True if the machine has no SMMU, though the hypervisor would use it.
    pub(crate) no_iommu: bool,
    /// True if one thread runs all emulated CPUs: faster where they mostly wait for each other.
    /// Not an option of the command line.
    pub(crate) one_thread: bool,
    /// Further arguments for QEMU.
    pub(crate) qemu: Vec<String>,
}

impl Options for BootOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            option("vcpus", "N", "vCPUs: up to 64, or 512 if they share CPUs")
                .default_value("4")
                .value_parser(value_parser!(u16).range(1..=512)),
            option(
                "cpus",
                "N",
                "Emulated CPUs that the vCPUs share, in a VM with a part of the machine, without \
                 the devices that no SMMU confines [default: a CPU for each vCPU, and the whole \
                 machine]",
            )
            .conflicts_with_all(["bare", "firmware", "interactive", "no-iommu"])
            .value_parser(value_parser!(u16).range(1..=MOST_CPUS)),
            option(
                "kernel",
                "6.1|6.12|PATH",
                "Debian's kernel 6.1 or 6.12, or the path of an arm64 Image or raw flat binary, \
                 which then runs without the built-in workload and its checks",
            )
            .default_value("6.12")
            .value_parser(Kernel::from_str),
            option(
                "initrd",
                "PATH",
                "An initial RAM disk of your own, in place of the built-in workload",
            )
            .value_parser(file),
            option(
                "append",
                "STRING",
                "More of the guest kernel's command line",
            )
            .allow_hyphen_values(true),
            option(
                "cpu",
                "MODEL",
                "The CPU that QEMU emulates; docs/hyp.md lists what each can do",
            )
            .default_value("neoverse-n1"),
            option(
                "gic",
                "VERSION",
                "The GIC of the emulated machine: 3, or 4 for direct injection of MSIs. With 2, \
                 the guest has a GICv2, on a machine with a GICv3 that has no hardware for it, or \
                 with --bare the machine; for up to 8 vCPUs, without --cpus and --firmware",
            )
            .default_value("3")
            .value_parser(value_parser!(u8).range(2..=4)),
            option(
                "direct",
                "on|off|auto|switch",
                "With --gic 4: whether MSIs reach the guest without an exit, reach so the vCPUs \
                 that earn it, or, with --cpus, change between that and list registers all the \
                 time [default: auto]",
            )
            .requires("gic")
            .requires_if("switch", "cpus")
            .conflicts_with_all(["bare", "firmware"])
            .value_parser(Direct::from_str),
            option(
                "memory",
                "MIB",
                "The guest's RAM in MiB; without --cpus, the hypervisor's part is included \
                 [default: by vCPUs]",
            )
            .value_parser(value_parser!(u32).range(256..=65536)),
            flag(
                "interactive",
                "Give the terminal to the guest, with a shell in place of the workload; Ctrl-A x \
                 ends the machine",
            ),
            option(
                "timeout",
                "SECONDS",
                "Give up after so many seconds [default: by vCPUs; never when interactive]",
            )
            .value_parser(value_parser!(u64)),
            flag(
                "bare",
                "Boot straight on the emulated machine's own GIC, without the hypervisor: the \
                 workload has to see the same under the hypervisor",
            ),
            flag(
                "firmware",
                "Start with UEFI firmware in flash memory, EDK2, which boots GRUB, which boots the \
                 kernel: the guest finds its devices by ACPI",
            ),
            option(
                "boot-disk",
                "DIR",
                "A directory that the firmware sees as the disk to boot from, in place of GRUB and \
                 the kernel: for UEFI applications",
            )
            .requires("firmware")
            .value_parser(directory),
            flag(
                "brief",
                "Leave the workload's long steps out: the disks, the network, MSIs that move",
            ),
            option(
                "efi",
                "acpi|tree",
                "Start with UEFI firmware in flash memory, EDK2, which starts the hypervisor, \
                 hyp.efi, on a machine that describes itself by ACPI or by a device tree",
            )
            .conflicts_with_all(["bare", "firmware", "boot-disk"])
            .value_parser(Efi::from_str),
            flag(
                "one-file",
                "Put the guest into hyp.efi, as sections of a unified kernel image, in place of \
                 files beside it",
            )
            .requires("efi"),
            flag(
                "lpis-on",
                "Enable the LPIs before the firmware starts, as a kernel that ran before may have \
                 left them: the hypervisor has to disable them",
            )
            .requires("efi"),
            flag(
                "no-iommu",
                "Leave out the SMMU, by which the hypervisor confines the devices' DMA",
            ),
            Arg::new("qemu")
                .value_name("ARGS")
                .help("Further arguments for QEMU")
                .num_args(0..)
                .last(true),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        let qemu = matches.remove_many("qemu");
        Self {
            vcpus: defaulted(matches, "vcpus"),
            cpus: matches.remove_one("cpus"),
            kernel: defaulted(matches, "kernel"),
            initrd: matches.remove_one("initrd"),
            append: matches.remove_one("append"),
            cpu: defaulted(matches, "cpu"),
            gic: defaulted(matches, "gic"),
            direct: matches.remove_one("direct"),
            memory: matches.remove_one("memory"),
            interactive: matches.get_flag("interactive"),
            timeout: matches.remove_one("timeout"),
            bare: matches.get_flag("bare"),
            firmware: matches.get_flag("firmware"),
            boot_disk: matches.remove_one("boot-disk"),
            brief: matches.get_flag("brief"),
            efi: matches.remove_one("efi"),
            one_file: matches.get_flag("one-file"),
            lpis_on: matches.get_flag("lpis-on"),
            no_iommu: matches.get_flag("no-iommu"),
            one_thread: false,
            qemu: qemu.into_iter().flatten().collect(),
        }
    }
}

impl Default for BootOptions {
    /// Returns the options of a command line without any.
    fn default() -> Self {
        Self::parsed(&[]).expect("every option has a default")
    }
}

impl BootOptions {
    /// Tells whether the guest runs the built-in workload, or at least its set-up.
    pub(crate) fn built_in_guest(&self) -> bool {
        matches!(self.kernel, Kernel::Debian(_))
            && self.initrd.is_none()
            && self.boot_disk.is_none()
    }

    /// Returns the number of emulated CPUs.
    pub(crate) fn cpus(&self) -> u16 {
        self.cpus.unwrap_or(self.vcpus)
    }

    /// Returns the way of direct injection that the guest has, under the hypervisor on a GICv4.
    pub(crate) fn direct(&self) -> Option<Direct> {
        let is_there = self.gic == 4 && !self.bare;
        is_there.then(|| self.direct.unwrap_or(Direct::Auto))
    }

    /// Checks what the options are together.
    pub(super) fn validate(&self) -> Result<()> {
        ensure!(
            self.direct.is_none() || self.gic == 4,
            "--direct wants a GICv4: --gic 4"
        );
        if self.gic == 2 {
            ensure!(
                self.vcpus <= MOST_GICV2_VCPUS,
                "--gic 2: a GICv2 has {MOST_GICV2_VCPUS} vCPUs at most"
            );
            ensure!(
                !self.has_part() && !self.firmware,
                "--gic 2 is for a guest with the whole machine, which finds its devices by the \
                 device tree: not with --cpus and --firmware"
            );
        }
        Ok(())
    }

    /// Tells whether the hypervisor gives the guest a GICv2.
    pub(crate) fn has_virtual_gicv2(&self) -> bool {
        self.gic == 2 && !self.bare
    }

    /// Returns the version of the machine's GIC.
    pub(super) fn machine_gic(&self) -> u8 {
        match self.has_virtual_gicv2() {
            true => 3,
            false => self.gic,
        }
    }

    /// Tells whether the VM has a part of the machine only.
    pub(crate) fn has_part(&self) -> bool {
        self.cpus.is_some()
    }

    /// Tells whether the machine has an SMMU. It is the hypervisor's. ACPI tables, which the
    /// hypervisor does not edit, would offer it to the guest.
    pub(crate) fn has_smmu(&self) -> bool {
        !self.bare && !self.firmware && !self.no_iommu
    }
}

/// The direct injection of MSIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direct {
    /// None: every MSI goes through list registers.
    Off,
    /// All the time.
    On,
    /// For vCPUs that earn it; with the whole machine, for all.
    Auto,
    /// On and off, at random.
    Switch,
}

impl Direct {
    /// Returns the word in options.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Auto => "auto",
            Self::Switch => "switch",
        }
    }
}

impl FromStr for Direct {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Off, Self::On, Self::Auto, Self::Switch];
        let found = all.into_iter().find(|direct| direct.word() == text);
        found.ok_or_else(|| "direct injection is on, off, auto or switch".to_owned())
    }
}

/// The description of a machine with UEFI firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Efi {
    /// ACPI tables.
    Acpi,
    /// A device tree.
    Tree,
}

impl FromStr for Efi {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "acpi" => Ok(Self::Acpi),
            "tree" => Ok(Self::Tree),
            _ => Err("a machine describes itself by acpi or by tree".to_owned()),
        }
    }
}

/// The guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// A release that Debian ships, such as `6.12`.
    Debian(&'static str),
    /// An image of the user's own.
    Image(PathBuf),
}

/// The releases of Debian's cloud-arm64 kernel that [`crate::provision`] knows where to get.
pub(crate) const DEBIAN_KERNELS: [&str; 2] = ["6.1", "6.12"];

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let debian = DEBIAN_KERNELS.into_iter().find(|release| *release == text);
        match debian {
            Some(release) => Ok(Self::Debian(release)),
            None => match file(text) {
                Ok(path) => Ok(Self::Image(path)),
                Err(error) => Err(format!(
                    "{error}; Debian's kernels to choose from are {}",
                    DEBIAN_KERNELS.join(" and ")
                )),
            },
        }
    }
}

/// Reads the path of a file that exists.
fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_file() {
        Ok(path)
    } else {
        Err("there is no such file".to_owned())
    }
}

/// Reads the path of a directory that exists.
fn directory(text: &str) -> Result<PathBuf, String> {
    match std::fs::canonicalize(text) {
        Ok(path) if path.is_dir() => Ok(path),
        _ => Err("there is no such directory".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that exists.
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

    fn boot(arguments: &[&str]) -> Result<BootOptions, clap::Error> {
        BootOptions::parsed(arguments)
    }

    #[test]
    fn boot_has_the_promised_defaults() {
        let options = boot(&[]).unwrap();
        assert_eq!(options.vcpus, 4);
        assert_eq!(options.kernel, Kernel::Debian("6.12"));
        assert!(options.built_in_guest());
    }

    #[test]
    fn only_the_hypervisor_has_an_smmu() {
        assert!(boot(&[]).unwrap().has_smmu());
        for without in ["--bare", "--firmware", "--no-iommu"] {
            assert!(!boot(&[without]).unwrap().has_smmu(), "{without}");
        }
    }

    #[test]
    fn firmware_starts_the_hypervisor_or_the_guest() {
        assert_eq!(boot(&[]).unwrap().efi, None);
        for (word, efi) in [("acpi", Efi::Acpi), ("tree", Efi::Tree)] {
            let options = boot(&["--efi", word, "--brief"]).unwrap();
            assert_eq!(options.efi, Some(efi));
            assert!(options.brief && options.has_smmu() && options.built_in_guest());
        }
        for other in ["--bare", "--firmware"] {
            assert!(boot(&["--efi", "acpi", other]).is_err(), "{other}");
        }
        assert!(boot(&["--lpis-on"]).is_err() && boot(&["--one-file"]).is_err());
        assert!(boot(&["--efi", "tree", "--lpis-on"]).unwrap().lpis_on);
    }

    #[test]
    fn vcpus_are_limited_to_512() {
        assert_eq!(boot(&["--vcpus", "512"]).unwrap().vcpus, 512);
        assert!(boot(&["--vcpus", "513"]).is_err());
        assert!(boot(&["--vcpus", "0"]).is_err());
    }

    #[test]
    fn vcpus_that_share_cpus_are_a_part_of_the_machine() {
        let whole = boot(&["--vcpus", "8"]).unwrap();
        assert!(whole.cpus() == 8 && !whole.has_part());
        let part = boot(&["--vcpus", "8", "--cpus", "8"]).unwrap();
        assert!(part.cpus() == 8 && part.has_part());
        assert!(boot(&["--cpus", "65"]).is_err());
        for whole in ["--bare", "--firmware", "--interactive", "--no-iommu"] {
            assert!(boot(&["--cpus", "2", whole]).is_err(), "{whole}");
        }
    }

    #[test]
    fn direct_injection_wants_a_gicv4_and_changes_a_part_of_the_machine() {
        let direct = |arguments: &[&str]| {
            let options = boot(arguments).ok()?;
            options.validate().ok().map(|()| options.direct())
        };
        assert_eq!(direct(&[]), Some(None));
        assert_eq!(direct(&["--gic", "4"]), Some(Some(Direct::Auto)));
        assert_eq!(direct(&["--gic", "4", "--bare"]), Some(None));
        let off = ["--gic", "4", "--direct", "off"];
        assert_eq!(direct(&off), Some(Some(Direct::Off)));
        let switch = ["--gic", "4", "--direct", "switch", "--cpus", "2"];
        assert_eq!(direct(&switch), Some(Some(Direct::Switch)));
        for refused in [
            &switch[..4],
            &["--direct", "on"],
            &["--gic", "3", "--direct", "on"],
        ] {
            assert_eq!(direct(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn a_gicv2_is_the_guests_or_without_the_hypervisor_the_machines() {
        let gic = |arguments: &[&str]| {
            let options = boot(arguments).ok()?;
            let gic = (options.has_virtual_gicv2(), options.machine_gic());
            options.validate().ok().map(|()| gic)
        };
        assert_eq!(gic(&[]), Some((false, 3)));
        assert_eq!(gic(&["--gic", "4"]), Some((false, 4)));
        assert_eq!(gic(&["--gic", "2", "--vcpus", "8"]), Some((true, 3)));
        assert_eq!(gic(&["--gic", "2", "--bare"]), Some((false, 2)));
        assert_eq!(gic(&["--gic", "2", "--efi", "tree"]), Some((true, 3)));
        for refused in [
            &["--gic", "1"][..],
            &["--gic", "2", "--vcpus", "9"],
            &["--gic", "2", "--cpus", "2"],
            &["--gic", "2", "--firmware"],
            &["--gic", "2", "--direct", "on"],
        ] {
            assert_eq!(gic(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn a_path_or_an_initrd_replaces_the_workload() {
        let options = boot(&["--kernel", FILE]).unwrap();
        assert_eq!(options.kernel, Kernel::Image(FILE.into()));
        assert!(!options.built_in_guest());
        assert!(!boot(&["--initrd", FILE]).unwrap().built_in_guest());
    }

    #[test]
    fn a_boot_disk_is_for_the_firmware_and_replaces_the_workload() {
        let options = boot(&["--firmware", "--boot-disk", "src"]).unwrap();
        assert!(options.boot_disk.as_ref().is_some_and(|disk| disk.is_dir()));
        assert!(!options.built_in_guest());
        assert!(boot(&["--firmware"]).unwrap().built_in_guest());
        assert!(boot(&["--boot-disk", "src"]).is_err());
        assert!(boot(&["--firmware", "--boot-disk", "nowhere"]).is_err());
    }

    #[test]
    fn a_kernel_that_is_not_there_is_an_error_that_says_what_is() {
        for kernel in ["5.10", "./6.12"] {
            let error = boot(&["--kernel", kernel]).unwrap_err().to_string();
            assert!(error.contains(kernel), "{error}");
            assert!(error.contains("6.1 and 6.12"), "{error}");
        }
        assert!(boot(&["--initrd", "no/such/file"]).is_err());
    }

    #[test]
    fn arguments_after_two_dashes_are_for_qemu() {
        let options = boot(&["--append", "-x", "--", "-device", "edu"]).unwrap();
        assert_eq!(options.qemu, ["-device", "edu"]);
        assert_eq!(options.append.as_deref(), Some("-x"));
    }

    #[test]
    fn every_option_is_read_with_its_type() {
        let options = boot(&[
            "--memory",
            "512",
            "--timeout",
            "9",
            "--initrd",
            FILE,
            "--cpu",
            "max",
            "--bare",
        ]);
        let options = options.unwrap();
        assert_eq!((options.memory, options.timeout), (Some(512), Some(9)));
        assert_eq!(options.initrd.as_deref(), Some(FILE.as_ref()));
        assert_eq!((options.cpu.as_str(), options.bare), ("max", true));
    }
}
