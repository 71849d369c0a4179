//! The committed table `perf/lines.json`, which a run is held against: lines and atomic
//! instructions of one event, by load and number of CPUs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::table::{Outcome, Row};
use xtask::provision::toolchain::compiler;
use xtask::{console, project};

/// The part of the table's count by which a count may exceed it.
const TOLERANCE: f64 = 0.02;

/// Counts of one event.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Costs {
    lines: f64,
    atomics: f64,
}

impl Costs {
    /// Takes the counts out of a row.
    fn of(row: &Row) -> Self {
        let round = |count: f64| (count * 100.0).round() / 100.0;
        Self {
            lines: round(row.lines),
            atomics: round(row.atomics),
        }
    }

    /// Tells whether counts exceed the table's.
    fn exceed(self, table: Self) -> bool {
        let more = |now: f64, then: f64| now > then * (1.0 + TOLERANCE);
        more(self.lines, table.lines) || more(self.atomics, table.atomics)
    }
}

/// Counts by load and number of CPUs, and the compiler that made hyp.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Table {
    compiler: String,
    loads: BTreeMap<String, Costs>,
}

/// Returns the path of the committed table.
fn path() -> PathBuf {
    project::root().join("perf/lines.json")
}

/// Holds the counts against the table, and notes the loads that exceed it. With `update`, writes
/// the counts into the table first; those of other numbers of CPUs stay.
pub(super) fn hold(outcome: &mut Outcome, update: bool) -> Result<()> {
    let here = compiler();
    let mut table = fs::read(path())
        .ok()
        .and_then(|json| serde_json::from_slice::<Table>(&json).ok());
    if update {
        let table = table.get_or_insert_default();
        table.compiler = here.clone();
        let rows = outcome.hyp.iter();
        table
            .loads
            .extend(rows.map(|row| (row.name(), Costs::of(row))));
        fs::write(path(), serde_json::to_string_pretty(table)? + "\n")
            .context("cannot write the table")?;
        console::detail(format!("wrote {}", path().display()));
    }

    let table = table
        .context("perf/lines.json is no table: make it by `cargo xtask perf --lines --update`")?;
    if table.compiler != here {
        console::detail(format!(
            "the table was made with {}, this with {here}: shown, not judged",
            table.compiler
        ));
        return Ok(());
    }
    outcome.regressed = regressed(&outcome.hyp, &table);
    for load in &outcome.regressed {
        console::detail(format!("{}: {load}", console::bad("regressed")));
    }
    ensure!(
        !outcome.hyp.is_empty(),
        "nothing was held against the table"
    );
    Ok(())
}

/// Lists the loads whose counts the table lacks or that exceed it, with both counts.
fn regressed(rows: &[Row], table: &Table) -> Vec<String> {
    let judged = rows.iter().filter_map(|row| {
        let now = Costs::of(row);
        match table.loads.get(&row.name()) {
            None => Some(format!("{} is not in the table", row.name())),
            Some(&then) if now.exceed(then) => Some(format!(
                "{}: {} lines and {} atomics, {} and {} in the table",
                row.name(),
                now.lines,
                now.atomics,
                then.lines,
                then.atomics
            )),
            Some(_) => None,
        }
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_more_is_a_regression_and_one_less_is_not() {
        let costs = |lines, atomics| Costs { lines, atomics };
        let table = Table {
            compiler: String::new(),
            loads: BTreeMap::from([("sgi-ring/4".to_owned(), costs(10.0, 12.0))]),
        };
        let judged = |lines, atomics| {
            let row = Row {
                load: "sgi-ring".to_owned(),
                cpus: 4,
                lines,
                atomics,
                ..Row::default()
            };
            regressed(&[row], &table)
        };
        assert!(judged(10.0, 12.0).is_empty() && judged(9.0, 11.0).is_empty());
        assert_eq!(judged(11.0, 12.0).len(), 1);
        assert_eq!(judged(10.0, 12.5).len(), 1);
    }

    #[test]
    fn a_load_without_lines_has_none_to_spare() {
        let none = Costs {
            lines: 0.0,
            atomics: 1.0,
        };
        let some = Costs {
            lines: 0.01,
            ..none
        };
        assert!(some.exceed(none) && !none.exceed(none));
    }
}
