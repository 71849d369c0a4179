//! The committed records: the gate that notices each mutant, and the reasons of those that none
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};
use xtask::project;

/// The gates that notice the mutants, written by the sweep.
const KILLED: &str = "loom-tests/killed.json";

/// The mutants that nothing notices, written by people.
const SURVIVORS: &str = "loom-tests/survivors.toml";

/// The words about a survivor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Why it does not matter, and why the code is not weaker then.
    Reason(String),
    /// The work left: a test that is missing, or code that may be weaker.
    Open(String),
}

/// The records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// The gate that notices a mutant, by the mutant's name.
    pub(crate) killed: BTreeMap<String, String>,
    /// The words about a mutant that no gate notices.
    pub(crate) survivors: BTreeMap<String, Words>,
}

impl Records {
    /// Reads the files of the checkout.
    pub(crate) fn read() -> Result<Self> {
        let read = |file: &str| {
            fs::read_to_string(project::root().join(file))
                .with_context(|| format!("cannot read {file}"))
        };
        Ok(Self {
            killed: serde_json::from_str(&read(KILLED)?)
                .with_context(|| format!("cannot understand {KILLED}"))?,
            survivors: survivors(&read(SURVIVORS)?)
                .with_context(|| format!("cannot understand {SURVIVORS}"))?,
        })
    }

    /// Writes the gates that notice the mutants.
    pub(crate) fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.killed)? + "\n";
        fs::write(project::root().join(KILLED), text)
            .with_context(|| format!("cannot write {KILLED}"))
    }

    /// Forgets the records of other files than this one.
    pub(crate) fn retain(&mut self, file: &str) {
        self.killed.retain(|name, _| name.starts_with(file));
        self.survivors.retain(|name, _| name.starts_with(file));
    }

    /// Compares the records with the mutants that there are, and returns what is wrong.
    pub(crate) fn faults(&self, mutants: &BTreeSet<String>) -> Vec<String> {
        let mut faults = Vec::new();
        for name in self.killed.keys().filter(|name| !mutants.contains(*name)) {
            faults.push(format!("{KILLED}: there is no mutant `{name}`"));
        }
        for name in self.survivors.keys() {
            if !mutants.contains(name) {
                faults.push(format!("{SURVIVORS}: there is no mutant `{name}`"));
            } else if let Some(gate) = self.killed.get(name) {
                faults.push(format!("{SURVIVORS}: `{name}` is noticed by {gate}"));
            }
        }
        for name in mutants {
            if !self.killed.contains_key(name) && !self.survivors.contains_key(name) {
                faults.push(format!(
                    "no gate notices `{name}`, and no reason is in {SURVIVORS}"
                ));
            }
        }
        faults
    }

    /// Lists the mutants that something is to be done about.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&String, &String)> {
        let all = self.survivors.iter();
        all.filter_map(|(name, words)| match words {
            Words::Open(what) => Some((name, what)),
            Words::Reason(_) => None,
        })
    }
}

/// Reads the survivors: a list of tables, each of which has the names of `mutants` and a `reason`
/// or an `open`.
fn survivors(text: &str) -> Result<BTreeMap<String, Words>> {
    let document: Table = text.parse()?;
    let mut all = BTreeMap::new();
    for entry in document
        .get("survivors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let words = |key: &str| Some(entry.get(key)?.as_str()?.trim().to_owned());
        let words = match (words("reason"), words("open")) {
            (Some(reason), None) if !reason.is_empty() => Words::Reason(reason),
            (None, Some(open)) if !open.is_empty() => Words::Open(open),
            _ => bail!("an entry has neither or both of `reason` and `open`: {entry:?}"),
        };
        let mutants = entry.get("mutants").and_then(Value::as_array);
        for name in mutants.context("an entry has no `mutants`")? {
            let name = name.as_str().context("a mutant is a text")?.to_owned();
            if let Some(old) = all.insert(name.clone(), words.clone()) {
                bail!("`{name}` has two entries, one of which says {old:?}");
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survivor_has_a_reason_or_is_open() {
        let text = "[[survivors]]\nmutants = [\"a\", \"b\"]\nreason = \"It is so.\"\n\
                    [[survivors]]\nmutants = [\"c\"]\nopen = \"A model.\"\n";
        let read = survivors(text).unwrap();
        assert_eq!(read["b"], Words::Reason("It is so.".to_owned()));
        assert_eq!(read["c"], Words::Open("A model.".to_owned()));
        for wrong in [
            "[[survivors]]\nmutants = [\"a\"]\n",
            "[[survivors]]\nmutants = [\"a\"]\nreason = \"\"\n",
            "[[survivors]]\nreason = \"It is so.\"\n",
            "[[survivors]]\nmutants = [\"a\", \"a\"]\nreason = \"It is so.\"\n",
        ] {
            assert!(survivors(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_mutant_is_in_one_record_and_no_record_is_of_another() {
        let mut records = Records::default();
        let mutants = ["a", "b"].map(str::to_owned).into();
        records.killed.insert("a".to_owned(), "unit".to_owned());
        assert_eq!(records.faults(&mutants).len(), 1);

        let words = Words::Reason("It is so.".to_owned());
        records.survivors.insert("b".to_owned(), words.clone());
        assert!(records.faults(&mutants).is_empty());

        records.survivors.insert("a".to_owned(), words.clone());
        records.survivors.insert("c".to_owned(), words);
        records.killed.insert("d".to_owned(), "unit".to_owned());
        assert_eq!(records.faults(&mutants).len(), 3);
    }
}
