//! A copy of the library in which each mutant can be selected at run time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use xtask::project;

use crate::sites::{Mutant, Reader};

/// The selection of mutants, which the copy has beside its atomics.
const SWITCH: &str = include_str!("switch.rs");

/// Lints that the copy does not keep: it is not for reading.
const ALLOWED: &str = "#![allow(warnings, missing_docs, unsafe_code, clippy::all)]\n";

/// The parts of the checkout that the copy does not share.
const NOT_SHARED: [&str; 3] = ["src", "target", ".git"];

/// The library with its mutants.
pub(crate) struct Copy {
    /// The directory of the copy: a checkout in which `src/` is another.
    pub(crate) root: PathBuf,
    /// The mutants, by their numbers.
    pub(crate) mutants: Vec<Mutant>,
}

impl Copy {
    /// Reads the library's code, and writes the copy. A file that has not changed is left as it is,
    /// so that a build of the copy compiles no more than it must.
    pub(crate) fn write() -> Result<Self> {
        let root = project::root().join("target/sweep");
        fs::create_dir_all(&root)?;
        share(&root)?;

        let mut mutants = Vec::new();
        let mut missed = Vec::new();
        let mut written = BTreeSet::new();
        let mut files = vec!["lib.rs".to_owned()];
        while let Some(file) = files.pop() {
            let path = project::root().join("src").join(&file);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let mut reader = Reader::new(&file, &mut mutants);
            let mut text = reader
                .read(&text)
                .with_context(|| format!("cannot understand {file}"))?;
            for module in reader.modules.drain(..).rev() {
                files.push(file_of(&file, &module)?);
            }
            missed.append(&mut reader.missed);
            match &*file {
                "lib.rs" => text.insert_str(0, ALLOWED),
                "sync/mod.rs" => text.push_str("\npub(crate) mod sweep;\n"),
                _ => {}
            }
            update(&root.join("src").join(&file), &text)?;
            written.insert(file);
        }
        if !missed.is_empty() {
            bail!("the sweep cannot weaken {}", missed.join(", "));
        }
        update(&root.join("src/sync/sweep.rs"), SWITCH)?;
        written.insert("sync/sweep.rs".to_owned());
        rest(Path::new(""), &root.join("src"), &written)?;

        ensure!(mutants.len() < 4096, "too many mutants");
        Ok(Self { root, mutants })
    }
}

/// Lets the copy share the rest of the checkout.
fn share(root: &Path) -> Result<()> {
    for entry in fs::read_dir(project::root())? {
        let entry = entry?;
        let name = entry.file_name();
        let link = root.join(&name);
        let shared = !NOT_SHARED.iter().any(|other| name == *other);
        let leads_here = fs::read_link(&link).is_ok_and(|to| to == entry.path());
        if shared && !leads_here {
            // A copied target directory has links to the checkout that it is from.
            if link.is_symlink() {
                fs::remove_file(&link)?;
            }
            symlink(entry.path(), &link)
                .with_context(|| format!("cannot make {}", link.display()))?;
        }
    }
    Ok(())
}

/// Finds the file of a module that another file declares.
fn file_of(parent: &str, module: &str) -> Result<String> {
    let folder = match parent {
        "lib.rs" => "",
        _ => parent
            .strip_suffix("mod.rs")
            .or_else(|| parent.strip_suffix(".rs"))
            .unwrap_or(parent),
    };
    let folder = folder.trim_end_matches('/');
    let below = if folder.is_empty() { "" } else { "/" };
    let candidates = [
        format!("{folder}{below}{module}.rs"),
        format!("{folder}{below}{module}/mod.rs"),
    ];
    let found = candidates
        .iter()
        .find(|file| project::root().join("src").join(file).exists());
    Ok(found
        .with_context(|| format!("{parent} declares {module}, which has no file"))?
        .clone())
}

/// Writes a file if its text is another.
fn update(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies the files that the models' build leaves out as they are, and removes those that the
/// library no longer has.
fn rest(below: &Path, copy: &Path, written: &BTreeSet<String>) -> Result<()> {
    let source = project::root().join("src");
    for entry in fs::read_dir(source.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            rest(&path, copy, written)?;
        } else if !written.contains(&*path.to_string_lossy()) {
            update(&copy.join(&path), &fs::read_to_string(entry.path())?)?;
        }
    }
    for entry in fs::read_dir(copy.join(below)).into_iter().flatten() {
        let path = below.join(entry?.file_name());
        let known = written.contains(&*path.to_string_lossy()) || source.join(&path).exists();
        if !known && copy.join(&path).is_file() {
            fs::remove_file(copy.join(&path))?;
        }
    }
    Ok(())
}
