//! The things that a run needs and the checkout does not hold: QEMU, Debian's kernels, busybox,
//! valgrind, the bare-metal target.
//!
//! Each thing is one directory of `target/cache`, made in a scratch directory and moved to its
//! place by a rename, so that it is there completely or not at all. Its manifest lists every
//! file's size; a directory that does not match its manifest is made again.

pub mod apt;
pub(crate) mod busybox;
pub(crate) mod firmware;
pub mod kernel;
mod modules;
pub mod qemu;
pub mod toolchain;
pub(crate) mod valgrind;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, Show};
use crate::{console, project};

const MANIFEST: &str = "manifest.json";

/// Returns the cached directory `name`, or has `fill` make it.
pub(crate) fn cached(
    name: &str,
    what: &str,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let place = project::cache().join(name);
    if is_complete(&place) {
        console::detail(format!("{what}: cached"));
        return Ok(place);
    }

    console::step(format!("Fetching {what} (once)"));
    let scratch = project::scratch()?;
    let making = scratch.path().join(name);
    fs::create_dir(&making)?;
    fill(&making).with_context(|| format!("cannot provide {what}"))?;
    let manifest = serde_json::to_vec_pretty(&sizes(&making)?)?;
    fs::write(making.join(MANIFEST), manifest)?;

    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(&making, &place)
        .with_context(|| format!("cannot move {what} to {}", place.display()))?;
    Ok(place)
}

/// Returns the path of a program of crates.io: from the cache, or built into it by `install`, a
/// `cargo install`. Unoptimized and without debug information: each would take longer to make than
/// all uses of the program take.
pub(crate) fn crate_program(mut install: Command, name: &str, version: &str) -> Result<PathBuf> {
    let what = format!("{name} {version}");
    let place = cached(&format!("{name}-{version}"), &what, |into| {
        let build = into.join("build");
        install
            .args([name, "--debug", "--locked", "--version", version, "--root"])
            .arg(into)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_TARGET_DIR", &build);
        process::run(&mut install, Show::Lines)?;
        Ok(fs::remove_dir_all(build)?)
    })?;
    Ok(place.join("bin").join(name))
}

/// Tells whether every file of the manifest is there at its size.
fn is_complete(place: &Path) -> bool {
    let manifest = fs::read(place.join(MANIFEST)).unwrap_or_default();
    let Ok(manifest) = serde_json::from_slice::<BTreeMap<PathBuf, u64>>(&manifest) else {
        return false;
    };
    manifest.iter().all(|(path, &size)| {
        fs::symlink_metadata(place.join(path)).is_ok_and(|found| found.len() == size)
    })
}

/// Lists every file below `root` with its size, directories left out.
fn sizes(root: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let mut sizes = BTreeMap::new();
    for path in files_below(root)? {
        let size = fs::symlink_metadata(&path)?.len();
        sizes.insert(path.strip_prefix(root)?.to_owned(), size);
    }
    Ok(sizes)
}

/// Lists the paths of everything below `root` that is not a directory; links are not followed.
fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let list = if entry.file_type()?.is_dir() {
                &mut directories
            } else {
                &mut files
            };
            list.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_or_missing_file_makes_a_directory_incomplete() {
        let scratch = project::scratch().unwrap();
        let place = scratch.path();
        assert!(!is_complete(place), "no manifest yet");

        fs::create_dir(place.join("sub")).unwrap();
        fs::write(place.join("sub/Image"), b"kernel").unwrap();
        let manifest = serde_json::to_vec(&sizes(place).unwrap()).unwrap();
        fs::write(place.join(MANIFEST), manifest).unwrap();
        assert!(is_complete(place));

        fs::write(place.join("sub/Image"), b"kern").unwrap();
        assert!(!is_complete(place), "truncated");
        fs::remove_file(place.join("sub/Image")).unwrap();
        assert!(!is_complete(place), "missing");
    }
}
