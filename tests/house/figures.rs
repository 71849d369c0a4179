//! Figures of style over `src/`, and the length of its files.
//!
//! `cargo test --test house -- --nocapture style_figures` prints them.

use crate::comments::{blocks, body_lines, documented, first_word, safety, sentences};
use crate::prose::{OPENINGS, is_wide, opens_with_verb, points_elsewhere};
use crate::source::{Kind, Source, is_word, project, tree};

/// Lines of a file that is not tests.
const MAX_LINES: usize = 600;

/// Words that refer to something instead of naming it.
const REFERRING: [&str; 28] = [
    "here",
    "it",
    "its",
    "itself",
    "one",
    "ones",
    "so",
    "such",
    "that",
    "their",
    "them",
    "themselves",
    "there",
    "these",
    "they",
    "this",
    "those",
    "what",
    "whatever",
    "where",
    "wherever",
    "whether",
    "which",
    "whichever",
    "who",
    "whoever",
    "whom",
    "whose",
];

/// Bound that a figure has to keep.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// The figure is only told.
    None,
}

/// Bounds, to be tightened, never loosened.
const VERB_SHARE: Bound = Bound::AtLeast(85.0);
const WHAT_OPENINGS: Bound = Bound::AtMost(0.0);
const REFERRING_WORDS: Bound = Bound::AtMost(5.0);
const BLANK_LINES: Bound = Bound::AtLeast(4.0);

impl Bound {
    /// Returns whether `value` keeps the bound.
    fn is_kept(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::None => true,
        }
    }

    /// Returns how the bound is printed.
    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::None => String::new(),
        }
    }
}

/// Counts over a tree.
#[derive(Default, Debug, PartialEq, Eq)]
struct Counts {
    documented: usize,
    with_verb: usize,
    /// In documentation, and in other comments.
    openings: [usize; 2],
    words: [usize; 2],
    referring: [usize; 2],
    /// In documentation, each word of [`REFERRING`].
    by_word: [usize; REFERRING.len()],
    body_lines: usize,
    blank_lines: usize,
    wide_lines: usize,
    safety: usize,
    safety_elsewhere: usize,
    code_lines: usize,
}

impl Counts {
    /// Adds a file. Of tests nothing counts but the width of their lines.
    fn add(&mut self, source: &Source) {
        self.wide_lines += source.lines.iter().filter(|line| is_wide(line)).count();
        if source.is_tests() {
            return;
        }

        for function in documented(source) {
            self.documented += 1;
            self.with_verb += usize::from(opens_with_verb(&function.opening));
        }

        for block in blocks(source).iter().filter(|block| !block.in_tests) {
            let which = usize::from(block.kind == Kind::Plain);
            for sentence in sentences(block) {
                let opens = OPENINGS.contains(&first_word(&sentence.text));
                self.openings[which] += usize::from(opens);
                for word in words(&sentence.text) {
                    self.words[which] += 1;
                    let Some(index) = REFERRING.iter().position(|r| *r == word) else {
                        continue;
                    };
                    self.referring[which] += 1;
                    self.by_word[index] += usize::from(block.kind != Kind::Plain);
                }
            }
        }

        let shipped = |number: usize| !source.lines[number - 1].in_tests;
        for argument in safety(source).iter().filter(|s| shipped(s.line)) {
            self.safety += 1;
            self.safety_elsewhere += usize::from(points_elsewhere(&argument.text));
        }

        for (line, inside) in source.lines.iter().zip(body_lines(source)) {
            self.body_lines += usize::from(inside);
            self.blank_lines += usize::from(inside && line.text.trim().is_empty());
        }
        self.code_lines += source.shipped().filter(|line| line.has_code).count();
    }

    /// Returns the rows of the table: figure, value, bound, and the counts behind it.
    fn rows(&self) -> Vec<(&'static str, f64, Bound, String)> {
        let per = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
        let of = |part: usize, all: usize| format!("{part} of {all}");
        let [docs, plain] = [0, 1];
        vec![
            (
                "documented functions that begin with a verb, %",
                per(self.with_verb, self.documented),
                VERB_SHARE,
                of(self.with_verb, self.documented),
            ),
            (
                "sentences that open with What, Whoever, Whether, Where",
                (self.openings[docs] + self.openings[plain]) as f64,
                WHAT_OPENINGS,
                format!(
                    "{} in docs, {} in comments",
                    self.openings[docs], self.openings[plain]
                ),
            ),
            (
                "referring words a hundred words of documentation",
                per(self.referring[docs], self.words[docs]),
                REFERRING_WORDS,
                of(self.referring[docs], self.words[docs]),
            ),
            (
                "referring words a hundred words of other comments",
                per(self.referring[plain], self.words[plain]),
                Bound::None,
                of(self.referring[plain], self.words[plain]),
            ),
            (
                "blank lines a hundred lines of function bodies",
                per(self.blank_lines, self.body_lines),
                BLANK_LINES,
                of(self.blank_lines, self.body_lines),
            ),
            (
                "lines over 100 columns, tests too",
                self.wide_lines as f64,
                Bound::None,
                String::new(),
            ),
            (
                "SAFETY comments that point elsewhere",
                self.safety_elsewhere as f64,
                Bound::None,
                of(self.safety_elsewhere, self.safety),
            ),
            (
                "lines of code without tests",
                self.code_lines as f64,
                Bound::None,
                String::new(),
            ),
        ]
    }
}

/// Splits a sentence into words in small letters. Code in backticks is left out, and so is the
/// name ITS, which is no pronoun.
fn words(sentence: &str) -> Vec<String> {
    let text: String = sentence.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    text.split(|c: char| !is_word(c) && c != '\'' && c != '-')
        .filter(|word| word.starts_with(char::is_alphabetic))
        .filter(|word| !word.starts_with("ITS"))
        .map(|word| word.trim_end_matches("'s").to_lowercase())
        .collect()
}

#[test]
fn style_figures() {
    let mut counts = Counts::default();
    for source in tree(project(), "src") {
        counts.add(&source);
    }

    let mut missed = Vec::new();
    let words = REFERRING.iter().zip(counts.by_word);
    let words: Vec<_> = words.map(|(word, n)| format!("{word} {n}")).collect();
    println!("referring words in documentation: {}", words.join(", "));
    for (figure, value, bound, behind) in counts.rows() {
        let row = format!("{figure:<55} {value:>7.1}  {:<6} {behind}", bound.text());
        println!("{}", row.trim_end());
        if !bound.is_kept(value) {
            missed.push(row);
        }
    }
    assert!(missed.is_empty(), "\n{}", missed.join("\n"));
}

#[test]
fn file_lengths() {
    let mut long = Vec::new();
    for source in tree(project(), "src") {
        if source.is_tests() {
            continue;
        }
        let (all, shipped) = (source.lines.len(), source.shipped().count());
        println!(
            "{all:>5} lines, {shipped:>4} without tests: {}",
            source.name
        );
        if all > MAX_LINES {
            long.push(format!(
                "{}: {all} lines; split it at {MAX_LINES}",
                source.name
            ));
        }
    }
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_counted() {
        let text = "\
//! What it is: `this` code.

/// Returns one.
fn one() -> u8 {
    first();

    // SAFETY: as above. Where it is.
    unsafe { 1 }
}

/// The other one.
fn two() {}

#[cfg(test)]
mod tests {
    // What it tests, in SAFETY.
    fn three() {

    }
}
";
        let mut counts = Counts::default();
        counts.add(&Source::new("src", "a.rs", text));
        let expected = Counts {
            documented: 2,
            with_verb: 1,
            openings: [1, 1],
            words: [9, 6],
            referring: [4, 2],
            by_word: counts.by_word,
            body_lines: 4,
            blank_lines: 1,
            wide_lines: 0,
            safety: 1,
            safety_elsewhere: 1,
            code_lines: 6,
        };
        assert_eq!(counts, expected);
        assert_eq!(counts.by_word.iter().sum::<usize>(), 4);
    }

    #[test]
    fn a_bound_that_is_missed_is_seen() {
        assert!(!VERB_SHARE.is_kept(84.9) && VERB_SHARE.is_kept(85.0));
        assert!(!WHAT_OPENINGS.is_kept(1.0) && WHAT_OPENINGS.is_kept(0.0));
        assert!(!REFERRING_WORDS.is_kept(5.1) && !BLANK_LINES.is_kept(3.9));
    }

    #[test]
    fn words_are_told_from_code() {
        assert_eq!(
            words("It's `so` 3 ap_lists, one-way."),
            ["it", "ap_lists", "one-way"]
        );
    }
}
