//! The build of `hyp`, and of its ELF file the flat image that QEMU enters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::ProgramHeader as _;

use crate::console;
use crate::process::{self, Show};
use crate::project::{self, UEFI};
use crate::provision::{kernel, toolchain};

/// The variable by which the build of `hyp.efi` finds the hypervisor's flat image.
pub(crate) const IMAGE: &str = "HYP_IMAGE";

/// The largest distance of a flat image's segments.
const LARGEST: u64 = 64 << 20;

/// Builds the hypervisor and writes its flat image to `scratch`.
pub(crate) fn build(scratch: &Path) -> Result<PathBuf> {
    build_with(scratch, &[]).map(|(image, _)| image)
}

/// Builds the hypervisor with the feature that notes the longest stay at EL2, and writes its flat
/// image to `scratch`.
pub(crate) fn build_with_el2_time(scratch: &Path) -> Result<PathBuf> {
    build_with(scratch, &["--features", "el2-time"]).map(|(image, _)| image)
}

/// Builds the hypervisor with more arguments for cargo, and writes its flat image to `scratch`.
/// Returns the paths of the image and of the ELF file.
pub fn build_with(scratch: &Path, arguments: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let bare_metal = toolchain::bare_metal()?;
    console::step("Building the hypervisor");
    let mut cargo = bare_metal.cargo("build");
    cargo
        .args(["--release", "--package", "hyp"])
        .args(arguments);
    let elf = built(&mut cargo, "the hypervisor")?;
    let image = flatten(&fs::read(&elf)?).with_context(|| elf.display().to_string())?;
    ensure!(
        kernel::is_image(&image),
        "the hypervisor has no arm64 Image header"
    );
    let path = scratch.join("hyp.img");
    fs::write(&path, image)?;
    Ok((path, elf))
}

/// Builds the UEFI application of a hypervisor's flat image, and returns the application's path.
pub(crate) fn build_efi(hypervisor: &Path) -> Result<PathBuf> {
    let image = fs::read(hypervisor)?;
    // The application contains the image. Its path stays, so that a build finds nothing to do if
    // the image is as before.
    let path = project::root().join("target/hyp.img");
    if fs::read(&path).ok().as_ref() != Some(&image) {
        fs::write(&path, image).with_context(|| format!("cannot write {}", path.display()))?;
    }

    toolchain::uefi()?;
    let mut cargo = toolchain::cargo("build");
    cargo
        .args(["--release", "--package", "hyp-efi", "--target", UEFI])
        .env(IMAGE, &path);
    built(&mut cargo, "hyp.efi")
}

/// Runs `cargo build` for one program, called `what` in messages, and returns the program's path.
pub fn built(cargo: &mut Command, what: &str) -> Result<PathBuf> {
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let finished = process::finish(cargo, Show::Progress)?;
    if !finished.success {
        bail!("{what} does not build");
    }
    executable(&finished.stdout).with_context(|| format!("cargo names no executable for {what}"))
}

/// Finds the executable, or the shared library, among cargo's JSON messages.
fn executable(messages: &str) -> Option<PathBuf> {
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let named = message.get("executable")?.as_str();
        let library = || {
            let files = message.get("filenames")?.as_array()?;
            let mut names = files.iter().filter_map(|file| file.as_str());
            names.find(|name| name.ends_with(".so"))
        };
        named.or_else(library).map(PathBuf::from)
    };
    messages.lines().filter_map(executable).next_back()
}

/// Lays the loadable segments of an ELF file out as they lie in memory, from the lowest physical
/// address on. Zeros at the end are left out: the image's header tells its full size.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)?;
    let endian = file.endian();
    let loaded: Vec<(u64, &[u8])> = file
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type.get(endian) == object::elf::PT_LOAD)
        .map(|header| {
            let data = header
                .data(endian, elf)
                .map_err(|()| anyhow::anyhow!("truncated ELF"))?;
            Ok((header.p_paddr.get(endian), data))
        })
        .collect::<Result<_>>()?;
    lay_out(&loaded)
}

/// Lays segments, each an address and its bytes, out in one image.
fn lay_out(loaded: &[(u64, &[u8])]) -> Result<Vec<u8>> {
    let filled = || loaded.iter().filter(|(_, data)| !data.is_empty());
    let base = filled()
        .map(|&(address, _)| address)
        .min()
        .context("nothing to load")?;
    let mut image = Vec::new();
    for &(address, data) in filled() {
        let end = (address - base) + data.len() as u64;
        ensure!(end <= LARGEST, "segments lie {end:#x} bytes apart");
        let (start, end) = (usize::try_from(address - base)?, usize::try_from(end)?);
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(data);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_land_at_their_addresses() {
        let image = lay_out(&[(0x1004, b"data"), (0x1000, b"hi"), (0x9000, b"")]).unwrap();
        assert_eq!(image, b"hi\0\0data");
    }

    #[test]
    fn what_is_no_flat_image_is_refused() {
        assert!(lay_out(&[]).is_err());
        assert!(lay_out(&[(0, b"x"), (LARGEST, b"y")]).is_err());
    }

    #[test]
    fn the_executable_is_the_last_one_named() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/hyp\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/hyp")));
    }
}
