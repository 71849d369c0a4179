//! The command line.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

/// The project's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// One task.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Boot a guest under the hypervisor, run its workload, check the books
    Boot(BootOptions),
    /// Run every test, a boot included, and end with one line `N passed, N failed`
    Test(TestOptions),
    /// Model-check the concurrent protocols, and show that deliberate faults in them are noticed
    Loom(crate::loom::LoomOptions),
    /// Run whole VMs under random schedules that their seeds repeat
    Schedules(ScheduleOptions),
    /// Run whole VMs with real threads, also under a sanitizer
    Stress(StressOptions),
    /// Test the interrupt controller from inside a guest, rule by rule, beside QEMU's own
    Conformance(crate::conformance::ConformanceOptions),
    /// Run the benchmarks, or each once
    Bench(crate::bench::BenchOptions),
    /// Measure, hold the figures against their targets, and write target/reports/perf.json
    Perf(crate::perf::PerfOptions),
    /// Let one guest attack while another measures its own interrupts
    Isolation(crate::isolation::IsolationOptions),
    /// Let a fuzzer play hostile guests and careless embedders
    Fuzz(crate::fuzz::FuzzOptions),
}

/// Options of `cargo xtask boot`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The guest's console goes to the terminal and to target/reports/console.log, the outcome to
target/reports/boot.json. The exit status is 0 only if every check holds.

Examples:
  cargo xtask boot                                 Debian's 6.12 kernel on 4 vCPUs
  cargo xtask boot --vcpus 64 --kernel 6.1         an older kernel on many
  cargo xtask boot --interactive                   a shell in the guest; type once its prompt is
                                                   there; `poweroff -f` ends it
  cargo xtask boot --bare                          the same workload without the hypervisor
  cargo xtask boot --kernel ./test.flat            your own image, without the workload
  cargo xtask boot -- -device edu                  one more device for the guest")]
pub(crate) struct BootOptions {
    /// vCPUs, one physical CPU each
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) vcpus: u16,

    /// Debian's kernel 6.1 or 6.12, or the path of an arm64 Image or raw flat binary, which then
    /// runs without the built-in workload and its checks
    #[arg(long, value_name = "6.1|6.12|PATH", default_value = "6.12")]
    pub(crate) kernel: Kernel,

    /// An initial RAM disk of your own, in place of the built-in workload
    #[arg(long, value_name = "PATH")]
    pub(crate) initrd: Option<PathBuf>,

    /// More of the guest kernel's command line
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,

    /// The CPU that QEMU emulates
    #[arg(long, value_name = "MODEL", default_value = "neoverse-n1")]
    pub(crate) cpu: String,

    /// The guest's RAM in MiB, what the hypervisor takes from it included [default: by vCPUs]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub(crate) memory: Option<u32>,

    /// Give the terminal to the guest, with a shell in place of the workload
    #[arg(long)]
    pub(crate) interactive: bool,

    /// Give up after so many seconds [default: by vCPUs; never when interactive]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,

    /// Boot straight on the emulated machine's own GIC, without the hypervisor: what the workload
    /// sees there is what it has to see under the hypervisor
    #[arg(long)]
    pub(crate) bare: bool,

    /// One thread for all emulated CPUs: faster where they mostly wait for each other
    #[arg(skip)]
    pub(crate) one_thread: bool,

    /// Further arguments for QEMU
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) qemu: Vec<String>,
}

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TestOptions {
    /// Leave out the boots
    #[arg(long)]
    pub(crate) no_boot: bool,
}

/// Options of `cargo xtask schedules`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Threads run one at a time and change at every atomic access of the library, as the schedule's seed
says: an even one at random, an odd one by priorities. The same seed gives the same run.

Examples:
  cargo xtask schedules                            a minute of them
  cargo xtask schedules --schedules 100000         so many, however long it takes
  cargo xtask schedules --seed 4711 --schedules 1  one that failed, once more
  cargo xtask schedules --seed $RANDOM             others than last time")]
pub(crate) struct ScheduleOptions {
    /// The first schedule's seed; those after it count up
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,

    /// How many [default: as many as there is time for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) schedules: Option<u64>,

    /// For how long at most [default: 60, or without a limit if --schedules is given]
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,

    /// Schedules run at the same time
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,

    /// Say each seed before it is run
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// Options of `cargo xtask stress`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Every two seconds a VM is torn down, its books are checked, and the next one is built. The sanitizers
need Rust's nightly toolchain with rust-src, which is added through rustup where it is missing.

Examples:
  cargo xtask stress --seconds 600
  cargo xtask stress --sanitizer thread
  cargo xtask stress --sanitizer address --threads 32 --seed 7")]
pub(crate) struct StressOptions {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u64,

    /// Have every memory access watched
    #[arg(long, value_name = "thread|address")]
    pub(crate) sanitizer: Option<Sanitizer>,

    /// Determines what the threads do, though not when
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,

    /// CPUs, devices and drivers together
    #[arg(long, value_name = "N", default_value_t = 12,
          value_parser = clap::value_parser!(u16).range(8..=64))]
    pub(crate) threads: u16,
}

/// What watches every memory access of a stress run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sanitizer {
    /// Data races.
    Thread,
    /// Accesses outside what is allocated, or after it was freed.
    Address,
}

/// The guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// A release that Debian ships, such as `6.12`.
    Debian(&'static str),
    /// Somebody's own image.
    Image(PathBuf),
}

/// The releases of Debian's cloud-arm64 kernel that we know where to get.
pub(crate) const DEBIAN_KERNELS: [&str; 2] = ["6.1", "6.12"];

impl FromStr for Kernel {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(
            match DEBIAN_KERNELS.into_iter().find(|&release| release == text) {
                Some(release) => Self::Debian(release),
                None => Self::Image(text.into()),
            },
        )
    }
}

impl Default for BootOptions {
    /// The options of a command line without any.
    fn default() -> Self {
        match Cli::parse_from(["xtask", "boot"]).task {
            Task::Boot(options) => options,
            _ => unreachable!("boot was asked for"),
        }
    }
}

impl BootOptions {
    /// Whether the guest runs the built-in workload, or at least its set-up.
    pub(crate) fn built_in_guest(&self) -> bool {
        matches!(self.kernel, Kernel::Debian(_)) && self.initrd.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn boot(arguments: &[&str]) -> Result<BootOptions, clap::Error> {
        let cli = Cli::try_parse_from(["xtask", "boot"].iter().chain(arguments))?;
        match cli.task {
            Task::Boot(options) => Ok(options),
            _ => unreachable!("boot was asked for"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn boot_has_the_promised_defaults() {
        let options = boot(&[]).unwrap();
        assert_eq!(options.vcpus, 4);
        assert_eq!(options.kernel, Kernel::Debian("6.12"));
        assert!(options.built_in_guest());
    }

    #[test]
    fn vcpus_are_limited_to_64() {
        assert_eq!(boot(&["--vcpus", "64"]).unwrap().vcpus, 64);
        assert!(boot(&["--vcpus", "65"]).is_err());
        assert!(boot(&["--vcpus", "0"]).is_err());
    }

    #[test]
    fn a_path_or_an_initrd_replaces_the_workload() {
        let options = boot(&["--kernel", "./6.12"]).unwrap();
        assert_eq!(options.kernel, Kernel::Image("./6.12".into()));
        assert!(!options.built_in_guest());
        assert!(!boot(&["--initrd", "x"]).unwrap().built_in_guest());
    }

    #[test]
    fn what_follows_two_dashes_is_for_qemu() {
        let options = boot(&["--append", "-x", "--", "-device", "edu"]).unwrap();
        assert_eq!(options.qemu, ["-device", "edu"]);
        assert_eq!(options.append.as_deref(), Some("-x"));
    }
}
