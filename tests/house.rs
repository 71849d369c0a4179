//! Rules about the code itself that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Everything takes its atomics from `crate::sync`, or a loom model would check something else than what
/// runs.
#[test]
fn only_one_room_names_the_atomics() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 30, "{} files", files.len());
    for file in files {
        let name = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if name.starts_with("sync/") || name.contains("test") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for module in [
            "core::sync::atomic",
            "std::sync::atomic",
            "loom::",
            "shuttle::",
        ] {
            assert!(!text.contains(module), "src/{name} names {module}");
        }
    }
}

/// An atomic access without a word on what it pairs with is one that nobody has thought about.
#[test]
fn every_ordering_has_its_reason() {
    const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];
    /// Lines that a reason may be away: a comment speaks for the few statements below it.
    const NEAR: usize = 14;
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let names_one = |line: &str| ORDERINGS.iter().any(|ordering| line.contains(ordering));
    let is_code = |file: &&PathBuf| {
        let name = file.to_str().unwrap();
        !name.contains("/tests")
            && !name.ends_with("sync/mutant.rs")
            && !name.ends_with("sync/watched.rs")
    };
    for file in files.iter().filter(is_code) {
        let text = fs::read_to_string(file).unwrap();
        // Tests stand at the end.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = code.split("#[cfg(all(test").next().unwrap();
        let mut reason = None;
        for (number, line) in code.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with("//") {
                reason = names_one(line).then_some(number).or(reason);
            } else if names_one(line) && !line.starts_with("use ") && !line.starts_with("pub") {
                assert!(
                    reason.is_some_and(|reason| number - reason <= NEAR),
                    "{}:{}: {line}",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}
