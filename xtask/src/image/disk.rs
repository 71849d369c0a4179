//! The contents of a disk that UEFI firmware starts `hyp.efi` from: the application, the guests,
//! and the configuration.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::sections::{self, Section};

/// The directory of the application, and its name there: firmware starts it from a disk that it
/// knows nothing else of.
const DIRECTORY: &str = "EFI/BOOT";
const APPLICATION: &str = "BOOTAA64.EFI";

/// The names of the other files.
const CONFIGURATION: &str = "hyp.conf";
const INITRD: &str = "initrd";

/// Beginning of the words of a command line that make a VM one with a part of the machine.
const OPTION: &str = "hyp.";

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

impl Image<'_> {
    /// Writes the application and the guests into `disk`, which is made.
    pub(crate) fn write(&self, disk: &Path, application: &Path) -> Result<()> {
        let directory = made(disk)?;
        let copy = |file: &Path, name: &str| {
            fs::copy(file, directory.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))
        };

        copy(application, APPLICATION)?;
        if let Some(initrd) = self.initrd {
            copy(initrd, INITRD)?;
        }
        for kernel in &self.kernels {
            copy(kernel.file, kernel.name)?;
        }
        let path = directory.join(CONFIGURATION);
        fs::write(&path, self.configuration())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the application, with the guest in it, into `disk`, which is made. Files beside it,
    /// which an earlier call may have written, are removed.
    pub(crate) fn write_one_file(&self, disk: &Path, application: &Path) -> Result<()> {
        let directory = made(disk)?;
        let kernels = self.kernels.iter().map(|kernel| kernel.name);
        for name in [CONFIGURATION, INITRD].into_iter().chain(kernels) {
            match fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove {name}"))?;
                }
                _ => {}
            }
        }

        let file = sections::append(&read(application)?, &self.sections()?)?;
        let path = directory.join(APPLICATION);
        fs::write(&path, file).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Returns the sections with the guest.
    fn sections(&self) -> Result<Vec<Section>> {
        let [kernel] = &self.kernels[..] else {
            bail!("the application has room for one guest");
        };
        let words = match kernel.words.as_str() {
            "" => {
                let mut words = self.arguments.split_whitespace();
                ensure!(
                    !words.any(|word| word.starts_with(OPTION)),
                    "a guest with the whole machine has its options in {CONFIGURATION}"
                );
                self.arguments
            }
            words => words,
        };

        let section = |name, contents| Section { name, contents };
        let mut sections = vec![
            section(".linux", read(kernel.file)?),
            section(".cmdline", words.into()),
        ];
        if let Some(initrd) = self.initrd {
            sections.push(section(".initrd", read(initrd)?));
        }
        if let Some(seed) = &self.seed {
            sections.push(section(".hypconf", seed_line(seed).into()));
        }
        Ok(sections)
    }

    /// Returns the configuration file.
    fn configuration(&self) -> String {
        let mut text = String::new();
        if !self.arguments.is_empty() {
            let _ = writeln!(text, "bootargs {}", self.arguments);
        }
        if let Some(seed) = &self.seed {
            text.push_str(&seed_line(seed));
        }
        if self.initrd.is_some() {
            let _ = writeln!(text, "initrd {INITRD}");
        }
        for Kernel { name, words, .. } in &self.kernels {
            let _ = writeln!(text, "{}", format!("kernel {name} {words}").trim_end());
        }
        text
    }
}

/// Makes the directory of the application on a disk, and returns it.
fn made(disk: &Path) -> Result<PathBuf> {
    let directory = disk.join(DIRECTORY);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// Returns a file's contents.
fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Returns the line of the configuration with a seed.
fn seed_line(seed: &[u8; 32]) -> String {
    let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("seed {digits}\n")
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
    fn the_words_of_a_guest_in_the_application_say_what_it_has() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let image = |arguments, words: &str| Image {
            arguments,
            initrd: None,
            kernels: vec![Kernel {
                file,
                name: "Image",
                words: words.to_owned(),
            }],
            seed: Some([0; 32]),
        };
        let words = |image: Image<'_>| {
            let sections = image.sections()?;
            let names: Vec<_> = sections.iter().map(|section| section.name).collect();
            assert_eq!(names, [".linux", ".cmdline", ".hypconf"]);
            anyhow::Ok(String::from_utf8(sections[1].contents.clone())?)
        };
        assert_eq!(words(image("quiet", "")).unwrap(), "quiet");
        assert_eq!(
            words(image("quiet", "hyp.rng quiet")).unwrap(),
            "hyp.rng quiet"
        );
        assert!(words(image("hyp.its=2", "")).is_err());
    }
}
