//! `cargo xtask conformance`: the guest that tests the interrupt controller from inside, under the
//! hypervisor, on QEMU's own GIC and under Linux KVM, and the outcomes side by side.

mod el2_time;
mod report;
mod suite;
mod table;
mod tap;

use std::cell::OnceCell;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{ArgMatches, Command, value_parser};
use serde_core::{Serialize, Serializer};

use crate::boot::guest::{self, Guest};
use crate::boot::hypervisor::{self, built, flatten};
use crate::boot::machine;
use crate::boot::run::{self, Run};
use crate::boot::{BootOptions, Kernel, dry_run, part};
use crate::cli::{Options, defaulted, flag, option};
use crate::isolation::seed_by_the_clock;
use crate::kvm::Host;
use crate::provision::qemu::{self, Board, Qemu};
use crate::provision::toolchain;
use crate::{console, names, parallel, project};
use report::{OnMachine, Report};
pub(crate) use suite::Suite;
use tap::Watcher;

/// The guest's RAM in MiB, which is ample.
const MEMORY: u32 = 512;

/// The word of the kernel's command line by which the hypervisor gives its guest a second ITS.
const SECOND_ITS: &str = "hyp.its=2";

/// Words of the command line that give the guest the extended ranges. QEMU's own CPU interface says
/// that it has none, and does as any other.
const EXTENDED: &str = "hyp.espis=992 hyp.eppis=64 hyp.extrange=assume";

/// The word by which a VM with a part of the machine gets an ITS for the largest device.
const MANY_EVENTS: &str = "hyp.events=65536";

/// The word by which the hypervisor gives its guest a GICv2.
const GICV2: &str = "hyp.gic=2";

/// Emulated CPUs per host CPU up to which a thread for each is faster than one thread for all.
const CPUS_PER_HOST_CPU: usize = 2;

/// Milliseconds between two saves in place, on average: a few of them come within the longer cases.
const SAVED_EVERY: u32 = 20;

/// Most CPUs with QEMU's own GIC: enough for every pair of them, and few enough for the host.
const ORACLE_CPUS: u16 = 8;

/// Emulated CPUs where instructions are counted: enough for every case. One thread runs them all.
const COUNTED_CPUS: u16 = 2;

/// QEMU's arguments that make an instruction take a nanosecond.
const COUNT: [&str; 2] = ["-icount", "shift=0,sleep=off"];

/// The longest run. A case takes milliseconds, or seconds if an interrupt that it waits for does
/// not come.
const LIMIT: Duration = Duration::from_secs(400);

const AFTER_HELP: &str = "\
Every case names the register or section of IHI 0069 that it tests, or of IHI
0048 if it is for a GICv2. The same program runs under hyp and on the GIC that
QEMU emulates, and once more under hyp with an instruction a nanosecond, where
no stay at EL2 may be longer than its bound. The outcome goes to
target/reports/conformance.json; if nothing fails, the tables of
docs/conformance.md are written anew. The exit status is 0 only if every case
passes under hyp, and those that fail on another GIC are known to, with the
reason.

Examples:
  cargo xtask conformance                    all cases, 4 vCPUs, both GICs
  cargo xtask conformance --filter its.      the cases whose name or rule
                                             contains `its.`
  cargo xtask conformance --vcpus 8 --bare   on QEMU's own GIC only
  cargo xtask conformance --kvm              all cases under Linux KVM
  cargo xtask conformance --gic 2            all cases of a GICv2
  cargo xtask conformance --vcpus 8 --cpus 4 vCPUs that share CPUs
  cargo xtask conformance --vcpus 1024 --cpus 4 --filter sgi.
                                             1,024 vCPUs that share CPUs
  cargo xtask conformance --saved            the GIC is saved and restored
                                             all the time
  cargo xtask conformance --list             the cases and their rules";

/// The folders of the cases: of a GICv3, and of a GICv2.
const CASES: [&str; 2] = [
    "hyp/guests/conformance/src/cases",
    "hyp/guests/conformance/src/v2/cases",
];

/// Options of `cargo xtask conformance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConformanceOptions {
    /// A part of the names or rules of the cases to run.
    pub(crate) filter: Option<String>,
    /// vCPUs; cases that need more are skipped.
    pub(crate) vcpus: u16,
    /// Emulated CPUs that the vCPUs share, in a VM with a part of the machine. Without the number,
    /// each vCPU has a CPU for itself.
    pub(crate) cpus: Option<u16>,
    /// The CPU model that QEMU emulates.
    pub(crate) cpu: String,
    /// The version of the GIC: 2 for the cases of a GICv2, 3, or 4 for a GICv3 under the hypervisor
    /// with direct injection of LPIs.
    pub(crate) gic: u8,
    /// True if the cases run only on QEMU's own GIC, without the hypervisor.
    pub(crate) bare: bool,
    /// True if the cases run only under the hypervisor, without the oracle.
    pub(crate) hyp: bool,
    /// True if the cases run only under the hypervisor, on CPUs whose time is the instructions that
    /// they execute.
    pub(crate) counted: bool,
    /// True if the cases run only under the hypervisor, which saves and restores the interrupt
    /// controller in place at random moments.
    pub(crate) saved: bool,
    /// The seed of those moments; without it, one by the clock.
    pub(crate) seed: Option<u32>,
    /// True if the cases run only under the KVM of a Linux kernel.
    pub(crate) kvm: bool,
    /// True if the cases and their rules are listed, and none is run.
    pub(crate) list: bool,
}

impl Options for ConformanceOptions {
    fn declare(command: Command) -> Command {
        command.after_help(AFTER_HELP).args([
            option(
                "filter",
                "TEXT",
                "Only the cases whose name or rule contains this",
            )
            .value_parser(filter),
            option(
                "vcpus",
                "N",
                "vCPUs, at most 8 of them on QEMU's own GIC; cases that need more are skipped",
            )
            .default_value("4")
            .value_parser(value_parser!(u16).range(1..=1024)),
            option(
                "cpus",
                "N",
                "Emulated CPUs that the vCPUs share, only under the hypervisor, in a VM with a \
                 part of the machine [default: a CPU for each vCPU]",
            )
            .conflicts_with_all(["bare", "counted"])
            .value_parser(value_parser!(u16).range(1..=8)),
            option("cpu", "MODEL", "The CPU that QEMU emulates").default_value("neoverse-n1"),
            option(
                "gic",
                "VERSION",
                "2 for the cases of a GICv2, on 8 vCPUs at most; 3; or 4 for those of a GICv3 \
                 under the hypervisor on a GICv4, with direct injection of LPIs",
            )
            .default_value("3")
            .value_parser(value_parser!(u8).range(2..=4)),
            flag("bare", "Only on QEMU's own GIC, without the hypervisor").conflicts_with("hyp"),
            flag("hyp", "Only under the hypervisor, without the oracle"),
            flag(
                "counted",
                "Only under the hypervisor on CPUs whose time is the instructions that they \
                 execute",
            )
            .conflicts_with_all(["hyp", "bare"]),
            flag(
                "saved",
                "Only under the hypervisor, which saves and restores the interrupt controller at \
                 random moments",
            )
            .conflicts_with_all(["hyp", "bare", "counted"]),
            option(
                "seed",
                "S",
                "The seed of the moments of --saved [default: by the clock]",
            )
            .requires("saved")
            .value_parser(value_parser!(u32)),
            flag(
                "kvm",
                "Only under the KVM of a Linux kernel, on as many vCPUs as on QEMU's own GIC",
            )
            .conflicts_with_all(["hyp", "bare", "counted", "cpus"]),
            flag("list", "Name the cases and their rules, and run none"),
        ])
    }

    fn read(matches: &mut ArgMatches) -> Self {
        Self {
            filter: matches.remove_one("filter"),
            vcpus: defaulted(matches, "vcpus"),
            cpus: matches.remove_one("cpus"),
            cpu: defaulted(matches, "cpu"),
            gic: defaulted(matches, "gic"),
            bare: matches.get_flag("bare"),
            hyp: matches.get_flag("hyp"),
            counted: matches.get_flag("counted"),
            saved: matches.get_flag("saved"),
            seed: matches.remove_one("seed"),
            kvm: matches.get_flag("kvm"),
            list: matches.get_flag("list"),
        }
    }
}

impl Default for ConformanceOptions {
    /// Returns the options of a command line without any.
    fn default() -> Self {
        Self::parsed(&[]).expect("every option has a default")
    }
}

/// Checks that a filter can be a word of the guest's command line, and in the name of a case.
fn filter(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        _ if text.contains(char::is_whitespace) => Err("names contain no spaces".to_owned()),
        _ if !names::may_be_part(text, &CASES) => Err(format!(
            "it is in no case's name or rule; the topics are {}, with --gic 2 {}, and --list names \
             the cases",
            names::files(CASES[0], &["mod"]).join(", "),
            names::files(CASES[1], &["mod"]).join(", "),
        )),
        _ => Ok(text.to_owned()),
    }
}

/// A machine that the cases run on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// Under the hypervisor.
    Hyp,
    /// On QEMU's own GIC.
    Qemu,
    /// Under the hypervisor, where an instruction takes a nanosecond.
    Counted,
    /// Under the hypervisor, which saves and restores the interrupt controller.
    Saved,
    /// Under the KVM of a Linux kernel.
    Kvm,
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

impl Place {
    /// Tells whether the hypervisor runs there.
    const fn has_hypervisor(self) -> bool {
        !matches!(self, Self::Qemu | Self::Kvm)
    }

    /// Returns its name in reports and of its log.
    const fn name(self) -> &'static str {
        match self {
            Self::Hyp => "hyp",
            Self::Qemu => "qemu",
            Self::Counted => "counted",
            Self::Saved => "saved",
            Self::Kvm => "kvm",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hyp => "under hyp",
            Self::Qemu => "on QEMU's own GIC",
            Self::Counted => "under hyp, counted",
            Self::Saved => "under hyp, saved and restored",
            Self::Kvm => "under Linux KVM",
        })
    }
}

/// The number of cases that conform, on each GIC that was asked for, and of those that do not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    /// Cases that do not conform; a run that did not come to its end counts as one.
    pub(crate) failed: u64,
}

/// Runs the cases or lists them, and tells whether all of them conform.
///
/// A full run in which nothing fails also writes its columns into `docs/conformance.md`.
pub(crate) fn conformance(options: &ConformanceOptions) -> Result<bool> {
    let (counts, report) = run_or_list(options, &project::reports())?;
    let full = ConformanceOptions {
        gic: if suite(options) == Suite::V2 { 2 } else { 3 },
        kvm: options.kvm,
        ..ConformanceOptions::default()
    };
    if let Some(report) = report
        && report.passed
        && *options == full
    {
        report.publish(suite(options))?;
    }
    Ok(counts.failed == 0)
}

/// Returns the cases that the options are about.
fn suite(options: &ConformanceOptions) -> Suite {
    Suite::of(options.gic)
}

/// Runs the cases, writes `conformance.json` to `reports`, and counts the cases that conform.
pub(crate) fn counts(options: &ConformanceOptions, reports: &Path) -> Result<Counts> {
    run_or_list(options, reports).map(|(counts, _)| counts)
}

/// Runs the cases and reports on them, or lists them.
fn run_or_list(options: &ConformanceOptions, reports: &Path) -> Result<(Counts, Option<Report>)> {
    let suite = suite(options);
    ensure!(
        options.vcpus <= suite.most_vcpus(),
        "a GICv2 has {} CPUs at most: use --vcpus",
        suite.most_vcpus()
    );
    ensure!(
        !(options.kvm && suite == Suite::V2),
        "Linux KVM has no GICv2 for its guests on a machine with a GICv3"
    );
    console::step("Preparing");
    let scratch = project::scratch()?;
    let qemu = qemu::provide()?;
    let board = BootOptions {
        vcpus: options.vcpus,
        cpus: options.cpus,
        cpu: options.cpu.clone(),
        gic: if options.bare { bare_gic(suite) } else { 3 },
        bare: options.bare,
        no_iommu: true,
        ..BootOptions::default()
    };
    dry_run::check(&qemu, &board)?;
    let mut bench = Bench {
        qemu,
        options,
        program: build(suite, scratch.path())?,
        scratch: scratch.path(),
        reports,
        linux: OnceCell::new(),
    };
    let path = project::begin_report(reports, &format!("{}.json", suite.program()))?;

    // A list takes a second, and the hypervisor is not built yet.
    let list = ConformanceOptions {
        list: true,
        ..options.clone()
    };
    if let Some(filter) = options.filter.as_deref() {
        bench.options = &list;
        let found = bench.run(Place::Qemu)?;
        ensure!(
            found.has_cases(),
            "no case's name or rule contains `{filter}`; see --list"
        );
        bench.options = options;
    }

    if options.list {
        let listed = bench.run(Place::Qemu)?;
        listed.print_list();
        let counts = Counts {
            passed: 0,
            failed: u64::from(!listed.is_complete()),
        };
        return Ok((counts, None));
    }

    let places = match options {
        ConformanceOptions { bare: true, .. } => &[Place::Qemu][..],
        ConformanceOptions { saved: true, .. } => &[Place::Saved],
        ConformanceOptions { hyp: true, .. } | ConformanceOptions { cpus: Some(_), .. } => {
            &[Place::Hyp]
        }
        ConformanceOptions { counted: true, .. } => &[Place::Counted],
        ConformanceOptions { kvm: true, .. } => &[Place::Kvm],
        _ => &[Place::Hyp, Place::Qemu, Place::Counted],
    };
    let runs: Result<Vec<_>> = places.iter().map(|place| bench.run(*place)).collect();
    let report = Report::new(bench.qemu.version, bench.linux.into_inner(), runs?);

    report.write(&path)?;
    report.print();
    console::detail(format!("report {}", path.display()));
    Ok((report.counts(), Some(report)))
}

/// Returns the version of QEMU's own GIC that the cases run on.
const fn bare_gic(suite: Suite) -> u8 {
    match suite {
        Suite::V3 => 3,
        Suite::V2 => 2,
    }
}

/// Builds the guest with these cases, and returns the path of its image, which lies in `scratch`.
pub(crate) fn build(suite: Suite, scratch: &Path) -> Result<PathBuf> {
    console::step("Building the guest");
    let mut cargo = toolchain::bare_metal()?.cargo("build");
    cargo.args(["--release", "--package", "conformance"]);
    cargo.args(["--bin", suite.program()]);
    let elf = built(&mut cargo, "the guest")?;
    let image = flatten(&fs::read(&elf)?).with_context(|| elf.display().to_string())?;
    let path = scratch.join("conformance.img");
    fs::write(&path, image)?;
    Ok(path)
}

/// The set-up that the runs have in common.
struct Bench<'a> {
    qemu: Qemu,
    options: &'a ConformanceOptions,
    program: PathBuf,
    scratch: &'a Path,
    reports: &'a Path,
    /// The version of the Linux whose KVM has run the cases.
    linux: OnceCell<String>,
}

impl Bench<'_> {
    /// Runs the guest, and reads its console.
    fn run(&self, place: Place) -> Result<OnMachine> {
        let vcpus = match place {
            Place::Hyp | Place::Saved => self.options.vcpus,
            Place::Qemu | Place::Kvm => self.options.vcpus.min(ORACLE_CPUS),
            Place::Counted => self.options.vcpus.min(COUNTED_CPUS),
        };
        let cpus = (self.options.cpus).filter(|_| matches!(place, Place::Hyp | Place::Saved));
        if !self.options.list {
            let of = cpus.map_or(String::new(), |cpus| format!(" of {cpus} CPUs"));
            console::step(format!("Running the cases {place}, {vcpus} vCPUs{of}"));
        }

        match place {
            Place::Kvm => self.run_under_kvm(vcpus),
            _ => self.run_on_board(place, vcpus, cpus),
        }
    }

    /// Runs the guest on QEMU's board, with the hypervisor or without it.
    fn run_on_board(&self, place: Place, vcpus: u16, cpus: Option<u16>) -> Result<OnMachine> {
        let counted = place == Place::Counted;
        let suite = suite(self.options);
        let mut words: Vec<_> = match (suite, cpus) {
            (Suite::V2, _) => [GICV2].map(str::to_owned).into(),
            (Suite::V3, Some(_)) => [MANY_EVENTS, EXTENDED].map(str::to_owned).into(),
            (Suite::V3, None) => [SECOND_ITS, EXTENDED].map(str::to_owned).into(),
        };
        if place == Place::Saved {
            let seed = self.options.seed.unwrap_or_else(seed_by_the_clock);
            console::step(format!("Seed {seed}"));
            words.push(format!("hyp.saved={SAVED_EVERY} hyp.seed={seed}"));
        }
        if counted {
            // A CPU's time includes the turns that the others have meanwhile.
            words.push("alone".to_owned());
        }
        words.extend(self.words());

        let options = BootOptions {
            vcpus,
            cpus,
            kernel: Kernel::Image(self.program.clone()),
            append: Some(words.join(" ")),
            cpu: self.options.cpu.clone(),
            gic: match (place.has_hypervisor(), suite) {
                (true, Suite::V3) => self.options.gic,
                // The hypervisor itself needs a GICv3.
                (true, Suite::V2) => 3,
                (false, _) => bare_gic(suite),
            },
            memory: Some(MEMORY),
            bare: !place.has_hypervisor(),
            // No case has a device access memory.
            no_iommu: true,
            // A CPU without a task spins, with a hint: one thread goes on with the next one then.
            one_thread: counted
                || usize::from(cpus.unwrap_or(vcpus)) > CPUS_PER_HOST_CPU * parallel::cpus(),
            qemu: match counted {
                true => COUNT.map(str::to_owned).to_vec(),
                false => Vec::new(),
            },
            ..BootOptions::default()
        };
        let guest: Guest = guest::prepare(&options, self.scratch)?;
        let hypervisor = match place {
            Place::Qemu | Place::Kvm => None,
            Place::Hyp | Place::Saved => Some(hypervisor::build(self.scratch)?),
            Place::Counted => Some(hypervisor::build_with_el2_time(self.scratch)?),
        };

        let name = place.name();
        let log = self.reports.join(format!("{}-{name}.log", suite.program()));
        let wiring = machine::Console::Output;
        let mut command =
            machine::command(&self.qemu, &options, &guest, hypervisor.as_deref(), wiring)?;

        let mut watcher = Watcher::new(place, self.options.list);
        let Run { ended, wall, lines } =
            run::observed(&mut command, &log, LIMIT, |bytes| watcher.see(bytes))?;
        let lines = part::named_lines(lines);
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        Ok(OnMachine::read(place, vcpus, ended, wall, &texts))
    }

    /// Runs the guest under Linux KVM. A case that takes the guest or the machine down is lost, and
    /// another run goes on behind it.
    fn run_under_kvm(&self, vcpus: u16) -> Result<OnMachine> {
        let host = Host::new(&self.program, self.scratch)?;
        self.linux.get_or_init(|| host.kernel.version.clone());
        let mut watcher = Watcher::new(Place::Kvm, false);
        let (mut texts, mut wall) = (Vec::<String>::new(), Duration::ZERO);
        let mut run = 0;
        loop {
            let known = tap::count(&texts);
            let mut words = self.words();
            if run > 0 {
                words.push(format!("lost={}", known + 1));
            }
            let mut command = self.linux_machine(&host, vcpus, &words)?;
            let log = self.reports.join(format!("conformance-kvm-{run}.log"));
            let Run {
                ended,
                wall: took,
                lines,
            } = run::observed(&mut command, &log, LIMIT, |bytes| watcher.see(bytes))?;
            wall += took;

            let lines: Vec<_> = lines.into_iter().map(|line| line.text).collect();
            let last = tap::ended(&lines);
            texts.extend(
                lines
                    .into_iter()
                    .filter(|line| last || !tap::is_bail_out(line)),
            );
            if last || tap::count(&texts) == known {
                let texts: Vec<_> = texts.iter().map(String::as_str).collect();
                return Ok(OnMachine::read(Place::Kvm, vcpus, ended, wall, &texts));
            }
            console::detail(format!("a case is lost, the log is {}", log.display()));
            run += 1;
        }
    }

    /// Returns the command line of a machine whose Linux runs the guest.
    fn linux_machine(&self, host: &Host, vcpus: u16, words: &[String]) -> Result<Program> {
        let one_thread = usize::from(vcpus) > CPUS_PER_HOST_CPU * parallel::cpus();
        let mut command = self.qemu.board(&Board {
            gic: 3,
            options: "virtualization=on",
            cpu: &self.options.cpu,
            cpus: vcpus,
        })?;
        command
            .args([
                "-accel",
                if one_thread {
                    "tcg,thread=single"
                } else {
                    "tcg,thread=multi"
                },
            ])
            .args(["-m", &format!("{MEMORY}M")])
            .args(["-serial", "stdio", "-monitor", "none"]);
        host.boot(
            &mut command,
            &format!("conformance {vcpus} {}", words.join(" ")),
        );
        Ok(command)
    }

    /// Returns the words of the guest's command line that the options ask for.
    fn words(&self) -> Vec<String> {
        let list = self.options.list.then(|| "list".to_owned());
        let filter = self.options.filter.as_ref();
        list.into_iter()
            .chain(filter.map(|filter| format!("filter={filter}")))
            .collect()
    }
}
