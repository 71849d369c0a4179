//! The outcome of a run: tables on the terminal and in `docs/proof.md`, and
//! `target/reports/loom.json`.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::programs::{MutantRecord, Outcome};
use crate::docs::grouped;
use crate::{console, docs, project};

/// A model, explored.
#[derive(Debug)]
pub(super) struct Model {
    protocol: String,
    model: String,
    passed: bool,
    executions: u64,
    preemptions: u64,
    /// True if everything within the bound was explored.
    complete: bool,
    seconds: f64,
    /// The reason of a failure, or empty.
    message: String,
}

object!(Model {
    protocol,
    model,
    passed,
    executions,
    preemptions,
    complete,
    seconds,
    message,
});

impl Model {
    /// Records the outcome of a model.
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

/// A fault, run against the model that has to notice it.
#[derive(Debug)]
pub(super) struct Mutant {
    mutant: String,
    what: String,
    /// The public record of a bug that it re-creates, or empty.
    record: String,
    protocol: String,
    model: String,
    caught: bool,
    /// Executions up to the one that failed.
    executions: u64,
    seconds: f64,
    message: String,
}

object!(Mutant {
    mutant,
    what,
    record,
    protocol,
    model,
    caught,
    executions,
    seconds,
    message,
});

impl Mutant {
    /// Records the outcome of a fault's model.
    pub(super) fn new(fault: &MutantRecord, outcome: Outcome) -> Self {
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

/// The models of one protocol, or of all, added up.
struct Sum {
    models: usize,
    executions: u64,
    /// The bound of preemptions, or the range of the models' bounds.
    preemptions: String,
    seconds: f64,
    failed: usize,
    /// Models that hold as far as they were explored, up to a limit of time.
    stopped: usize,
}

impl Sum {
    /// Adds models up.
    fn of(models: &[&Model]) -> Self {
        let count = |is: fn(&Model) -> bool| models.iter().filter(|model| is(model)).count();
        let bounds = || models.iter().map(|model| model.preemptions);
        let (least, most) = (bounds().min().unwrap_or(0), bounds().max().unwrap_or(0));
        Self {
            models: models.len(),
            executions: models.iter().map(|model| model.executions).sum(),
            preemptions: match least == most {
                true => format!("{least}"),
                false => format!("{least}-{most}"),
            },
            seconds: models.iter().map(|model| model.seconds).sum(),
            failed: count(|model| !model.passed),
            stopped: count(|model| model.passed && !model.complete),
        }
    }
}

/// The report of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: bool,
    deep: bool,
    seconds: f64,
    pub(super) models: Vec<Model>,
    pub(super) mutants: Vec<Mutant>,
}

object!(Report {
    passed,
    deep,
    seconds,
    models,
    mutants,
});

impl Report {
    /// Counts the models that failed and the mutants that survived.
    pub(crate) fn failed(&self) -> usize {
        self.models.iter().filter(|model| !model.passed).count()
            + self.mutants.iter().filter(|mutant| !mutant.caught).count()
    }

    /// Counts the models that hold and the mutants that were caught.
    pub(crate) fn succeeded(&self) -> usize {
        self.models.len() + self.mutants.len() - self.failed()
    }

    /// Sums the run up, prints the tables and writes the file.
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

    /// Writes the tables of models and of mutants into `docs/proof.md`.
    pub(super) fn publish(&self) -> Result<()> {
        docs::write(
            "docs/proof.md",
            &[
                ("cargo xtask loom: models", self.table_of_models()),
                ("cargo xtask loom: mutants", self.table_of_mutants()),
            ],
        )
    }

    /// Adds the models up by protocol.
    fn by_protocol(&self) -> Vec<(&str, Sum)> {
        let names = self.models.iter().map(|model| model.protocol.as_str());
        let mut names: Vec<_> = names.collect();
        names.dedup();
        let sum = |name| {
            let models = self.models.iter().filter(|model| model.protocol == name);
            (name, Sum::of(&models.collect::<Vec<_>>()))
        };
        names.into_iter().map(sum).collect()
    }

    /// Adds all models up.
    fn total(&self) -> Sum {
        Sum::of(&self.models.iter().collect::<Vec<_>>())
    }

    /// Formats a line of the terminal for each protocol, and one for all.
    fn protocols(&self) -> Vec<String> {
        let row = |name: &str, sum: &Sum| {
            let mut row = format!(
                "{name:14}{:>7}{:>12}{:>13}{:>9.1}",
                sum.models, sum.executions, sum.preemptions, sum.seconds
            );
            if sum.failed > 0 {
                row.push_str(&console::bad(&format!("  {} failed", sum.failed)));
            }
            if sum.stopped > 0 {
                row.push_str(&format!("  {} stopped in time", sum.stopped));
            }
            row
        };
        let mut rows = vec![format!(
            "{:14}{:>7}{:>12}{:>13}{:>9}",
            "protocol", "models", "executions", "preemptions", "seconds"
        )];
        rows.extend(self.by_protocol().iter().map(|(name, sum)| row(name, sum)));
        rows.push(row("all", &self.total()));
        rows
    }

    /// Formats the table of models in Markdown.
    fn table_of_models(&self) -> String {
        let mut text = "| protocol | races | models | preemptions | executions | seconds |\n\
             |---|---|--:|--:|--:|--:|\n"
            .to_owned();
        let mut row = |name: &str, races: &str, sum: &Sum| {
            let executions = grouped(sum.executions);
            let _ = writeln!(
                text,
                "| {name} | {races} | {} | {} | {executions} | {:.1} |",
                sum.models, sum.preemptions, sum.seconds
            );
        };
        for (name, sum) in self.by_protocol() {
            row(&format!("`{name}`"), &races(name), &sum);
        }
        row("all", "", &self.total());
        text
    }

    /// Formats a line of the terminal for each mutant.
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

    /// Formats the table of mutants in Markdown.
    fn table_of_mutants(&self) -> String {
        let mut text = "| fault | re-creates | caught by | after executions |\n\
             |---|---|---|--:|\n"
            .to_owned();
        for mutant in &self.mutants {
            let record = match mutant.record.as_str() {
                cve if cve.starts_with("CVE-") => format!("**{cve}**"),
                other => other.to_owned(),
            };
            let _ = writeln!(
                text,
                "| {} | {record} | `{}::{}` | {} |",
                mutant.what.trim().trim_end_matches('.'),
                mutant.protocol,
                mutant.model,
                grouped(mutant.executions)
            );
        }
        text
    }
}

/// Reads what a protocol's models are about: the first sentence of their file.
fn races(protocol: &str) -> String {
    let file = format!("loom-tests/tests/models/{protocol}.rs");
    let text = fs::read_to_string(project::root().join(file)).unwrap_or_default();
    subject(&text, protocol).unwrap_or_default()
}

/// Finds the first sentence of a file that begins with ``//! `PROTOCOL`: ``.
fn subject(text: &str, protocol: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("//! "));
    let paragraph = lines.collect::<Vec<_>>().join(" ");
    let rest = paragraph.strip_prefix(&format!("`{protocol}`: "))?;
    let sentence = rest.split(". ").next()?;
    Some(sentence.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let model = |model: &str, preemptions| Model {
            protocol: "kick".to_owned(),
            model: model.to_owned(),
            passed: true,
            executions: 1500,
            preemptions,
            complete: true,
            seconds: 0.25,
            message: String::new(),
        };
        let mutant = Mutant {
            mutant: "Deaf".to_owned(),
            what: " Nobody is told.".to_owned(),
            record: "CVE-2024-26598".to_owned(),
            protocol: "kick".to_owned(),
            model: "told".to_owned(),
            caught: true,
            executions: 7,
            seconds: 0.0,
            message: "why".to_owned(),
        };
        Report {
            models: vec![model("told", 2), model("slept", 3)],
            mutants: vec![mutant],
            ..Report::default()
        }
    }

    #[test]
    fn tables_have_a_row_for_each_protocol_and_each_mutant() {
        let report = report();
        let models = report.table_of_models();
        assert!(models.contains("| `kick` | "), "{models}");
        assert!(models.contains(" | 2 | 2-3 | 3,000 | 0.5 |"), "{models}");
        assert_eq!(models.lines().count(), 4, "{models}");

        let mutants = report.table_of_mutants();
        let row = "| Nobody is told | **CVE-2024-26598** | `kick::told` | 7 |";
        assert!(mutants.contains(row), "{mutants}");
    }

    #[test]
    fn a_protocols_subject_is_its_files_first_sentence() {
        let text = "//! `kick`: `GICR_X.Y` = 0 against\n//! entry. Nothing else.\n//!\n//! More.\n";
        let subject = |protocol| subject(text, protocol);
        assert_eq!(
            subject("kick").as_deref(),
            Some("`GICR_X.Y` = 0 against entry")
        );
        assert_eq!(subject("level"), None);
    }

    #[test]
    fn every_protocol_has_a_subject() {
        let folder = project::root().join("loom-tests/tests/models");
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let protocol = path.file_stem().unwrap().to_str().unwrap();
            assert!(
                protocol == "main" || !races(protocol).is_empty(),
                "{protocol}"
            );
        }
    }
}
