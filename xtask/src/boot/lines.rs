//! The console's bytes cut into lines, and the few lines that are answered while the machine runs.

use std::time::{Duration, Instant};

/// How a panic of the hypervisor begins on the console.
const PANIC: &str = "@hyp-panic";

/// What says that the machine was reset: the hypervisor, or a Linux that did not survive. QEMU ends the
/// same way for a reset as for power-off.
const RESET: [&str; 2] = [" resets the machine", "Kernel panic - not syncing"];

/// How the guest asks for a word to be typed on its console.
const ASK: &str = "@workload ask=";

/// A line of the console, and when it was complete, counted from the start of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// Bytes cut into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    began: Instant,
    complete: Vec<Line>,
    partial: Vec<u8>,
    /// What the guest wants to be typed.
    pub(crate) asked: Vec<String>,
    /// Whether a line said that the hypervisor panicked.
    pub(crate) panicked: bool,
    /// Whether a line said that the machine is reset.
    pub(crate) reset: bool,
}

impl Lines {
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

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ => self.partial.push(byte),
            }
        }
    }

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
