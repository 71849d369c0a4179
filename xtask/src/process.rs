//! Other programs: run with visible progress, and ended when xtask is asked to end.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::console;

/// The wish of the user or of the system that this process ends.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The time between two looks at a running child and at the wish to end.
pub const POLL: Duration = Duration::from_millis(20);

/// Turns SIGINT, SIGTERM and SIGHUP into a flag that everything long-running looks at, so that the
/// process leaves by the ordinary way out: children are ended, temporary directories removed.
pub fn end_on_signals() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Fails for signals that cannot be handled, and these can.
        let _ = flag::register(signal, Arc::clone(&INTERRUPTED));
    }
}

/// Tells whether the process was asked to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The part of a command's output that is shown while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Every line, indented, as it comes.
    Lines,
    /// Nothing, unless the command fails.
    OnFailure,
}

/// The outcome of a command.
#[derive(Debug)]
pub struct Finished {
    /// True if it exited with status 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end; an exit status other than 0 is for the caller to judge.
pub fn finish(command: &mut Command, show: Show) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;

    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (status, stdout, stderr) = thread::scope(|scope| {
        let stdout = scope.spawn(|| collect(out, show));
        let stderr = scope.spawn(|| collect(err, show));
        let status = wait(&mut child);
        (
            status,
            stdout.join().unwrap_or_default(),
            stderr.join().unwrap_or_default(),
        )
    });

    let status = status.with_context(|| format!("cannot wait for {name}"))?;
    if interrupted() {
        bail!("interrupted while running {name}");
    }
    Ok(Finished {
        success: status.success(),
        stdout,
        stderr,
    })
}

/// Waits for a child, and ends it when the process is asked to end.
fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupted() {
            child.kill()?;
        }
        thread::sleep(POLL);
    }
}

/// Runs a command that has to succeed and returns its standard output.
pub fn run(command: &mut Command, show: Show) -> Result<String> {
    let finished = finish(command, show)?;
    if finished.success {
        return Ok(finished.stdout);
    }
    if show == Show::OnFailure {
        finished.stderr.lines().for_each(console::detail);
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    bail!(
        "{} {} failed",
        command.get_program().to_string_lossy(),
        arguments.join(" ")
    )
}

/// Reads lines to the end, showing them where asked to.
fn collect(stream: Option<impl Read>, show: Show) -> String {
    let mut text = String::new();
    let Some(stream) = stream else { return text };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let shown = String::from_utf8_lossy(&line);
        if show == Show::Lines {
            console::detail(shown.trim_end());
        }
        text.push_str(&shown);
        line.clear();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]), Show::OnFailure).unwrap_err();
        assert!(error.to_string().contains("sh -c exit 3"), "{error}");
        assert!(run(&mut Command::new("/no/such/program"), Show::OnFailure).is_err());
    }

    #[test]
    fn output_is_collected_apart() {
        let script = "echo out; echo err >&2; exit 1";
        let finished = finish(Command::new("sh").args(["-c", script]), Show::OnFailure).unwrap();
        assert!(!finished.success);
        assert_eq!(
            (finished.stdout.as_str(), finished.stderr.as_str()),
            ("out\n", "err\n")
        );
    }
}
