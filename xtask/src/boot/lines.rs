//! The console's bytes cut into lines, and the few lines that are answered while the machine runs.

use std::time::{Duration, Instant};

/// The beginning of a panic of the hypervisor on the console.
const PANIC: &str = "@hyp-panic";

/// Words of a line that tells of a reset, by the hypervisor or by a Linux that did not survive.
/// QEMU ends for a reset as it does for power-off.
const RESET: [&str; 2] = [" resets the machine", "Kernel panic - not syncing"];

/// The beginning of a line by which the guest asks for a word to be typed on its console.
const ASK: &str = "@workload ask=";

/// A line of the console.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The time of its end, counted from the start of the machine.
    pub(crate) at: Duration,
    /// The line without its end.
    pub(crate) text: String,
}

/// The console's bytes, cut into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    began: Instant,
    complete: Vec<Line>,
    partial: Vec<u8>,
    /// Words that the guest wants to be typed.
    pub(crate) asked: Vec<String>,
    /// True if a line said that the hypervisor panicked.
    pub(crate) panicked: bool,
    /// True if a line said that the machine is reset.
    pub(crate) reset: bool,
}

impl Lines {
    /// Begins with the machine's start.
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            complete: Vec::new(),
            partial: Vec::new(),
            asked: Vec::new(),
            panicked: false,
            reset: false,
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
        self.panicked |= text.contains(PANIC);
        self.reset |= RESET.iter().any(|words| text.contains(words));
        if let Some(word) = text.strip_prefix(ASK) {
            self.asked.push(format!("{word}\n"));
        }
        self.complete.push(Line {
            at: self.began.elapsed(),
            text,
        });
    }

    /// Ends the last line, and returns all.
    pub(crate) fn finish(mut self) -> Vec<Line> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_come_in_pieces() {
        let mut lines = Lines::new(Instant::now());
        lines.add(b"@workload as");
        assert!(lines.asked.is_empty());
        lines.add(b"k=x\r\n@hyp-panic");
        assert_eq!(lines.asked, ["x\n"]);
        assert!(!lines.panicked, "the line is not complete");
        let complete = lines.finish();
        let texts: Vec<_> = complete.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["@workload ask=x", "@hyp-panic"]);
    }
}
