//! Where things are: the checkout, its cache and its reports.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The bare-metal target that `hyp` and the library are built for.
pub(crate) const BARE_METAL: &str = "aarch64-unknown-none-softfloat";

/// The target of programs that run on Linux inside the emulated machine.
pub(crate) const ARM64_LINUX: &str = "aarch64-unknown-linux-musl";

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ lies in the checkout's root")
}

/// What was fetched, kept between runs.
pub(crate) fn cache() -> PathBuf {
    root().join("target/cache")
}

/// What a run leaves for the reader: `boot.json`, `console.log`.
pub(crate) fn reports() -> PathBuf {
    root().join("target/reports")
}

/// A directory for work in progress, removed when dropped.
///
/// It lies inside the cache, so that a finished directory moves to its place by one rename.
pub(crate) fn scratch() -> Result<TempDir> {
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    tempfile::Builder::new()
        .prefix("in-progress-")
        .tempdir_in(&cache)
        .with_context(|| format!("cannot create a directory in {}", cache.display()))
}
