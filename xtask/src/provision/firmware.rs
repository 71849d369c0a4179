//! UEFI firmware and a boot loader for arm64: EDK2 and GRUB, from Debian.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::Lazy;
use super::{cached, files_below};

/// Firmware and boot loader.
#[derive(Debug)]
pub(crate) struct Firmware {
    /// EDK2 for QEMU's `virt` board, the contents of the first bank of flash memory.
    pub(crate) flash: PathBuf,
    /// GRUB as a UEFI application, which reads `/EFI/debian/grub.cfg` of its disk.
    pub(crate) grub: PathBuf,
}

/// The packages, and the files of them that are kept.
const PACKAGES: [(&str, &str, &str); 2] = [
    ("qemu-efi-aarch64", "QEMU_EFI.fd", "flash"),
    ("grub-efi-arm64-bin", "monolithic/grubaa64.efi", "grub.efi"),
];

/// Returns the firmware and the boot loader.
pub(crate) fn provide(apt: &Lazy) -> Result<Firmware> {
    let place = cached(
        "firmware-arm64",
        "UEFI firmware and GRUB for arm64",
        |into| {
            let apt = apt.get()?;
            for (package, file, name) in PACKAGES {
                let newest = apt.versions(package)?.into_iter().next();
                let (newest, _) = newest.with_context(|| format!("no version of {package}"))?;
                let unpacked = into.join("unpacked");
                apt.unpack(&[newest], &unpacked)?;
                let wanted = |path: &PathBuf| path.ends_with(Path::new(file));
                let found = files_below(&unpacked)?.into_iter().find(wanted);
                let found = found.with_context(|| format!("{package} holds no {file}"))?;
                fs::rename(found, into.join(name))?;
                fs::remove_dir_all(unpacked)?;
            }
            Ok(())
        },
    )?;
    Ok(Firmware {
        flash: place.join("flash"),
        grub: place.join("grub.efi"),
    })
}
