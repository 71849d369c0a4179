//! `cargo xtask migrate`: the VM moves between two running machines, again and again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::life::{Life, NAME, Purpose, witness_number};
use super::machine::{COUNTED, Machine, PARALLEL};
use super::random::Random;
use super::verdict::Verdict;
use super::{LIMIT, MigrateOptions, guest};
use crate::boot::checks::Check;
use crate::boot::lines::{self, Line};
use crate::boot::{hypervisor, run};
use crate::provision::qemu;
use crate::{console, isolation, project};

/// CPUs of each machine: one copies while the VM runs on the other.
const CPUS: u16 = 2;

/// The longest stop, in milliseconds: what a client of the VM takes for a lost connection.
const LONGEST_STOP_MS: u64 = 5_000;

/// Moves the VM, and tells whether all checks hold.
pub(crate) fn migrate(options: &MigrateOptions, reports: &Path) -> Result<bool> {
    console::step("Preparing");
    let options = &options.linux;
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    let guest = guest::prepare(scratch.path())?;
    let mut machine = Machine {
        qemu: &qemu,
        hypervisor: &hypervisor::build(scratch.path())?,
        guest: &guest,
        options,
        accelerator: &PARALLEL,
        file: scratch.path(),
        incoming: None,
    };
    let path = project::begin_report(reports, "migrate.json")?;

    let seed = options.seed.unwrap_or_else(isolation::seed_by_the_clock);
    console::step(format!(
        "{} on {} vCPUs, {} MiB: rounds {}, seed {seed}",
        guest.kernel_name, options.vcpus, options.memory, options.rounds
    ));
    let log = reports.join("migrate.log");
    let (lives, stops) = live(machine, options.rounds, seed, scratch.path(), &log)?;
    for stop in &stops {
        console::detail(format!(
            "stopped for {} ms by the host's clock",
            stop.as_millis()
        ));
    }
    let mut verdict = Verdict::new(options, seed, lives);
    let longest = stops.iter().max().map_or(0, Duration::as_millis) as u64;
    verdict.add(Check::within(
        "longest stop by the host's clock in ms",
        longest,
        1,
        LONGEST_STOP_MS,
        "the VM stood still for too long",
    ));
    verdict.print();

    console::step("One move where an instruction takes a nanosecond");
    machine.accelerator = &COUNTED;
    let counted = scratch.path().join("counted");
    fs::create_dir(&counted)?;
    let log = reports.join("migrate-counted.log");
    let (lives, _) = live(machine, 1, seed, &counted, &log)?;
    let save = lives.iter().find_map(|life| life.save_ns);
    let restore = lives.iter().find_map(|life| life.restore_ns);
    let stop = lives.iter().find_map(|life| life.saved_us);
    console::detail(format!(
        "the vGIC's save {} instructions, its restore {}; the stop of the source {} us",
        save.unwrap_or(0),
        restore.unwrap_or(0),
        stop.unwrap_or(0)
    ));
    verdict.add(Check::equal(
        "moves where instructions are counted",
        u64::from(save.is_some() && restore.is_some()),
        1,
        "the VM was not moved",
    ));

    let json = serde_json::to_string_pretty(&verdict)?;
    fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!("report {}", path.display()));
    Ok(verdict.is_passed())
}

/// A machine's place in the chain.
struct Place {
    round: u32,
    purpose: Purpose,
    /// Comes when the machine is to be started.
    start: Receiver<()>,
    /// Starts the next machine.
    next: Option<Sender<()>>,
    /// True when this machine waits for the VM, and when the next one does.
    waits: Arc<AtomicBool>,
    next_waits: Arc<AtomicBool>,
}

/// Runs one machine more than there are rounds, two at a time. Returns the lives, and the stops
/// between them by the host's clock.
fn live(
    machine: Machine<'_>,
    rounds: u32,
    seed: u32,
    scratch: &Path,
    log: &Path,
) -> Result<(Vec<Life>, Vec<Duration>)> {
    let mut random = Random::new(seed);
    let (first, mut start) = channel();
    first.send(())?;
    let mut waits = Arc::new(AtomicBool::new(false));
    let mut places = Vec::new();
    for round in 0..=rounds {
        let is_last = round == rounds;
        let (sender, receiver) = channel();
        let next_waits = Arc::new(AtomicBool::new(false));
        places.push(Place {
            round,
            purpose: if is_last {
                Purpose::Stop
            } else {
                Purpose::Save
            },
            start: std::mem::replace(&mut start, receiver),
            next: (!is_last).then_some(sender),
            waits: std::mem::replace(&mut waits, Arc::clone(&next_waits)),
            next_waits,
        });
    }

    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = places
            .into_iter()
            .map(|place| {
                let lines = 2 + random.below(20);
                let ended = &ended;
                scope.spawn(move || -> Result<()> {
                    let life = one(machine, place, lines, scratch)?;
                    if let Some(life) = life {
                        let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                        ended.push(life);
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
        }
        Ok(())
    })?;

    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|(life, _)| life.round);
    let mut text = String::new();
    for (life, _) in &ended {
        text.push_str(&format!("==> life {}\n", life.round));
        let part = part(scratch, life.round);
        text.push_str(&fs::read_to_string(part).unwrap_or_default());
    }
    fs::write(log, text)?;
    let stops = ended.iter().zip(ended.iter().skip(1)).filter_map(stop);
    let stops = stops.collect();
    Ok((ended.into_iter().map(|(life, _)| life).collect(), stops))
}

/// Returns the log of a machine.
fn part(scratch: &Path, round: u32) -> PathBuf {
    scratch.join(format!("log-{round}"))
}

/// Returns the time from the stop on one machine to the resumption on the next.
fn stop((source, target): (&(Life, Instant), &(Life, Instant))) -> Option<Duration> {
    let stopped_for = Duration::from_micros(source.0.saved_us?);
    let stopped = (source.1 + source.0.saved_at?).checked_sub(stopped_for)?;
    (target.1 + target.0.restored_at?).checked_duration_since(stopped)
}

/// Runs one machine when its time has come. Returns its life and the time of its start, or `None`
/// if the machine before has ended without starting it.
fn one(
    machine: Machine<'_>,
    place: Place,
    lines: u64,
    scratch: &Path,
) -> Result<Option<(Life, Instant)>> {
    let Place { round, purpose, .. } = place;
    if place.start.recv().is_err() {
        return Ok(None);
    }
    let file = |round: u32| scratch.join(format!("vm-{round}"));
    let incoming = round.checked_sub(1).map(file);
    let machine = Machine {
        file: &file(round),
        incoming: incoming.as_deref(),
        ..machine
    };
    let mut command = machine.command(CPUS, purpose)?;
    let log = part(scratch, round);
    let began = Instant::now();
    let typist = typist(place, lines);
    let run = match purpose {
        Purpose::Save => run::killed(&mut command, &log, LIMIT, typist)?,
        Purpose::Stop => run::operated(&mut command, &log, LIMIT, false, typist)?,
    };
    Ok(Some((Life::read(round, CPUS, purpose, &run), began)))
}

/// Returns the operator of a machine: starts the next one after so many lines of the witness, and
/// moves the VM when that one waits.
fn typist(place: Place, lines: u64) -> lines::Operator {
    let mut place = place;
    let (mut seen, mut is_moved) = (0, false);
    let awaited = format!("hyp: {NAME} is awaited");
    Box::new(move |line: &Line| {
        if line.text == awaited {
            place.waits.store(true, Ordering::SeqCst);
        }
        witness_number(&line.text)?;
        seen += 1;
        if seen == 1 {
            return Some(format!("{NAME}: ping {}\n", place.round));
        }
        if seen < lines || is_moved {
            return None;
        }
        if place.purpose == Purpose::Stop {
            is_moved = true;
            return Some(format!("{NAME}: stop\n"));
        }
        if let Some(next) = place.next.take() {
            let _ = next.send(());
        }
        is_moved = place.next_waits.load(Ordering::SeqCst);
        is_moved.then(|| format!("!migrate {NAME}\n"))
    })
}
