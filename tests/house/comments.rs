//! Comments as prose: blocks, sentences, documented functions and SAFETY comments.

use crate::source::{Kind, Line, Source, find_word, is_word, matching};

/// Consecutive comment lines of one kind, or the comment at the end of a line of code.
pub(crate) struct Block<'s> {
    pub(crate) kind: Kind,
    pub(crate) in_tests: bool,
    /// Number and text of each line.
    pub(crate) lines: Vec<(usize, &'s str)>,
}

/// Sentence, and the line that it begins on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// Function that has documentation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Documented {
    /// Line that the documentation begins on.
    pub(crate) line: usize,
    /// First line of the documentation.
    pub(crate) opening: String,
}

/// Collects the comments of a file.
pub(crate) fn blocks(source: &Source) -> Vec<Block<'_>> {
    let mut found: Vec<Block<'_>> = Vec::new();
    let mut next = 0;

    for line in &source.lines {
        let Some(comment) = &line.comment else {
            continue;
        };
        let entry = (line.number, comment.text.as_str());
        match found.last_mut() {
            Some(block) if comment.alone && next == line.number && block.kind == comment.kind => {
                block.lines.push(entry);
            }
            _ => found.push(Block {
                kind: comment.kind,
                in_tests: line.in_tests,
                lines: vec![entry],
            }),
        }
        // The comment at the end of a line of code is not continued below it.
        next = if comment.alone { line.number + 1 } else { 0 };
    }
    found
}

/// Splits a block into sentences. Code examples are left out; headings, list items and cells of
/// tables are sentences of their own.
pub(crate) fn sentences(block: &Block<'_>) -> Vec<Sentence> {
    let mut found = Vec::new();
    let mut current: Option<Sentence> = None;
    let mut in_example = false;

    for &(line, text) in &block.lines {
        if text.starts_with("```") {
            in_example = !in_example;
            found.extend(current.take());
            continue;
        }
        if in_example {
            continue;
        }

        let item = text.trim_start_matches(['*', '-', '#', '|', '>']);
        let item = item.trim_start_matches(|c: char| c.is_ascii_digit());
        let item = item.strip_prefix(". ").unwrap_or(item);
        let marked = item.len() < text.len() && (item.is_empty() || item.starts_with(' '))
            || text.len() > item.len() && text.starts_with(|c: char| c.is_ascii_digit());
        let words = if marked { item } else { text };
        if marked || text.is_empty() {
            found.extend(current.take());
        }

        for word in words.split_whitespace() {
            if word == "|" {
                found.extend(current.take());
                continue;
            }
            let sentence = current.get_or_insert(Sentence {
                line,
                text: String::new(),
            });
            let first = sentence.text.is_empty();
            if !first {
                sentence.text.push(' ');
            }
            sentence.text.push_str(word);

            let bare = word.trim_end_matches(['"', ')', '*', '_', '`']);
            if bare.ends_with(['.', '!', '?']) || (first && bare.ends_with(':')) {
                found.extend(current.take());
            }
        }
    }
    found.extend(current);
    found
}

/// Returns the letters that a sentence opens with; nothing if it opens with code or a link.
pub(crate) fn first_word(sentence: &str) -> &str {
    let sentence = sentence.trim_start_matches(['(', '"', '*', '_', '\'']);
    let end = sentence
        .find(|c: char| !c.is_alphabetic() && c != '\'' && c != '-')
        .unwrap_or(sentence.len());
    &sentence[..end]
}

/// Collects the documented functions outside of tests.
pub(crate) fn documented(source: &Source) -> Vec<Documented> {
    let mut found = Vec::new();
    for block in blocks(source) {
        if block.kind != Kind::Doc || block.in_tests {
            continue;
        }
        let (first, _) = block.lines[0];
        let (last, _) = block.lines[block.lines.len() - 1];
        if is_function(&source.lines[last..]) {
            let opening = block.lines.iter().find(|(_, text)| !text.is_empty());
            found.push(Documented {
                line: first,
                opening: opening.map_or("", |(_, text)| text).to_owned(),
            });
        }
    }
    found
}

/// Returns whether the item that begins on these lines, after its attributes, is a function.
fn is_function(lines: &[Line]) -> bool {
    let mut depth = 0_usize;
    let mut in_attribute = false;
    let mut word = String::new();

    for c in lines.iter().flat_map(|l| l.code.chars().chain(['\n'])) {
        match c {
            '#' if depth == 0 && word.is_empty() => in_attribute = true,
            '[' | '(' => depth += 1,
            ']' | ')' => {
                depth = depth.saturating_sub(1);
                in_attribute &= depth != 0;
            }
            _ if depth != 0 || in_attribute => {}
            c if is_word(c) => word.push(c),
            _ => match word.as_str() {
                "fn" => return true,
                "" | "pub" | "const" | "async" | "unsafe" | "extern" | "default" => word.clear(),
                _ => return false,
            },
        }
        // `pub(crate)`: the word ends at the parenthesis.
        if depth != 0 && word == "pub" {
            word.clear();
        }
    }
    false
}

/// Collects the texts of the SAFETY comments, and the lines that they begin on.
pub(crate) fn safety(source: &Source) -> Vec<Sentence> {
    let mut found = Vec::new();
    for block in blocks(source) {
        if block.kind != Kind::Plain {
            continue;
        }
        let mut current: Option<Sentence> = None;
        for (line, text) in block.lines {
            if let Some(text) = text.strip_prefix("SAFETY:") {
                found.extend(current.take());
                let text = text.trim().to_owned();
                current = Some(Sentence { line, text });
            } else if let Some(current) = &mut current {
                current.text.push(' ');
                current.text.push_str(text);
            }
        }
        found.extend(current);
    }
    found
}

/// Marks the lines inside of function bodies outside of tests: those between a body's braces.
pub(crate) fn body_lines(source: &Source) -> Vec<bool> {
    let code = source.shipped_code();
    let mut inside = vec![false; source.lines.len()];
    let mut from = 0;
    while let Some(at) = find_word(&code, "fn", from) {
        from = at + 2;

        let Some(open) = body(&code, from) else {
            continue;
        };
        let Some(close) = matching(&code, open) else {
            continue;
        };
        let (first, last) = (Source::line_at(&code, open), Source::line_at(&code, close));
        inside[first..(last - 1).max(first)].fill(true);
    }
    inside
}

/// Finds the brace that opens the body of the function whose head goes on at byte `from`.
fn body(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' if depth == 0 => return Some(from + at),
            ';' | '}' | ',' | ')' if depth == 0 => return None,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Source {
        Source::new("src", "a.rs", text)
    }

    fn split(text: &str) -> Vec<String> {
        let source = of(text);
        let blocks = blocks(&source);
        let all = blocks.iter().flat_map(sentences);
        all.map(|sentence| sentence.text).collect()
    }

    #[test]
    fn sentences_run_over_lines_and_end_at_paragraphs() {
        assert_eq!(
            split("/// One. Two\n/// goes on (here.) Three\n///\n/// Four\nfn f() {}\n// Five\n"),
            ["One.", "Two goes on (here.)", "Three", "Four", "Five"]
        );
    }

    #[test]
    fn items_cells_and_labels_are_apart_and_examples_left_out() {
        assert_eq!(
            split("//! * one\n//! * two\n//! 1. three\n//! | a | b |\n//! # Head\n"),
            ["one", "two", "three", "a", "b", "Head"]
        );
        assert_eq!(
            split("/// ```\n/// Code. Code.\n/// ```\n/// `*mut` is text.\n"),
            ["`*mut` is text."]
        );
        assert_eq!(
            split("// SAFETY: What it says.\n"),
            ["SAFETY:", "What it says."]
        );
    }

    #[test]
    fn comments_at_the_end_of_code_are_apart() {
        assert_eq!(split("a; // One\nb; // Two\n// Three\n").len(), 3);
    }

    #[test]
    fn functions_are_found_below_their_attributes() {
        let text = "\
/// Returns one.
///
/// More.
#[inline]
#[cfg_attr(
    not(test),
    expect(unused)
)]
// A comment.
pub(crate) const unsafe fn one() {}

/// Type.
pub struct Type {
    /// Field.
    field: fn(u8),
}

/// Constant.
pub const ONE: fn() = one;

#[cfg(test)]
mod tests {
    /// Test.
    fn test() {}
}

/// Reads.
fn two() {}
";
        let found = documented(&of(text));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].line, 1);
        assert_eq!(found[0].opening, "Returns one.");
        assert_eq!(found[1].opening, "Reads.");
    }

    #[test]
    fn the_first_word_is_a_word() {
        assert_eq!(first_word("Returns one."), "Returns");
        assert_eq!(first_word("`one` is"), "");
        assert_eq!(first_word("[`One`]"), "");
        assert_eq!(first_word("(What follows)"), "What");
        assert_eq!(first_word("Loom's"), "Loom's");
    }

    #[test]
    fn safety_comments_end_with_their_block() {
        let found = safety(&of(
            "// Why.\n// SAFETY: it is\n// alive.\nx;\n// SAFETY: so.\n",
        ));
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].text.as_str()), (2, "it is alive."));
    }

    #[test]
    fn bodies_are_what_stands_between_the_braces() {
        let text =
            "fn a(\n) -> [u8; 1] {\n    x\n}\nfn b();\nfn c() {}\nfn d() {\n    fn e() {\n    }\n}";
        let inside = body_lines(&of(text));
        let numbers: Vec<_> = (1..).zip(inside).filter(|(_, i)| *i).collect();
        let numbers: Vec<usize> = numbers.into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, [3, 8, 9]);
    }
}
