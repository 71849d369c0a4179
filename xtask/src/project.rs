//! The places of the checkout: its root, its cache, its reports.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The bare-metal target that `hyp` and the library are built for.
pub const BARE_METAL: &str = "aarch64-unknown-none-softfloat";

/// The target of UEFI applications.
pub const UEFI: &str = "aarch64-unknown-uefi";

/// The target of programs that run on Linux inside the emulated machine.
pub const ARM64_LINUX: &str = "aarch64-unknown-linux-musl";

/// Returns the root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the checkout's root")
}

/// Returns the directory of files that were fetched, which is kept between runs.
pub fn cache() -> PathBuf {
    root().join("target/cache")
}

/// Returns the directory of a disk that UEFI firmware starts the hypervisor from.
pub fn image() -> PathBuf {
    root().join("target/image")
}

/// Returns the directory of reports, such as `boot.json` and `console.log`.
pub fn reports() -> PathBuf {
    root().join("target/reports")
}

/// Returns the path of the report `name` in `reports`, which is made. The report of an earlier run
/// is removed: one that is interrupted leaves none.
pub fn begin_report(reports: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(reports).with_context(|| format!("cannot create {}", reports.display()))?;
    let path = reports.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(path),
    }
}

/// A directory for work in progress, removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error leaves files behind, inside the cache: not worth failing for.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory for work in progress.
///
/// It lies inside the cache, so that a finished directory moves to its place by one rename.
pub fn scratch() -> Result<Scratch> {
    /// Directories that this process has made.
    static MADE: AtomicU32 = AtomicU32::new(0);

    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = cache.join(format!("in-progress-{}-{number}", process::id()));
    // A process that was killed, with an identifier that this one has now, may have left one.
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Scratch(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_is_new_and_goes_away() {
        let (one, other) = (scratch().unwrap(), scratch().unwrap());
        assert_ne!(one.path(), other.path());
        fs::write(one.path().join("file"), "text").unwrap();
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists() && other.path().exists());
    }
}
