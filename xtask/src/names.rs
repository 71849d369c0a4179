//! Names that the user gives, checked before anything is built: against the files of the checkout
//! that define them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::project;

/// Lists the names of the Rust files in a folder of the checkout, sorted, those in `except` left
/// out.
pub(crate) fn files(folder: &str, except: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = sources(&project::root().join(folder))
        .iter()
        .filter_map(|path| path.file_stem().and_then(OsStr::to_str))
        .filter(|name| !except.contains(name))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// Checks that a part of names, such as `its.map` or `lpi_lookup/64k`, can be one: each of its
/// words is in a quoted text of a Rust file in these folders of the checkout.
///
/// Names are put together of such texts and of numbers, so that a part with a digit may be any.
pub(crate) fn may_be_part(part: &str, folders: &[&str]) -> bool {
    let texts: Vec<_> = folders
        .iter()
        .flat_map(|folder| sources(&project::root().join(folder)))
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    let known = |word: &&str| {
        texts
            .iter()
            .any(|text| quoted(text).any(|q| q.contains(*word)))
    };
    let words = part.split(|c: char| !c.is_alphanumeric());
    words
        .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
        .all(|word| known(&word))
}

/// Returns the texts between the quotation marks of each line.
fn quoted(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines();
    lines.flat_map(|line| line.split('"').skip(1).step_by(2))
}

/// Lists the Rust files in a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("rs")))
        .collect()
}

/// Describes a name that is none of those there are.
pub(crate) fn unknown(what: &str, names: &[String]) -> String {
    format!("no such {what}; there are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_names_are_found_in_quoted_texts() {
        let source = "Case::new(concat!(\"timer.\", $name, \"_fires\"), \"4.1\")\n// its\n";
        assert_eq!(
            quoted(source).collect::<Vec<_>>(),
            ["timer.", "_fires", "4.1"]
        );
        let folders = ["xtask/src"];
        for part in ["", "Case", "timer_fires", "9999", "x86_64/8k"] {
            assert!(may_be_part(part, &folders), "{part}");
        }
        let absent = ["no", "such", "word", "any", "where"].concat();
        assert!(!may_be_part(&absent, &folders));
        assert!(!may_be_part(&format!("timer.{absent}"), &folders));
    }

    #[test]
    fn files_are_names() {
        let names = files("xtask/src", &["main"]);
        assert!(names.contains(&"names".to_owned()) && !names.contains(&"main".to_owned()));
        assert!(files("no/such/folder", &[]).is_empty());
    }
}
