//! `perf.json`: one section for each part that was measured, with the machine that it was measured
//! on. A section is kept when other parts are measured later.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::machine::Machine;
use xtask::console;

/// A section: an outcome, and the machine that it was measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured<T> {
    pub(crate) machine: Machine,
    #[serde(flatten)]
    pub(crate) outcome: T,
}

/// Writes one section.
pub(crate) fn write_section(
    reports: &Path,
    name: &str,
    machine: &Machine,
    outcome: &impl Serialize,
) -> Result<()> {
    fs::create_dir_all(reports)?;
    let path = reports.join("perf.json");
    let mut sections = read(&path);
    let section = Measured {
        machine: machine.clone(),
        outcome,
    };
    sections.insert(name.to_owned(), serde_json::to_value(section)?);
    let json = serde_json::to_string_pretty(&sections)?;
    fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("report {}", path.display()));
    Ok(())
}

/// Reads a section that this run or an earlier one wrote.
pub(crate) fn section<T: DeserializeOwned>(reports: &Path, name: &str) -> Option<Measured<T>> {
    let section = read(&reports.join("perf.json")).remove(name)?;
    serde_json::from_value(section).ok()
}

/// Reads all sections; none if the file is missing or unreadable.
fn read(path: &Path) -> Map<String, Value> {
    fs::read(path)
        .ok()
        .and_then(|file| serde_json::from_slice(&file).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Count {
        count: u32,
    }

    #[test]
    fn sections_are_replaced_one_by_one() {
        let reports = xtask::project::scratch().unwrap();
        let machine = Machine {
            commit: "abc".to_owned(),
            ..Machine::default()
        };
        for (name, count) in [("a", 1), ("b", 2), ("a", 3)] {
            write_section(reports.path(), name, &machine, &Count { count }).unwrap();
        }
        let count = |name| {
            section::<Count>(reports.path(), name)
                .unwrap()
                .outcome
                .count
        };
        assert_eq!((count("a"), count("b")), (3, 2));
        let section = section::<Count>(reports.path(), "b").unwrap();
        assert_eq!(section.machine.commit, "abc");
        assert!(super::section::<Count>(reports.path(), "c").is_none());
    }
}
