//! The guest's user land: one static executable.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::apt::Lazy;
use super::{cached, files_below};

/// Returns the path of a static arm64 busybox.
pub(crate) fn provide(apt: &Lazy) -> Result<PathBuf> {
    let place = cached("busybox-arm64", "busybox for arm64", |into| {
        let apt = apt.get()?;
        let newest = apt.versions("busybox-static")?.into_iter().next();
        let (package, _) = newest.context("no version of busybox-static")?;
        let unpacked = into.join("unpacked");
        apt.unpack(&[package], &unpacked)?;
        // In some releases /bin is /usr/bin.
        let is_busybox = |path: &PathBuf| path.ends_with("bin/busybox");
        let program = files_below(&unpacked)?.into_iter().find(is_busybox);
        fs::rename(
            program.context("the package holds no busybox")?,
            into.join("busybox"),
        )?;
        fs::remove_dir_all(unpacked)?;
        Ok(())
    })?;
    Ok(place.join("busybox"))
}
