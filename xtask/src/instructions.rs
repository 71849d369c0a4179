//! Instructions of each operation, counted by callgrind, against the committed table
//! `perf/instructions.json`.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::console::{self, bad, good};
use crate::process::{self, Show};
use crate::project;
use crate::provision::toolchain::{cargo, compiler};
use crate::provision::valgrind;

/// The part of an operation's instructions by which it may exceed the table.
const TOLERANCE: f64 = 0.02;

/// The architecture of the committed table.
const TABLE_OF: &str = "x86_64";

/// Rust's flags of the measured program on an Arm machine: atomic instructions (Armv8.1), as hyp
/// has them, in place of calls that look at run time for them.
const ARM_FLAGS: &str = "-Ctarget-feature=+lse";

/// Instructions by operation, and the compiler that made them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Table {
    compiler: String,
    operations: BTreeMap<String, f64>,
}

object!(Table {
    compiler,
    operations,
});

impl Table {
    /// Reads the table from JSON.
    fn parse(json: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(json)?;
        let compiler = value.get("compiler").and_then(Value::as_str);
        let operations = value.get("operations").and_then(Value::as_object);
        let count = |(name, count): (&String, &Value)| {
            let count = count
                .as_f64()
                .with_context(|| format!("no count of {name}"))?;
            Ok((name.clone(), count))
        };
        Ok(Self {
            compiler: compiler.context("no compiler")?.to_owned(),
            operations: (operations.context("no operations")?.iter())
                .map(count)
                .collect::<Result<_>>()?,
        })
    }
}

/// An operation beside the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The operation's name.
    pub operation: String,
    /// Instructions of one operation.
    pub instructions: f64,
    /// The table's count; none for a new operation.
    pub expected: Option<f64>,
    /// True if the count exceeds the table's by more than the tolerance.
    pub regressed: bool,
}

object!(Row {
    operation,
    instructions,
    expected,
    regressed,
});

/// The outcome of a count of every operation.
#[derive(Clone, Debug)]
pub struct Outcome {
    valgrind: String,
    compiler: String,
    /// The operations.
    pub rows: Vec<Row>,
}

object!(Outcome {
    valgrind,
    compiler,
    rows,
});

impl Outcome {
    /// Counts the operations that cost more than the table allows.
    pub fn regressed(&self) -> usize {
        self.rows.iter().filter(|row| row.regressed).count()
    }
}

/// Returns the path of the committed table.
fn table_path() -> PathBuf {
    project::root().join("perf/instructions.json")
}

/// Builds `perf/host`, optimised as the library is for hyp, and returns the program.
pub fn program() -> Result<PathBuf> {
    console::step("Building the operations to measure");
    let place = project::root().join("target/perf");
    let mut command = cargo("build");
    command
        .args(["--release", "--package", "perf-host"])
        .env("CARGO_TARGET_DIR", &place);
    if let Some(flags) = flags() {
        command.env("RUSTFLAGS", flags);
    }
    process::run(&mut command, Show::Lines)?;
    Ok(place.join("release/perf-host"))
}

/// Returns Rust's flags of the measured program, if it has any on this machine.
pub fn flags() -> Option<&'static str> {
    (ARCH == "aarch64").then_some(ARM_FLAGS)
}

/// Returns the compiler of the measured program, with the architecture if it is not the table's.
fn compiler_here(compiler: String, architecture: &str) -> String {
    match architecture {
        TABLE_OF => compiler,
        other => format!("{compiler} for {other}"),
    }
}

/// Counts every operation and compares; with `update`, writes the table anew first.
pub fn check(update: bool) -> Result<Outcome> {
    let valgrind = valgrind::provide()?;
    let program = program()?;
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
        compiler: compiler_here(compiler(), ARCH),
        operations: read(&printed, scratch.path())?,
    };
    if update {
        let json = serde_json::to_string_pretty(&counted)?;
        fs::write(table_path(), json + "\n").context("cannot write the table")?;
        console::detail(format!("wrote {}", table_path().display()));
    }

    let table = Table::parse(&fs::read(table_path()).unwrap_or_default())
        .context("perf/instructions.json: make it by `cargo xtask perf --instructions --update`")?;
    let outcome = Outcome {
        valgrind: valgrind.version,
        rows: compare(&counted, &table),
        compiler: counted.compiler,
    };
    print(&outcome, &table);
    Ok(outcome)
}

/// Divides callgrind's n-th dump by the repetitions of the n-th operation, which the program
/// printed as lines `name count`.
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

/// Compares the counts with the table.
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

/// Prints the counts beside the table.
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
    fn the_table_is_not_held_against_another_architecture() {
        let regressed = |architecture| {
            let here = compiler_here("a".to_owned(), architecture);
            compare(&table(&here, 200.0), &table("a", 100.0))[0].regressed
        };
        assert!(regressed("x86_64") && !regressed("aarch64"));
    }

    #[test]
    fn the_table_is_read_as_it_is_written() {
        let table = table("rustc 1.88", 12.5);
        let json = serde_json::to_vec(&table).unwrap();
        assert_eq!(Table::parse(&json).unwrap(), table);
        assert!(Table::parse(b"{}").is_err());
    }

    #[test]
    fn dumps_belong_to_lines_in_order() {
        let dumps = project::scratch().unwrap();
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
