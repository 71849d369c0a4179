//! Other programs: run with visible progress, and ended when xtask is asked to end.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

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
    /// Every line of the standard error as it comes: the progress of a command whose standard
    /// output is for programs.
    Progress,
    /// Nothing, unless the command fails; but a command that takes its time is named now and then.
    OnFailure,
    /// Nothing, unless the command fails: the caller tells of the progress.
    Silent,
}

impl Show {
    /// Tells whether lines of the standard output are shown.
    fn stdout(self) -> bool {
        self == Self::Lines
    }

    /// Tells whether lines of the standard error are shown.
    fn stderr(self) -> bool {
        matches!(self, Self::Lines | Self::Progress)
    }
}

/// The time after which a command that shows nothing is named for the first time.
const QUIET: Duration = Duration::from_secs(2);

/// The time between two lines that name such a command.
const REMINDER: Duration = Duration::from_secs(15);

/// The lines that tell that a command is at work.
#[derive(Debug)]
struct Reminders {
    next: Duration,
}

impl Reminders {
    /// Begins with the command's start.
    fn new() -> Self {
        Self { next: QUIET }
    }

    /// Tells whether it is time for a line, `elapsed` after the command's start.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        let due = elapsed >= self.next;
        if due {
            self.next = elapsed + REMINDER;
        }
        due
    }
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
    /// True if it was ended because its time was up.
    pub late: bool,
}

/// Runs a command to its end; an exit status other than 0 is for the caller to judge.
pub fn finish(command: &mut Command, show: Show) -> Result<Finished> {
    finish_within(command, show, Duration::MAX)
}

/// Runs a command to its end, or ends it when it has run for `most`.
pub fn finish_within(command: &mut Command, show: Show, most: Duration) -> Result<Finished> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;

    let mut reminders = Reminders::new();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (status, stdout, stderr) = thread::scope(|scope| {
        let stdout = scope.spawn(|| collect(out, show.stdout()));
        let stderr = scope.spawn(|| collect(err, show.stderr()));
        let status = wait(&mut child, most, |elapsed| {
            if show == Show::OnFailure && reminders.is_due(elapsed) {
                console::detail(format!("{}: {} s", words(command), elapsed.as_secs()));
            }
        });
        (
            status,
            stdout.join().unwrap_or_default(),
            stderr.join().unwrap_or_default(),
        )
    });

    let (status, late) = status.with_context(|| format!("cannot wait for {name}"))?;
    if interrupted() {
        bail!("interrupted while running {name}");
    }
    Ok(Finished {
        success: status.success(),
        stdout,
        stderr,
        late,
    })
}

/// Waits for a child, and ends it when the process is asked to end or when the child has run for
/// `most`, which the second value tells. Calls `each` now and then with the time since the
/// beginning.
fn wait(
    child: &mut Child,
    most: Duration,
    mut each: impl FnMut(Duration),
) -> io::Result<(ExitStatus, bool)> {
    let began = Instant::now();
    let mut late = false;
    loop {
        each(began.elapsed());
        if let Some(status) = child.try_wait()? {
            return Ok((status, late));
        }
        late |= began.elapsed() >= most;
        if late || interrupted() {
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
    if !show.stderr() {
        finished.stderr.lines().for_each(console::detail);
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    bail!(
        "{} {} failed",
        command.get_program().to_string_lossy(),
        arguments.join(" ")
    )
}

/// Returns the name of a command's program and its first argument.
fn words(command: &Command) -> String {
    let path = Path::new(command.get_program());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match command.get_args().next() {
        Some(first) => format!("{name} {}", first.to_string_lossy()),
        None => name.into_owned(),
    }
}

/// Reads lines to the end, showing them where asked to.
fn collect(stream: Option<impl Read>, show: bool) -> String {
    let mut text = String::new();
    let Some(stream) = stream else { return text };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let shown = String::from_utf8_lossy(&line);
        if show {
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
    fn a_command_whose_time_is_up_is_ended() {
        let most = Duration::from_millis(1);
        let finished = finish_within(Command::new("sleep").arg("60"), Show::Silent, most).unwrap();
        assert!(finished.late && !finished.success);
        let finished = finish(&mut Command::new("true"), Show::Silent).unwrap();
        assert!(!finished.late && finished.success);
    }

    #[test]
    fn a_command_that_shows_nothing_is_named_after_two_seconds_and_again() {
        let mut reminders = Reminders::new();
        let due: Vec<_> = (0..40)
            .filter(|&second| reminders.is_due(Duration::from_secs(second)))
            .collect();
        assert_eq!(due, [2, 17, 32]);
        let mut apt = Command::new("/usr/bin/apt-get");
        assert_eq!(words(&apt), "apt-get");
        assert_eq!(words(apt.args(["update", "-q"])), "apt-get update");
    }

    #[test]
    fn what_is_for_programs_is_not_shown() {
        assert!(Show::Progress.stderr() && !Show::Progress.stdout());
        assert!(Show::Lines.stderr() && Show::Lines.stdout());
        assert!(!Show::Silent.stderr() && !Show::OnFailure.stderr());
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
