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

use super::lines::{Line, Lines};
use crate::process::{POLL, interrupted};

/// The end of the machine's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The machine powered itself off.
    PoweredOff,
    /// The machine was reset.
    Reset,
    /// QEMU ended with an error.
    Failed(ExitStatus),
    /// The hypervisor panicked, and xtask ended the machine.
    Panicked,
    /// It did not end in time, and xtask ended it.
    TimedOut,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(f, "the guest powered the machine off"),
            Self::Reset => write!(f, "the guest reset the machine"),
            Self::Failed(status) => write!(f, "QEMU failed: {status}"),
            Self::Panicked => write!(f, "the hypervisor panicked"),
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

/// Runs the machine to its end with its console on the standard output and in the file `log`.
pub(crate) fn watched(command: &mut Command, log: &Path, limit: Duration) -> Result<Run> {
    observed(command, log, limit, |bytes| {
        // A reader of the standard output that went away is no reason to stop the run.
        let mut terminal = io::stdout().lock();
        let _ = terminal.write_all(bytes).and_then(|()| terminal.flush());
    })
}

/// Runs the machine to its end with its console in the file `log`, and handed to `show` as it
/// comes.
pub(crate) fn observed(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    mut show: impl FnMut(&[u8]) + Send,
) -> Result<Run> {
    let mut log = BufWriter::new(File::create(log)?);
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C is for xtask to answer: QEMU would end on its own.
        .process_group(0)
        .spawn()
        .context("cannot start QEMU")?;

    let (input, output) = (child.stdin.take(), child.stdout.take());
    let lines = Arc::new(Mutex::new(Lines::new(began)));
    let ended = thread::scope(|scope| {
        let reader = {
            let lines = Arc::clone(&lines);
            let show = &mut show;
            scope.spawn(move || record(output, input, &mut log, &lines, show))
        };
        let ended = supervise(&mut child, limit, &lines);
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
    let lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(finished(ended, wall, lines))
}

/// Runs the machine to its end with the terminal handed to it.
pub(crate) fn interactive(command: &mut Command, log: &Path) -> Result<Run> {
    let began = Instant::now();
    let mut child = command.spawn().context("cannot start QEMU")?;
    let lines = Mutex::new(Lines::new(began));
    let ended = supervise(&mut child, Duration::MAX, &lines);
    let _ = child.kill();
    let _ = child.wait();
    let ended = ended?;
    let mut lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    lines.add(&std::fs::read(log)?);
    Ok(finished(ended, began.elapsed(), lines))
}

/// Puts the record of a run together.
fn finished(ended: Ended, wall: Duration, lines: Lines) -> Run {
    let ended = match ended {
        Ended::PoweredOff if lines.reset => Ended::Reset,
        other => other,
    };
    let lines = lines.finish();
    Run { ended, wall, lines }
}

/// Waits for the end of QEMU, and ends its waiting at the limit, after a panic, or on a signal.
fn supervise(child: &mut Child, limit: Duration, lines: &Mutex<Lines>) -> Result<Ended> {
    let began = Instant::now();
    let mut panicked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match panicked {
                Some(_) => Ended::Panicked,
                None if status.success() => Ended::PoweredOff,
                None => Ended::Failed(status),
            });
        }
        if interrupted() {
            bail!("interrupted while the guest ran");
        }
        if began.elapsed() > limit {
            return Ok(Ended::TimedOut);
        }
        match panicked {
            Some(since) if since.elapsed() > LAST_WORDS => return Ok(Ended::Panicked),
            Some(_) => {}
            None if locked(lines).panicked => panicked = Some(Instant::now()),
            None => {}
        }
        thread::sleep(POLL);
    }
}

/// Hands QEMU's output to `show`, to the log, and to the lines, and types the words that the guest
/// asks for.
fn record(
    output: Option<impl Read>,
    input: Option<impl Write>,
    log: &mut impl Write,
    lines: &Mutex<Lines>,
    show: &mut impl FnMut(&[u8]),
) -> io::Result<()> {
    let Some((mut output, mut input)) = output.zip(input) else {
        return Ok(());
    };
    let mut buffer = [0; 4096];
    loop {
        let read = output.read(&mut buffer)?;
        if read == 0 {
            return log.flush();
        }
        let bytes = &buffer[..read];
        show(bytes);
        log.write_all(bytes)?;
        let asked = {
            let mut lines = locked(lines);
            lines.add(bytes);
            mem::take(&mut lines.asked)
        };
        for word in asked {
            // QEMU may be gone by now.
            let _ = input
                .write_all(word.as_bytes())
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
    use crate::project;

    fn sh(script: &str, limit: Duration) -> Run {
        let scratch = project::scratch().unwrap();
        let log = scratch.path().join("log");
        watched(Command::new("sh").args(["-c", script]), &log, limit).unwrap()
    }

    fn texts(run: &Run) -> Vec<&str> {
        run.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_console_is_cut_into_lines() {
        let run = sh(
            "printf 'one\\r\\ntwo\\nrest'; echo >&2",
            Duration::from_secs(60),
        );
        assert_eq!(run.ended, Ended::PoweredOff);
        assert_eq!(texts(&run), ["one", "two", "rest"]);
    }

    #[test]
    fn what_is_asked_for_is_typed() {
        let run = sh(
            "echo '@workload ask=ping'; read word; echo got $word",
            Duration::from_secs(60),
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
            "echo '@hyp-panic at x'; echo more; exec sleep 600",
            Duration::from_secs(60),
        );
        assert_eq!(run.ended, Ended::Panicked);
        assert_eq!(texts(&run), ["@hyp-panic at x", "more"]);
    }

    #[test]
    fn a_reset_is_no_power_off() {
        for line in [
            "hyp: vcpu 1 resets the machine",
            "[ 1.4] Kernel panic - not syncing: VFS",
        ] {
            let run = sh(&format!("echo '{line}'"), Duration::from_secs(60));
            assert_eq!(run.ended, Ended::Reset);
        }
    }

    #[test]
    fn a_failing_qemu_is_told_apart() {
        let run = sh("exit 1", Duration::from_secs(60));
        assert!(matches!(run.ended, Ended::Failed(_)));
    }
}
