//! The operator at the machine's console: types the words that guests ask for, kills a VM in the
//! middle of its steps, starts it again, and tells of the progress.

use std::fmt;

use crate::boot::lines::{Line, asked};
use crate::boot::transcript::{Step, step_of};
use crate::console;

/// The lines of a VM that is killed, one for each life: it dies soon after the line, in the step
/// that the line begins. The first ones come early, for short runs.
const LAST_LINES: [&str; 7] = [
    "--- net",
    "] Booting Linux ",
    "--- affinity",
    "--- blk",
    "--- rebind",
    "--- smp",
    "--- hotplug",
];

/// The line by which a guest says that its work is done.
const DONE: &str = "@workload table=begin when=after";

/// The operator.
#[derive(Debug)]
pub(super) struct Operator {
    /// The VMs with Linux.
    names: Vec<String>,
    killer: Option<Killer>,
    /// True if steps are told as they end.
    tells: bool,
}

impl Operator {
    /// Prepares the operator of VMs with these names, one of which may be a `victim`.
    pub(super) fn new(names: Vec<String>, victim: Option<String>, tells: bool) -> Self {
        let killer = victim.map(|victim| Killer::new(&names, victim));
        Self {
            names,
            killer,
            tells,
        }
    }

    /// Reads a line of the console, and returns what is typed upon it.
    pub(super) fn read(&mut self, line: &Line) -> Option<String> {
        if let Some(name) = death(&line.text) {
            self.tell(format_args!("{name}: is dead"));
            return self.killer.as_mut()?.see_death(name);
        }
        let (name, text) = said(&self.names, &line.text)?;
        if let Some(step) = step_of(text) {
            self.tell(format_args!("{name}: {}", step_line(&step)));
        }
        if let Some(word) = asked(text) {
            return Some(format!("{name}: {word}"));
        }
        let victim = self.killer.as_mut()?.see(name, text)?;
        self.tell(format_args!("{victim}: is killed"));
        Some(format!("!kill {victim}\n"))
    }

    /// Tells the user something, if wanted.
    fn tell(&self, what: fmt::Arguments<'_>) {
        if self.tells {
            console::detail(what);
        }
    }
}

/// The death of one VM, again and again.
#[derive(Debug)]
struct Killer {
    victim: String,
    /// The other VMs whose work is not done.
    at_work: Vec<String>,
    /// The deaths so far.
    deaths: usize,
    state: State,
}

/// The state of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The VM has not come to its last line.
    Alive,
    /// The VM is killed at the next line of another.
    Doomed,
    /// The VM is being killed.
    Killed,
}

impl Killer {
    fn new(names: &[String], victim: String) -> Self {
        let others = names.iter().filter(|name| **name != victim);
        Self {
            at_work: others.cloned().collect(),
            victim,
            deaths: 0,
            state: State::Alive,
        }
    }

    /// Reads a line of a VM, and returns the victim if it is time to kill it.
    fn see(&mut self, name: &str, text: &str) -> Option<String> {
        if text == DONE {
            self.at_work.retain(|other| other != name);
        }
        match self.state {
            State::Alive if name == self.victim => {
                let last = LAST_LINES[self.deaths % LAST_LINES.len()];
                if text.contains(last) {
                    self.state = State::Doomed;
                }
                None
            }
            // Another VM has lived on, so that the victim is in the middle of something.
            State::Doomed if name != self.victim && !self.at_work.is_empty() => {
                self.state = State::Killed;
                Some(self.victim.clone())
            }
            _ => None,
        }
    }

    /// Takes note of a death, and returns the command that starts the victim again, unless its last
    /// life has ended by itself.
    fn see_death(&mut self, name: &str) -> Option<String> {
        if name != self.victim {
            self.at_work.retain(|other| other != name);
            return None;
        }
        let again = self.state == State::Killed || !self.at_work.is_empty();
        self.state = State::Alive;
        self.deaths += 1;
        again.then(|| format!("!start {name}\n"))
    }
}

/// Returns the VM that the hypervisor buries by this line.
pub(super) fn death(text: &str) -> Option<&str> {
    text.strip_prefix("hyp: ")?.strip_suffix(" is dead")
}

/// Returns the VM that has said a line, and what it has said.
pub(super) fn said<'a>(names: &'a [String], text: &'a str) -> Option<(&'a str, &'a str)> {
    let (name, said) = text.split_once(": ")?;
    let name = names.iter().find(|known| *known == name)?;
    Some((name, said))
}

/// Formats a step that has ended.
fn step_line(step: &Step) -> String {
    let seconds = step.ms as f64 / 1000.0;
    format!("{} {} {seconds:.1} s", step.name, step.status.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Has an operator read lines, and returns what it types.
    fn typed(operator: &mut Operator, lines: &[&str]) -> String {
        let line = |text: &&str| Line {
            at: Duration::ZERO,
            text: (*text).to_owned(),
        };
        let typed = lines.iter().map(line);
        typed.filter_map(|line| operator.read(&line)).collect()
    }

    fn operator(victim: Option<&str>) -> Operator {
        let names = ["a", "b", "c"].map(String::from).to_vec();
        Operator::new(names, victim.map(String::from), false)
    }

    #[test]
    fn words_are_typed_where_they_are_asked_for() {
        let lines = [
            "b: @workload ask=word-1",
            "@workload ask=word-2",
            "attacker: @workload ask=word-3",
        ];
        assert_eq!(typed(&mut operator(None), &lines), "b: word-1\n");
    }

    #[test]
    fn nobody_is_killed_without_a_victim() {
        let lines = ["c: --- net", "a: --- blk", "hyp: c is dead"];
        assert_eq!(typed(&mut operator(None), &lines), "");
    }

    #[test]
    fn a_victim_dies_in_the_middle_of_a_step_and_is_started_again() {
        let mut operator = operator(Some("c"));
        assert_eq!(
            typed(&mut operator, &["a: --- net", "c: --- blk", "b: x"]),
            ""
        );
        assert_eq!(typed(&mut operator, &["c: --- net", "c: more"]), "");
        assert_eq!(typed(&mut operator, &["b: x", "b: y"]), "!kill c\n", "once");
        assert_eq!(typed(&mut operator, &["hyp: c is dead"]), "!start c\n");
        // The next life has another last line.
        assert_eq!(typed(&mut operator, &["c: --- net", "b: x"]), "");
        let lines = ["c: [    0.0] Booting Linux on", "b: x"];
        assert_eq!(typed(&mut operator, &lines), "!kill c\n");
    }

    #[test]
    fn a_victim_that_comes_to_its_end_is_started_while_others_work() {
        let mut operator = operator(Some("c"));
        assert_eq!(typed(&mut operator, &["hyp: c is dead"]), "!start c\n");
        let done = format!("a: {DONE}");
        assert_eq!(typed(&mut operator, &[&done, "hyp: b is dead"]), "");
        assert_eq!(typed(&mut operator, &["hyp: c is dead"]), "");
    }

    #[test]
    fn the_last_life_begins_when_the_others_have_done_their_work() {
        let mut operator = operator(Some("c"));
        let done = ["a", "b"].map(|name| format!("{name}: {DONE}"));
        assert_eq!(typed(&mut operator, &["c: --- net", &done[0]]), "!kill c\n");
        // The others are done before the death is known: it is not the last.
        let lines = [&done[1], "hyp: c is dead"];
        assert_eq!(typed(&mut operator, &lines), "!start c\n");
        let lines = ["c: [    0.0] Booting Linux on", "b: x", "hyp: c is dead"];
        assert_eq!(typed(&mut operator, &lines), "");
    }

    #[test]
    fn lines_are_told_apart() {
        let names = ["a".to_owned()];
        assert_eq!(said(&names, "a: b: c"), Some(("a", "b: c")));
        assert_eq!(said(&names, "hyp: a is dead"), None);
        assert_eq!(death("hyp: a is dead"), Some("a"));
        assert_eq!(death("a: hyp: a is dead"), None);
    }
}
