//! What is left for the reader: two tables, and `target/reports/loom.json`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::programs::{Fault, Outcome};
use crate::{console, project};

/// A model, explored.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    protocol: String,
    model: String,
    passed: bool,
    executions: u64,
    preemptions: u64,
    /// Everything within the bound was explored.
    complete: bool,
    seconds: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl Model {
    pub(super) fn new(protocol: &str, model: &str, outcome: Outcome) -> Self {
        Self {
            protocol: protocol.to_owned(),
            model: model.to_owned(),
            passed: outcome.passed(),
            executions: outcome.executions,
            preemptions: outcome.preemptions,
            complete: outcome.complete,
            seconds: outcome.seconds,
            message: outcome.message,
        }
    }
}

/// A fault, and whether it was noticed.
#[derive(Debug, Serialize)]
pub(super) struct Mutant {
    mutant: String,
    what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    record: String,
    protocol: String,
    model: String,
    caught: bool,
    /// Executions until it was.
    executions: u64,
    seconds: f64,
    message: String,
}

impl Mutant {
    pub(super) fn new(fault: &Fault, outcome: Outcome) -> Self {
        Self {
            mutant: fault.name.clone(),
            what: fault.what.clone(),
            record: fault.record.clone(),
            protocol: fault.protocol.clone(),
            model: fault.test.clone(),
            caught: outcome.failed(),
            executions: outcome.executions,
            seconds: outcome.seconds,
            message: outcome.message,
        }
    }
}

/// One run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    passed: bool,
    deep: bool,
    seconds: f64,
    pub(super) models: Vec<Model>,
    pub(super) mutants: Vec<Mutant>,
}

impl Report {
    /// Models that failed, and mutants that survived.
    pub(crate) fn failed(&self) -> usize {
        self.models.iter().filter(|model| !model.passed).count()
            + self.mutants.iter().filter(|mutant| !mutant.caught).count()
    }

    /// Models that hold, and mutants that were caught.
    pub(crate) fn succeeded(&self) -> usize {
        self.models.len() + self.mutants.len() - self.failed()
    }

    /// Sums up, prints the tables and writes the file.
    pub(super) fn finish(&mut self, elapsed: Duration, deep: bool) -> Result<()> {
        self.passed = self.failed() == 0;
        self.deep = deep;
        self.seconds = elapsed.as_secs_f64();
        if !self.models.is_empty() {
            console::step("Protocols");
            self.protocols().iter().for_each(console::detail);
        }
        if !self.mutants.is_empty() {
            console::step("Mutants");
            self.caught().iter().for_each(console::detail);
        }
        let path = project::reports().join("loom.json");
        fs::create_dir_all(project::reports())
            .and_then(|()| Ok(serde_json::to_string_pretty(self)? + "\n"))
            .and_then(|json| fs::write(&path, json))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let (models, mutants) = (self.models.len(), self.mutants.len());
        let took = format!("{:.0} s", self.seconds);
        console::step(match self.failed() {
            0 => console::good(&format!(
                "all {models} models hold, all {mutants} mutants are caught, after {took}"
            )),
            failed => console::bad(&format!(
                "{failed} of {} failed, after {took}",
                models + mutants
            )),
        });
        Ok(())
    }

    /// A row for each protocol, and one for all.
    fn protocols(&self) -> Vec<String> {
        let row = |name: &str, models: &[&Model]| {
            let executions: u64 = models.iter().map(|model| model.executions).sum();
            let seconds: f64 = models.iter().map(|model| model.seconds).sum();
            let bounds = models.iter().map(|model| model.preemptions);
            let (least, most) = (bounds.clone().min(), bounds.max());
            let bound = match (least.unwrap_or(0), most.unwrap_or(0)) {
                (least, most) if least == most => format!("{least}"),
                (least, most) => format!("{least}-{most}"),
            };
            let failed = models.iter().filter(|model| !model.passed).count();
            let stopped = models
                .iter()
                .filter(|model| model.passed && !model.complete)
                .count();
            let mut row = format!(
                "{name:14}{:>7}{executions:>12}{bound:>13}{seconds:>9.1}",
                models.len()
            );
            if failed > 0 {
                row.push_str(&console::bad(&format!("  {failed} failed")));
            }
            if stopped > 0 {
                row.push_str(&format!("  {stopped} stopped in time"));
            }
            row
        };
        let mut names: Vec<_> = self
            .models
            .iter()
            .map(|model| model.protocol.as_str())
            .collect();
        names.dedup();
        let mut rows = vec![format!(
            "{:14}{:>7}{:>12}{:>13}{:>9}",
            "protocol", "models", "executions", "preemptions", "seconds"
        )];
        rows.extend(names.iter().map(|name| {
            let models = self.models.iter().filter(|model| model.protocol == *name);
            row(name, &models.collect::<Vec<_>>())
        }));
        rows.push(row("all", &self.models.iter().collect::<Vec<_>>()));
        rows
    }

    /// A row for each mutant.
    fn caught(&self) -> Vec<String> {
        let mut rows = vec![format!(
            "{:28}{:>14}{:>10}{:>12}{:>9}  record",
            "mutant", "protocol", "caught", "executions", "seconds"
        )];
        rows.extend(self.mutants.iter().map(|mutant| {
            let caught = if mutant.caught {
                console::good(&format!("{:>10}", "yes"))
            } else {
                console::bad(&format!("{:>10}", "NO"))
            };
            let row = format!(
                "{:28}{:>14}{caught}{:>12}{:>9.1}  {}",
                mutant.mutant, mutant.protocol, mutant.executions, mutant.seconds, mutant.record
            );
            row.trim_end().to_owned()
        }));
        rows
    }
}
