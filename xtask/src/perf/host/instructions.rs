//! Instructions of each operation, counted by callgrind, against the committed table
//! `perf/instructions.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::machine;
use crate::console::{self, bad, good};
use crate::process::{self, Show};
use crate::project;
use crate::provision::valgrind;

/// What an operation may cost more than the table says.
const TOLERANCE: f64 = 0.02;

/// Instructions by operation, and the compiler that made them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    compiler: String,
    pub(crate) operations: BTreeMap<String, f64>,
}

/// An operation beside the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) operation: String,
    pub(crate) instructions: f64,
    /// What the table says; none for a new operation.
    pub(crate) expected: Option<f64>,
    pub(crate) regressed: bool,
}

/// The section of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    valgrind: String,
    pub(crate) compiler: String,
    pub(crate) rows: Vec<Row>,
}

impl Outcome {
    /// Operations that cost more than the table allows.
    pub(crate) fn regressed(&self) -> usize {
        self.rows.iter().filter(|row| row.regressed).count()
    }
}

fn table_path() -> PathBuf {
    project::root().join("perf/instructions.json")
}

/// Counts every operation and compares; with `update`, writes the table anew instead.
pub(crate) fn check(update: bool) -> Result<Outcome> {
    let valgrind = valgrind::provide()?;
    let program = super::program()?;
    let scratch = project::scratch()?;
    console::step("Counting instructions by callgrind");
    let mut command = valgrind.command();
    command
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=*vgic_measured*",
            "--dump-after=*vgic_finished*",
        ])
        .arg(format!(
            "--callgrind-out-file={}",
            scratch.path().join("out").display()
        ))
        .arg(&program)
        .arg("instructions");
    let printed = process::run(&mut command, Show::Lines)?;
    let counted = Table {
        compiler: machine::compiler(),
        operations: read(&printed, scratch.path())?,
    };
    if update {
        let json = serde_json::to_string_pretty(&counted)?;
        fs::write(table_path(), json + "\n").context("cannot write the table")?;
        console::detail(format!("wrote {}", table_path().display()));
    }
    let table: Table = serde_json::from_slice(&fs::read(table_path()).unwrap_or_default())
        .context("perf/instructions.json: make it by `cargo xtask perf --instructions --update`")?;
    let outcome = Outcome {
        valgrind: valgrind.version,
        rows: compare(&counted, &table),
        compiler: counted.compiler,
    };
    print(&outcome, &table);
    Ok(outcome)
}

/// Reads what the program did (`name count` a line) and callgrind's n-th dump for the n-th of those.
fn read(printed: &str, dumps: &Path) -> Result<BTreeMap<String, f64>> {
    let mut operations = BTreeMap::new();
    for (number, line) in (1..).zip(printed.lines()) {
        let (name, count) = line.split_once(' ').context("an operation and its count")?;
        let count: f64 = count.parse().context("a count")?;
        let dump = dumps.join(format!("out.{number}"));
        let text = fs::read_to_string(&dump)
            .with_context(|| format!("callgrind left no counts of {name}"))?;
        let total = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .and_then(|total| total.trim().parse::<f64>().ok())
            .context("a total")?;
        operations.insert(name.to_owned(), (total / count * 10.0).round() / 10.0);
    }
    ensure!(!operations.is_empty(), "nothing was counted");
    Ok(operations)
}

fn compare(counted: &Table, table: &Table) -> Vec<Row> {
    // Another compiler makes other instructions: nothing to hold against anybody.
    let comparable = counted.compiler == table.compiler;
    counted
        .operations
        .iter()
        .map(|(operation, &instructions)| {
            let expected = table.operations.get(operation).copied();
            let regressed = comparable
                && expected.is_none_or(|expected| instructions > expected * (1.0 + TOLERANCE));
            Row {
                operation: operation.clone(),
                instructions,
                expected,
                regressed,
            }
        })
        .collect()
}

fn print(outcome: &Outcome, table: &Table) {
    console::say(&format!(
        "{:<42} {:>12} {:>12}",
        "instructions of one operation", "now", "table"
    ));
    for row in &outcome.rows {
        let expected = row
            .expected
            .map_or("none".to_owned(), |expected| format!("{expected:.1}"));
        let change = row
            .expected
            .map_or(0.0, |expected| (row.instructions / expected - 1.0) * 100.0);
        let verdict = if row.regressed {
            bad("regressed")
        } else if change < -100.0 * TOLERANCE {
            good("better: --update the table")
        } else {
            String::new()
        };
        console::say(&format!(
            "{:<42} {:>12.1} {expected:>12} {change:>+7.1} %  {verdict}",
            row.operation, row.instructions
        ));
    }
    if outcome.compiler != table.compiler {
        console::detail(format!(
            "the table was made with {}, this with {}: shown, not judged",
            table.compiler, outcome.compiler
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(compiler: &str, instructions: f64) -> Table {
        Table {
            compiler: compiler.to_owned(),
            operations: BTreeMap::from([("inject_msi".to_owned(), instructions)]),
        }
    }

    #[test]
    fn two_per_cent_more_is_a_regression() {
        let regressed = |now, then| compare(&table("a", now), &table("a", then))[0].regressed;
        assert!(!regressed(100.0, 100.0));
        assert!(!regressed(101.9, 100.0));
        assert!(regressed(102.1, 100.0));
        assert!(!regressed(50.0, 100.0));
    }

    #[test]
    fn what_the_table_lacks_is_a_regression_and_another_compiler_is_not() {
        assert!(
            compare(
                &table("a", 1.0),
                &Table {
                    compiler: "a".into(),
                    ..Table::default()
                }
            )[0]
            .regressed
        );
        assert!(!compare(&table("b", 200.0), &table("a", 100.0))[0].regressed);
    }

    #[test]
    fn dumps_belong_to_lines_in_order() {
        let dumps = tempfile::tempdir().unwrap();
        for (number, total) in [(1, 300), (2, 84)] {
            let text = format!("desc: x\ntotals: {total}\n");
            fs::write(dumps.path().join(format!("out.{number}")), text).unwrap();
        }
        let counts = read("a/b 100\nc 8\n", dumps.path()).unwrap();
        assert_eq!(counts["a/b"], 3.0);
        assert_eq!(counts["c"], 10.5);
        assert!(read("a 1\nb 1\nd 1\n", dumps.path()).is_err());
    }
}
