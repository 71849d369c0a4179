//! Allow-lists of the rules of prose: text from before a rule, which may only become less.
//!
//! A list has one line a rule and file: `rule file count`. The gate fails if a file breaks a rule
//! more often than its line allows, and also if it breaks the rule less often: then the number is
//! lowered, or the line deleted. `HOUSE_WRITE=1 cargo test --test house allow_lists` writes the
//! lists anew. That never raises a number. A file that is new to a list may take over what other
//! files of its folder have lost, so that code can move; the total of a rule in a folder never
//! rises.

use std::collections::BTreeMap;
use std::{env, fs};

use crate::prose::{self, Violation};
use crate::source::{project, tree};

/// Allow-lists, and the folders that each speaks for.
const LISTS: [(&str, &[&str]); 2] = [
    ("tests/house/allowed.txt", &["src"]),
    (
        "tests/house/allowed_elsewhere.txt",
        &[
            "benches",
            "examples",
            "fuzz/src",
            "hyp/guests",
            "hyp/src",
            "loom-tests/soak/src",
            "loom-tests/src",
            "loom-tests/tests",
            "perf/el2/guest/src",
            "perf/el2/kvm/src",
            "perf/el2/plugin/src",
            "perf/host/src",
            "perf/peers/src",
            "tests",
            "xtask/perf/src",
            "xtask/src",
        ],
    ),
];

/// Violations allowed, by rule and file.
type Counts = BTreeMap<(String, String), usize>;

/// Reads a list. Empty lines, and lines that begin with `#`, are left out.
///
/// # Panics
/// On a line of any other form.
fn parse(list: &str) -> Counts {
    let mut counts = Counts::new();
    let lines = list
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    for line in lines {
        let mut words = line.split(' ');
        let entry = (|| {
            let rule = words.next()?.to_owned();
            let file = words.next()?.to_owned();
            let count = words.next()?.parse::<usize>().ok()?;
            (words.next().is_none() && count > 0).then_some(((rule, file), count))
        })();
        let (key, count) = entry.unwrap_or_else(|| panic!("no `rule file count`: {line}"));
        assert!(counts.insert(key, count).is_none(), "twice: {line}");
    }
    counts
}

/// Writes a list.
fn print(counts: &Counts) -> String {
    let mut text = "# Text from before its rule: rule, file, count. The numbers only fall.\n\
                    # HOUSE_WRITE=1 cargo test --test house allow_lists lowers them.\n"
        .to_owned();
    for ((rule, file), count) in counts {
        text.push_str(&format!("{rule} {file} {count}\n"));
    }
    text
}

/// Counts violations by rule and file.
fn count(found: &[Violation]) -> Counts {
    let mut counts = Counts::new();
    for violation in found {
        let key = (violation.rule.name.to_owned(), violation.file.clone());
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// Compares what was found with what is allowed; returns a complaint for each difference.
fn differences(allowed: &Counts, found: &[Violation], list: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let counts = count(found);

    for (key, now) in &counts {
        let most = allowed.get(key).copied().unwrap_or(0);
        if *now <= most {
            continue;
        }
        let here = |v: &&Violation| v.rule.name == key.0 && v.file == key.1;
        let mut mend = "";
        for violation in found.iter().filter(here) {
            let Violation { file, line, .. } = violation;
            mend = violation.rule.mend;
            complaints.push(format!("{file}:{line}: {}: {}", key.0, violation.text));
        }
        complaints.push(format!(
            "{}: {}: {now}, where {list} allows {most}; {mend}\n",
            key.1, key.0
        ));
    }

    for (key, most) in allowed {
        let now = counts.get(key).copied().unwrap_or(0);
        if now < *most {
            let mend = if now == 0 {
                "delete the line"
            } else {
                "lower the number"
            };
            complaints.push(format!(
                "{}: {}: only {now}, where {list} allows {most}; {mend} \
                 (HOUSE_WRITE=1 cargo test --test house allow_lists does)",
                key.1, key.0
            ));
        }
    }
    complaints
}

/// Checks that the list may become `new`: no number rises, and no total of a rule in a folder.
/// Returns a complaint for each that does.
fn rises(old: &Counts, new: &Counts, folders: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (key, now) in new {
        if let Some(before) = old.get(key).filter(|before| *before < now) {
            let (rule, file) = key;
            complaints.push(format!("{file}: {rule}: {before} would become {now}"));
        }
    }

    let total = |counts: &Counts, rule: &str, folder: &str| -> usize {
        let below = format!("{folder}/");
        let of = |key: &(String, String)| key.0 == rule && key.1.starts_with(&below);
        counts
            .iter()
            .filter(|(key, _)| of(key))
            .map(|(_, n)| n)
            .sum()
    };
    let mut rules: Vec<&str> = new.keys().map(|(rule, _)| rule.as_str()).collect();
    rules.dedup();
    for rule in rules {
        for folder in folders {
            let (before, now) = (total(old, rule, folder), total(new, rule, folder));
            if now > before {
                complaints.push(format!(
                    "{folder}: {rule}: {before} would become {now} in all"
                ));
            }
        }
    }
    complaints
}

#[test]
fn allow_lists() {
    let write = env::var_os("HOUSE_WRITE").is_some();
    let mut complaints = Vec::new();
    for (list, folders) in LISTS {
        let found: Vec<Violation> = folders
            .iter()
            .flat_map(|folder| tree(project(), folder))
            .flat_map(|source| prose::violations(&source))
            .collect();
        let path = project().join(list);
        let text = fs::read_to_string(&path);

        if write {
            let new = count(&found);
            // Without a list there is nothing to hold the first one against.
            let refused = text.map_or(Vec::new(), |old| rises(&parse(&old), &new, folders));
            if refused.is_empty() {
                fs::write(&path, print(&new)).unwrap();
            }
            complaints.extend(refused);
        } else {
            let allowed = parse(&text.unwrap());
            complaints.extend(differences(&allowed, &found, list));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    fn of(text: &str) -> Vec<Violation> {
        prose::violations(&Source::new("src", "a.rs", text))
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        let counts = parse("# Head.\n\ncolumns src/a.rs 2\nverb-first src/a.rs 1\n");
        assert_eq!(counts.len(), 2);
        assert_eq!(parse(&print(&counts)), counts);
    }

    #[test]
    #[should_panic(expected = "no `rule file count`")]
    fn a_line_of_another_form_is_an_error() {
        parse("columns src/a.rs\n");
    }

    #[test]
    fn more_than_allowed_fails_and_says_where() {
        let found = of("// What one.\n// Two.\nx; // Where two.\n");
        assert!(differences(&parse("no-what-openings src/a.rs 2\n"), &found, "list").is_empty());
        let complaints = differences(&parse("no-what-openings src/a.rs 1\n"), &found, "list");
        assert_eq!(complaints.len(), 3);
        assert!(complaints[0].starts_with("src/a.rs:1: no-what-openings: What one."));
        assert!(complaints[1].starts_with("src/a.rs:3: no-what-openings: Where two."));
        assert!(complaints[2].contains("2, where list allows 1; name the subject"));
    }

    #[test]
    fn less_than_allowed_fails_too() {
        let found = of("// What one.\n");
        let complaints = differences(&parse("no-what-openings src/a.rs 2\n"), &found, "list");
        assert!(complaints[0].contains("only 1, where list allows 2; lower the number"));
        let complaints = differences(&parse("columns src/gone.rs 2\n"), &[], "list");
        assert!(complaints[0].contains("only 0, where list allows 2; delete the line"));
    }

    #[test]
    fn numbers_only_fall() {
        let old = parse("columns src/a.rs 3\ncolumns src/b.rs 2\ncolumns hyp/src/a.rs 9\n");
        let refused = |new: &str| !rises(&old, &parse(new), &["src", "hyp/src"]).is_empty();
        assert!(!refused("columns src/a.rs 2\n"));
        assert!(!refused("columns src/a.rs 3\ncolumns src/b.rs 2\n"));
        // A file that stands does not get worse, even if another gets better.
        assert!(refused("columns src/a.rs 4\n"));
        // A file that is new takes over what others have lost, in its folder.
        assert!(!refused("columns src/new/a.rs 5\n"));
        assert!(refused("columns src/new/a.rs 6\n"));
        // A rule that nothing broke yet.
        assert!(refused("verb-first src/a.rs 1\n"));
    }
}
