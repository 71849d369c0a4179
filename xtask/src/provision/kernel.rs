//! Debian's arm64 kernels: an `Image` that a boot loader can enter, and the drivers our guest
//! needs as loadable modules.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Lazy, Package};
use super::modules::Modules;
use super::{cached, files_below};
use crate::console;

/// Drivers of a kernel. Those built into a kernel are left out for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drivers {
    /// Those of the workload's devices.
    Workload,
    /// Those by which a process passes a PCI function through to a VM.
    Vfio,
}

impl Drivers {
    /// Returns the names of the modules.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Workload => &["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng"],
            Self::Vfio => &["vfio_iommu_type1", "vfio_pci"],
        }
    }

    /// Returns the end of the name of the directory that a kernel with these drivers is kept in.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Workload => "",
            Self::Vfio => "-vfio",
        }
    }
}

/// A kernel and its drivers.
#[derive(Debug)]
pub struct Kernel {
    /// The raw arm64 `Image`.
    pub image: PathBuf,
    /// The drivers' `.ko` files in the order in which to load them.
    pub modules: Vec<PathBuf>,
    /// The full version, such as `6.12.95+deb12-cloud-arm64`.
    pub version: String,
}

/// Returns Debian's cloud kernel of a release such as `6.12`.
pub fn provide(release: &str, drivers: Drivers, apt: &Lazy) -> Result<Kernel> {
    let name = format!("linux-{release}-cloud-arm64{}", drivers.suffix());
    let place = cached(
        &name,
        &format!("Debian's kernel {release} for arm64"),
        |into| {
            let apt = apt.get()?;
            let package = find(apt, release)?;
            console::detail(format!("{} {}", package.name, package.version));
            let unpacked = into.join("unpacked");
            apt.unpack(&[package], &unpacked)?;
            keep_what_is_needed(&unpacked, into, drivers)?;
            fs::remove_dir_all(unpacked)?;
            Ok(())
        },
    )?;
    let mut modules = files_below(&place.join("modules"))?;
    modules.sort();
    let version = fs::read_to_string(place.join("version"))?;
    Ok(Kernel {
        image: place.join("Image"),
        modules,
        version,
    })
}

/// Finds the package with the newest kernel of a release: the meta package of that version depends
/// on it.
fn find(apt: &Apt, release: &str) -> Result<Package> {
    let versions = apt.versions("linux-image-cloud-arm64")?;
    let wanted = format!("{release}.");
    for (meta, depends) in versions {
        if !meta.version.starts_with(&wanted) {
            continue;
        }
        let name = depends
            .split([' ', ','])
            .next()
            .unwrap_or_default()
            .to_owned();
        return Ok(Package {
            name,
            version: meta.version,
        });
    }
    bail!(
        "this machine's Debian mirror has no linux-image-cloud-arm64 {release}; --kernel PATH \
           boots any other arm64 Image"
    )
}

/// Picks the image and the drivers out of an unpacked package.
fn keep_what_is_needed(unpacked: &Path, into: &Path, drivers: Drivers) -> Result<()> {
    for path in files_below(&unpacked.join("boot"))? {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(version) = file.strip_prefix("vmlinuz-") {
            fs::write(into.join("version"), version)?;
            fs::write(into.join("Image"), raw_image(fs::read(&path)?)?)?;
        }
    }
    let modules = into.join("modules");
    fs::create_dir(&modules)?;
    let drivers = Modules::below(unpacked)?.load_order(drivers.names())?;
    for (position, module) in drivers.into_iter().enumerate() {
        fs::write(
            modules.join(format!("{position:02}-{}.ko", module.name)),
            module.image,
        )?;
    }
    Ok(())
}

/// Unwraps a kernel as distributions ship it into the `Image` that the boot protocol enters.
pub(crate) fn raw_image(file: Vec<u8>) -> Result<Vec<u8>> {
    let image = if file.starts_with(&[0x1f, 0x8b]) {
        gunzip(&file)?
    } else if file.get(4..8) == Some(b"zimg") {
        // An EFI zboot executable: payload offset and size at 8 and 12, the algorithm at 24.
        let word = |at| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?) as usize);
        let (offset, size) = word(8)
            .zip(word(12))
            .context("truncated EFI zboot header")?;
        let end = offset.checked_add(size);
        let payload = end.and_then(|end| file.get(offset..end));
        if !file[24.min(file.len())..].starts_with(b"gzip") {
            bail!("an EFI zboot kernel that is not gzip-compressed");
        }
        gunzip(payload.context("truncated EFI zboot kernel")?)?
    } else {
        file
    };
    if !is_image(&image) {
        bail!("not an arm64 Image");
    }
    Ok(image)
}

/// Tells whether a file has the header of an arm64 `Image`.
pub(crate) fn is_image(file: &[u8]) -> bool {
    file.get(0x38..0x3c) == Some(b"ARM\x64")
}

/// Decompresses a gzip member.
pub(crate) fn gunzip(compressed: &[u8]) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_end(&mut raw)
        .context("bad gzip data")?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image() -> Vec<u8> {
        let mut image = vec![7; 256];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image
    }

    fn gzip(raw: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(raw).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_wrapping_yields_the_same_image() {
        assert_eq!(raw_image(image()).unwrap(), image());
        assert_eq!(raw_image(gzip(&image())).unwrap(), image());

        let payload = gzip(&image());
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64_u32.to_le_bytes());
        zboot.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        zboot.resize(24, 0);
        zboot.extend(b"gzip");
        zboot.resize(64, 0);
        zboot.extend(payload);
        assert_eq!(raw_image(zboot.clone()).unwrap(), image());
        zboot.truncate(80);
        assert!(raw_image(zboot).is_err(), "truncated");
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(raw_image(b"#!/bin/sh\n".to_vec()).is_err());
        assert!(raw_image(gzip(b"no kernel")).is_err());
        assert!(raw_image(Vec::new()).is_err());
    }
}
