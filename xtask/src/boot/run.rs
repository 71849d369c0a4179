//! One run of the machine: its console is streamed and recorded, its end waited for.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::mem;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lines::{Line, Lines, Operator, asked};
use super::monitor::{Cause, Monitor};
use super::screen::Screen;
use crate::process::{POLL, interrupted};
use crate::project;

/// The end of the machine's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The machine powered itself off.
    PoweredOff,
    /// The machine was reset.
    Reset,
    /// QEMU was told to quit while the guest ran: Ctrl-A x.
    Quit,
    /// QEMU was killed after the hypervisor's report, as the run wanted.
    Killed,
    /// QEMU ended with an error.
    Failed(ExitStatus),
    /// The hypervisor cannot run on this machine, for this reason.
    CannotRun(String),
    /// The hypervisor panicked with this message.
    Panicked(String),
    /// It did not end in time, and xtask ended it.
    TimedOut,
}

impl Ended {
    /// Tells whether the end is the whole outcome: what the run was to show did not happen, and
    /// further checks would say so one by one.
    pub(crate) fn says_all(&self) -> bool {
        match self {
            Self::PoweredOff | Self::Reset | Self::TimedOut | Self::Killed => false,
            Self::Quit | Self::Failed(_) | Self::CannotRun(_) | Self::Panicked(_) => true,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(f, "the guest powered the machine off"),
            Self::Reset => write!(f, "the guest reset the machine"),
            Self::Quit => write!(
                f,
                "QEMU was told to quit before the guest powered the machine off"
            ),
            Self::Killed => write!(f, "QEMU was killed after the hypervisor's report"),
            Self::Failed(status) => write!(f, "QEMU failed: {status}"),
            Self::CannotRun(why) => write!(f, "hyp cannot run on this machine: {why}"),
            Self::Panicked(message) => write!(f, "the hypervisor panicked: {message}"),
            Self::TimedOut => write!(f, "the guest did not finish in time and was ended"),
        }
    }
}

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Its end.
    pub(crate) ended: Ended,
    /// Its length by the host's clock.
    pub(crate) wall: Duration,
    /// The console's lines.
    pub(crate) lines: Vec<Line>,
}

/// The time for which a panicking hypervisor may go on printing.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The wiring of the machine's input.
enum Input {
    /// The operator types.
    Operator(Operator),
    /// The operator types, and QEMU is killed when the hypervisor has reported.
    Killer(Operator),
    /// QEMU reads the terminal.
    Terminal,
}

impl Input {
    /// Has the words typed that the guest asks for.
    fn asked() -> Self {
        Self::Operator(Box::new(|line| asked(&line.text)))
    }
}

/// Runs the machine to its end with its console on the standard output and in the file `log`.
pub(crate) fn watched(command: &mut Command, log: &Path, limit: Duration) -> Result<Run> {
    on_screen(command, log, limit, Input::asked())
}

/// Runs the machine to its end with the terminal handed to it, and its console in the file `log`.
pub(crate) fn interactive(command: &mut Command, log: &Path) -> Result<Run> {
    on_screen(command, log, Duration::MAX, Input::Terminal)
}

/// Runs the machine to its end with its console in the file `log`, and handed to `show` as it
/// comes.
pub(crate) fn observed(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    show: impl FnMut(&[u8]) + Send,
) -> Result<Run> {
    followed(command, log, limit, Input::asked(), show)
}

/// Runs the machine to its end with its console in the file `log`, and with an operator, who types.
/// If `verbose`, the console is on the standard output, too.
pub(crate) fn operated(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    verbose: bool,
    operator: Operator,
) -> Result<Run> {
    let input = Input::Operator(operator);
    match verbose {
        true => on_screen(command, log, limit, input),
        false => followed(command, log, limit, input, |_| {}),
    }
}

/// Runs the machine with its console in the file `log`, and with an operator, who types. QEMU is
/// killed when the hypervisor has reported.
pub(crate) fn killed(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    operator: Operator,
) -> Result<Run> {
    followed(command, log, limit, Input::Killer(operator), |_| {})
}

/// Runs the machine to its end with its console on the standard output, reports left out.
fn on_screen(command: &mut Command, log: &Path, limit: Duration, input: Input) -> Result<Run> {
    // A reader of the standard output that went away is no reason to stop the run.
    let print = |bytes: &[u8]| {
        let mut terminal = io::stdout().lock();
        let _ = terminal.write_all(bytes).and_then(|()| terminal.flush());
    };
    let mut screen = Screen::default();
    let run = followed(command, log, limit, input, |bytes| {
        print(&screen.pass(bytes));
    });
    print(&screen.rest());
    run
}

/// Runs the machine to its end.
fn followed(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    input: Input,
    mut show: impl FnMut(&[u8]) + Send,
) -> Result<Run> {
    let mut log = BufWriter::new(File::create(log)?);
    let scratch = project::scratch()?;
    let monitor = Monitor::of_run(scratch.path(), command)?;
    let began = Instant::now();
    command.stdout(Stdio::piped());
    let is_killed = matches!(input, Input::Killer(_));
    let operator = match input {
        Input::Operator(operator) | Input::Killer(operator) => {
            // Ctrl-C is for xtask to answer: QEMU would end on its own.
            command.stdin(Stdio::piped()).process_group(0);
            operator
        }
        Input::Terminal => {
            command.stdin(Stdio::inherit());
            Box::new(|_: &Line| None)
        }
    };
    let mut child = command.spawn().context("cannot start QEMU")?;

    let (input, output) = (child.stdin.take(), child.stdout.take());
    let lines = Arc::new(Mutex::new(Lines::new(began, operator)));
    let ended = thread::scope(|scope| {
        let reader = {
            let lines = Arc::clone(&lines);
            let show = &mut show;
            scope.spawn(move || record(output, input, &mut log, &lines, show))
        };
        let ended = supervise(&mut child, limit, is_killed, &lines);
        // QEMU goes on running in no case.
        let _ = child.kill();
        let _ = child.wait();
        reader
            .join()
            .unwrap_or(Ok(()))
            .context("cannot record the console")?;
        ended
    })?;

    let wall = began.elapsed();
    let lines = Arc::into_inner(lines).context("the console's reader has not ended")?;
    let mut lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    let lines_read = lines.finish();
    Ok(Run {
        ended: explained(ended, lines.panicked, lines.cannot_run, monitor.cause()),
        wall,
        lines: lines_read,
    })
}

/// Returns the end of a run, given the hypervisor's last words and the cause that QEMU told.
fn explained(
    ended: Exit,
    panicked: Option<String>,
    cannot_run: Option<String>,
    cause: Option<Cause>,
) -> Ended {
    match (ended, panicked, cannot_run) {
        (Exit::TimedOut, None, None) => Ended::TimedOut,
        (Exit::Killed, None, None) => Ended::Killed,
        (Exit::Status(status), None, None) if !status.success() => Ended::Failed(status),
        (_, Some(message), _) => Ended::Panicked(message),
        (_, _, Some(why)) => Ended::CannotRun(why),
        (..) => match cause {
            Some(Cause::PowerOff) => Ended::PoweredOff,
            Some(Cause::Reset) => Ended::Reset,
            Some(Cause::Quit) | None => Ended::Quit,
        },
    }
}

/// The end of QEMU's process.
#[derive(Clone, Copy, Debug)]
enum Exit {
    /// It ended by itself.
    Status(ExitStatus),
    /// It was to be ended after the hypervisor's panic.
    Panicked,
    /// It was to be ended at the limit.
    TimedOut,
    /// It was to be killed after the hypervisor's report.
    Killed,
}

/// Waits for the end of QEMU, and ends its waiting at the limit, after a panic, on a signal, or, if
/// `is_killed`, after the hypervisor's report.
fn supervise(
    child: &mut Child,
    limit: Duration,
    is_killed: bool,
    lines: &Mutex<Lines>,
) -> Result<Exit> {
    let began = Instant::now();
    let mut panicked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Exit::Status(status));
        }
        if interrupted() {
            bail!("interrupted while the guest ran");
        }
        if began.elapsed() > limit {
            return Ok(Exit::TimedOut);
        }
        if is_killed && locked(lines).has_report {
            return Ok(Exit::Killed);
        }
        match panicked {
            Some(since) if since.elapsed() > LAST_WORDS => return Ok(Exit::Panicked),
            Some(_) => {}
            None if locked(lines).is_over() => panicked = Some(Instant::now()),
            None => {}
        }
        thread::sleep(POLL);
    }
}

/// Hands QEMU's output to `show`, to the log, and to the lines, and types what the operator wants.
fn record(
    output: Option<impl Read>,
    input: Option<impl Write>,
    log: &mut impl Write,
    lines: &Mutex<Lines>,
    show: &mut impl FnMut(&[u8]),
) -> io::Result<()> {
    let Some(mut output) = output else {
        return Ok(());
    };
    let mut input = input;
    let mut buffer = [0; 4096];
    loop {
        let read = output.read(&mut buffer)?;
        if read == 0 {
            return log.flush();
        }
        let bytes = &buffer[..read];
        show(bytes);
        log.write_all(bytes)?;
        let typed = {
            let mut lines = locked(lines);
            lines.add(bytes);
            mem::take(&mut lines.typed)
        };
        let Some(input) = &mut input else { continue };
        if !typed.is_empty() {
            // QEMU may be gone by now.
            let _ = input
                .write_all(typed.as_bytes())
                .and_then(|()| input.flush());
        }
    }
}

/// Locks the lines, also after a panic of the other thread.
fn locked(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function for scripts in QEMU's place: reports the reason of a shutdown as QEMU does, to
    /// the file among its arguments.
    const SHUTDOWN: &str = r#"
        shutdown() {
            path=${arguments#*path=}
            echo '{"event":"SHUTDOWN","data":{"reason":"'$1'"}}' > "${path%%,*}"
        }
        arguments=$2
    "#;

    fn sh(script: &str, limit: Duration) -> Run {
        let scratch = project::scratch().unwrap();
        let log = scratch.path().join("log");
        let script = format!("{SHUTDOWN}\n{script}");
        watched(Command::new("sh").args(["-c", &script]), &log, limit).unwrap()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn texts(run: &Run) -> Vec<&str> {
        run.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_console_is_cut_into_lines() {
        let run = sh(
            "printf 'one\\r\\ntwo\\nrest'; echo >&2; shutdown guest-shutdown",
            MINUTE,
        );
        assert_eq!(run.ended, Ended::PoweredOff);
        assert_eq!(texts(&run), ["one", "two", "rest"]);
    }

    #[test]
    fn what_is_asked_for_is_typed() {
        let run = sh(
            "echo '@workload ask=ping'; read word; echo got $word",
            MINUTE,
        );
        assert_eq!(texts(&run), ["@workload ask=ping", "got ping"]);
    }

    #[test]
    fn a_machine_that_hangs_is_ended() {
        let run = sh("echo up; exec sleep 600", Duration::from_millis(300));
        assert_eq!(run.ended, Ended::TimedOut);
        assert_eq!(texts(&run), ["up"]);
    }

    #[test]
    fn a_panic_ends_the_machine_after_its_last_words() {
        let run = sh(
            "echo '@hyp-panic cpu 0: x:1: no'; echo more; exec sleep 600",
            MINUTE,
        );
        assert_eq!(run.ended, Ended::Panicked("cpu 0: x:1: no".to_owned()));
        assert_eq!(texts(&run), ["@hyp-panic cpu 0: x:1: no", "more"]);
    }

    #[test]
    fn a_machine_is_killed_after_the_report() {
        let scratch = project::scratch().unwrap();
        let log = scratch.path().join("log");
        let script = "echo up; echo '@vgic {}'; exec sleep 600";
        let mut command = Command::new("sh");
        let run = killed(
            command.args(["-c", script]),
            &log,
            MINUTE,
            Box::new(|_| None),
        );
        assert_eq!(run.unwrap().ended, Ended::Killed);
    }

    #[test]
    fn a_hypervisor_that_cannot_run_says_why() {
        for end in ["shutdown guest-shutdown", "exec sleep 600"] {
            let run = sh(&format!("echo '@hyp-stop no FEAT_X'; {end}"), MINUTE);
            assert_eq!(run.ended, Ended::CannotRun("no FEAT_X".to_owned()));
            assert!(run.ended.says_all());
            let text = run.ended.to_string();
            assert_eq!(text, "hyp cannot run on this machine: no FEAT_X");
        }
    }

    #[test]
    fn only_a_power_off_is_one() {
        for (script, expected) in [
            ("shutdown guest-shutdown", Ended::PoweredOff),
            ("shutdown guest-reset", Ended::Reset),
            (
                "echo reboot: Power down; shutdown host-qmp-quit",
                Ended::Quit,
            ),
            ("echo reboot: Power down", Ended::Quit),
        ] {
            assert_eq!(sh(script, MINUTE).ended, expected, "{script}");
        }
    }

    #[test]
    fn a_failing_qemu_is_told_apart() {
        let run = sh("exit 1", MINUTE);
        assert!(matches!(run.ended, Ended::Failed(_)));
    }
}
