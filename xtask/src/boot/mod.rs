//! `cargo xtask boot`: a guest on an emulated machine, under the hypervisor or without it.

mod guest;
mod hypervisor;
mod initramfs;
mod machine;
mod peer;
mod run;

use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::cli::BootOptions;
use crate::provision::qemu;
use crate::{console, project};

/// Boots a guest as the options say; whether all checks hold.
pub(crate) fn boot(options: &BootOptions) -> Result<bool> {
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    let guest = guest::prepare(options, scratch.path())?;
    let hypervisor = match options.bare {
        true => None,
        false => Some(hypervisor::build(scratch.path())?),
    };
    let reports = project::reports();
    fs::create_dir_all(&reports)?;
    let log = reports.join("console.log");
    let wiring = match options.interactive {
        true => machine::Console::Terminal { log: &log },
        false => machine::Console::Output,
    };
    let mut command = machine::command(&qemu, options, &guest, hypervisor.as_deref(), wiring)?;
    console::step(format!(
        "Booting {} on {} vCPUs",
        guest.kernel_name, options.vcpus
    ));
    let limit = Duration::from_secs(
        options
            .timeout
            .unwrap_or(180 + 20 * u64::from(options.vcpus)),
    );
    let run = if options.interactive {
        run::interactive(&mut command, &log)?
    } else {
        run::watched(&mut command, &log, limit)?
    };
    let failed = run
        .lines
        .iter()
        .any(|line| line.starts_with("@workload step=") && line.contains("status=fail"));
    let finished = !options.built_in_guest()
        || options.interactive
        || run
            .lines
            .iter()
            .any(|line| line.starts_with("@workload final"));
    console::step(format!(
        "{:?} after {:.1} s",
        run.ended,
        run.wall.as_secs_f32()
    ));
    Ok(run.ended == run::Ended::PoweredOff && finished && !failed)
}
