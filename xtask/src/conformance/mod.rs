//! `cargo xtask conformance`: the guest that tests the interrupt controller from inside, under the
//! hypervisor and on QEMU's own GIC, and what both came to side by side.

mod report;
mod stay;
mod tap;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::boot::guest::{self, Guest};
use crate::boot::hypervisor::{self, built, flatten};
use crate::boot::machine;
use crate::boot::run::{self, Run};
use crate::cli::{BootOptions, Kernel};
use crate::console;
use crate::project;
use crate::provision::qemu::{self, Qemu};
use crate::provision::toolchain;
use report::{OnMachine, Report};
use tap::Watcher;

/// RAM in MiB that is ample.
const MEMORY: u32 = 512;

/// What has the hypervisor give its guest a second ITS.
const SECOND_ITS: &str = "hyp.its=2";

/// Emulated CPUs per host CPU up to which a thread for each is faster than one thread for all.
const CPUS_PER_HOST_CPU: usize = 2;

/// Emulated CPUs where instructions are counted: enough for every case, and all run on one thread there.
const COUNTED_CPUS: u16 = 2;

/// Has QEMU make an instruction a nanosecond.
const COUNT: [&str; 2] = ["-icount", "shift=0,sleep=off"];

/// A case takes milliseconds, and seconds if what it waits for does not come.
const LIMIT: Duration = Duration::from_secs(400);

/// Options of `cargo xtask conformance`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Every case names the register or section of IHI 0069 that it tests. The same program runs under hyp and
on the GIC that QEMU emulates, and once more under hyp with an instruction a nanosecond, where no stay at EL2
may be longer than its bound. The outcome goes to target/reports/conformance.json. The exit status is 0
only if every case passes under hyp, and those that fail on QEMU's GIC are known to, with the reason.

Examples:
  cargo xtask conformance                    all cases, 4 vCPUs, both GICs
  cargo xtask conformance --filter its.      the cases whose name or rule contains `its.`
  cargo xtask conformance --vcpus 8 --bare   on QEMU's own GIC only
  cargo xtask conformance --list             the cases and their rules")]
pub(crate) struct ConformanceOptions {
    /// Only the cases whose name or rule contains this
    #[arg(long, value_name = "TEXT", value_parser = filter)]
    pub(crate) filter: Option<String>,

    /// vCPUs, one physical CPU each; cases that need more are skipped
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) vcpus: u16,

    /// Only on QEMU's own GIC, without the hypervisor
    #[arg(long, conflicts_with = "hyp")]
    pub(crate) bare: bool,

    /// Only under the hypervisor, without the oracle
    #[arg(long)]
    pub(crate) hyp: bool,

    /// Only under the hypervisor on CPUs whose time is the instructions that they execute
    #[arg(long, conflicts_with_all = ["hyp", "bare"])]
    pub(crate) counted: bool,

    /// Name the cases and their rules, and run none
    #[arg(long)]
    pub(crate) list: bool,
}

/// The filter becomes a word of the guest's command line.
fn filter(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        _ if text.contains(char::is_whitespace) => Err("names contain no spaces".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Where the cases run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    /// Under the hypervisor.
    Hyp,
    /// On QEMU's own GIC.
    Qemu,
    /// Under the hypervisor, where an instruction takes a nanosecond.
    Counted,
}

impl Place {
    const fn has_hypervisor(self) -> bool {
        !matches!(self, Self::Qemu)
    }

    /// The name of its log.
    const fn name(self) -> &'static str {
        match self {
            Self::Hyp => "hyp",
            Self::Qemu => "qemu",
            Self::Counted => "counted",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hyp => "under hyp",
            Self::Qemu => "on QEMU's own GIC",
            Self::Counted => "under hyp, counted",
        })
    }
}

/// Cases that are as they have to be, on each GIC that was asked for, and others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    /// A run that did not come to its end counts too.
    pub(crate) failed: u64,
}

/// Runs the cases, or lists them. `conformance.json` goes to `reports`.
pub(crate) fn conformance(options: &ConformanceOptions, reports: &Path) -> Result<Counts> {
    console::step("Preparing");
    let scratch = project::scratch()?;
    let bench = Bench {
        qemu: qemu::provide()?,
        options,
        program: build(scratch.path())?,
        scratch: scratch.path(),
        reports,
    };
    fs::create_dir_all(reports)?;
    if options.list {
        let listed = bench.run(Place::Qemu)?;
        listed.print_list();
        return Ok(Counts {
            passed: 0,
            failed: u64::from(!listed.is_complete()),
        });
    }
    let places = match options {
        ConformanceOptions { bare: true, .. } => &[Place::Qemu][..],
        ConformanceOptions { hyp: true, .. } => &[Place::Hyp],
        ConformanceOptions { counted: true, .. } => &[Place::Counted],
        _ => &[Place::Hyp, Place::Qemu, Place::Counted],
    };
    let runs: Result<Vec<_>> = places.iter().map(|place| bench.run(*place)).collect();
    let report = Report::new(bench.qemu.version, runs?);
    ensure!(
        !report.cases.is_empty(),
        "no case's name or rule contains `{}`; see --list",
        options.filter.as_deref().unwrap_or_default()
    );
    let path = reports.join("conformance.json");
    report.write(&path)?;
    report.print();
    console::detail(format!("report {}", path.display()));
    Ok(report.counts())
}

fn host_cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Builds the guest, and returns its image in `scratch`.
fn build(scratch: &Path) -> Result<PathBuf> {
    console::step("Building the guest");
    let mut cargo = toolchain::bare_metal()?.cargo("build");
    cargo.args(["--release", "--package", "conformance"]);
    let elf = built(&mut cargo, "the guest")?;
    let image = flatten(&fs::read(&elf)?).with_context(|| elf.display().to_string())?;
    let path = scratch.join("conformance.img");
    fs::write(&path, image)?;
    Ok(path)
}

/// What the runs have in common.
struct Bench<'a> {
    qemu: Qemu,
    options: &'a ConformanceOptions,
    program: PathBuf,
    scratch: &'a Path,
    reports: &'a Path,
}

impl Bench<'_> {
    /// Runs the guest.
    fn run(&self, place: Place) -> Result<OnMachine> {
        let counted = place == Place::Counted;
        let vcpus = match counted {
            true => self.options.vcpus.min(COUNTED_CPUS),
            false => self.options.vcpus,
        };
        let mut words = vec![SECOND_ITS.to_owned()];
        if counted {
            // A CPU's time includes the turns that the others have meanwhile.
            words.push("alone".to_owned());
        }
        if self.options.list {
            words.push("list".to_owned());
        }
        if let Some(filter) = &self.options.filter {
            words.push(format!("filter={filter}"));
        }
        let options = BootOptions {
            vcpus,
            kernel: Kernel::Image(self.program.clone()),
            append: Some(words.join(" ")),
            memory: Some(MEMORY),
            bare: !place.has_hypervisor(),
            // CPUs without a task spin, and say so: one thread goes on with the next one then.
            one_thread: counted || usize::from(vcpus) > CPUS_PER_HOST_CPU * host_cpus(),
            qemu: match counted {
                true => COUNT.map(str::to_owned).to_vec(),
                false => Vec::new(),
            },
            ..BootOptions::default()
        };
        let guest: Guest = guest::prepare(&options, self.scratch)?;
        let hypervisor = match place {
            Place::Qemu => None,
            Place::Hyp => Some(hypervisor::build(self.scratch)?),
            Place::Counted => Some(hypervisor::build_noting_stays(self.scratch)?),
        };
        let name = place.name();
        let log = self.reports.join(format!("conformance-{name}.log"));
        let wiring = machine::Console::Output;
        let mut command =
            machine::command(&self.qemu, &options, &guest, hypervisor.as_deref(), wiring)?;
        if !self.options.list {
            console::step(format!("Running the cases {place}, {vcpus} vCPUs"));
        }
        let mut watcher = Watcher::new(place == Place::Qemu, self.options.list);
        let Run { ended, wall, lines } =
            run::observed(&mut command, &log, LIMIT, |bytes| watcher.see(bytes))?;
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        Ok(OnMachine::read(place, vcpus, ended, wall, &texts))
    }
}
