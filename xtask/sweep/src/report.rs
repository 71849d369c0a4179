//! The outcome of a sweep: lines on the terminal, `target/reports/sweep.json`, and the table in
//! `docs/proof.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::{docs, project};

use crate::gates::{Gate, Run};
use crate::kind::Kind;
use crate::records::{Records, Words};
use crate::sites::Mutant;

/// The fate of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    /// The gate that noticed the mutant, if one did.
    pub(crate) gate: Option<String>,
    /// The failure of that gate, or the number of gates that noticed nothing.
    pub(crate) message: String,
    /// Executions of each model that noticed nothing; no more would tell more if `u64::MAX`.
    pub(crate) explored: u64,
}

impl Fate {
    /// Returns the fate of a mutant that a gate's run has noticed.
    pub(crate) fn killed(gate: &Gate, run: Run) -> Self {
        Self {
            gate: Some(gate.name.clone()),
            message: run.message,
            explored: u64::MAX,
        }
    }
}

/// The fates of mutants, by their names, in one state of the code.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Number of the state of the code.
    pub(crate) code: String,
    pub(crate) fates: BTreeMap<String, Fate>,
}

impl Report {
    /// Reads what the last sweep has found out, if the code is the one that it swept.
    pub(crate) fn resume(code: String) -> Self {
        let text = fs::read_to_string(project::reports().join("sweep.json"));
        let report: Value = text
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let rows = report["mutants"]
            .as_array()
            .filter(|_| report["code"] == *code);
        let text = |row: &Value, key: &str| Some(row[key].as_str()?.to_owned());
        let fates = rows.into_iter().flatten().filter_map(|row| {
            let fate = Fate {
                gate: text(row, "gate"),
                message: text(row, "message")?,
                explored: row["explored"].as_u64()?,
            };
            Some((text(row, "mutant")?, fate))
        });
        Self {
            fates: fates.collect(),
            code,
        }
    }

    /// Tells whether a mutant has been run for so many executions of each model.
    pub(crate) fn has(&self, mutant: &str, executions: u64) -> bool {
        let fate = self.fates.get(mutant);
        fate.is_some_and(|fate| fate.explored >= executions)
    }

    /// Writes `target/reports/sweep.json`.
    pub(crate) fn write(&self, mutants: &[Mutant], records: &Records) -> Result<()> {
        let rows = mutants.iter().filter_map(|mutant| {
            let name = mutant.name();
            let fate = self.fates.get(&name)?;
            let (reason, open) = match records.survivors.get(&name) {
                Some(Words::Reason(reason)) => (Some(reason), None),
                Some(Words::Open(open)) => (None, Some(open)),
                None => (None, None),
            };
            Some(json!({
                "mutant": name,
                "at": format!("src/{}:{}", mutant.file, mutant.line),
                "kind": mutant.kind.name(),
                "gate": fate.gate,
                "message": fate.message,
                "explored": fate.explored,
                "reason": reason,
                "open": open,
            }))
        });
        let report = json!({ "code": self.code, "mutants": rows.collect::<Vec<_>>() });
        let path = project::reports().join("sweep.json");
        fs::create_dir_all(project::reports())?;
        fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the table into `docs/proof.md`.
    pub(crate) fn publish(&self, mutants: &[Mutant], records: &Records) -> Result<()> {
        let table = self.table(mutants, records);
        docs::write("docs/proof.md", &[("cargo xtask loom --sweep", table)])
    }

    /// Returns the family of the gate that noticed a mutant: `loom`, `unit`, `model`.
    fn family(&self, mutant: &Mutant) -> Option<&str> {
        let gate = self.fates.get(&mutant.name())?.gate.as_deref()?;
        gate.split(' ').next()
    }

    /// Formats the table in Markdown: a row for each kind.
    fn table(&self, mutants: &[Mutant], records: &Records) -> String {
        let families: BTreeSet<_> = mutants.iter().filter_map(|m| self.family(m)).collect();
        let mut text = "| mutants | all |".to_owned();
        for family in &families {
            let _ = write!(text, " `{family}` |");
        }
        text.push_str(" explained | unexplained |\n|---|--:|");
        text.push_str(&"--:|".repeat(families.len() + 2));
        text.push('\n');

        let mut row = |what: &str, of: &dyn Fn(&Mutant) -> bool| {
            let rows: Vec<_> = mutants.iter().filter(|mutant| of(mutant)).collect();
            let _ = write!(text, "| {what} | {} |", rows.len());
            for family in &families {
                let by = |mutant: &&&Mutant| self.family(mutant) == Some(family);
                let _ = write!(text, " {} |", rows.iter().filter(by).count());
            }
            let survivors = || rows.iter().filter(|mutant| self.family(mutant).is_none());
            let explained = survivors().filter(|mutant| {
                let words = records.survivors.get(&mutant.name());
                matches!(words, Some(Words::Reason(_)))
            });
            let explained = explained.count();
            let _ = writeln!(text, " {explained} | {} |", survivors().count() - explained);
        };
        for kind in Kind::ALL {
            row(kind.what(), &|mutant| mutant.kind == kind);
        }
        row("all", &|_| true);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::Reader;

    #[test]
    fn the_table_has_a_row_for_each_kind_and_a_column_for_each_family() {
        let mut mutants = Vec::new();
        let text = "fn a() { b.load(Acquire); fence(SeqCst); c.notify(); kick(d.guard()); }";
        Reader::new("a.rs", &mut mutants).read(text).unwrap();
        let mut report = Report::default();
        let mut records = Records::default();
        for mutant in &mutants {
            let gate = (mutant.kind == Kind::Order).then(|| "loom kick::told".to_owned());
            let fate = Fate {
                gate,
                message: String::new(),
                explored: u64::MAX,
            };
            report.fates.insert(mutant.name(), fate);
        }
        let fence = mutants.iter().find(|mutant| mutant.kind == Kind::Fence);
        let words = Words::Reason("It is so.".to_owned());
        records.survivors.insert(fence.unwrap().name(), words);

        let table = report.table(&mutants, &records);
        assert_eq!(table.lines().count(), 8, "{table}");
        assert!(table.starts_with("| mutants | all | `loom` | explained | unexplained |\n"));
        assert!(
            table.contains("| an ordering one step weaker | 2 | 2 | 0 | 0 |"),
            "{table}"
        );
        assert!(
            table.contains("| a fence gone | 1 | 0 | 1 | 0 |"),
            "{table}"
        );
        assert!(table.contains("| all | 4 | 2 | 1 | 1 |"), "{table}");
    }
}
