//! `cargo xtask loom --sweep`: makes every mutant of the library of a few kinds, and finds the gate
//! that notices each.
//!
//! [`sites`] reads the library's code and finds the places that have mutants. [`copy`] writes the
//! library again with a switch at each place, and [`switch`](../switch.rs) selects one mutant at
//! run time: the models and the tests are built once. [`gates`] runs those that reach a mutant's
//! code. [`records`] are committed: the gate that notices each mutant, and the reason why nothing
//! notices the others. [`report`] holds the outcome against the records.

mod cfg;
mod copy;
mod gates;
mod kind;
mod records;
mod report;
mod sites;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use xtask::process::{self, Show};
use xtask::{console, parallel, project};

use copy::Copy;
use gates::{Gate, Gates};
use kind::Kind;
use records::Records;
use report::{Fate, Report};
use sites::Mutant;

/// Widest help, in columns, as of the other tasks.
const COLUMNS: usize = 80;

const AFTER_HELP: &str = "\
The mutants are made in a copy of the library, in target/sweep, which is built
once. The outcome goes to target/reports/sweep.json. A sweep that was ended goes
on where it was, as long as the code is as it was; one with more executions runs
the survivors again. A run also writes
loom-tests/killed.json, which names the gate that notices each mutant; a run of
all files writes the table of docs/proof.md too. A mutant that no gate notices
needs a reason in loom-tests/survivors.toml. The exit status is 0 only if each
has one.

Examples:
  cargo xtask loom --sweep --executions 400   everything: ten minutes on two CPUs
  cargo xtask loom --sweep                    everything: an hour or more
  cargo xtask loom --sweep --file vm/rwp.rs   the mutants of one file
  cargo xtask loom --sweep --list             the names of the mutants
  cargo xtask loom --sweep --slice 45         45 seconds of killed mutants";

/// Make every mutant of the library, and find the gate that notices each.
#[derive(Clone, Debug, Parser)]
#[command(name = "sweep", bin_name = "cargo xtask loom --sweep")]
#[command(max_term_width = COLUMNS, after_help = AFTER_HELP)]
struct SweepOptions {
    /// Only the mutants of this file, below src/
    #[arg(long, value_name = "FILE")]
    file: Option<String>,

    /// Print the mutants' names and lines, and run nothing
    #[arg(long)]
    list: bool,

    /// Only some mutants, other ones in each commit, for this long; each must be noticed by the
    /// gate that the record names
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["file", "list"])]
    slice: Option<u64>,

    /// Executions of a model, at most, before a mutant counts as not noticed by it
    #[arg(long, value_name = "N", default_value_t = 5000)]
    executions: u64,
}

fn main() -> ExitCode {
    let options = SweepOptions::parse();
    xtask::finish(move || sweep(&options))
}

/// Does what the options ask for, and tells whether no mutant is without a gate or a reason.
fn sweep(options: &SweepOptions) -> Result<bool> {
    let copy = Copy::write()?;
    let names: BTreeSet<_> = copy.mutants.iter().map(Mutant::name).collect();
    ensure!(
        names.len() == copy.mutants.len(),
        "two mutants have one name"
    );
    let wanted = |mutant: &Mutant| {
        options
            .file
            .as_ref()
            .is_none_or(|file| mutant.file == *file)
    };
    let mutants = copy.mutants.iter().enumerate();
    let mutants: Vec<_> = mutants.filter(|(_, mutant)| wanted(mutant)).collect();
    ensure!(
        !mutants.is_empty(),
        "no mutant is in that file; name it as below src/: vm/rwp.rs"
    );
    if options.list {
        for (_, mutant) in mutants {
            console::say(&format!("{} (line {})", mutant.name(), mutant.line));
        }
        return Ok(true);
    }
    let records = Records::read()?;
    match options.slice {
        Some(seconds) => slice(&copy, &names, &records, Duration::from_secs(seconds)),
        None => all(&copy, &mutants, records, options),
    }
}

/// Runs some mutants, each against the gate that has noticed it before.
fn slice(copy: &Copy, names: &BTreeSet<String>, records: &Records, time: Duration) -> Result<bool> {
    let mut faults = records.faults(names);
    let gates = Gates::models(copy)?;
    let numbered = copy.mutants.iter().enumerate();
    let mut recorded: Vec<_> = numbered
        .filter_map(|(number, mutant)| {
            let name = mutant.name();
            let gate = records.killed.get(&name)?;
            gate.starts_with("loom ").then_some((number, name, gate))
        })
        .collect();
    if !recorded.is_empty() {
        let first = commits() * SLICE % recorded.len();
        recorded.rotate_left(first);
    }

    let (count, began) = (recorded.len(), Instant::now());
    console::step(format!("Sweeping a slice of {count} mutants"));
    let ran = parallel::map(parallel::cpus(), &recorded, |_, (number, name, gate)| {
        if began.elapsed() >= time {
            return Ok(None);
        }
        let Some(gate) = gates.find(gate) else {
            return Ok(Some(format!("`{name}`: there is no {gate}")));
        };
        let run = gates.run(gate, *number, u64::MAX)?;
        let gate = &gate.name;
        Ok(Some(match run.noticed {
            true => String::new(),
            false => format!("`{name}` is noticed by {gate} no more"),
        }))
    })?;
    let ran: Vec<_> = ran.into_iter().flatten().collect();
    let noticed = ran.iter().filter(|fault| fault.is_empty()).count();
    faults.extend(ran.into_iter().filter(|fault| !fault.is_empty()));
    for fault in &faults {
        console::detail(format!("{} {fault}", console::bad("FAILED")));
    }
    if !faults.is_empty() {
        console::detail("run `cargo xtask loom --sweep`, or with `--file` for the files named");
    }
    console::detail(format!("{noticed} mutants noticed"));
    Ok(faults.is_empty())
}

/// The executions that all gates get first.
const FEW: u64 = 200;

/// Mutants by which the slice of a commit is further on than that of the one before.
const SLICE: usize = 20;

/// Counts the commits up to this one; 0 in a checkout without a history.
fn commits() -> usize {
    let mut git = Command::new("git");
    git.current_dir(project::root())
        .args(["rev-list", "--count", "HEAD"]);
    let counted = process::finish(&mut git, Show::Silent);
    let text = counted.map_or(String::new(), |finished| finished.stdout);
    text.trim().parse().unwrap_or(0)
}

/// Runs mutants against all gates that may notice them.
fn all(
    copy: &Copy,
    mutants: &[(usize, &Mutant)],
    mut records: Records,
    options: &SweepOptions,
) -> Result<bool> {
    let code = gates::code(copy)?;
    let report = Mutex::new(Report::resume(code));
    let gates = Gates::all(copy)?;

    let (count, began) = (mutants.len(), Instant::now());
    console::step(format!("Sweeping {count} mutants"));
    parallel::map(parallel::cpus(), mutants, |place, (number, mutant)| {
        let name = mutant.name();
        let found = || report.lock().expect("no work panics");
        if found().has(&name, options.executions) {
            return Ok(());
        }
        let fate = fate(
            &gates,
            *number,
            mutant.kind,
            records.killed.get(&name),
            options.executions,
        )?;
        let outcome = match &fate.gate {
            Some(gate) => format!("{} {name} by {gate}", console::good("killed")),
            None => format!("{} {name}: {}", console::bad("survived"), fate.message),
        };
        let time = began.elapsed().as_secs();
        console::detail(format!("[{}/{count}, {time} s] {outcome}", place + 1));
        let mut report = found();
        report.fates.insert(name, fate);
        report.write(&copy.mutants, &records)
    })?;

    let report = report.into_inner().expect("no work panics");
    for (name, fate) in &report.fates {
        match &fate.gate {
            Some(gate) => records.killed.insert(name.clone(), gate.clone()),
            None => records.killed.remove(name),
        };
    }
    let mut names: BTreeSet<_> = copy.mutants.iter().map(Mutant::name).collect();
    records.killed.retain(|name, _| names.contains(name));
    records.write()?;

    if options.file.is_none() {
        report.publish(&copy.mutants, &records)?;
    }
    if let Some(file) = &options.file {
        names.retain(|name| name.starts_with(&**file));
        records.retain(file);
    }
    let faults = records.faults(&names);
    for fault in &faults {
        console::detail(format!("{} {fault}", console::bad("FAILED")));
    }
    let open = records.open().count();
    for (name, what) in records.open() {
        console::detail(format!("{} {name}: {what}", console::bad("OPEN")));
    }
    let (killed, survived) = (records.killed.len(), records.survivors.len() - open);
    console::step(format!(
        "{killed} mutants killed, {survived} survive for a reason, {open} are open, {} faults",
        faults.len()
    ));
    Ok(faults.is_empty() && open == 0)
}

/// Finds the gate that notices a mutant. The one that has noticed it before goes first. All gates
/// get a few executions before any gets the `most`: most mutants are noticed early.
fn fate(
    gates: &Gates,
    mutant: usize,
    kind: Kind,
    before: Option<&String>,
    most: u64,
) -> Result<Fate> {
    let before = before.and_then(|name| gates.find(name));
    if let Some(gate) = before {
        let run = gates.run(gate, mutant, u64::MAX)?;
        if run.noticed {
            return Ok(Fate::killed(gate, run));
        }
    }
    let able = |gate: &&Gate| gate.may_notice(mutant, kind);
    let mut tried: Vec<_> = gates.all.iter().filter(able).collect();
    let count = tried.len();
    let few = (FEW < most).then_some(FEW);
    for executions in few.into_iter().chain([most]) {
        let mut cut_off = Vec::new();
        for gate in tried {
            let run = gates.run(gate, mutant, executions)?;
            if run.noticed {
                return Ok(Fate::killed(gate, run));
            }
            if run.cut_off {
                cut_off.push(gate);
            }
        }
        tried = cut_off;
    }
    let part = tried.len();
    Ok(Fate {
        gate: None,
        message: format!("{count} gates reach it, {part} explored in part"),
        explored: if part == 0 { u64::MAX } else { most },
    })
}
