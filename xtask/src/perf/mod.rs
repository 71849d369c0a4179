//! `cargo xtask perf`: measures, and holds the figures against their targets.
//!
//! Each part is a module of its own and writes one section of `perf.json`:
//! * [`el2`]: what an exit costs in instructions at EL2, beside Linux KVM.

mod el2;
mod report;

use std::path::Path;

use anyhow::Result;
use clap::Args;

/// Options of `cargo xtask perf`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The figures go to the terminal and to target/reports/perf.json. The exit status is 0 only if every
target that was measured is met.

Examples:
  cargo xtask perf                 everything
  cargo xtask perf                 everything
  cargo xtask perf --el2           instructions at EL2 of each kind of exit, under hyp
  cargo xtask perf --el2 --kvm     the same beside Linux KVM, with the ratios")]
pub(crate) struct PerfOptions {
    /// Count instructions at EL2 on an emulated machine
    #[arg(long)]
    pub(crate) el2: bool,

    /// Count them under Linux KVM too, and compare
    #[arg(long, requires = "el2")]
    pub(crate) kvm: bool,

    /// With --el2: also list the functions that the instructions of each event are in
    #[arg(long, requires = "el2")]
    pub(crate) profile: bool,
}

impl PerfOptions {
    /// Whether no part was named: all of them are meant.
    fn everything(&self) -> bool {
        !self.el2
    }
}

/// Measures what the options say; whether all targets are met.
pub(crate) fn perf(options: &PerfOptions, reports: &Path) -> Result<bool> {
    let mut met = true;
    if options.el2 || options.everything() {
        let compare = options.kvm || options.everything();
        let outcome = el2::measure(compare, options.profile)?;
        report::write_section(reports, "el2", &outcome)?;
        met &= outcome.met();
    }
    Ok(met)
}
