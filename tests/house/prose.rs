//! Rules of prose: `verb-first`, `no-what-openings`, `no-position-docs`, `columns` and
//! `safety-stands-alone`.

use std::fmt;

use crate::comments::{blocks, documented, first_word, safety, sentences};
use crate::source::{Kind, Line, Source, project, tree};

/// Folders whose files keep the rules.
const FOLDERS: [&str; 24] = [
    "examples",
    "fuzz/fuzz_targets",
    "fuzz/src",
    "hyp/guests",
    "hyp/kvm-state/src",
    "hyp/scheduler/src",
    "hyp/scheduler/tests",
    "hyp/src",
    "loom-tests/soak/src",
    "loom-tests/src",
    "loom-tests/states/src",
    "loom-tests/states/tests",
    "loom-tests/tests",
    "perf/el2/guest/src",
    "perf/el2/kvm/src",
    "perf/el2/plugin/src",
    "benches",
    "perf/host/src",
    "perf/peers/src",
    "src",
    "tests",
    "xtask/perf/src",
    "xtask/src",
    "xtask/sweep/src",
];

/// Columns of a line, comments too.
pub(crate) const COLUMNS: usize = 100;

/// Words that no sentence opens with.
pub(crate) const OPENINGS: [&str; 4] = ["What", "Whoever", "Whether", "Where"];

/// Capitalised words in `s` that are no verbs in the third person.
const NO_VERBS: [&str; 41] = [
    "Always",
    "As",
    "Bits",
    "Bytes",
    "Classes",
    "Commands",
    "Cycles",
    "Devices",
    "Entries",
    "Events",
    "Groups",
    "Interrupts",
    "Is",
    "Its",
    "Keys",
    "Kinds",
    "Lines",
    "Lookups",
    "Mappings",
    "Nanoseconds",
    "Neighbours",
    "Numbers",
    "Offsets",
    "Operations",
    "Perhaps",
    "References",
    "Registers",
    "Slots",
    "Steps",
    "Tables",
    "Targets",
    "Tests",
    "This",
    "Thus",
    "Units",
    "Unless",
    "Us",
    "Values",
    "Vcpus",
    "Was",
    "Words",
];

/// Openings of a sentence that say where else to read.
const POINTERS: [&str; 4] = ["Same as", "As above", "All of them.", "The same."];

/// Words after "The same" that leave open which one it is.
const AFTER_SAME: [&str; 14] = [
    "as", "but", "by", "for", "from", "if", "in", "of", "on", "to", "when", "while", "with",
    "without",
];

/// Phrases that say where else to read, wherever they stand.
const ABOVE: [&str; 3] = ["as above", "as below", "see above"];

/// Openings of a SAFETY comment that leave its argument to another.
const UNSAFE_POINTERS: [&str; 12] = [
    "as above",
    "as in",
    "as for",
    "as there",
    "by the above",
    "by the glance",
    "ditto",
    "it is.",
    "likewise",
    "see ",
    "the same",
    "they are",
];

/// Rule: how it is named, and how to mend text that breaks it.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    name: &'static str,
    mend: &'static str,
}

const VERB_FIRST: Rule = Rule {
    name: "verb-first",
    mend: "begin a function's documentation with a verb in the third person (Returns, Reads, ...)",
};
const NO_WHAT_OPENINGS: Rule = Rule {
    name: "no-what-openings",
    mend: "name the subject: no sentence opens with What, Whoever, Whether or Where",
};
const NO_POSITION_DOCS: Rule = Rule {
    name: "no-position-docs",
    mend: "say it here, or name the item: text by position (\"as above\") dies with the next move",
};
const COLUMNS_RULE: Rule = Rule {
    name: "columns",
    mend: "wrap at 100 columns",
};
const SAFETY_STANDS_ALONE: Rule = Rule {
    name: "safety-stands-alone",
    mend: "give the whole argument: which invariant or check makes this sound",
};

/// Place that breaks a rule.
#[derive(Debug)]
struct Violation {
    rule: &'static Rule,
    /// Path from the root of the project.
    file: String,
    line: usize,
    text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule: Rule { name, mend },
            file,
            line,
            text,
        } = self;
        write!(f, "{file}:{line}: {name}: {text}; {mend}")
    }
}

/// Returns whether documentation opens with a verb in the third person.
pub(crate) fn opens_with_verb(opening: &str) -> bool {
    let word = first_word(opening);
    let mut letters = word.chars();
    letters.next().is_some_and(char::is_uppercase)
        && letters.all(char::is_lowercase)
        && word.ends_with('s')
        && !word.ends_with("ss")
        && !NO_VERBS.contains(&word)
}

/// Returns whether a sentence refers to another place by its position.
fn points_by_position(sentence: &str) -> bool {
    let opening = sentence.trim_start_matches(['(', '"']);
    let lower = sentence.to_lowercase();
    let as_for = lower.find("as for ");
    let same = opening.strip_prefix("The same").map(|rest| {
        let next = rest.split_whitespace().next().unwrap_or_default();
        rest.starts_with([',', ';', ':']) || AFTER_SAME.contains(&next)
    });
    same == Some(true)
        || POINTERS.iter().any(|pointer| opening.starts_with(pointer))
        || ABOVE.iter().any(|phrase| lower.contains(phrase))
        || as_for.is_some_and(|at| lower[at..].contains(" above"))
}

/// Returns whether a SAFETY comment leaves its argument to another.
pub(crate) fn points_elsewhere(safety: &str) -> bool {
    let safety = safety.to_lowercase();
    UNSAFE_POINTERS
        .iter()
        .any(|pointer| safety.starts_with(pointer))
}

/// Returns whether a line has more columns than it may.
pub(crate) fn is_wide(line: &Line) -> bool {
    line.text.chars().count() > COLUMNS
}

/// Collects all places of a file that break a rule of prose.
fn violations(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut add = |rule, line, text: &str| {
        found.push(Violation {
            rule,
            file: source.name.clone(),
            line,
            text: text.to_owned(),
        });
    };

    for function in documented(source) {
        if !opens_with_verb(&function.opening) {
            add(&VERB_FIRST, function.line, &function.opening);
        }
    }

    for block in blocks(source) {
        // Arguments of safety have a rule of their own.
        let unsafe_argument = block.kind == Kind::Plain
            && block
                .lines
                .iter()
                .any(|(_, text)| text.starts_with("SAFETY:"));

        for sentence in sentences(&block) {
            if OPENINGS.contains(&first_word(&sentence.text)) {
                add(&NO_WHAT_OPENINGS, sentence.line, &sentence.text);
            }
            if !unsafe_argument && points_by_position(&sentence.text) {
                add(&NO_POSITION_DOCS, sentence.line, &sentence.text);
            }
        }
    }

    for argument in safety(source) {
        if points_elsewhere(&argument.text) {
            add(&SAFETY_STANDS_ALONE, argument.line, &argument.text);
        }
    }

    for line in &source.lines {
        if is_wide(line) {
            add(&COLUMNS_RULE, line.number, line.text.trim());
        }
    }
    found
}

#[test]
fn prose_keeps_its_rules() {
    let found: Vec<String> = FOLDERS
        .iter()
        .flat_map(|folder| tree(project(), folder))
        .flat_map(|source| violations(&source))
        .map(|violation| violation.to_string())
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names of the rules that a text breaks, and the lines where.
    fn broken(text: &str) -> Vec<(&'static str, usize)> {
        let found = violations(&Source::new("src", "a.rs", text));
        found.iter().map(|v| (v.rule.name, v.line)).collect()
    }

    #[test]
    fn a_violation_says_where_it_is_and_how_to_mend_it() {
        let found = violations(&Source::new("src", "a.rs", "// What one.\n// Two.\n"));
        let text = "src/a.rs:1: no-what-openings: What one.; name the subject: ";
        assert!(found[0].to_string().starts_with(text), "{}", found[0]);
    }

    #[test]
    fn a_function_begins_with_a_verb() {
        assert!(broken("/// Returns one.\nfn f() {}\n").is_empty());
        assert!(broken("/// The vCPU with this affinity.\nstruct S;\n").is_empty());
        for bad in [
            "The vCPU with this affinity.",
            "`GITS_CTLR.Enabled`.",
            "Its number.",
            "This reads.",
            "Address of the register.",
            "SPIs of the VM.",
            "Of a vCPU after reset.",
            "returns one.",
        ] {
            let text = format!("/// {bad}\nfn f() {{}}\n");
            assert_eq!(broken(&text), [("verb-first", 1)], "{bad}");
        }
    }

    #[test]
    fn no_sentence_opens_with_what() {
        let rule = "no-what-openings";
        assert_eq!(broken("// One. What it does\n// is two.\n"), [(rule, 1)]);
        assert_eq!(broken("//! One.\n//! Whoever asks.\n"), [(rule, 2)]);
        assert_eq!(broken("/// Whether it is.\nstruct S;\n"), [(rule, 1)]);
        assert_eq!(broken("x(); // Where it is.\n"), [(rule, 1)]);
        assert!(broken("/// Says what it is, and where.\nstruct S;\n").is_empty());
        assert!(broken("/// ```\n/// // What?\n/// ```\nstruct S;\n").is_empty());
        assert!(broken("let x = \"// What?\";\n").is_empty());
    }

    #[test]
    fn no_text_by_position() {
        for bad in [
            "The same without the state.",
            "The same, later.",
            "The same.",
            "Same as `load`.",
            "As above.",
            "Relaxed: as above.",
            "Relaxed: as for `top` above.",
            "All of them.",
        ] {
            assert_eq!(
                broken(&format!("// {bad}\n")),
                [("no-position-docs", 1)],
                "{bad}"
            );
        }
        assert!(broken("// The same priority again does not nest.\n").is_empty());
        assert!(broken("// Takes the same lock. As [`Cpu::new`], but later.\n").is_empty());
    }

    #[test]
    fn safety_comments_stand_alone() {
        for bad in [
            "as above.",
            "as in `get`.",
            "they are.",
            "by the above, it is alive.",
        ] {
            let text = format!("// SAFETY: {bad}\n");
            assert_eq!(broken(&text), [("safety-stands-alone", 1)], "{bad}");
        }
        assert!(broken("// SAFETY: by the type invariant, it is alive.\n").is_empty());
        assert!(broken("// UNSAFETY: as in the parent.\n").is_empty());
    }

    #[test]
    fn lines_end_at_100_columns() {
        let line = format!("// {}", "é".repeat(97));
        assert!(broken(&line).is_empty());
        assert_eq!(broken(&format!("{line}x")), [("columns", 1)]);
    }
}
