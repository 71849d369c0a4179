//! `cargo xtask boot`: a guest on an emulated machine, under the hypervisor or without it, and the
//! account of its interrupts checked afterwards.

pub(crate) mod checks;
pub(crate) mod counters;
pub(crate) mod dry_run;
pub(crate) mod faults;
pub(crate) mod guest;
pub mod hypervisor;
pub mod initramfs;
pub(crate) mod interrupts;
pub(crate) mod kinds;
pub(crate) mod lines;
mod lpis_on;
pub(crate) mod machine;
pub(crate) mod monitor;
mod options;
pub(crate) mod part;
mod peer;
pub(crate) mod report;
pub(crate) mod run;
mod screen;
pub(crate) mod transcript;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::provision::qemu;
use crate::{console, project};
use checks::Setting;
pub(crate) use options::{BootOptions, Direct, Efi, Kernel};
use report::{Machine, Report};
use run::{Ended, Run};
use transcript::Transcript;

/// Boots a guest as the options say, and tells whether all checks hold.
///
/// The console is recorded in `console.log` and the outcome in `boot.json`, in `reports`.
pub(crate) fn boot(options: &BootOptions, reports: &Path) -> Result<bool> {
    options.validate()?;
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    dry_run::check(&qemu, options)?;
    let guest = guest::prepare(options, scratch.path())?;
    let hypervisor = match (options.bare, options.efi) {
        (true, _) => None,
        (_, Some(_)) => {
            let image = hypervisor::build(scratch.path())?;
            Some(hypervisor::build_efi(&image)?)
        }
        (_, None) => Some(hypervisor::build(scratch.path())?),
    };
    if let (Some(application), Some(_)) = (&hypervisor, options.efi) {
        guest.write_image(options, application)?;
    }

    let path = project::begin_report(reports, "boot.json")?;
    let log = reports.join("console.log");
    let wiring = match options.interactive {
        true => machine::Console::Terminal,
        false => machine::Console::Output,
    };
    let mut command = machine::command(&qemu, options, &guest, hypervisor.as_deref(), wiring)?;
    let on = match options.cpus {
        Some(cpus) => format!("{} vCPUs of {cpus} CPUs", options.vcpus),
        None => format!("{} vCPUs", options.vcpus),
    };
    console::step(format!("Booting {} on {on}", guest.kernel_name));
    if options.interactive {
        console::detail("Ctrl-A x ends the machine at any time, Ctrl-A h lists QEMU's other keys");
    }
    let Run { ended, wall, lines } = match options.interactive {
        true => run::interactive(&mut command, &log)?,
        false => run::watched(&mut command, &log, limit(options))?,
    };

    let ended = match ended {
        // At EL2, hyp prints a line before it powers the machine off.
        Ended::PoweredOff if !options.bare && lines.is_empty() => {
            Ended::CannotRun("it says nothing, for it was not entered at EL2".to_owned())
        }
        ended => ended,
    };
    let lines = match options.has_part() {
        true => part::named_lines(lines),
        false => lines,
    };
    let transcript = Transcript::read(&lines);
    let setting = Setting {
        vcpus: options.vcpus,
        workload: options.built_in_guest() && !options.interactive,
        hypervisor: !options.bare,
        firmware: options.firmware,
        brief: options.brief,
        efi: options.efi,
        smmu: options.has_smmu(),
        part: options.has_part(),
        lpis_on: options.lpis_on.then(|| options.cpus()),
        direct: options.direct(),
        gicv2: options.gic == 2,
    };
    let mut checks = checks::check(setting, ended.clone(), &transcript);
    if ended.says_all() {
        checks.truncate(1);
    }

    let machine = Machine {
        kernel: guest.kernel_name,
        vcpus: options.vcpus,
        cpus: options.cpus(),
        on,
        cpu: options.cpu.clone(),
        qemu: qemu.version,
        hypervisor: setting.hypervisor,
        wall_seconds: wall.as_secs_f64(),
        ended,
    };
    let report = Report::new(machine, transcript, checks);
    report.write(&path)?;
    report.print();
    console::detail(format!(
        "report {}, console {}",
        path.display(),
        log.display()
    ));
    report.print_outcome();
    Ok(report.passed)
}

/// Returns the time that a run may take: the workload's grows with the number of vCPUs.
fn limit(options: &BootOptions) -> Duration {
    let seconds = options
        .timeout
        .unwrap_or(180 + 20 * u64::from(options.vcpus));
    Duration::from_secs(seconds)
}
