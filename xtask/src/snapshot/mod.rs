//! `cargo xtask snapshot`: a VM with Linux is stopped at random moments, saved into a file, and
//! restored by another hypervisor on another machine, again and again. A program inside counts its
//! interrupts and notices if anything but time has passed.

mod guest;
mod life;
mod machine;
mod migrate;
mod options;
mod random;
mod refused;
mod verdict;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::boot::{BootOptions, dry_run, hypervisor, run};
use crate::provision::qemu;
use crate::{console, isolation, project};
use life::{Life, Operator, Purpose};
use machine::Machine;
pub(crate) use migrate::migrate;
pub(crate) use options::{MigrateOptions, SnapshotOptions};
use random::Random;
use verdict::Verdict;

/// Longest life of a machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Most emulated CPUs: each life has another number.
const MOST_CPUS: u64 = 4;

/// Runs the rounds, and tells whether all checks hold.
///
/// The consoles are recorded in `snapshot.log`, and the outcome in `snapshot.json`, in `reports`.
pub(crate) fn snapshot(options: &SnapshotOptions, reports: &Path) -> Result<bool> {
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    dry_run::check(
        &qemu,
        &BootOptions {
            vcpus: options.vcpus,
            cpus: Some(1),
            cpu: options.cpu.clone(),
            no_iommu: true,
            ..BootOptions::default()
        },
    )?;
    let guest = guest::prepare(scratch.path())?;
    let machine = Machine {
        qemu: &qemu,
        hypervisor: &hypervisor::build(scratch.path())?,
        guest: &guest,
        options,
        accelerator: &machine::PARALLEL,
        file: &scratch.path().join("snapshot"),
        incoming: None,
    };
    let path = project::begin_report(reports, "snapshot.json")?;

    let seed = options.seed.unwrap_or_else(isolation::seed_by_the_clock);
    console::step(format!(
        "{} on {} vCPUs, {} MiB: rounds {}, seed {seed}",
        guest.kernel_name, options.vcpus, options.memory, options.rounds
    ));
    let log = reports.join("snapshot.log");
    let lives = live(&machine, options, seed, &log)?;
    let refusals = refused::all(&machine, scratch.path(), reports)?;

    let mut verdict = Verdict::new(options, seed, lives);
    verdict.add_refusals(refusals);
    verdict.print();
    let json = serde_json::to_string_pretty(&verdict)?;
    fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    console::detail(format!(
        "report {}, console {}",
        path.display(),
        log.display()
    ));
    Ok(verdict.passed)
}

/// Runs one life more than there are rounds: each round lies between two. A life that goes wrong is
/// the last.
fn live(
    machine: &Machine<'_>,
    options: &SnapshotOptions,
    seed: u32,
    log: &Path,
) -> Result<Vec<Life>> {
    let mut random = Random::new(seed);
    let mut lives = Vec::new();
    let mut console = String::new();
    for round in 0..=options.rounds {
        let purpose = match round == options.rounds {
            true => Purpose::Stop,
            false => Purpose::Save,
        };
        let cpus = 1 + random.below(MOST_CPUS) as u16;
        let mut command = machine.command(cpus, purpose)?;
        let part = log.with_extension("part");
        let operator = Operator::new(round, purpose, &mut random);
        let run = match purpose {
            Purpose::Save => run::killed(&mut command, &part, LIMIT, operator.typist())?,
            Purpose::Stop => run::operated(&mut command, &part, LIMIT, false, operator.typist())?,
        };
        console.push_str(&format!("==> life {round}, {cpus} CPUs\n"));
        console.push_str(&fs::read_to_string(&part).unwrap_or_default());
        fs::remove_file(&part)?;

        let life = Life::read(round, cpus, purpose, &run);
        let is_good = life.is_good();
        if round > 0 && round % 10 == 0 {
            console::detail(format!("{round} rounds"));
        }
        lives.push(life);
        if !is_good {
            break;
        }
    }
    fs::write(log, console)?;
    Ok(lives)
}
