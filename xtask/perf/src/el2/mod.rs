//! Instructions at EL2: the cost of each kind of exit, under hyp and under Linux KVM.
//!
//! One guest (`perf/el2/guest`) does each event many times on one emulated machine, first under
//! hyp, then under Linux KVM. The switch between two vCPUs has a run, or under KVM a VM, of its
//! own, in which both vCPUs have one CPU. A plugin of QEMU's (`perf/el2/plugin`) counts the
//! instructions that are executed at EL2 meanwhile, on all CPUs. With `-icount` one instruction is
//! one nanosecond of the machine's time, so a run is repeatable to a few instructions.
//!
//! * [`build`]: the programs; [`machine`]: the emulated machine and its run;
//! * [`counts`]: the plugin's counts; [`code`]: kinds of instruction; [`symbols`]: owners of
//!   instructions;
//! * [`known`]: a program whose counts are known, against which the plugin is held;
//! * [`pmu`]: hyp's own measurement, beside the plugin's;
//! * [`table`]: the comparison; [`direct`]: that of direct injection;
//! * [`profile`]: the instructions of one event by function;
//! * [`summary`], [`plot`]: the published tables and the plot.

#[path = "../../../../perf/el2/plugin/src/branch.rs"]
mod branch;
mod build;
mod code;
#[cfg(test)]
#[path = "../../../../perf/el2/plugin/src/code_map.rs"]
mod code_map;
pub(crate) mod counts;
pub(crate) mod direct;
#[path = "../../../../perf/el2/event.rs"]
mod event;
pub(crate) mod known;
pub(crate) mod machine;
#[path = "../../../../perf/el2/names.rs"]
mod names;
pub(crate) mod plot;
mod pmu;
mod profile;
#[cfg(test)]
#[path = "../../../../perf/el2/plugin/src/stacks.rs"]
mod stacks;
pub(crate) mod summary;
pub(crate) mod symbols;
pub(crate) mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use counts::Counts;
pub(crate) use event::Event;
pub(crate) use pmu::measure as measure_by_pmu;
use symbols::{Hypervisor, Kernel};
use table::Outcome;
use xtask::kvm::Host;
use xtask::provision::qemu;
use xtask::{console, project};

/// Counts under hyp, and under KVM if `compare` asks for it, and prints the table.
///
/// With `profile`, also shows the instructions of one event, or of each, by function.
pub(crate) fn measure(
    compare: bool,
    profile: Option<Option<Event>>,
    reports: &Path,
) -> Result<Outcome> {
    let scratch = project::scratch()?;
    let scratch = scratch.path();
    let qemu = qemu::provide()?;
    let programs = build::programs(scratch)?;

    console::step("Counting instructions at EL2 under hyp");
    let run = machine::Run::new(&qemu, &programs.plugin, scratch);
    let hypervisor = Hypervisor::load(&programs.hyp_elf)?;
    fs::write(run.map(), hypervisor.code_map()?).context("cannot write the map of the code")?;
    let counted = run.under_hyp(&programs)?.counts + &run.under_hyp_on_one_cpu(&programs)?.counts;
    let ours = Counts::read(&counted, &hypervisor).context("the plugin's counts")?;

    let (theirs, version) = if compare {
        let host = Host::new(&programs.guest, scratch)?;
        let version = host.kernel.version.clone();
        console::step(format!(
            "Counting instructions at EL2 under KVM of {version}"
        ));
        let counted = run.under_kvm(&host)?;
        let map = fs::read_to_string(run.map()).context("the client left no map of the code")?;
        let symbols = Kernel::read(&map);
        let counts = Counts::read(&counted, &symbols).context("the plugin's counts")?;
        (Some(counts), Some(version))
    } else {
        (None, None)
    };
    let outcome = Outcome::new(&ours, theirs.as_ref(), qemu.version, version);
    outcome.print();

    for &event in profile::chosen(&profile) {
        profile::print("hyp", event, ours.of(event));
        if let Some(theirs) = &theirs {
            profile::print("KVM", event, theirs.of(event));
        }
        profile::write_listing(event, ours.of(event), &hypervisor, reports)?;
    }
    Ok(outcome)
}
