//! The console's bytes cut into lines, and what is typed upon some of them while the machine runs.

use std::mem;
use std::time::{Duration, Instant};

/// The mark of a line with the message of a panic of the hypervisor.
const PANIC: &str = "@hyp-panic ";

/// The mark of a line with the reason for which the hypervisor cannot run on the machine.
const STOP: &str = "@hyp-stop ";

/// The beginning of the line with the hypervisor's counts.
const REPORT: &str = "@vgic ";

/// The mark of a line by which the guest asks for a word to be typed on its console. Before it, the
/// line may have the name of one of several VMs, which the hypervisor wants to be typed too.
const ASK: &str = "@workload ask=";

/// Reads a line of the console as it comes, and returns what is typed upon it.
pub(crate) type Operator = Box<dyn FnMut(&Line) -> Option<String> + Send>;

/// Returns the word that a line asks for, if it does, with the end of a line.
pub(crate) fn asked(text: &str) -> Option<String> {
    let (vm, word) = text.split_once(ASK)?;
    Some(format!("{vm}{word}\n"))
}

/// A line of the console.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The time of its end, counted from the start of the machine.
    pub(crate) at: Duration,
    /// The line without its end.
    pub(crate) text: String,
}

/// The console's bytes, cut into lines.
pub(crate) struct Lines {
    began: Instant,
    operator: Operator,
    complete: Vec<Line>,
    partial: Vec<u8>,
    /// Text to be typed.
    pub(crate) typed: String,
    /// The first panic message of the hypervisor.
    pub(crate) panicked: Option<String>,
    /// The reason for which the hypervisor cannot run.
    pub(crate) cannot_run: Option<String>,
    /// True if the hypervisor has reported.
    pub(crate) has_report: bool,
}

impl Lines {
    /// Begins with the machine's start.
    pub(crate) fn new(began: Instant, operator: Operator) -> Self {
        Self {
            began,
            operator,
            complete: Vec::new(),
            partial: Vec::new(),
            typed: String::new(),
            panicked: None,
            cannot_run: None,
            has_report: false,
        }
    }

    /// Adds bytes of the console.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ => self.partial.push(byte),
            }
        }
    }

    /// Ends a line, and looks for what it tells.
    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        self.has_report |= text.starts_with(REPORT);
        for (mark, found) in [(PANIC, &mut self.panicked), (STOP, &mut self.cannot_run)] {
            if let Some((_, words)) = text.split_once(mark) {
                found.get_or_insert_with(|| words.to_owned());
            }
        }
        let line = Line {
            at: self.began.elapsed(),
            text,
        };
        self.typed.extend((self.operator)(&line));
        self.complete.push(line);
    }

    /// Tells whether the hypervisor has said that it will not go on.
    pub(crate) fn is_over(&self) -> bool {
        self.panicked.is_some() || self.cannot_run.is_some()
    }

    /// Ends the last line, and returns all.
    pub(crate) fn finish(&mut self) -> Vec<Line> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        mem::take(&mut self.complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_typed_on_the_console_of_the_vm_that_asks() {
        assert_eq!(asked("vm1: @workload ask=x").as_deref(), Some("vm1: x\n"));
        assert_eq!(asked("@workload ask=x").as_deref(), Some("x\n"));
        assert_eq!(asked("@workload step=x"), None);
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut lines = Lines::new(Instant::now(), Box::new(|line| asked(&line.text)));
        lines.add(b"@workload as");
        assert!(lines.typed.is_empty());
        lines.add(b"k=x\r\n@hyp-panic no");
        assert_eq!(lines.typed, "x\n");
        assert!(!lines.is_over(), "the line is not complete");
        let complete = lines.finish();
        assert_eq!(lines.panicked.as_deref(), Some("no"));
        let texts: Vec<_> = complete.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["@workload ask=x", "@hyp-panic no"]);
    }
}
