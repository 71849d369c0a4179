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
