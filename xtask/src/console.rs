//! The output for the user: one line for each step, details indented below it.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Announces what is being done now.
pub fn step(what: impl Display) {
    say(&format!("{} {what}", paint("1;34", "==>")));
}

/// Adds a detail to the step.
pub fn detail(what: impl Display) {
    say(&format!("    {what}"));
}

/// Returns `text` in green where the output is a terminal.
pub fn good(text: &str) -> String {
    paint("1;32", text)
}

/// Returns `text` in red where the output is a terminal.
pub fn bad(text: &str) -> String {
    paint("1;31", text)
}

/// Prints a line. A reader that went away (a closed pipe) is no reason to fail.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Returns `text` in a colour where the output is a terminal.
fn paint(sgr: &str, text: &str) -> String {
    if io::stdout().is_terminal() {
        format!("\x1b[{sgr}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
