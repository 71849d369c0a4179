//! The library as a crate of others: as crates.io packages it, docs.rs documents it, and an
//! embedder's lock file and choice of features build it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::tally::Tally;
use crate::console;
use crate::process::{self, Show};
use crate::project::{self, BARE_METAL};
use crate::provision::toolchain::{self, cargo};
use crate::provision::{cached, crate_program};

/// Version of cargo-deny that is installed where none is cached.
const CARGO_DENY: &str = "0.20.2";

/// Most packages of an embedder's lock file, the embedder and the library included.
const MOST_PACKAGES: usize = 10;

/// Addresses of the pages of the package, as its README links to them.
const PAGES: &str = "https://docs.rs/crate/vgic/latest/source/";

/// The library's error for `std` on a bare-metal target begins with this.
const NO_STD: &str = "a bare-metal target has no std";

/// Runs a command that is one test case, and says which.
fn case(name: &str, command: &mut Command) -> Result<Tally> {
    console::detail(name);
    let finished = process::finish(command, Show::OnFailure)?;
    if !finished.success {
        finished.stderr.lines().for_each(console::detail);
    }
    Ok(Tally::of(finished.success))
}

/// Returns a cargo command in `place`, whose build shares the checkout's target directory.
fn cargo_in(place: &Path, mut cargo: Command) -> Command {
    cargo
        .current_dir(place)
        .env("CARGO_TARGET_DIR", project::root().join("target"));
    cargo
}

/// Packages the crate, unpacks it, and has the unpacked crate build, with its tests and benchmarks.
pub(super) fn packaged() -> Result<Tally> {
    let place = unpack()?;
    let mut tally = Tally::default();
    for (name, arguments) in [
        ("it builds", &["build"][..]),
        // Checked, not run: they are the tests that the checkout has run.
        (
            "its tests, examples and benchmarks compile",
            &["check", "--all-targets"],
        ),
        ("the examples of its pages pass", &["test", "--doc"]),
    ] {
        let mut command = cargo_in(&place, cargo(arguments[0]));
        tally.add(case(name, command.arg("--locked").args(&arguments[1..]))?);
    }

    console::detail("the links of its README lead somewhere");
    let readme =
        fs::read_to_string(place.join("README.md")).context("the package has no README")?;
    let astray = astray(&readme, |path| place.join(path).exists());
    for link in &astray {
        console::detail(format!("README.md: {link} leads nowhere on crates.io"));
    }
    tally.add(Tally::of(astray.is_empty()));
    Ok(tally)
}

/// Packages the crate as for crates.io, and unpacks it.
fn unpack() -> Result<PathBuf> {
    let mut package = cargo("package");
    package.args(["--package", "vgic", "--allow-dirty", "--no-verify"]);
    package.env("CARGO_TARGET_DIR", project::root().join("target"));
    process::run(&mut package, Show::OnFailure)?;

    let packages = project::root().join("target/package");
    let name = concat!("vgic-", env!("CARGO_PKG_VERSION"));
    let place = packages.join(name);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    // Packaged files are of the year 2006, and cargo builds again only what is younger.
    let mut tar = Command::new("tar");
    tar.current_dir(&packages)
        .args(["--extract", "--touch", "--file"])
        .arg(format!("{name}.crate"));
    process::run(&mut tar, Show::OnFailure)?;
    // A workspace of its own, although it lies in the checkout.
    let manifest = place.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    fs::write(&manifest, format!("{text}\n[workspace]\n"))?;
    Ok(place)
}

/// Returns the targets of a page's links that lead nowhere outside the checkout: relative ones, and
/// those to pages that the package lacks.
fn astray(page: &str, has: impl Fn(&str) -> bool) -> Vec<&str> {
    let inline = page.split("](").skip(1);
    let inline = inline.filter_map(|rest| rest.split([')', ' ']).next());
    let defined = page.lines().filter(|line| line.starts_with('['));
    let defined = defined.filter_map(|line| Some(line.split_once("]: ")?.1));
    inline
        .chain(defined)
        .filter(|target| match target.strip_prefix(PAGES) {
            Some(path) => !has(path),
            None => !target.contains("://"),
        })
        .collect()
}

/// Checks the library with every set of its features, and that `std` on a bare-metal target is
/// refused by name.
pub(super) fn features() -> Result<Tally> {
    let mut tally = Tally::default();
    for set in ["", "std", "counters", "serde", "std,counters,serde"] {
        let mut check = cargo("check");
        check.args(["--package", "vgic", "--no-default-features"]);
        let name = format!("features: {}", if set.is_empty() { "none" } else { set });
        tally.add(case(&name, check.args(["--features", set]))?);
    }

    console::detail("features: std, on bare metal, is refused");
    let mut check = toolchain::bare_metal()?.cargo("check");
    let finished = process::finish(check.args(["--package", "vgic"]), Show::OnFailure)?;
    let refused = !finished.success && finished.stderr.contains(NO_STD);
    if !refused {
        finished.stderr.lines().for_each(console::detail);
    }
    tally.add(Tally::of(refused));
    Ok(tally)
}

/// Builds an embedder of the library with the oldest version of every package that the manifests
/// allow, on the host and for bare metal, and counts the packages of the embedder's lock file.
pub(super) fn minimal_versions() -> Result<Tally> {
    let place = project::root().join("target/embedder");
    write_embedder(&place, "../..")?;
    let lock = fs::read_to_string(oldest()?.join("Cargo.lock"))?;
    fs::write(place.join("Cargo.lock"), &lock)?;

    let mut build = cargo_in(&place, cargo("build"));
    let mut tally = case("on the host", build.arg("--locked"))?;
    let bare_metal = toolchain::bare_metal()?.cargo("build");
    let mut build = cargo_in(&place, bare_metal);
    let build = build.args(["--locked", "--no-default-features"]);
    tally.add(case("on bare metal", build)?);

    let packages: Vec<_> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("name = "))
        .collect();
    console::detail(format!("{} packages in the lock file", packages.len()));
    let few = packages.len() <= MOST_PACKAGES;
    if !few {
        console::detail(packages.join(", "));
    }
    tally.add(Tally::of(few));
    Ok(tally)
}

/// Returns the directory of an embedder's lock file with the oldest versions. Made once for each
/// manifest of the library, because it takes the registry.
fn oldest() -> Result<PathBuf> {
    let manifest = fs::read(project::root().join("Cargo.toml"))?;
    let name = format!("oldest-versions-{:x}", md5::compute(manifest));
    cached(
        &name,
        "the oldest versions of the library's packages",
        |into| {
            let root = project::root().to_string_lossy();
            write_embedder(into, &root)?;
            // -Zminimal-versions is nightly's; the stable cargo's resolver is the same.
            let mut lock = cargo_in(into, cargo("generate-lockfile"));
            lock.arg("-Zminimal-versions").env("RUSTC_BOOTSTRAP", "1");
            process::run(&mut lock, Show::OnFailure)?;
            let mut fetch = cargo_in(into, cargo("fetch"));
            process::run(fetch.arg("--locked"), Show::OnFailure)?;
            Ok(())
        },
    )
}

/// Writes an embedder that does nothing, and has the library at `library`.
fn write_embedder(place: &Path, library: &str) -> Result<()> {
    fs::create_dir_all(place.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"embedder\"\nedition = \"2024\"\n\n\
         [workspace]\n\n\
         [features]\ndefault = [\"vgic/std\", \"vgic/counters\"]\n\n\
         [dependencies]\nvgic = {{ path = {library:?}, default-features = false }}\n"
    );
    fs::write(place.join("Cargo.toml"), manifest)?;
    fs::write(
        place.join("src/lib.rs"),
        "#![no_std]\npub use vgic::Vgic;\n",
    )?;
    Ok(())
}

/// Builds the documentation as docs.rs does, and looks for the registers of the real CPU interface.
pub(super) fn docs_rs() -> Result<Tally> {
    let mut metadata = cargo("metadata");
    metadata.args(["--no-deps", "--format-version", "1"]);
    let printed = process::run(&mut metadata, Show::OnFailure)?;
    let metadata: Value = serde_json::from_str(&printed)?;
    let packages = metadata["packages"].as_array();
    let library = packages.and_then(|all| all.iter().find(|one| one["name"] == "vgic"));
    let chosen = &library.context("cargo knows no package vgic")?["metadata"]["docs"]["rs"];
    if chosen["default-target"] != BARE_METAL {
        bail!("docs.rs documents {} first", chosen["default-target"]);
    }

    let features = chosen["features"].as_array().into_iter().flatten();
    let features: Vec<_> = features.filter_map(Value::as_str).collect();
    let mut doc = toolchain::bare_metal()?.cargo("doc");
    doc.args(["--package", "vgic", "--no-deps", "--features"])
        .arg(features.join(","))
        .env("RUSTDOCFLAGS", "-D warnings");
    if chosen["no-default-features"] == true {
        doc.arg("--no-default-features");
    }
    let tally = case("as docs.rs builds it", &mut doc)?;

    let pages = project::root()
        .join("target")
        .join(BARE_METAL)
        .join("doc/vgic");
    let there = pages.join("cpu_interface/ich/struct.Ich.html").exists();
    if !there {
        console::detail("cpu_interface::ich is not documented");
    }
    Ok(Tally {
        passed: tally.passed + u64::from(there),
        failed: tally.failed + u64::from(!there),
    })
}

/// Checks the licences, the duplicates and the sources of all packages: `deny.toml`.
pub(super) fn deny() -> Result<Tally> {
    // Everything that the lock file names has to be there.
    process::run(cargo("fetch").arg("--locked"), Show::OnFailure)?;
    let program = crate_program(cargo("install"), "cargo-deny", CARGO_DENY)?;
    let mut deny = Command::new(program);
    deny.current_dir(project::root())
        .args(["--offline", "--workspace", "check"])
        .args(["licenses", "bans", "sources"]);
    case("licences, bans and sources", &mut deny)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_outside_the_checkout_are_found() {
        let page = "A [`page`](docs/a.md), [another][b], [a site](https://docs.rs/loom).\n\
                    [one](https://docs.rs/crate/vgic/latest/source/docs/there.md)\n\
                    [b]: https://docs.rs/crate/vgic/latest/source/docs/b.md\n\
                    [c]: c.md\n";
        let found = astray(page, |path| path == "docs/there.md");
        let gone = format!("{PAGES}docs/b.md");
        assert_eq!(found, ["docs/a.md", gone.as_str(), "c.md"]);
    }
}
