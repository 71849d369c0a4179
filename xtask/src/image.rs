//! `cargo xtask image`: `hyp.efi` and a guest in a directory that UEFI firmware boots from.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::{ArgMatches, Command, value_parser};

use crate::boot::{guest, hypervisor};
use crate::cli::{Options, defaulted, option};
use crate::provision::apt::{self, For};
use crate::{conformance, console, project};

const AFTER_HELP: &str = "\
Copy what is in the directory to the EFI system partition of a machine, or to a
stick with a FAT file system, and have the firmware boot from it. The machine
needs Armv8.1, a GICv3 and UEFI firmware at EL2. The report is on its serial
console, and the machine is powered off. docs/hyp.md has the details.

Examples:
  cargo xtask image                        the cases about the GIC on 4 vCPUs
  cargo xtask image --guest linux          Debian, which loads its vCPUs
  cargo xtask image --append filter=sgi.  words for the guest
  cargo xtask boot --efi acpi              the same way on an emulated machine";

/// Options of `cargo xtask image`.
#[derive(Clone, Debug)]
pub(crate) struct ImageOptions {
    /// The directory to write.
    out: Option<PathBuf>,
    guest: GuestKind,
    vcpus: u16,
    /// The VM's RAM in MiB.
    memory: u32,
    /// An addition to the guest's command line.
    append: Option<String>,
}

/// A guest that needs no devices of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestKind {
    /// The guest that tests the interrupt controller from inside.
    Conformance,
    /// Debian with the part of the workload that needs no disk and no network.
    Linux,
}

impl FromStr for GuestKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "conformance" => Ok(Self::Conformance),
            "linux" => Ok(Self::Linux),
            _ => Err("the guests are conformance and linux".to_owned()),
        }
    }
}

impl Options for ImageOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            option(
                "guest",
                "conformance|linux",
                "The cases of `cargo xtask conformance`, or Debian with the part of the workload \
                 that needs no disk and no network",
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
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            out: matches.remove_one("out"),
            guest: defaulted(matches, "guest"),
            vcpus: defaulted(matches, "vcpus"),
            memory: defaulted(matches, "memory"),
            append: matches.remove_one("append"),
        }
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

/// Writes the directory that the options ask for.
pub(crate) fn image(options: &ImageOptions) -> Result<bool> {
    let scratch = project::scratch()?;
    let application = hypervisor::build_efi(scratch.path())?;
    let ImageOptions { vcpus, memory, .. } = options;
    let mut words = format!("hyp.name=guest hyp.vcpus={vcpus} hyp.memory={memory}");
    let (kernel, initrd) = match options.guest {
        GuestKind::Conformance => {
            words.push_str(" hyp.events=65536");
            (conformance::build(scratch.path())?, None)
        }
        GuestKind::Linux => {
            words.push_str(" hyp.rng console=ttyAMA0 earlycon panic=-1");
            let apt = apt::Lazy::new(For::Guest);
            let (kernel, initrd) = guest::without_devices(*vcpus, &apt, scratch.path())?;
            (kernel, Some(initrd))
        }
    };
    if let Some(more) = &options.append {
        let _ = write!(words, " {more}");
    }

    let out = options.out.clone().unwrap_or_else(project::image);
    let image = Image {
        arguments: "",
        initrd: initrd.as_deref(),
        kernels: vec![Kernel {
            file: &kernel,
            name: "Image",
            words,
        }],
        seed: Some(random().context("cannot read a random seed")?),
    };
    image.write(&out, &application)?;
    console::step(format!("{} is what goes on a stick", out.display()));
    Ok(true)
}

/// The directory of the application, and its name there: firmware starts it from a disk that it
/// knows nothing else of.
const DIRECTORY: &str = "EFI/BOOT";
const APPLICATION: &str = "BOOTAA64.EFI";

/// The contents of a disk.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    /// Command line of a guest with the whole machine.
    pub(crate) arguments: &'a str,
    /// Initial RAM disk of all guests.
    pub(crate) initrd: Option<&'a Path>,
    /// Guests' kernels.
    pub(crate) kernels: Vec<Kernel<'a>>,
    /// Random seed, for firmware without a generator.
    pub(crate) seed: Option<[u8; 32]>,
}

/// A guest's kernel.
#[derive(Debug)]
pub(crate) struct Kernel<'a> {
    /// The file to copy.
    pub(crate) file: &'a Path,
    /// The name of the copy.
    pub(crate) name: &'a str,
    /// The command line, with the hypervisor's options for the VM.
    pub(crate) words: String,
}

/// Returns random bytes.
fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Image<'_> {
    /// Writes the application and the guests into `disk`, which is made.
    pub(crate) fn write(&self, disk: &Path, application: &Path) -> Result<()> {
        let directory = disk.join(DIRECTORY);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let copy = |file: &Path, name: &str| {
            fs::copy(file, directory.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))
        };

        copy(application, APPLICATION)?;
        if let Some(initrd) = self.initrd {
            copy(initrd, "initrd")?;
        }
        for kernel in &self.kernels {
            copy(kernel.file, kernel.name)?;
        }
        let path = directory.join("hyp.conf");
        fs::write(&path, self.configuration())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Returns the configuration file.
    fn configuration(&self) -> String {
        let mut text = String::new();
        if !self.arguments.is_empty() {
            let _ = writeln!(text, "bootargs {}", self.arguments);
        }
        if let Some(seed) = &self.seed {
            let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "seed {digits}");
        }
        if self.initrd.is_some() {
            text.push_str("initrd initrd\n");
        }
        for Kernel { name, words, .. } in &self.kernels {
            let _ = writeln!(text, "{}", format!("kernel {name} {words}").trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_what_is_there() {
        let file = Path::new("x");
        let kernel = |name, words: &str| Kernel {
            file,
            name,
            words: words.to_owned(),
        };
        let whole = Image {
            arguments: "quiet",
            initrd: Some(file),
            kernels: vec![kernel("Image", "")],
            seed: None,
        };
        let lines = "bootargs quiet\ninitrd initrd\nkernel Image\n";
        assert_eq!(whole.configuration(), lines);
        let parts = Image {
            arguments: "",
            initrd: None,
            kernels: vec![kernel("a", "hyp.name=a"), kernel("b", "hyp.rng quiet")],
            seed: Some([0x0f; 32]),
        };
        let lines = "kernel a hyp.name=a\nkernel b hyp.rng quiet\n";
        let seed = "0f".repeat(32);
        assert_eq!(parts.configuration(), format!("seed {seed}\n{lines}"));
    }

    #[test]
    fn an_image_is_of_a_guest_that_there_is() {
        assert!(ImageOptions::parsed(&["--guest", "linux", "--vcpus", "2"]).is_ok());
        let error = ImageOptions::parsed(&["--guest", "bsd"]).unwrap_err();
        assert!(error.to_string().contains("conformance and linux"));
        assert!(ImageOptions::parsed(&["--out", "no/such/place"]).is_err());
    }
}
