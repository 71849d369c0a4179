//! Rules about the code itself that no compiler checks.

mod arrows;
mod atomics;
mod comments;
mod figures;
mod layers;
mod links;
mod paths;
mod prose;
mod source;

use source::{Source, project, tree};

/// Part of a file's lines outside of tests that the gates must look at, in percent.
const LOOKED_AT: usize = 80;

/// Counts the lines outside of tests by the layout alone: a body reaches from `mod tests {` to
/// the brace in the same column. The cutter matches braces instead, so neither repeats an error
/// of the other.
fn lines_by_layout(source: &Source) -> usize {
    let mut closing: Option<String> = None;
    let mut count = 0;
    for line in &source.lines {
        let text = line.text.trim_end();
        if let Some(end) = &closing {
            if text == end {
                closing = None;
            }
        } else if text.ends_with("mod tests {") {
            let indent = text.len() - text.trim_start().len();
            closing = Some(format!("{}}}", &text[..indent]));
        } else {
            count += 1;
        }
    }
    count
}

#[test]
fn the_gates_look_at_most_of_each_file() {
    let files = tree(project(), "src");
    assert!(files.len() > 30, "only {} files in src/", files.len());
    for source in files.iter().filter(|source| !source.is_tests()) {
        let (seen, all) = (source.shipped().count(), lines_by_layout(source));
        assert!(
            seen * 100 >= all * LOOKED_AT,
            "{}: the gates look at {seen} of {all} lines; mend the cutter in tests/house/source.rs",
            source.name
        );
    }
}
