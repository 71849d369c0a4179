//! The command line: the tasks, and how their options are declared and read.

use std::process;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::bench::{self, BenchOptions};
use crate::boot::{self, BootOptions};
use crate::cloud::{self, CloudOptions};
use crate::conformance::{self, ConformanceOptions};
use crate::fuzz::{self, FuzzOptions};
use crate::image::{self, ImageOptions};
use crate::interchange;
use crate::isolation::{self, IsolationOptions};
use crate::loom::{self, LoomOptions};
use crate::machines::{self, MachinesOptions};
use crate::perf::{self, PerfOptions};
use crate::project;
use crate::snapshot::{self, MigrateOptions, SnapshotOptions};
use crate::soak::{self, ScheduleOptions, StressOptions};
use crate::test::{self, TestOptions};

/// The widest help, in columns: that of a terminal as it comes.
pub(crate) const COLUMNS: usize = 80;

/// Options of a task.
pub(crate) trait Options: Sized {
    /// Declares the options as arguments of a command.
    fn declare(command: Command) -> Command;

    /// Reads the options from the arguments that such a command was given.
    fn read(matches: &mut ArgMatches) -> Self;

    /// Reads the options from a list of arguments.
    fn parsed(arguments: &[&str]) -> Result<Self, clap::Error> {
        let command = Self::declare(Command::new("task").no_binary_name(true));
        let mut matches = command.try_get_matches_from(arguments)?;
        Ok(Self::read(&mut matches))
    }
}

/// Declares a flag, `--name`.
pub(crate) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// Declares an option with a value, `--name VALUE`.
pub(crate) fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// Reads the value of an option that was declared with a default.
pub(crate) fn defaulted<T>(matches: &mut ArgMatches, name: &str) -> T
where
    T: Clone + Send + Sync + 'static,
{
    matches
        .remove_one(name)
        .expect("an option with a default has a value")
}

/// A task: its name, its line in the list of tasks, its options, and its code.
struct Task {
    name: &'static str,
    about: &'static str,
    declare: fn(Command) -> Command,
    run: fn(&mut ArgMatches) -> Result<bool>,
}

/// The tasks, in the order of `cargo xtask --help`.
const TASKS: [Task; 15] = [
    Task {
        name: "boot",
        about: "Boot a guest under the hypervisor, run its workload, check every interrupt count",
        declare: BootOptions::declare,
        run: |matches| boot::boot(&BootOptions::read(matches), &project::reports()),
    },
    Task {
        name: "image",
        about: "Write hyp.efi and a guest for a real machine, to be booted by its UEFI firmware",
        declare: ImageOptions::declare,
        run: |matches| image::image(&ImageOptions::read(matches)),
    },
    Task {
        name: "machines",
        about: "Boot hyp.efi by UEFI firmware on many emulated machines",
        declare: MachinesOptions::declare,
        run: |matches| machines::machines(&MachinesOptions::read(matches)),
    },
    Task {
        name: "test",
        about: "Run every test, a boot included, and end with one line `N passed, N failed`",
        declare: TestOptions::declare,
        run: |matches| test::test(&TestOptions::read(matches)),
    },
    Task {
        name: "loom",
        about: "Model-check the concurrent protocols, and show that faults in them are noticed",
        declare: LoomOptions::declare,
        run: |matches| loom::loom(&LoomOptions::read(matches)),
    },
    Task {
        name: "schedules",
        about: "Run whole VMs under random schedules that their seeds repeat",
        declare: ScheduleOptions::declare,
        run: |matches| soak::schedules(&ScheduleOptions::read(matches)),
    },
    Task {
        name: "stress",
        about: "Run whole VMs with real threads, also under a sanitizer",
        declare: StressOptions::declare,
        run: |matches| soak::stress(&StressOptions::read(matches)),
    },
    Task {
        name: "conformance",
        about: "Test the interrupt controller from inside a guest, rule by rule, beside QEMU's own",
        declare: ConformanceOptions::declare,
        run: |matches| conformance::conformance(&ConformanceOptions::read(matches)),
    },
    Task {
        name: "isolation",
        about: "Let one guest attack while another measures its own interrupts",
        declare: IsolationOptions::declare,
        run: |matches| isolation::isolation(&IsolationOptions::read(matches), &project::reports()),
    },
    Task {
        name: "cloud",
        about: "Run several VMs with Linux side by side, and an attacker, and kill one of them",
        declare: CloudOptions::declare,
        run: |matches| cloud::cloud(&CloudOptions::read(matches), &project::reports()),
    },
    Task {
        name: "snapshot",
        about: "Save a VM with Linux at random moments, and restore it on another machine",
        declare: SnapshotOptions::declare,
        run: |matches| snapshot::snapshot(&SnapshotOptions::read(matches), &project::reports()),
    },
    Task {
        name: "migrate",
        about: "Move a VM between machines that run, or between Linux KVM and the hypervisor",
        declare: MigrateOptions::declare,
        run: |matches| {
            let options = MigrateOptions::read(matches);
            match options.kvm {
                true => interchange::interchange(&options, &project::reports()),
                false => snapshot::migrate(&options, &project::reports()),
            }
        },
    },
    Task {
        name: "fuzz",
        about: "Let a fuzzer play hostile guests and careless embedders",
        declare: FuzzOptions::declare,
        run: |matches| fuzz::fuzz_all(&FuzzOptions::read(matches)),
    },
    Task {
        name: "bench",
        about: "Run the benchmarks, or each once",
        declare: BenchOptions::declare,
        run: |matches| bench::bench(&BenchOptions::read(matches)),
    },
    Task {
        name: "perf",
        about: "Measure, hold the figures against their targets, and write perf/RESULTS.md",
        declare: PerfOptions::declare,
        run: |matches| perf::perf(&PerfOptions::read(matches)),
    },
];

/// Declares the whole command line.
fn command() -> Command {
    let tasks = TASKS
        .iter()
        .map(|task| (task.declare)(Command::new(task.name).about(task.about)));
    Command::new("cargo xtask")
        .bin_name("cargo xtask")
        .about("The project's tasks")
        .max_term_width(COLUMNS)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("TASK")
        .subcommand_help_heading("Tasks")
        .subcommands(tasks)
}

/// Lists the tasks' names.
fn names() -> Vec<&'static str> {
    TASKS.iter().map(|task| task.name).collect()
}

/// Reads the process' command line and returns the task that it asks for; ends the process, with a
/// message, if it asks for none.
pub(crate) fn parse() -> impl FnOnce() -> Result<bool> {
    let mut matches = command().try_get_matches().unwrap_or_else(|error| {
        if error.kind() == ErrorKind::InvalidSubcommand {
            eprintln!("error: no such task; the tasks are {}", names().join(", "));
            process::exit(error.exit_code());
        }
        error.exit()
    });
    let (name, mut arguments) = matches.remove_subcommand().expect("a task is required");
    let task = TASKS.iter().find(|task| task.name == name);
    let run = task.expect("clap knows no other tasks").run;
    move || run(&mut arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    /// Options with values that nothing can be known of before the run, or that are checked
    /// elsewhere, and where.
    const UNCHECKED: [(&str, &str); 10] = [
        // Words for the guest's kernel.
        ("boot", "append"),
        ("image", "append"),
        // A directory to be made.
        ("image", "out"),
        // By `boot::dry_run`, which asks QEMU.
        ("boot", "cpu"),
        ("boot", "qemu"),
        ("conformance", "cpu"),
        ("snapshot", "cpu"),
        ("migrate", "cpu"),
        // Arguments of `xtask-sweep`.
        ("loom", "sweep"),
        // By `test::select`, before the first gate.
        ("test", "only"),
    ];

    /// Returns each task with its command.
    fn commands() -> impl Iterator<Item = (&'static Task, Command)> {
        let declare = |task: &'static Task| {
            let command = Command::new(task.name).no_binary_name(true);
            (task, (task.declare)(command.about(task.about)))
        };
        TASKS.iter().map(declare)
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_by_every_option() {
        let mut walked = 0;
        // Its arguments are the package's.
        for (task, command) in commands().filter(|(task, _)| task.name != "perf") {
            for arg in command.get_arguments().filter(|arg| takes_value(arg)) {
                let id = arg.get_id().as_str();
                if UNCHECKED.contains(&(task.name, id)) {
                    continue;
                }
                let nonsense = ["non", "sense", "!"].concat();
                let long = arg.get_long().map(|long| format!("--{long}"));
                let words = long.into_iter().chain([nonsense.clone()]);
                let error = command.clone().try_get_matches_from(words).unwrap_err();
                assert_eq!(error.exit_code(), 2, "{} {id}", task.name);
                assert!(error.to_string().contains(&nonsense), "{error}");
                walked += 1;
            }
        }
        assert!(walked > 15, "{walked} options");
    }

    fn takes_value(arg: &Arg) -> bool {
        arg.get_action().takes_values()
    }

    #[test]
    fn a_refusal_lists_the_names_that_there_are() {
        for (task, words, known) in [
            ("loom", &["--protocol", "nope"][..], "lpi_lifetime"),
            ("fuzz", &["--target", "nope"], "sysreg"),
            ("stress", &["--sanitizer", "nope"], "address"),
            ("conformance", &["--filter", "nope"], "its_errors"),
            ("bench", &["nope"], "lpi_lookup"),
            ("boot", &["--kernel", "5.10"], "6.12"),
            ("boot", &["--efi", "nope"], "acpi"),
            ("image", &["--guest", "nope"], "linux"),
            ("machines", &["--only", "nope"], "neoverse-v1"),
        ] {
            let (_, command) = commands().find(|(found, _)| found.name == task).unwrap();
            let error = command.try_get_matches_from(words).unwrap_err().to_string();
            assert!(error.contains(known), "{error}");
        }
    }

    #[test]
    fn names_that_exist_are_taken() {
        assert!(LoomOptions::parsed(&["--protocol", "lpi_lifetime"]).is_ok());
        assert!(LoomOptions::parsed(&["--sweep", "--file", "vm/rwp.rs"]).is_ok());
        let filters = ["its.", "timer.virtual_fires", "overflow.pending_16", "12.9"];
        for filter in filters.into_iter().chain(["targets.", "GICC_IAR"]) {
            assert!(ConformanceOptions::parsed(&["--filter", filter]).is_ok());
        }
        for filter in ["lpi_lookup/64k", "sgi", "vcpu_enter/4_pending", "two_loads"] {
            assert!(BenchOptions::parsed(&[filter]).is_ok(), "{filter}");
        }
    }

    #[test]
    fn every_help_fits_the_columns() {
        let mut command = command();
        command.build();
        let subcommands = command.get_subcommands().cloned();
        for mut command in subcommands.chain([command.clone()]) {
            // Text that clap would break fits by itself: its columns are aligned.
            let after = command.get_after_help().map(ToString::to_string);
            let helps = [
                command.render_help().to_string(),
                command.render_long_help().to_string(),
                after.unwrap_or_default(),
            ];
            for line in helps.iter().flat_map(|help| help.lines()) {
                let width = line.chars().count();
                assert!(width <= COLUMNS, "{}: {width}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn the_help_of_a_task_with_a_console_names_the_escape_key() {
        for (task, mut command) in commands() {
            let interactive = command
                .get_arguments()
                .any(|arg| arg.get_id() == "interactive");
            let help = command.render_help().to_string();
            assert_eq!(interactive, help.contains("Ctrl-A x"), "{}", task.name);
        }
    }

    #[test]
    fn every_task_can_be_read_without_arguments() {
        assert!(BootOptions::parsed(&[]).is_ok());
        assert!(ImageOptions::parsed(&[]).is_ok());
        assert!(MachinesOptions::parsed(&[]).is_ok());
        assert!(TestOptions::parsed(&[]).is_ok());
        assert!(LoomOptions::parsed(&[]).is_ok());
        assert!(ScheduleOptions::parsed(&[]).is_ok());
        assert!(StressOptions::parsed(&[]).is_ok());
        assert!(ConformanceOptions::parsed(&[]).is_ok());
        assert!(IsolationOptions::parsed(&[]).is_ok());
        assert!(CloudOptions::parsed(&[]).is_ok());
        assert!(SnapshotOptions::parsed(&[]).is_ok());
        assert!(MigrateOptions::parsed(&[]).is_ok());
        assert!(FuzzOptions::parsed(&[]).is_ok());
        assert!(BenchOptions::parsed(&[]).is_ok());
    }
}
