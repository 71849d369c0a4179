//! The contents of a disk that UEFI firmware starts `hyp.efi` from: the application, the guests,
//! and the configuration.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

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
}
