//! Tables in `docs/` that a task writes from what it has measured.
//!
//! A table stands between two lines, the first of which names the command that writes it, and the
//! table if the command writes several:
//!
//! ```text
//! <!-- written by cargo xtask loom: mutants -->
//! <!-- end of what is written -->
//! ```
//!
//! Only a run by hand writes tables; `cargo xtask test` leaves the checkout as it is.

use std::fs;

use anyhow::{Context, Result};

use crate::{console, project};

/// The line after a table.
const END: &str = "<!-- end of what is written -->";

/// A table: its name, which begins with the command that writes it, and its text in Markdown.
pub type Table = (&'static str, String);

/// Returns the line before a table.
fn begin(name: &str) -> String {
    format!("<!-- written by {name} -->")
}

/// Writes tables into a file of the checkout, each in its place.
///
/// # Errors
///
/// The file does not exist, or lacks the place of a table. It is left as it was then.
pub fn write(file: &str, tables: &[Table]) -> Result<()> {
    let path = project::root().join(file);
    let mut text = fs::read_to_string(&path).with_context(|| {
        let names: Vec<_> = tables.iter().map(|(name, _)| begin(name)).collect();
        format!("cannot read {file}, which has to hold {}", names.join(", "))
    })?;
    for (name, table) in tables {
        text = replaced(&text, name, table).with_context(|| {
            let begin = begin(name);
            format!("{file} has no place for a table: it needs a line `{begin}` and a line `{END}`")
        })?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {file}"))?;
    console::detail(format!("tables in {}", path.display()));
    Ok(())
}

/// Returns the text of a table in a file of the checkout. It is empty if the file has no place for
/// the table.
///
/// # Errors
///
/// The file does not exist.
pub fn read(file: &str, name: &str) -> Result<String> {
    let path = project::root().join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
    Ok(found(&text, name).unwrap_or_default().to_owned())
}

/// Finds a table in a text.
fn found<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&begin(name))?;
    Some(rest.split_once(END)?.0.trim())
}

/// Replaces a table in a text; returns `None` if the text has no place for it.
fn replaced(text: &str, name: &str, table: &str) -> Option<String> {
    let begin = begin(name);
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    // Markdown wants a blank line between a comment and a table.
    Some(format!(
        "{before}{begin}\n\n{}\n\n{END}{after}",
        table.trim()
    ))
}

/// Formats a number with a comma between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: &str = "cargo xtask loom: models";
    const MUTANTS: &str = "cargo xtask loom: mutants";

    fn place(name: &str, content: &str) -> String {
        format!("{}\n{content}{END}\n", begin(name))
    }

    #[test]
    fn a_table_is_replaced_and_the_rest_is_kept() {
        let text = format!("a\n{}b\n", place(MODELS, "\nold\n\n"));
        let new = replaced(&text, MODELS, "new\n").unwrap();
        assert_eq!(new, format!("a\n{}b\n", place(MODELS, "\nnew\n\n")));
        assert_eq!(replaced(&new, MODELS, "new").unwrap(), new);
    }

    #[test]
    fn tables_are_found_by_their_names() {
        let text = place(MODELS, "one\n") + &place(MUTANTS, "");
        let new = replaced(&text, MUTANTS, "two").unwrap();
        assert_eq!(new, place(MODELS, "one\n") + &place(MUTANTS, "\ntwo\n\n"));
        assert_eq!(found(&new, MUTANTS), Some("two"));
    }

    #[test]
    fn a_text_without_the_marks_has_no_place() {
        assert_eq!(replaced("a\n", MODELS, "x"), None);
        assert_eq!(found("a\n", MODELS), None);
        assert_eq!(replaced(&begin(MODELS), MODELS, "x"), None);
        assert_eq!(replaced(&place(MUTANTS, ""), MODELS, "x"), None);
    }

    #[test]
    fn a_missing_file_is_named_with_the_marks_that_it_needs() {
        let error = write("docs/no-such-page.md", &[(MODELS, String::new())]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("docs/no-such-page.md"), "{text}");
        assert!(
            text.contains("<!-- written by cargo xtask loom: models -->"),
            "{text}"
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
