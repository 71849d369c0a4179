//! `cargo xtask image`: `hyp.efi` and a guest in a directory that UEFI firmware boots from.

mod disk;
mod sections;
mod trial;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use clap::{ArgMatches, Command, value_parser};

use crate::boot::{guest, hypervisor};
use crate::cli::{Options, defaulted, flag, option};
use crate::conformance::{self, Suite};
use crate::provision::apt::{self, For};
use crate::{console, measuring, project};
pub(crate) use disk::{Image, Kernel};

const AFTER_HELP: &str = "\
Copy what is in the directory to the EFI system partition of a machine, or to a
stick with a FAT file system, and have the firmware boot from it. The machine
needs Armv8.1, a GICv3 and UEFI firmware at EL2. The report is on its serial
console, and the machine is powered off. docs/hyp.md has the details.

Examples:
  cargo xtask image                        the cases about the GIC on 4 vCPUs
  cargo xtask image --guest linux          Debian, which loads its vCPUs
  cargo xtask image --guest events         cycles and instructions of events
  cargo xtask image --append filter=sgi.   words for the guest
  cargo xtask image --one-file             all in BOOTAA64.EFI
  cargo xtask image --try                  boots it on an emulated machine, too
  cargo xtask boot --efi acpi              the same way, with all checks";

/// Options of `cargo xtask image`.
#[derive(Clone, Debug)]
pub(crate) struct ImageOptions {
    /// The directory to write.
    pub(crate) out: Option<PathBuf>,
    pub(crate) guest: GuestKind,
    pub(crate) vcpus: u16,
    /// The VM's RAM in MiB.
    pub(crate) memory: u32,
    /// An addition to the guest's command line.
    pub(crate) append: Option<String>,
    /// True if the guest is in the application.
    pub(crate) one_file: bool,
    /// True if the directory is booted on an emulated machine.
    pub(crate) is_tried: bool,
}

/// A guest that needs no devices of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestKind {
    /// The guest that tests the interrupt controller from inside.
    Conformance,
    /// Debian with the part of the workload that needs no disk and no network.
    Linux,
    /// The guest whose events the hypervisor measures by the CPU's counters.
    Events,
}

impl FromStr for GuestKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "conformance" => Ok(Self::Conformance),
            "linux" => Ok(Self::Linux),
            "events" => Ok(Self::Events),
            _ => Err("the guests are conformance, linux and events".to_owned()),
        }
    }
}

impl Options for ImageOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            option(
                "guest",
                "conformance|linux|events",
                "The cases of `cargo xtask conformance`; Debian with the part of the workload \
                 that needs no disk and no network; or the events of `cargo xtask perf --el2`, \
                 under a hypervisor that measures them by the CPU's counters",
            )
            .default_value("conformance")
            .value_parser(GuestKind::from_str),
            option("vcpus", "N", "vCPUs, which share the machine's CPUs")
                .default_value("4")
                .value_parser(value_parser!(u16).range(1..=512)),
            option("memory", "MIB", "The VM's RAM in MiB")
                .default_value("512")
                .value_parser(value_parser!(u32).range(128..=65536)),
            option("append", "STRING", "More of the guest's command line")
                .allow_hyphen_values(true),
            option(
                "out",
                "DIR",
                "The directory to write [default: target/image]",
            )
            .value_parser(place),
            flag(
                "one-file",
                "Put the guest into the application, as sections of a unified kernel image: it \
                 can be loaded over the network",
            ),
            flag(
                "try",
                "Boot the directory on an emulated machine by EDK2, and tell whether the guest \
                 comes to its end",
            ),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            out: matches.remove_one("out"),
            guest: defaulted(matches, "guest"),
            vcpus: defaulted(matches, "vcpus"),
            memory: defaulted(matches, "memory"),
            append: matches.remove_one("append"),
            one_file: matches.get_flag("one-file"),
            is_tried: matches.get_flag("try"),
        }
    }
}

impl Default for ImageOptions {
    /// Returns the options of a command line without any.
    fn default() -> Self {
        Self::parsed(&[]).expect("every option has a default")
    }
}

/// Reads the path of a directory that exists, or whose parent does.
fn place(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err("this is no directory to write".to_owned()),
    };
    match path.is_dir() || !path.exists() && parent.is_dir() {
        true => Ok(path),
        false => Err("there is no such directory, and none to make it in".to_owned()),
    }
}

/// Writes the directory that the options ask for, and tells whether it boots, if it is tried.
pub(crate) fn image(options: &ImageOptions) -> Result<bool> {
    let out = options.out.clone().unwrap_or_else(project::image);
    write(options, &out)?;
    console::step(format!("{} is what goes on a stick", out.display()));
    match options.is_tried {
        true => trial::boot(options, &out, &project::reports()),
        false => Ok(true),
    }
}

/// Writes a directory that is removed afterwards, and tells whether it boots. The console goes to
/// `reports`.
pub(crate) fn trial(options: &ImageOptions, reports: &Path) -> Result<bool> {
    let scratch = project::scratch()?;
    write(options, scratch.path())?;
    trial::boot(options, scratch.path(), reports)
}

/// Writes the directory `out`.
fn write(options: &ImageOptions, out: &Path) -> Result<()> {
    ensure!(
        options.guest != GuestKind::Events || options.vcpus >= EVENTS_VCPUS,
        "the events want at least {EVENTS_VCPUS} vCPUs"
    );
    let scratch = project::scratch()?;
    let parts = Parts::build(options, scratch.path())?;
    let application = hypervisor::build_efi(&parts.hypervisor)?;
    let mut words = options.of_vm();
    words.push_str(parts.words);
    if let Some(more) = &options.append {
        let _ = write!(words, " {more}");
    }

    let image = Image {
        arguments: "",
        initrd: parts.initrd.as_deref(),
        kernels: vec![Kernel {
            file: &parts.kernel,
            name: "Image",
            words,
        }],
        seed: Some(random().context("cannot read a random seed")?),
    };
    match options.one_file {
        true => image.write_one_file(out, &application),
        false => image.write(out, &application),
    }
}

impl ImageOptions {
    /// Returns the hypervisor's options for the VM.
    fn of_vm(&self) -> String {
        let Self { vcpus, memory, .. } = self;
        format!("hyp.name={GUEST} hyp.vcpus={vcpus} hyp.memory={memory}")
    }
}

/// Fewest vCPUs of the guest with the events. One with two is made to share a CPU.
const EVENTS_VCPUS: u16 = 3;

/// The VM's name. Each line of its console begins with the name.
const GUEST: &str = "guest";

/// The files of an image, and what the guest wants.
struct Parts {
    /// The hypervisor, a flat image.
    hypervisor: PathBuf,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    /// Words of the command line, behind the VM's size.
    words: &'static str,
}

impl Parts {
    /// Builds the hypervisor and the guest. Files go to `scratch`.
    fn build(options: &ImageOptions, scratch: &Path) -> Result<Self> {
        match options.guest {
            GuestKind::Conformance => Ok(Self {
                hypervisor: hypervisor::build(scratch)?,
                kernel: conformance::build(Suite::V3, scratch)?,
                initrd: None,
                words: " hyp.events=65536",
            }),
            GuestKind::Linux => {
                let hypervisor = hypervisor::build(scratch)?;
                let apt = apt::Lazy::new(For::Guest);
                let (kernel, initrd) = guest::without_devices(options.vcpus, &apt, scratch)?;
                Ok(Self {
                    hypervisor,
                    kernel,
                    initrd: Some(initrd),
                    words: " hyp.rng console=ttyAMA0 earlycon panic=-1",
                })
            }
            GuestKind::Events => {
                let programs = measuring::by_counters(scratch)?;
                Ok(Self {
                    hypervisor: programs.hyp,
                    kernel: programs.guest,
                    initrd: None,
                    words: "",
                })
            }
        }
    }
}

/// Returns random bytes.
fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_of_a_guest_that_there_is() {
        assert!(ImageOptions::parsed(&["--guest", "linux", "--vcpus", "2"]).is_ok());
        let error = ImageOptions::parsed(&["--guest", "bsd"]).unwrap_err();
        assert!(error.to_string().contains("linux and events"));
        assert!(ImageOptions::parsed(&["--out", "no/such/place"]).is_err());
    }

    #[test]
    fn the_events_want_three_vcpus() {
        let options = ImageOptions::parsed(&["--guest", "events", "--vcpus", "2"]).unwrap();
        assert!(image(&options).unwrap_err().to_string().contains("3 vCPUs"));
    }
}
