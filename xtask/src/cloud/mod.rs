//! `cargo xtask cloud`: several VMs with Linux and one that attacks share the CPUs of one emulated
//! machine, each with devices of its own.

mod guest;
mod lives;
mod machine;
mod operator;
mod options;
mod refused;
mod verdict;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::boot::lines::Line;
use crate::boot::{self, BootOptions, hypervisor, run};
use crate::provision::qemu;
use crate::{console, isolation, project};
use machine::{ATTACKER, Programs};
use operator::Operator;
pub(crate) use options::CloudOptions;
use verdict::Verdict;

/// Runs the VMs, and tells whether all checks hold.
///
/// The consoles are recorded in `cloud.log` and `cloud-NAME.log`, and the outcome in `cloud.json`,
/// in `reports`.
pub(crate) fn cloud(options: &CloudOptions, reports: &Path) -> Result<bool> {
    options.validate()?;
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    let guest = boot::guest::prepare(
        &BootOptions {
            vcpus: options.vcpus,
            ..BootOptions::default()
        },
        scratch.path(),
    )?;
    let hypervisor = hypervisor::build(scratch.path())?;
    let attacker = isolation::build_guest(scratch.path())?;
    let path = project::begin_report(reports, "cloud.json")?;

    let seed = options.seed.unwrap_or_else(isolation::seed_by_the_clock);
    let programs = Programs {
        hypervisor: &hypervisor,
        guest: &guest,
        attacker: &attacker,
    };
    let mut command = machine::command(&qemu, options, &programs, seed, scratch.path())?;
    console::step(format!(
        "{} VMs of {} vCPUs with {}, and an attacker, on {} CPUs: seconds {}, seed {seed}",
        options.vms, options.vcpus, guest.kernel_name, options.cpus, options.seconds
    ));
    let log = reports.join("cloud.log");
    let mut operator = Operator::new(options.names(), options.victim(), !options.verbose);
    let answer = Box::new(move |line: &Line| operator.read(line));
    let run = run::operated(&mut command, &log, limit(options), options.verbose, answer)?;

    for name in options.names().iter().map(String::as_str).chain([ATTACKER]) {
        write_log(&reports.join(format!("cloud-{name}.log")), name, &run.lines)?;
    }
    let verdict = Verdict::new(options, seed, &run);
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

/// Returns the time that a run may take on a slow host.
fn limit(options: &CloudOptions) -> Duration {
    let vcpus = u64::from(options.vms) * u64::from(options.vcpus);
    Duration::from_secs(300 + 60 * vcpus + 10 * u64::from(options.seconds))
}

/// Writes the lines of one VM.
fn write_log(path: &Path, name: &str, lines: &[Line]) -> Result<()> {
    let mut log = BufWriter::new(File::create(path)?);
    let names = [name.to_owned()];
    for line in lines {
        if let Some((_, text)) = operator::said(&names, &line.text) {
            writeln!(log, "{text}")?;
        }
    }
    log.flush()?;
    Ok(())
}
