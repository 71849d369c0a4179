//! The checks after a run: the guest's counts, the hypervisor's and the library's agree.
//!
//! Every check is a number that has to lie in a range, most often a range of one number.
//!
//! The guest takes its last look a moment before it powers off, and Linux does not count every
//! interrupt that it acknowledges. So the guest counts a few interrupts less than were delivered;
//! [`Slack`] says how many of each kind, and why.

use std::time::Duration;

use super::counters::Counters;
use super::interrupts;
use super::kinds::{KINDS, PerKind};
use super::run::Ended;
use super::transcript::{Final, Status, Transcript};
use super::{Direct, Efi};

/// The steps of the workload, in their order. None may be missing.
const STEPS: [&str; 13] = [
    "firmware", "uart", "dma", "blk", "intx", "net", "rng", "smp", "hotplug", "affinity", "rebind",
    "idle", "suspend",
];

/// The steps that need a second vCPU.
const SMP_STEPS: [&str; 3] = ["smp", "hotplug", "affinity"];

/// The steps that need idle states and a suspension of the machine. The hypervisor offers them in
/// the device tree. QEMU does not offer them, nor do its ACPI tables.
const SUSPEND_STEPS: [&str; 2] = ["idle", "suspend"];

/// The steps that need what only the whole machine has: lines of PCI functions, a device that
/// trespasses, idle states and a clock with an alarm.
const MACHINE_STEPS: [&str; 4] = ["intx", "dma", "idle", "suspend"];

/// The steps that need what ACPI describes by byte code only: lines of PCI functions, and a clock
/// with an alarm.
const BYTE_CODE_STEPS: [&str; 2] = ["intx", "suspend"];

/// The step that needs a clock with an alarm. EDK2 drives the clock by itself, and disables it in
/// the device tree.
const CLOCK_STEP: &str = "suspend";

/// The steps that a brief run leaves out.
pub(super) const LONG_STEPS: [&str; 6] = ["blk", "intx", "net", "affinity", "rebind", "suspend"];

/// The step that needs a device behind an SMMU.
const SMMU_STEP: &str = "dma";

/// Accesses to the hypervisor's memory that the step tells a device to make.
const TRESPASSES: u64 = 2;

/// The step that needs firmware.
const FIRMWARE_STEP: &str = "firmware";

/// Interrupts per second of the timer of the firmware, with a margin.
const FIRMWARE_HZ: u64 = 200;

/// Scheduler ticks per second of Debian's arm64 kernels.
const HZ: f64 = 250.0;

/// Changes between direct injection and list registers that a run has at least, if it has any.
const CHANGES: u64 = 100;

/// LPIs that the guest takes, with direct injection, for each one that is injected otherwise.
const MOST_INDIRECT: u64 = 100;

/// A number and the range in which it has to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// The number's name.
    pub(crate) name: String,
    pub(crate) passed: bool,
    pub(crate) found: u64,
    pub(crate) at_least: u64,
    pub(crate) at_most: u64,
    /// The meaning of a failure.
    pub(crate) meaning: String,
}

object!(Check {
    name,
    passed,
    found,
    at_least,
    at_most,
    meaning,
});

impl Check {
    /// Checks that a number is from `low` to `high`.
    pub(crate) fn within(
        name: impl Into<String>,
        found: u64,
        low: u64,
        high: u64,
        meaning: &str,
    ) -> Self {
        Self {
            name: name.into(),
            passed: (low..=high).contains(&found),
            found,
            at_least: low,
            at_most: high,
            meaning: meaning.to_owned(),
        }
    }

    /// Checks that a number is the one expected.
    pub(crate) fn equal(name: impl Into<String>, found: u64, expected: u64, meaning: &str) -> Self {
        Self::within(name, found, expected, expected, meaning)
    }

    /// Checks that a number is `low` or more.
    pub(crate) fn at_least(name: impl Into<String>, found: u64, low: u64, meaning: &str) -> Self {
        Self::within(name, found, low, u64::MAX, meaning)
    }

    /// Checks that a number is not zero.
    fn some(name: impl Into<String>, found: u64, meaning: &str) -> Self {
        Self::at_least(name, found, 1, meaning)
    }
}

/// The kind of run that is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) vcpus: u16,
    /// True if the guest runs the built-in workload.
    pub(crate) workload: bool,
    /// True if it runs under the hypervisor.
    pub(crate) hypervisor: bool,
    /// True if firmware starts the kernel.
    pub(crate) firmware: bool,
    /// True if the long steps are left out.
    pub(crate) brief: bool,
    /// The description by which firmware tells the hypervisor of the machine, if it does. The byte
    /// code of ACPI is not interpreted.
    pub(crate) efi: Option<Efi>,
    /// True if the machine has an SMMU, and the guest a device that is told to trespass.
    pub(crate) smmu: bool,
    /// True if the VM has a part of the machine only.
    pub(crate) part: bool,
    /// CPUs whose LPIs are enabled before the hypervisor starts, if they are.
    pub(crate) lpis_on: Option<u16>,
    /// Direct injection, on a machine with a GICv4.
    pub(crate) direct: Option<Direct>,
    /// True if the guest has a GICv2: no LPIs, and MSIs that are SPIs.
    pub(crate) gicv2: bool,
}

impl Setting {
    /// Tells whether the library may deliver fewer LPIs than the guest takes.
    fn has_direct(self) -> bool {
        matches!(
            self.direct,
            Some(Direct::On | Direct::Auto | Direct::Switch)
        )
    }
}

/// Checks everything that can be checked in this setting.
pub(crate) fn check(setting: Setting, ended: Ended, transcript: &Transcript) -> Vec<Check> {
    let mut checks = vec![Check::equal(
        "the machine powered itself off",
        u64::from(ended == Ended::PoweredOff),
        1,
        &format!("{ended}"),
    )];

    if setting.workload {
        checks.push(faults(transcript));
        workload(setting, transcript, &mut checks);
    }
    if let Some(cpus) = setting.lpis_on {
        checks.push(Check::equal(
            "CPUs whose LPIs were left enabled, and have been disabled",
            transcript.lpis_turned_off,
            cpus.into(),
            "the hypervisor gave new tables to redistributors that use others",
        ));
    }
    if setting.hypervisor {
        match &transcript.reported {
            Some(Ok(reported)) => {
                checks.extend(books(&reported.counters));
                hypervisor(setting, &reported.counters, transcript, &mut checks);
            }
            other => {
                let why = match other {
                    Some(Err(why)) => why.as_str(),
                    _ => "it did not get to report",
                };
                checks.push(Check::equal("reports of the hypervisor", 0, 1, why));
            }
        }
    }
    checks
}

/// Checks that the guest's kernel complains of nothing.
pub(crate) fn faults(transcript: &Transcript) -> Check {
    Check::equal(
        "faults on the guest's console",
        transcript.faults.len() as u64,
        0,
        transcript.faults.first().map_or("", String::as_str),
    )
}

/// Checks the guest's own steps and counts.
pub(crate) fn workload(setting: Setting, transcript: &Transcript, checks: &mut Vec<Check>) {
    for name in STEPS {
        let steps = transcript.steps.iter().filter(|step| step.name == name);
        let steps: Vec<_> = steps.collect();
        let wanted = if is_skipped(setting, name) {
            Status::Skip
        } else {
            Status::Ok
        };
        let meaning = match steps.len() {
            0 => "the guest did not get there",
            _ => "the guest did not find what it expected",
        };
        let held = !steps.is_empty() && steps.iter().all(|step| step.status == wanted);
        checks.push(Check::equal(
            format!("workload step {name}"),
            u64::from(held),
            1,
            meaning,
        ));
    }

    let strays = transcript
        .steps
        .iter()
        .filter(|step| !STEPS.contains(&step.name.as_str()));
    checks.push(Check::equal(
        "other failures in the guest",
        strays.filter(|step| step.status == Status::Fail).count() as u64,
        0,
        "the guest could not set itself up",
    ));

    let Some(Final { taken, .. }) = transcript.last_look else {
        let meaning = "the guest's last look at its counts is missing";
        checks.push(Check::equal("last looks of the guest", 0, 1, meaning));
        return;
    };
    if setting.gicv2 {
        checks.push(msis_of_gicv2(transcript));
    }
    // The table was printed a little earlier; counts do not run backwards.
    let table = interrupts::by_kind(&transcript.interrupts);
    for kind in KINDS {
        let is_there = match kind {
            "sgi" => setting.vcpus > 1,
            "lpi" => !setting.gicv2,
            _ => true,
        };
        checks.push(Check::within(
            format!("guest's {kind}s in /proc/interrupts"),
            table.of(kind),
            u64::from(is_there),
            taken.of(kind),
            "the workload made no such interrupts, or the guest's two counts contradict",
        ));
    }
}

/// Checks that the guest drives a GICv2, and took MSIs by its GICv2m frame.
fn msis_of_gicv2(transcript: &Transcript) -> Check {
    let rows = transcript.interrupts.iter();
    let msis = rows.filter(|row| row.what.starts_with(interrupts::MSI_FRAME));
    Check::some(
        "MSIs that the guest took by a GICv2m frame",
        msis.map(|row| row.count).sum(),
        "the guest does not drive a GICv2, or its devices have no MSIs",
    )
}

/// Tells whether a step of the workload does not apply to this kind of run.
fn is_skipped(setting: Setting, step: &str) -> bool {
    let can_suspend = setting.hypervisor && !setting.firmware && !setting.part;
    setting.vcpus == 1 && SMP_STEPS.contains(&step)
        || !can_suspend && SUSPEND_STEPS.contains(&step)
        || !setting.firmware && step == FIRMWARE_STEP
        || !setting.smmu && step == SMMU_STEP
        || setting.brief && LONG_STEPS.contains(&step)
        || setting.efi == Some(Efi::Acpi) && BYTE_CODE_STEPS.contains(&step)
        || setting.efi == Some(Efi::Tree) && step == CLOCK_STEP
        || setting.part && MACHINE_STEPS.contains(&step)
}

/// Checks the hypervisor's counts against each other.
pub(crate) fn books(counters: &Counters) -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in KINDS {
        let ends = [
            &counters.deliveries,
            &counters.coalesced,
            &counters.withdrawn,
            &counters.pending,
        ];
        checks.push(Check::equal(
            format!("{kind} injections = deliveries + coalesced + withdrawn + pending"),
            counters.injections.of(kind),
            ends.iter().map(|count| count.of(kind)).sum(),
            "an injected interrupt was lost or made up on its way to the guest",
        ));
    }

    checks.push(Check::equal(
        "locks taken by lookups",
        counters.lookup_locks_taken,
        0,
        "a lookup took a lock",
    ));
    checks.push(Check::equal(
        "list gets = list puts",
        counters.list_gets,
        counters.list_puts,
        "insert and prune do not balance",
    ));
    checks.push(Check::equal(
        "mapping gets = mapping puts",
        counters.mapping_gets,
        counters.mapping_puts,
        "an ITS mapping's reference was leaked or put twice",
    ));
    checks.push(Check::equal(
        "migration gets = migration puts",
        counters.migration_gets,
        counters.migration_puts,
        "the reference of an interrupt between two lists was leaked or put twice",
    ));
    checks.push(Check::equal(
        "references left at teardown",
        counters.refs_at_teardown,
        0,
        "an interrupt outlived its VM",
    ));
    checks
}

/// Checks the hypervisor's counts against the guest's.
fn hypervisor(
    setting: Setting,
    counters: &Counters,
    transcript: &Transcript,
    checks: &mut Vec<Check>,
) {
    if let (true, Some(last_look)) = (setting.workload, transcript.last_look) {
        let slack = Slack::of(setting, transcript, last_look);
        let mut taken = taken(&counters.deliveries, last_look, slack);
        if setting.has_direct() {
            taken[LPI] = at_least_delivered(&counters.deliveries, last_look, slack);
            direct(setting, counters, last_look, checks);
        }
        checks.extend(taken);
        if !setting.gicv2 {
            checks.push(Check::some(
                "lookups",
                counters.lookups,
                "nothing was looked up",
            ));
        }
        checks.push(Check::some(
            "ICH_LR writes",
            counters.ich_lr_writes,
            "nothing was listed",
        ));
    }
    if setting.workload && setting.smmu {
        let trespasses = if setting.part { 0 } else { TRESPASSES };
        confinement(trespasses, counters, checks);
    }
}

/// Checks that the guest took what was delivered.
pub(crate) fn taken(deliveries: &PerKind, last_look: Final, slack: Slack) -> [Check; KINDS.len()] {
    KINDS.map(|kind| {
        let taken = last_look.taken.of(kind);
        Check::within(
            format!(
                "{kind} deliveries = what the guest took, + {}",
                slack.why(kind)
            ),
            deliveries.of(kind),
            taken,
            taken + slack.most.of(kind),
            "below: delivered twice; above: acknowledged, but lost to the guest",
        )
    })
}

/// Place of the LPIs among the kinds.
pub(crate) const LPI: usize = KINDS.len() - 1;

/// Checks that the guest took at least the LPIs that were delivered: nobody counts direct ones.
pub(crate) fn at_least_delivered(deliveries: &PerKind, last_look: Final, slack: Slack) -> Check {
    Check::at_least(
        format!("lpis that the guest took, + {}", slack.why("lpi")),
        last_look.taken.lpi + slack.most.lpi,
        deliveries.lpi,
        "the library delivered lpis that were lost to the guest",
    )
}

/// Checks that direct injection leaves the library almost no LPI, but for pending states that came
/// with events, `ends`, that went back to list registers, as in a save.
pub(crate) fn all_are_direct(injections: &PerKind, ends: u64, last_look: Final) -> Check {
    Check::within(
        "lpi injections beside direct ones",
        injections.lpi,
        0,
        last_look.taken.lpi / MOST_INDIRECT + ends,
        "events of the guest's devices are not direct",
    )
}

/// Checks the counts of direct injection.
fn direct(setting: Setting, counters: &Counters, last_look: Final, checks: &mut Vec<Check>) {
    if setting.part && setting.direct == Some(Direct::Auto) {
        // The vCPUs choose, perhaps list registers.
        return;
    }
    checks.extend(virtual_pes(counters));
    if setting.direct != Some(Direct::Switch) {
        checks.push(all_are_direct(
            &counters.injections,
            counters.direct_ends,
            last_look,
        ));
        return;
    }
    checks.push(Check::at_least(
        "changes between direct injection and list registers",
        counters.direct_changes,
        CHANGES,
        "the hypervisor did not change paths while the guest worked",
    ));
    checks.push(Check::at_least(
        "events that went back to list registers",
        counters.direct_ends,
        CHANGES,
        "no event followed the changes",
    ));
}

/// Checks that virtual PEs were used.
pub(crate) fn virtual_pes(counters: &Counters) -> [Check; 2] {
    [
        Check::some(
            "events that became direct",
            counters.direct_begins,
            "no event was direct",
        ),
        Check::some(
            "residencies of virtual PEs",
            counters.vpe_residencies,
            "no virtual PE took an lpi",
        ),
    ]
}

/// Checks that the SMMU aborted the accesses of devices to the hypervisor's memory, `trespasses`,
/// and no others.
fn confinement(trespasses: u64, counters: &Counters, checks: &mut Vec<Check>) {
    checks.push(match counters.dma_faults {
        Some(faults) => Check::equal(
            "aborted accesses of devices = those to the hypervisor's memory",
            faults,
            trespasses,
            "below: a device got through; above: a device did not reach the guest's memory",
        ),
        None => Check::equal(
            "reports of the SMMU",
            0,
            1,
            "the hypervisor does not use it",
        ),
    });
}

/// The number of interrupts that may have been delivered beyond the guest's counts at its last
/// look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slack {
    most: PerKind,
}

impl Slack {
    /// Works the slack out for a run.
    pub(crate) fn of(setting: Setting, transcript: &Transcript, last_look: Final) -> Self {
        let vcpus = u64::from(setting.vcpus);
        let after = transcript.reported_at.saturating_sub(last_look.at);
        // The firmware's timer goes on until the kernel starts.
        let firmware = match setting.firmware {
            true => FIRMWARE_HZ * (transcript.kernel_at.as_secs() + 1),
            false => 0,
        };
        let times = |step: &str, detail: &str| {
            let steps = transcript.steps.iter().filter(|found| found.name == step);
            steps.map(|step| step.number(detail)).sum::<u64>()
        };
        let console = transcript.console_after;
        let msis =
            times("affinity", "moves") + times("hotplug", "cycles") + times("rebind", "cycles");
        let (spi, lpi) = match setting.gicv2 {
            true => (console + msis, 0),
            false => (console, msis),
        };
        Self {
            most: PerKind {
                sgi: 16 * vcpus,
                ppi: vcpus * ticks(after) + firmware,
                spi,
                lpi,
            },
        }
    }

    /// Explains the slack of a kind.
    fn why(self, kind: &str) -> String {
        let why = match kind {
            // Powering off stops each vCPU by an IPI and wakes a few kernel threads on the way.
            "sgi" => "IPIs of powering off",
            // Between the last look and the end every vCPU's timer goes on.
            "ppi" => "ticks since its last look",
            // Between the last look and the end the console transmits. A GICv2's MSIs are SPIs, for
            // which the reasons of LPIs hold.
            "spi" => "characters sent since its last look",
            // An LPI that arrives while its handler still runs on the vCPU it just moved from, or
            // while its driver leaves, is acknowledged but not counted.
            _ => "moves, unbindings and vCPUs gone under load",
        };
        format!("at most {} {why}", self.most.of(kind))
    }
}

/// Returns the timer interrupts that one vCPU may take in a time: each tick, and again as many for
/// high-resolution timers.
fn ticks(time: Duration) -> u64 {
    // Not negative and far below 2^53: exact enough.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let ticks = (time.as_secs_f64() * HZ).ceil() as u64;
    2 * ticks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::lines::Line;
    use crate::boot::{counters, faults};

    const SETTING: Setting = Setting {
        vcpus: 4,
        workload: true,
        hypervisor: true,
        firmware: false,
        efi: None,
        brief: false,
        smmu: true,
        part: false,
        lpis_on: None,
        direct: None,
        gicv2: false,
    };

    /// Returns the console of a run in which everything holds.
    fn good_console() -> String {
        good_console_of(SETTING)
    }

    /// Returns the console of a run of this kind in which everything holds.
    fn good_console_of(setting: Setting) -> String {
        let line = |step| {
            let status = ["ok", "skip"][usize::from(is_skipped(setting, step))];
            format!("@workload step={step} status={status} ms=1\n")
        };
        let steps = STEPS.map(line).concat();
        let faults = if setting.part { 0 } else { TRESPASSES };
        format!(
            "{steps}@workload table=begin when=after\n  CPU0\nIPI0: 90 Rescheduling interrupts\n\
             11: 190 GICv3 27 Level arch_timer\n13: 28 GICv3 33 Level uart-pl011\n\
             20: 30 ITS-MSI 16384 Edge virtio0-config\n@workload table=end\n\
             @workload sampling\n\
             @workload final sgi=100 ppi=201 spi=30 lpi=35 lpi_freed=5 other=0\n\
             {}\n",
            counters::tests::LINE.replace("\"dma_faults\":2", &format!("\"dma_faults\":{faults}"))
        )
    }

    /// Returns the names of the checks that fail for a console whose lines are 4 ms apart.
    fn failing(setting: Setting, ended: Ended, console: &str) -> Vec<String> {
        let lines = console.lines().zip(1..).map(|(text, number)| Line {
            at: Duration::from_millis(4) * number,
            text: text.to_owned(),
        });
        let transcript = Transcript::read(&lines.collect::<Vec<_>>());
        let checks = check(setting, ended, &transcript);
        checks
            .into_iter()
            .filter(|check| !check.passed)
            .map(|check| check.name)
            .collect()
    }

    /// Replaces a text of the good console, which has to be there, and returns what then fails.
    fn spoiled(from: &str, to: &str) -> Vec<String> {
        let console = good_console();
        assert!(console.contains(from), "{from}");
        failing(SETTING, Ended::PoweredOff, &console.replacen(from, to, 1))
    }

    #[track_caller]
    fn assert_one(failing: &[String], name: &str) {
        assert!(
            failing.len() == 1 && failing[0].contains(name),
            "{name}: {failing:?}"
        );
    }

    #[test]
    fn a_good_run_passes() {
        assert!(failing(SETTING, Ended::PoweredOff, &good_console()).is_empty());
    }

    #[test]
    fn a_run_that_does_not_end_by_itself_fails() {
        for ended in [Ended::TimedOut, Ended::Quit] {
            assert_one(
                &failing(SETTING, ended, &good_console()),
                "powered itself off",
            );
        }
    }

    #[test]
    fn a_fault_on_the_console_fails_a_run_that_ends_well() {
        for line in faults::tests::FAULTS {
            let console = format!("{line}\n{}", good_console());
            let failing = failing(SETTING, Ended::PoweredOff, &console);
            assert_one(&failing, "faults on the guest's console");
        }
    }

    #[test]
    fn every_step_has_to_be_there_and_to_succeed() {
        for step in STEPS.iter().filter(|step| !is_skipped(SETTING, step)) {
            let name = format!("workload step {step}");
            assert_one(
                &spoiled(&format!("step={step} status=ok"), "step=x status=ok"),
                &name,
            );
            let ok = format!("step={step} status=ok");
            assert_one(&spoiled(&ok, &format!("step={step} status=fail")), &name);
            assert_one(&spoiled(&ok, &format!("step={step} status=skip")), &name);
        }
        let again = "@workload step=net status=fail\n@workload sampling";
        assert_one(&spoiled("@workload sampling", again), "workload step net");
        let modules = "@workload step=modules status=fail\n@workload sampling";
        assert_one(&spoiled("@workload sampling", modules), "other failures");
    }

    #[test]
    fn some_steps_do_not_apply_to_some_runs() {
        let one = Setting {
            vcpus: 1,
            ..SETTING
        };
        let bare = Setting {
            hypervisor: false,
            ..SETTING
        };
        let firmware = Setting {
            firmware: true,
            ..SETTING
        };
        let efi = |kind| Setting {
            efi: Some(kind),
            ..SETTING
        };
        let brief = Setting {
            brief: true,
            ..SETTING
        };
        let open = Setting {
            smmu: false,
            ..SETTING
        };
        let part = Setting {
            part: true,
            ..SETTING
        };
        let settings = [
            (one, 3),
            (bare, 2),
            (firmware, 3),
            (efi(Efi::Acpi), 2),
            (efi(Efi::Tree), 1),
            (brief, LONG_STEPS.len()),
            (open, 1),
            (part, 5),
        ];
        for (setting, differing) in settings {
            let ended = || Ended::PoweredOff;
            assert_eq!(failing(setting, ended(), &good_console()).len(), differing);
            assert!(failing(setting, ended(), &good_console_of(setting)).is_empty());
        }
    }

    #[test]
    fn lpis_that_are_left_enabled_are_disabled_on_every_cpu() {
        let setting = Setting {
            lpis_on: Some(4),
            ..SETTING
        };
        let line =
            |cpus| format!("hyp: {cpus} CPUs: LPIs were left enabled, and have been disabled\n");
        let failing = |console: &str| failing(setting, Ended::PoweredOff, console);
        assert!(failing(&(line(4) + &good_console())).is_empty());
        for console in [good_console(), line(3) + &good_console()] {
            assert_one(&failing(&console), "left enabled");
        }
    }

    #[test]
    fn a_guest_takes_direct_lpis_beside_those_of_the_library() {
        let on = Setting {
            direct: Some(Direct::On),
            ..SETTING
        };
        let switch = Setting {
            direct: Some(Direct::Switch),
            ..SETTING
        };
        let failing = |setting, console: &str| failing(setting, Ended::PoweredOff, console);
        let direct = good_console()
            .replace("lpi=35", "lpi=9000")
            .replace("\"direct_begins\":0", "\"direct_begins\":200")
            .replace("\"vpe_residencies\":0", "\"vpe_residencies\":7");
        let changed = direct
            .replace("\"direct_changes\":0", "\"direct_changes\":100")
            .replace("\"direct_ends\":0", "\"direct_ends\":150");
        assert!(failing(on, &direct).is_empty());
        assert!(failing(switch, &changed).is_empty());

        assert_one(&failing(SETTING, &direct), "lpi deliveries");
        let fallen_back = direct.replace("lpi=9000", "lpi=4000");
        assert_one(&failing(on, &fallen_back), "beside direct ones");
        let saved = fallen_back.replace("\"direct_ends\":0", "\"direct_ends\":6");
        assert!(failing(on, &saved).is_empty());
        let off = good_console();
        assert_eq!(failing(on, &off).len(), 3);
        let without = changed.replace("\"direct_ends\":150", "\"direct_ends\":0");
        assert_one(&failing(switch, &without), "went back");
        assert_eq!(failing(switch, &direct).len(), 2);
        let lost = changed.replace("lpi=9000", "lpi=34");
        assert_one(&failing(switch, &lost), "lpis that the guest took");
    }

    #[test]
    fn the_msis_of_a_gicv2_are_spis() {
        let gicv2 = Setting {
            gicv2: true,
            ..SETTING
        };
        let failing = |console: &str| failing(gicv2, Ended::PoweredOff, console);
        let console = good_console()
            .replace("GICv3", "GIC-0")
            .replace("ITS-MSI 16384", "GICv2m-PCI-MSIX-0000:00:01.0 0")
            .replace("spi=30 lpi=35 lpi_freed=5", "spi=70 lpi=0 lpi_freed=0")
            .replace("\"spi\":30,\"lpi\":46", "\"spi\":76,\"lpi\":0")
            .replace("\"spi\":0,\"lpi\":5", "\"spi\":5,\"lpi\":0")
            .replace("\"spi\":30,\"lpi\":40", "\"spi\":70,\"lpi\":0")
            .replace("\"spi\":0,\"lpi\":1", "\"spi\":1,\"lpi\":0")
            .replace("\"lookups\":50", "\"lookups\":0");
        assert_eq!(failing(&console), [""; 0]);

        let twice = console.replace("spi=70", "spi=71");
        assert!(
            failing(&twice)
                .iter()
                .any(|name| name.contains("spi deliveries"))
        );
        let of_its = console.replace("GICv2m-PCI-MSIX", "ITS-PCI-MSIX");
        assert!(
            failing(&of_its)
                .iter()
                .any(|name| name.contains("GICv2m frame"))
        );
    }

    #[test]
    fn the_firmwares_timer_is_allowed_for() {
        let firmware = Setting {
            firmware: true,
            ..SETTING
        };
        let failing_with_few_taken = |setting| {
            let console = good_console_of(setting)
                .replacen("ppi=201", "ppi=100", 1)
                .replacen("190 GICv3", "90 GICv3", 1);
            failing(setting, Ended::PoweredOff, &console)
        };
        assert_one(&failing_with_few_taken(SETTING), "ppi deliveries");
        assert!(failing_with_few_taken(firmware).is_empty());
    }

    #[test]
    fn the_guests_counts_must_not_contradict_each_other() {
        assert_one(&spoiled("IPI0: 90", "IPI0: 101"), "guest's sgis");
        assert_one(&spoiled("13: 28", "13: 0"), "guest's spis");
        assert_one(&spoiled("@workload final", "@workload fin"), "last looks");
    }

    #[test]
    fn an_injection_that_goes_nowhere_is_found() {
        assert_one(&spoiled("\"sgi\":110", "\"sgi\":111"), "sgi injections");
        assert_one(&spoiled("\"ppi\":205", "\"ppi\":204"), "ppi injections");
        assert_one(&spoiled("\"spi\":30", "\"spi\":31"), "spi injections");
        assert_one(&spoiled("\"lpi\":46", "\"lpi\":45"), "lpi injections");
    }

    #[test]
    fn the_guest_takes_every_interrupt_that_was_delivered() {
        // Taken twice: the guest counts one more than was delivered.
        assert_one(&spoiled("sgi=100", "sgi=105"), "sgi deliveries");
        assert_one(&spoiled("ppi=201", "ppi=204"), "ppi deliveries");
        assert_one(&spoiled("spi=30", "spi=31"), "spi deliveries");
        assert_one(&spoiled("lpi=35", "lpi=36"), "lpi deliveries");
        // Lost: delivered, but the guest knows nothing of it.
        assert_one(&spoiled("lpi_freed=5", "lpi_freed=4"), "lpi deliveries");
        assert!(!spoiled("sgi=100 ppi=201", "sgi=39 ppi=201").is_empty());
        assert!(!spoiled("ppi=201", "ppi=150").is_empty());
    }

    #[test]
    fn interrupts_that_linux_may_leave_uncounted_are_allowed_for() {
        let console = good_console()
            .replace("lpi_freed=5", "lpi_freed=4")
            .replace(
                "step=affinity status=ok ms=1",
                "step=affinity status=ok ms=1 moves=1",
            );
        assert!(failing(SETTING, Ended::PoweredOff, &console).is_empty());
    }

    #[test]
    fn references_and_locks_have_to_balance() {
        assert_one(
            &spoiled("\"lookup_locks_taken\":0", "\"lookup_locks_taken\":1"),
            "locks",
        );
        assert_one(
            &spoiled("\"list_puts\":300", "\"list_puts\":299"),
            "list gets",
        );
        assert_one(
            &spoiled("\"mapping_puts\":9", "\"mapping_puts\":10"),
            "mapping gets",
        );
        assert_one(
            &spoiled("\"migration_puts\":3", "\"migration_puts\":4"),
            "migration gets",
        );
        assert_one(
            &spoiled("\"refs_at_teardown\":0", "\"refs_at_teardown\":1"),
            "teardown",
        );
        assert_one(&spoiled("\"lookups\":50", "\"lookups\":0"), "lookups");
    }

    #[test]
    fn devices_reach_all_but_the_hypervisors_memory() {
        let name = "aborted accesses of devices";
        assert_one(&spoiled("\"dma_faults\":2", "\"dma_faults\":1"), name);
        assert_one(&spoiled("\"dma_faults\":2", "\"dma_faults\":3"), name);
        assert_one(&spoiled("\"dma_faults\":2,", ""), "reports of the SMMU");
    }

    #[test]
    fn a_missing_or_torn_report_fails() {
        assert_one(&spoiled("@vgic", "vgic"), "reports of the hypervisor");
        assert_one(
            &spoiled("\"lookups\"", "\"look"),
            "reports of the hypervisor",
        );
    }

    #[test]
    fn without_workload_only_the_hypervisors_own_counts_are_checked() {
        let setting = Setting {
            workload: false,
            ..SETTING
        };
        let report = counters::tests::LINE;
        assert!(failing(setting, Ended::PoweredOff, report).is_empty());
        let torn = report.replace("\"list_gets\":300", "\"list_gets\":301");
        assert_one(&failing(setting, Ended::PoweredOff, &torn), "list gets");
        let bare = Setting {
            workload: false,
            hypervisor: false,
            ..SETTING
        };
        assert!(failing(bare, Ended::PoweredOff, "").is_empty());
    }
}
