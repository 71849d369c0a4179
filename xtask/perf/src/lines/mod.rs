//! Cache lines between CPUs at EL2: how many an event of a load makes CPUs fetch from each other,
//! and which lines they are.
//!
//! A guest with as many vCPUs as there are CPUs (`perf/el2/guest/src/crowd.rs`) does each load. A
//! plugin of QEMU's (`perf/el2/lines`) passes every access at EL2 through a directory of lines by
//! the MESI protocol, with infinite caches (`perf/mesi`). One thread runs all CPUs in turn, and
//! with `-icount` each run is the same. Or else each CPU has a thread, so that CPUs interleave at
//! any instruction, and counts vary.
//!
//! Before that, a program at EL2 whose lines are known checks the ruler ([`known`]).
//!
//! * [`machine`]: the programs, the emulated machine and its run; [`counts`]: the plugin's counts;
//! * [`places`]: lines of the same use, by the code that fetches them; [`guard`]: the committed
//!   table;
//! * [`table`]: the figures; [`summary`]: the published tables and plots.

mod counts;
mod guard;
mod known;
#[path = "../../../../perf/el2/load.rs"]
mod load;
mod machine;
mod places;
pub(crate) mod summary;
pub(crate) mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::el2::symbols::{Hypervisor, Kernel};
use counts::Counts;
use machine::Threads;
use table::{Outcome, Row};
use xtask::provision::qemu;
use xtask::{console, project};

/// Numbers of CPUs without a number on the command line.
pub(crate) const CPUS: [u16; 4] = [2, 4, 16, 64];

/// Wishes of the command line.
#[derive(Clone, Debug)]
pub(crate) struct LinesOptions {
    /// Numbers of CPUs.
    pub(crate) cpus: Vec<u16>,
    /// Count under Linux KVM too.
    pub(crate) kvm: bool,
    /// Give each CPU a thread, and judge nothing.
    pub(crate) interleaved: bool,
    /// Write the committed table anew.
    pub(crate) update: bool,
}

/// Counts under hyp, and under KVM if the options ask for it; prints the figures, and writes a list
/// of the lines for each run.
pub(crate) fn measure(options: &LinesOptions, reports: &Path) -> Result<Outcome> {
    let scratch = project::scratch()?;
    let scratch = scratch.path();
    let qemu = qemu::provide()?;
    let programs = machine::programs(scratch)?;
    let threads = if options.interleaved {
        Threads::Many
    } else {
        Threads::One
    };
    let run = machine::Run::new(&qemu, &programs, threads, scratch);
    let mut outcome = Outcome::new(qemu.version.clone(), threads);

    console::step("Counting lines of a program whose lines are known");
    known::check(&run.of_known_lines()?)?;

    let hypervisor = Hypervisor::load(&programs.hyp_elf)?;
    for &cpus in &options.cpus {
        console::step(format!("Counting lines between {cpus} CPUs under hyp"));
        let counts = Counts::read(&run.under_hyp(cpus)?).context("the plugin's counts")?;
        outcome.hyp.extend(Row::all(cpus, &counts));
        places::write(reports, "hyp", cpus, &counts, &hypervisor)?;
    }

    if options.kvm {
        let host = machine::kvm_host(&programs, scratch)?;
        outcome.kvm = Some(host.kernel.version.clone());
        for &cpus in &options.cpus {
            console::step(format!("Counting lines between {cpus} CPUs under KVM"));
            let counted = run.under_kvm(&host, cpus)?;
            let counts = Counts::read(&counted).context("the plugin's counts")?;
            outcome.theirs.extend(Row::all(cpus, &counts));
            let map = fs::read_to_string(run.map()).context("the client left no map")?;
            let kernel = Kernel::read(&map);
            places::write(reports, "kvm", cpus, &counts, &kernel)?;
        }
    }

    outcome.print();
    if !options.interleaved {
        guard::hold(&mut outcome, options.update)?;
    }
    Ok(outcome)
}
