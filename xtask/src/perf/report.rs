//! `perf.json`: one section for each part that was measured, kept when other parts are measured later.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::console;

/// Writes one section.
pub(crate) fn write_section(reports: &Path, name: &str, section: &impl Serialize) -> Result<()> {
    fs::create_dir_all(reports)?;
    let path = reports.join("perf.json");
    let mut sections = read(&path);
    sections.insert(name.to_owned(), serde_json::to_value(section)?);
    let json = serde_json::to_string_pretty(&sections)?;
    fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("report {}", path.display()));
    Ok(())
}

/// A section that was written, by this run or an earlier one.
pub(crate) fn section(reports: &Path, name: &str) -> Option<Value> {
    read(&reports.join("perf.json")).remove(name)
}

/// The sections that are there; none if the file is missing or not ours.
fn read(path: &Path) -> Map<String, Value> {
    fs::read(path)
        .ok()
        .and_then(|file| serde_json::from_slice(&file).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_replaced_one_by_one() {
        let reports = tempfile::tempdir().unwrap();
        write_section(reports.path(), "a", &1).unwrap();
        write_section(reports.path(), "b", &2).unwrap();
        write_section(reports.path(), "a", &3).unwrap();
        let sections = read(&reports.path().join("perf.json"));
        assert_eq!(sections.get("a"), Some(&Value::from(3)));
        assert_eq!(sections.get("b"), Some(&Value::from(2)));
    }
}
