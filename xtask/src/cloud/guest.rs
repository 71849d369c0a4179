//! A guest with Linux: its lives, and what it has to count.

use serde_json::Value;

use super::CloudOptions;
use super::lives::Life;
use crate::boot::Direct;
use crate::boot::checks::{self, Check, LPI, Setting, Slack};
use crate::boot::interrupts::Row;
use crate::boot::kinds::{KINDS, PerKind};
use crate::boot::transcript::{Final, Status, Step};

/// Deaths that a VM that is killed dies at least: one in the middle of a step, and the last.
const DEATHS: u64 = 2;

/// Longest time, in microseconds, that a runnable vCPU or an interrupt may wait: an unmodified
/// kernel takes more for a lockup. Turns take milliseconds, but the host decides when an emulated
/// CPU goes on: on a busy host, some waits took seconds.
pub(super) const LONGEST_WAIT_US: u64 = 20_000_000;

/// A guest, as its last life and the hypervisor tell.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) name: String,
    /// Lives, the last one included.
    pub(super) lives: u64,
    /// The guest's own counts at its last look.
    pub(super) taken: Option<PerKind>,
    /// The hypervisor's counts, of all lives.
    pub(super) injections: Option<PerKind>,
    pub(super) deliveries: Option<PerKind>,
    deaths: u64,
    resets: u64,
    /// References that were left at all deaths.
    references: u64,
    /// Longest time from an interrupt to the entry into the guest that delivers it.
    pub(super) longest_delay_us: u64,
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
    deaths,
    resets,
    references,
    longest_delay_us,
    steps,
    interrupts,
});

impl Guest {
    /// Puts together what its lives and the hypervisor's `report` on it tell of the guest `name`.
    pub(super) fn new(lives: &[Life], report: Option<&Value>, name: String) -> Self {
        let last = lives.last().map(|life| life.transcript.clone());
        let last = last.unwrap_or_default();
        let counts = |kind| PerKind::read(report?.get(kind)?);
        // A report that is missing fails a check of its own.
        let number = |count| {
            let number = report.and_then(|report| report.get(count)?.as_u64());
            number.unwrap_or(0)
        };
        Self {
            name,
            lives: lives.len() as u64,
            taken: last.last_look.map(|look| look.taken),
            injections: counts("injections"),
            deliveries: counts("deliveries"),
            deaths: number("deaths"),
            resets: number("resets"),
            references: number("refs_at_teardown"),
            longest_delay_us: number("longest_delay_us"),
            steps: last.steps,
            interrupts: last.interrupts,
        }
    }

    /// Checks the lives of the guest, which may be one that is killed.
    pub(super) fn check(
        &self,
        options: &CloudOptions,
        lives: &[Life],
        is_victim: bool,
    ) -> Vec<Check> {
        let mut checks = self.check_deaths(lives, is_victim);
        match lives.split_last() {
            Some((last, earlier)) => {
                checks.extend(earlier_lives(earlier));
                checks.extend(self.check_last_life(options, last, is_victim));
            }
            None => checks.push(Check::at_least("lives", 0, 1, "there is no such VM")),
        }
        checks.push(Check::within(
            "longest time from an interrupt to its delivery in us",
            self.longest_delay_us,
            1,
            LONGEST_WAIT_US,
            "an interrupt came late",
        ));
        for check in &mut checks {
            check.name = format!("{}: {}", self.name, check.name);
        }
        checks
    }

    /// Checks the ends of the lives.
    fn check_deaths(&self, lives: &[Life], is_victim: bool) -> Vec<Check> {
        let over = lives.iter().filter(|life| life.is_over).count() as u64;
        let deaths = match is_victim {
            true => {
                let meaning = "it was not killed, or not started again";
                Check::at_least("deaths", over, DEATHS, meaning)
            }
            false => Check::equal("deaths", over, 1, "it did not power itself off, and once"),
        };
        vec![
            deaths,
            Check::equal(
                "deaths by the hypervisor's report",
                self.deaths,
                over,
                "a death was not told of",
            ),
            Check::equal("resets", self.resets, 0, "the kernel started itself again"),
            Check::equal(
                "references left after all deaths",
                self.references,
                0,
                "an interrupt is referred to though its machine is gone",
            ),
        ]
    }

    /// Checks the life that has come to its end by itself.
    fn check_last_life(&self, options: &CloudOptions, life: &Life, is_victim: bool) -> Vec<Check> {
        let transcript = &life.transcript;
        let setting = Setting {
            vcpus: options.vcpus,
            workload: true,
            hypervisor: true,
            firmware: false,
            efi: None,
            brief: false,
            smmu: false,
            part: true,
            lpis_on: None,
            direct: (options.gic == 4).then_some(Direct::On),
            gicv2: false,
        };
        let mut checks = vec![checks::faults(transcript)];
        checks::workload(setting, transcript, &mut checks);
        let stray = self.interrupts.iter().filter(|row| row.name == "Err");
        checks.push(Check::equal(
            "interrupts that nobody handles",
            stray.map(|row| row.count).sum(),
            0,
            "a foreign interrupt came",
        ));

        match (self.deliveries, transcript.last_look) {
            (Some(deliveries), Some(look)) => {
                let slack = Slack::of(setting, transcript, look);
                let mut taken = match is_victim {
                    true => at_least_taken(&deliveries, look),
                    false => checks::taken(&deliveries, look, slack),
                };
                if setting.direct.is_some() {
                    taken[LPI] =
                        checks::all_are_direct(&self.injections.unwrap_or_default(), 0, look);
                }
                checks.extend(taken);
            }
            (None, _) => {
                let meaning = "it did not get to its end";
                checks.push(Check::equal("counts of the hypervisor", 0, 1, meaning));
            }
            // A look that is missing has failed already.
            (Some(_), None) => {}
        }
        checks
    }
}

/// Checks the lives before the last.
fn earlier_lives(lives: &[Life]) -> Option<Check> {
    let failed = |life: &Life| {
        let steps = life.transcript.steps.iter();
        let failed = steps.filter(|step| step.status == Status::Fail).count();
        failed + life.transcript.faults.len()
    };
    let check = Check::equal(
        "faults and failed steps in the lives before the last",
        lives.iter().map(failed).sum::<usize>() as u64,
        0,
        "a life did not go well",
    );
    (!lives.is_empty()).then_some(check)
}

/// Checks that a guest's lives were delivered what its last one took. The others have taken
/// interrupts, too, and nobody knows how many.
fn at_least_taken(deliveries: &PerKind, look: Final) -> [Check; KINDS.len()] {
    KINDS.map(|kind| {
        Check::at_least(
            format!("{kind} deliveries, at least what the last life took"),
            deliveries.of(kind),
            look.taken.of(kind),
            "an interrupt was delivered twice",
        )
    })
}
