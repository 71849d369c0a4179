//! Tables in `docs/` that a task writes from what it has measured.
//!
//! A table stands between two lines, the first of which names the command that writes it:
//!
//! ```text
//! <!-- written by cargo xtask conformance -->
//! <!-- end of what is written -->
//! ```
//!
//! A file may hold several tables of one command, in an order that the command defines. Only a run
//! by hand writes them; `cargo xtask test` leaves the checkout as it is.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{console, project};

/// The line after a table.
const END: &str = "<!-- end of what is written -->\n";

/// Returns the line before a table of `command`.
fn begin(command: &str) -> String {
    format!("<!-- written by {command} -->\n")
}

/// Writes the tables of `command` into a file of the checkout, each in its place, in order.
///
/// # Errors
///
/// The file does not exist, or holds another number of places for tables of this command. It is
/// left as it was then.
pub fn write(file: &str, command: &str, tables: &[String]) -> Result<()> {
    let path = project::root().join(file);
    let before = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {file}, which `{command}` writes tables into"))?;
    let after = replaced(&before, command, tables)
        .with_context(|| format!("{file} has no place for the tables of `{command}`"))?;
    fs::write(&path, after).with_context(|| format!("cannot write {file}"))?;
    console::detail(format!("tables in {}", path.display()));
    Ok(())
}

/// Replaces the tables of `command` in a text.
fn replaced(text: &str, command: &str, tables: &[String]) -> Result<String> {
    let begin = begin(command);
    let found = text.matches(&begin).count();
    ensure!(
        found == tables.len(),
        "it needs {} line(s) `{}`, each followed by a line `{}`, and has {found}",
        tables.len(),
        begin.trim_end(),
        END.trim_end(),
    );

    let mut written = String::new();
    let mut rest = text;
    for table in tables {
        let (before, after) = rest.split_once(&begin).context("a beginning is missing")?;
        let (_, after) = after.split_once(END).with_context(|| {
            format!("a line `{}` has no `{}`", begin.trim_end(), END.trim_end())
        })?;
        // Markdown wants a blank line between a comment and a table.
        written += &[before, &begin, "\n", table.trim(), "\n\n", END].concat();
        rest = after;
    }
    Ok(written + rest)
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

    const COMMAND: &str = "cargo xtask loom";

    fn place(content: &str) -> String {
        format!("{}{content}{END}", begin(COMMAND))
    }

    fn tables(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_table_is_replaced_and_the_rest_is_kept() {
        let text = format!("a\n{}b\n", place("\nold\n\n"));
        let new = replaced(&text, COMMAND, &tables(&["new\n"])).unwrap();
        assert_eq!(new, format!("a\n{}b\n", place("\nnew\n\n")));
        assert_eq!(replaced(&new, COMMAND, &tables(&["new"])).unwrap(), new);
    }

    #[test]
    fn several_tables_are_written_in_their_order() {
        let text = format!("{}between\n{}", place(""), place("old"));
        let new = replaced(&text, COMMAND, &tables(&["one", "two"])).unwrap();
        let expected = format!("{}between\n{}", place("\none\n\n"), place("\ntwo\n\n"));
        assert_eq!(new, expected);
    }

    #[test]
    fn another_commands_tables_are_left_alone() {
        let other = format!("{}theirs\n{END}", begin("cargo xtask perf"));
        let text = format!("{other}{}", place("old\n"));
        let new = replaced(&text, COMMAND, &tables(&["new"])).unwrap();
        assert!(new.starts_with(&other), "{new}");
    }

    #[test]
    fn missing_marks_are_named() {
        let error = replaced("a\n", COMMAND, &tables(&["x"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("written by cargo xtask loom"), "{text}");
        assert!(text.contains("has 0"), "{text}");

        let twice = place("") + &place("");
        assert!(replaced(&twice, COMMAND, &tables(&["x"])).is_err());

        let open = begin(COMMAND);
        let error = replaced(&open, COMMAND, &tables(&["x"])).unwrap_err();
        assert!(error.to_string().contains("end of what"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named_with_its_command() {
        let error = write("docs/no-such-page.md", COMMAND, &[]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("docs/no-such-page.md"), "{text}");
        assert!(text.contains(COMMAND), "{text}");
    }

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
