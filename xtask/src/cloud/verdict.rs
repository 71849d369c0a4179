//! The verdict on a run: what the guests, the attacker and the hypervisor report, held against each
//! other.

use serde_json::{Map, Value};

use super::CloudOptions;
use super::lives::{Life, lives};
use super::machine::ATTACKER;
use crate::boot::checks::{self, Check, Setting, Slack};
use crate::boot::counters::{self, Counters};
use crate::boot::interrupts::Row;
use crate::boot::kinds::{KINDS, PerKind};
use crate::boot::report;
use crate::boot::run::{Ended, Run};
use crate::boot::transcript::{Status, Step};
use crate::console;
use crate::isolation::verdict::{self as isolation, Numbers, numbers};

/// Attacks that a second needs at least for the run to say something.
const ATTACKS: u64 = 5;

/// Deaths that a VM that is killed dies at least: one in the middle of a step, and the last.
const DEATHS: u64 = 2;

/// The outcome of a run.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    vcpus: u16,
    cpus: u16,
    seconds: u32,
    seed: u32,
    wall_seconds: f64,
    ended: String,
    guests: Vec<Guest>,
    /// The attacker's counts when it last printed them.
    attacker: Numbers,
    /// The hypervisor's report as it made it.
    hypervisor: Map<String, Value>,
    checks: Vec<Check>,
}

object!(Verdict {
    passed,
    vcpus,
    cpus,
    seconds,
    seed,
    wall_seconds,
    ended,
    guests,
    attacker,
    hypervisor,
    checks,
});

/// A guest with Linux, as its last life and the hypervisor tell.
#[derive(Debug)]
struct Guest {
    name: String,
    /// Lives, the last one included.
    lives: u64,
    /// The guest's own counts at its last look.
    taken: Option<PerKind>,
    /// The hypervisor's counts, of all lives.
    injections: Option<PerKind>,
    deliveries: Option<PerKind>,
    steps: Vec<Step>,
    /// `/proc/interrupts` after the workload.
    interrupts: Vec<Row>,
}

object!(Guest {
    name,
    lives,
    taken,
    injections,
    deliveries,
    steps,
    interrupts,
});

impl Verdict {
    /// Judges a run with attacks by `seed`.
    pub(super) fn new(options: &CloudOptions, seed: u32, run: &Run) -> Self {
        let of_hypervisor = |text: &str| text.starts_with("@vgic ").then(|| counters::parse(text));
        let texts = || run.lines.iter().map(|line| line.text.as_str());
        let reported = texts().filter_map(of_hypervisor).flatten().next_back();
        let prefix = format!("{ATTACKER}: @attacker ");
        let attacker = texts()
            .filter_map(|text| text.strip_prefix(&prefix))
            .next_back();
        let lives: Vec<_> = options
            .names()
            .iter()
            .map(|name| lives(&run.lines, name))
            .collect();

        let (counters, hypervisor) = match reported {
            Some(Ok(reported)) => (Ok(reported.counters), reported.everything),
            Some(Err(why)) => (Err(why), Map::new()),
            None => (Err("it did not get to its end".to_owned()), Map::new()),
        };
        let mut verdict = Self {
            passed: false,
            vcpus: options.vcpus,
            cpus: options.cpus,
            seconds: options.seconds,
            seed,
            wall_seconds: run.wall.as_secs_f64(),
            ended: run.ended.to_string(),
            guests: Vec::new(),
            attacker: attacker.map(numbers).unwrap_or_default(),
            hypervisor,
            checks: Vec::new(),
        };
        verdict.guests = (options.names().into_iter().zip(&lives))
            .map(|(name, lives)| verdict.guest(name, lives))
            .collect();
        verdict.checks = verdict.check(options, &run.ended, &lives, counters);
        verdict.passed = verdict.checks.iter().all(|check| check.passed);
        verdict
    }

    /// Puts together what is known of a guest.
    fn guest(&self, name: String, lives: &[Life]) -> Guest {
        let last = lives
            .last()
            .map(|life| life.transcript.clone())
            .unwrap_or_default();
        let counts = |kind| PerKind::read(self.vm(&name)?.get(kind)?);
        Guest {
            lives: lives.len() as u64,
            taken: last.last_look.map(|look| look.taken),
            injections: counts("injections"),
            deliveries: counts("deliveries"),
            steps: last.steps,
            interrupts: last.interrupts,
            name,
        }
    }

    /// Returns the hypervisor's report on a VM.
    fn vm(&self, name: &str) -> Option<&Value> {
        let vms = self.hypervisor.get("vms")?.as_array()?;
        vms.iter()
            .find(|vm| vm.get("name").is_some_and(|it| it == name))
    }

    /// Returns a number of the hypervisor's report on a VM, 0 if there is none.
    fn number(&self, name: &str, count: &str) -> u64 {
        let count = self.vm(name).and_then(|vm| vm.get(count)?.as_u64());
        count.unwrap_or(0)
    }

    /// Checks everything that has to hold.
    fn check(
        &self,
        options: &CloudOptions,
        ended: &Ended,
        lives: &[Vec<Life>],
        counters: Result<Counters, String>,
    ) -> Vec<Check> {
        let mut checks = vec![Check::equal(
            "the machine powered itself off",
            u64::from(*ended == Ended::PoweredOff),
            1,
            &format!("{ended}"),
        )];
        if ended.says_all() {
            return checks;
        }

        for (guest, lives) in self.guests.iter().zip(lives) {
            let is_victim = options.victim().as_ref() == Some(&guest.name);
            let mut own = self.check_lives(guest, lives, is_victim);
            own.extend(self.check_guest(guest, lives, is_victim));
            checks.extend(own.into_iter().map(|check| Check {
                name: format!("{}: {}", guest.name, check.name),
                ..check
            }));
        }

        checks.push(Check::at_least(
            "attacks",
            self.attacker.get("done").copied().unwrap_or(0),
            ATTACKS * u64::from(options.seconds.max(1)),
            "the attacker was idle",
        ));
        match counters {
            Ok(counters) => self.check_hypervisor(&counters, &mut checks),
            Err(why) => checks.push(Check::equal("reports of the hypervisor", 0, 1, &why)),
        }
        checks
    }

    /// Checks the lives of a guest, and their ends.
    fn check_lives(&self, guest: &Guest, lives: &[Life], is_victim: bool) -> Vec<Check> {
        let over = lives.iter().filter(|life| life.is_over).count() as u64;
        let mut checks = vec![
            match is_victim {
                true => Check::at_least(
                    "deaths",
                    over,
                    DEATHS,
                    "it was not killed, or not started again",
                ),
                false => Check::equal("deaths", over, 1, "it did not power itself off, and once"),
            },
            Check::equal(
                "deaths by the hypervisor's report",
                self.number(&guest.name, "deaths"),
                over,
                "a death was not told of",
            ),
            Check::equal(
                "resets",
                self.number(&guest.name, "resets"),
                0,
                "the kernel started itself again",
            ),
            Check::equal(
                "references left after all deaths",
                self.number(&guest.name, "refs_at_teardown"),
                0,
                "an interrupt is referred to though its machine is gone",
            ),
        ];
        let earlier = lives.split_last().map_or(&[][..], |(_, earlier)| earlier);
        if is_victim {
            let failed = |life: &Life| {
                let steps = life.transcript.steps.iter();
                let failed = steps.filter(|step| step.status == Status::Fail).count();
                failed + life.transcript.faults.len()
            };
            checks.push(Check::equal(
                "faults and failed steps in the lives before the last",
                earlier.iter().map(failed).sum::<usize>() as u64,
                0,
                "a life did not go well",
            ));
        }
        checks
    }

    /// Checks the last life of a guest.
    fn check_guest(&self, guest: &Guest, lives: &[Life], is_victim: bool) -> Vec<Check> {
        let setting = Setting {
            vcpus: self.vcpus,
            workload: true,
            hypervisor: true,
            firmware: false,
            smmu: false,
            part: true,
        };
        let Some(Life { transcript, .. }) = lives.last() else {
            return vec![Check::at_least("lives", 0, 1, "there is no such VM")];
        };
        let mut checks = vec![checks::faults(transcript)];
        checks::workload(setting, transcript, &mut checks);
        let stray = guest.interrupts.iter().filter(|row| row.name == "Err");
        checks.push(Check::equal(
            "interrupts that nobody handles",
            stray.map(|row| row.count).sum(),
            0,
            "a foreign interrupt came",
        ));

        if let (Some(deliveries), Some(look)) = (guest.deliveries, transcript.last_look) {
            if is_victim {
                checks.extend(KINDS.map(|kind| {
                    Check::at_least(
                        format!("{kind} deliveries, at least what the last life took"),
                        deliveries.of(kind),
                        look.taken.of(kind),
                        "an interrupt was delivered twice",
                    )
                }));
            } else {
                let slack = Slack::of(setting, transcript, look);
                checks.extend(checks::taken(&deliveries, look, slack));
            }
        }
        checks
    }

    /// Checks the hypervisor's counts, of all VMs.
    fn check_hypervisor(&self, counters: &Counters, checks: &mut Vec<Check>) {
        let taken = |kind| -> u64 {
            let looks = self.guests.iter().filter_map(|guest| guest.taken);
            looks.map(|taken| taken.of(kind)).sum()
        };
        checks.extend(KINDS.map(|kind| {
            Check::at_least(
                format!("{kind} deliveries, at least what all guests took"),
                counters.deliveries.of(kind),
                taken(kind),
                "an interrupt was delivered twice",
            )
        }));
        checks.extend(checks::books(counters));
        checks.push(Check::equal(
            "aborted accesses of devices",
            counters.dma_faults.unwrap_or(u64::MAX),
            0,
            "a device was told to reach what is not its VM's",
        ));
        let report = Value::Object(self.hypervisor.clone());
        let guests = self.guests.len() as u64 + 1;
        checks.extend(isolation::heap(&report, guests, self.cpus));
    }

    /// Prints the counts and the checks.
    pub(super) fn print(&self) {
        console::step(format!("{} after {:.1} s", self.ended, self.wall_seconds));
        let header = KINDS.map(|kind| format!("{kind:>11}")).concat();
        console::detail(format!("{:14}{header}", ""));
        for guest in &self.guests {
            for (what, counts) in [
                ("took", guest.taken),
                ("deliveries", guest.deliveries),
                ("injections", guest.injections),
            ] {
                let Some(counts) = counts else { continue };
                let cells = KINDS.map(|kind| format!("{:>11}", counts.of(kind)));
                let name = format!("{} {what}", guest.name);
                console::detail(format!("{name:14}{}", cells.concat()));
            }
        }

        for guest in self.guests.iter().filter(|guest| guest.lives > 1) {
            console::detail(format!("{} lived {} times", guest.name, guest.lives));
        }
        let list = |numbers: Vec<String>| numbers.join(", ");
        let attacker = self.attacker.iter();
        let attacker = attacker
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        console::detail(format!("attacker: {}", list(attacker)));
        if let Some(Value::Object(scheduler)) = self.hypervisor.get("scheduler") {
            let counts = scheduler.iter();
            let counts = counts
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            console::detail(format!("scheduler: {}", list(counts)));
        }
        report::print_checks(&self.checks);
    }
}
