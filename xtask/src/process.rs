//! Other programs: running them with visible progress, and ending them when we are ended.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::console;

/// Set once the user or the system asked us to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a running child and the wish to end are looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Turns SIGINT, SIGTERM and SIGHUP into a flag that everything long-running looks at, so that
/// we leave by the ordinary way out: children are ended, temporary directories removed.
pub(crate) fn end_on_signals() {
    // Fails only where a handler is already set, and this is the only place that sets one.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst));
}

/// Whether we were asked to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// How a command's output is shown while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Every line, indented, as it comes.
    Lines,
    /// Nothing, unless the command fails.
    OnFailure,
}

/// What a finished command left behind.
pub(crate) struct Finished {
    /// Whether it exited with status 0.
    pub(crate) success: bool,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs a command to its end; an exit status other than 0 is for the caller to judge.
pub(crate) fn finish(command: &mut Command, show: Show) -> Result<Finished> {
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

/// Waits for a child, and ends it when we are asked to end.
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
pub(crate) fn run(command: &mut Command, show: Show) -> Result<String> {
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
