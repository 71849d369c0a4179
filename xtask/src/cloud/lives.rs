//! The lives of a VM: the lines that it has said from a start to the next death.

use std::time::Duration;

use super::operator::{death, said};
use crate::boot::lines::Line;
use crate::boot::transcript::Transcript;

/// One life of a VM.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) transcript: Transcript,
    /// True if the VM has died.
    pub(super) is_over: bool,
}

/// Returns the lives of the VM `name`, by the machine's console.
pub(super) fn lives(console: &[Line], name: &str) -> Vec<Life> {
    let names = [name.to_owned()];
    let mut lives = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for line in console {
        if death(&line.text) == Some(name) {
            lives.push(life(&lines, Some(line.at)));
            lines.clear();
        } else if let Some((_, text)) = said(&names, &line.text) {
            lines.push(Line {
                at: line.at,
                text: text.to_owned(),
            });
        }
    }
    if !lines.is_empty() {
        lives.push(life(&lines, None));
    }
    lives
}

/// Reads the lines of a life that ended at `end`.
fn life(lines: &[Line], end: Option<Duration>) -> Life {
    let mut transcript = Transcript::read(lines);
    if transcript.last_look.is_none() && end.is_some() {
        // The death may have torn the last line.
        let whole = lines.len().saturating_sub(1);
        transcript = Transcript::read(&lines[..whole]);
    }
    transcript.reported_at = end.unwrap_or_default();
    Life {
        transcript,
        is_over: end.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives_of(name: &str, texts: &[&str]) -> Vec<Life> {
        let line = |(second, text): (u64, &&str)| Line {
            at: Duration::from_secs(second),
            text: (*text).to_owned(),
        };
        let console: Vec<_> = (0..).zip(texts).map(line).collect();
        lives(&console, name)
    }

    const FINAL: &str = "a: @workload final sgi=1 ppi=2 spi=3 lpi=4 lpi_freed=5 other=0";

    #[test]
    fn a_life_ends_by_a_death() {
        let lives = lives_of(
            "a",
            &[
                "a: @workload step=blk status=ok ms=1",
                "b: @workload step=net status=ok ms=1",
                "a: @workload step=net stat",
                "hyp: a is dead",
                "hyp: b is dead",
                "a: @workload step=rng status=ok ms=1",
                FINAL,
                "hyp: a is dead",
            ],
        );
        let names = |life: &Life| {
            let steps = life.transcript.steps.iter();
            steps.map(|step| step.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(lives.len(), 2);
        assert_eq!(names(&lives[0]), ["blk"], "the torn line does not count");
        assert_eq!(names(&lives[1]), ["rng"]);
        assert!(lives.iter().all(|life| life.is_over));
        assert!(lives[1].transcript.last_look.is_some());
        assert_eq!(lives[1].transcript.reported_at, Duration::from_secs(7));
    }

    #[test]
    fn a_life_without_an_end_is_one_too() {
        let lives = lives_of("a", &["a: @workload step=blk status=ok ms=1"]);
        assert_eq!(lives.len(), 1);
        assert!(!lives[0].is_over);
        assert_eq!(lives[0].transcript.steps.len(), 1);
        assert!(lives_of("b", &["a: x", "hyp: a is dead"]).is_empty());
    }
}
