//! The choice of gates by `--only` and `--no-boot`.

use std::error::Error;
use std::fmt;

use super::TestOptions;
use super::gates::Gate;

/// A choice that no gate satisfies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unselected {
    /// No gate has this slug, or this in its name.
    Unknown {
        /// The word given to `--only`.
        word: String,
        /// A line for each gate: its slug and its name.
        gates: Vec<String>,
    },
    /// Every gate that is meant boots, and `--no-boot` leaves those out.
    NothingLeft,
}

impl fmt::Display for Unselected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word, gates } => {
                write!(f, "no gate is called `{word}`; the gates are")?;
                gates.iter().try_for_each(|gate| write!(f, "\n  {gate}"))
            }
            Self::NothingLeft => write!(f, "--no-boot leaves none of the gates named by --only"),
        }
    }
}

impl Error for Unselected {}

/// Returns the gates that the options ask for, in their order, each once.
pub(crate) fn gates(mut all: Vec<Gate>, options: &TestOptions) -> Result<Vec<Gate>, Unselected> {
    if !options.only.is_empty() {
        let mut chosen = vec![false; all.len()];
        for word in &options.only {
            choose(&all, word, &mut chosen)?;
        }
        let mut chosen = chosen.into_iter();
        all.retain(|_| chosen.next().unwrap_or(false));
    }
    if options.no_boot {
        all.retain(|gate| !gate.boots);
    }
    if all.is_empty() {
        return Err(Unselected::NothingLeft);
    }
    Ok(all)
}

/// Marks the gates that a word means: the gate with this slug, or else every gate with the word in
/// its slug or its name.
fn choose(gates: &[Gate], word: &str, chosen: &mut [bool]) -> Result<(), Unselected> {
    let word = word.to_lowercase();
    let is_slug = gates.iter().any(|gate| gate.slug == word);
    let mut found = false;
    for (gate, chosen) in gates.iter().zip(chosen) {
        let name = gate.name.to_lowercase();
        let means = match is_slug {
            true => gate.slug == word,
            false => gate.slug.contains(&word) || name.contains(&word),
        };
        *chosen |= means;
        found |= means;
    }
    if found {
        return Ok(());
    }
    Err(Unselected::Unknown {
        word,
        gates: gates.iter().map(Gate::line).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Options as _;
    use crate::test::gates::all;

    fn chosen(arguments: &[&str]) -> Result<Vec<String>, Unselected> {
        let gates = gates(all(), &TestOptions::parsed(arguments).unwrap())?;
        Ok(gates.into_iter().map(|gate| gate.slug).collect())
    }

    #[test]
    fn every_gate_runs_without_a_choice() {
        assert_eq!(chosen(&[]).unwrap().len(), all().len());
        let without = chosen(&["--no-boot"]).unwrap();
        assert!(without.contains(&"fuzz".to_owned()));
        assert!(!without.iter().any(|slug| slug.starts_with("boot")));
    }

    #[test]
    fn a_slug_means_one_gate_and_a_part_of_a_name_every_gate_with_it() {
        assert_eq!(chosen(&["--only", "clippy"]).unwrap(), ["clippy"]);
        assert_eq!(chosen(&["--only", "MIRI"]).unwrap(), ["miri"]);
        let boots = chosen(&["--only", "boot 6.12"]).unwrap();
        assert_eq!(boots, ["boot-6.12-4", "boot-6.12-1"]);
    }

    #[test]
    fn several_choices_run_in_the_usual_order_and_once() {
        let only = ["--only", "miri", "--only", "fmt", "--only", "formatting"];
        assert_eq!(
            chosen(&only).unwrap(),
            ["fmt", "el2-fmt", "example-fmt", "miri"]
        );
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_gates() {
        let error = chosen(&["--only", "fmt", "--only", "nonsense"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`nonsense`"), "{text}");
        assert!(text.contains("\n  conformance-4 "), "{text}");
    }

    #[test]
    fn a_choice_of_boots_without_boots_is_an_error() {
        let error = chosen(&["--only", "boot", "--no-boot"]).unwrap_err();
        assert_eq!(error, Unselected::NothingLeft);
    }
}
