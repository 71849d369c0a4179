//! QEMU's machine protocol (QMP) through two files: commands that QEMU reads when it starts, and
//! its replies and events.
//!
//! The events say why the machine ended. QEMU's exit status does not: it is 0 after the guest's
//! power-off, after a reset with `-no-reboot`, and after Ctrl-A x on the terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// Has QEMU accept further commands, and send events.
const BEGIN: &str = r#"{"execute":"qmp_capabilities"}"#;

/// Starts the CPUs.
const CONTINUE: &str = r#"{"execute":"cont"}"#;

/// Ends QEMU.
pub(crate) const QUIT: &str = r#"{"execute":"quit"}"#;

/// The files of one run of QEMU.
#[derive(Debug)]
pub(crate) struct Monitor {
    commands: PathBuf,
    replies: PathBuf,
}

/// The reason for which the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The guest powered it off.
    PowerOff,
    /// The guest reset it.
    Reset,
    /// QEMU was told to quit.
    Quit,
}

impl Monitor {
    /// Makes the files in `scratch`, with these commands for QEMU.
    pub(crate) fn new(scratch: &Path, commands: &[String]) -> Result<Self> {
        let monitor = Self {
            commands: scratch.join("qmp-commands"),
            replies: scratch.join("qmp-replies"),
        };
        let mut text = format!("{BEGIN}\n");
        for command in commands {
            text.push_str(command);
            text.push('\n');
        }
        fs::write(&monitor.commands, text).context("cannot write QEMU's commands")?;
        Ok(monitor)
    }

    /// Makes the files for a machine that runs, and adds the arguments that it needs.
    ///
    /// The machine starts stopped and is started by a command: one that ends within milliseconds
    /// would be gone before QEMU sends events. A user who has it start stopped starts it.
    pub(crate) fn of_run(scratch: &Path, qemu: &mut Command) -> Result<Self> {
        let stopped = qemu.get_args().any(|argument| argument == "-S");
        let start = if stopped {
            None
        } else {
            Some(CONTINUE.to_owned())
        };
        let monitor = Self::new(scratch, start.as_slice())?;
        if !stopped {
            qemu.arg("-S");
        }
        monitor.attach(qemu);
        Ok(monitor)
    }

    /// Adds the arguments that make QEMU use the files.
    pub(crate) fn attach(&self, qemu: &mut Command) {
        let (replies, commands) = (self.replies.display(), self.commands.display());
        qemu.arg("-chardev")
            .arg(format!(
                "file,id=xtask-qmp,path={replies},input-path={commands}"
            ))
            .args(["-mon", "chardev=xtask-qmp,mode=control"]);
    }

    /// Reads the replies and events so far.
    pub(crate) fn replies(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.replies).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Returns the reason of the first shutdown, if QEMU told of one.
    pub(crate) fn cause(&self) -> Option<Cause> {
        let replies = self.replies();
        let mut events = replies
            .iter()
            .filter(|reply| reply.get("event").is_some_and(|event| event == "SHUTDOWN"));
        let reason = events.next()?.get("data")?.get("reason")?.as_str()?;
        Some(match reason {
            "guest-shutdown" => Cause::PowerOff,
            "guest-reset" | "guest-panic" | "subsystem-reset" => Cause::Reset,
            _ => Cause::Quit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project;

    fn cause(replies: &str) -> Option<Cause> {
        let scratch = project::scratch().unwrap();
        let monitor = Monitor::new(scratch.path(), &[]).unwrap();
        fs::write(&monitor.replies, replies).unwrap();
        monitor.cause()
    }

    fn shutdown(reason: &str) -> String {
        format!("{{\"event\":\"SHUTDOWN\",\"data\":{{\"guest\":true,\"reason\":\"{reason}\"}}}}\n")
    }

    #[test]
    fn the_first_shutdown_is_the_cause() {
        let greeting = "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\n";
        assert_eq!(cause(greeting), None);
        for (reason, expected) in [
            ("guest-shutdown", Cause::PowerOff),
            ("guest-reset", Cause::Reset),
            ("host-qmp-quit", Cause::Quit),
            ("host-signal", Cause::Quit),
        ] {
            let replies = format!("{greeting}{}{}", shutdown(reason), shutdown("guest-reset"));
            assert_eq!(cause(&replies), Some(expected), "{reason}");
        }
    }

    #[test]
    fn a_reply_that_breaks_off_is_none() {
        assert_eq!(cause(&shutdown("guest-shutdown")[..40]), None);
    }

    #[test]
    fn a_machine_starts_after_its_events_do_unless_the_user_starts_it() {
        for (user, expected) in [(&[][..], vec![BEGIN, CONTINUE]), (&["-S"], vec![BEGIN])] {
            let scratch = project::scratch().unwrap();
            let mut qemu = Command::new("qemu");
            qemu.args(user);
            let monitor = Monitor::of_run(scratch.path(), &mut qemu).unwrap();
            assert_eq!(qemu.get_args().filter(|word| *word == "-S").count(), 1);
            let text = fs::read_to_string(&monitor.commands).unwrap();
            assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn commands_follow_the_one_that_begins() {
        let scratch = project::scratch().unwrap();
        let monitor = Monitor::new(scratch.path(), &[QUIT.to_owned()]).unwrap();
        let text = fs::read_to_string(&monitor.commands).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), [BEGIN, QUIT]);
    }
}
