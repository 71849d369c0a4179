//! The verdict on a run with two guests, by the reports that they and the hypervisor print at the
//! end.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Setting;
use crate::boot::checks::Check;
use crate::boot::report;
use crate::boot::run::{Ended, Run};
use crate::console;

const KINDS: [&str; 4] = ["sgi", "ppi", "spi", "lpi"];

/// Instructions that the hypervisor may execute from an exit to the next entry. Each takes a
/// nanosecond in the run in which they are counted.
const LONGEST_EXIT_NS: u64 = 500_000;

/// Bytes by which a guest may make the hypervisor's heap grow: twice the sum of its quotas of
/// devices, events and LPIs.
const HEAP_GROWTH: u64 = 2 << 20;

/// Bytes that the epoch keeps for each CPU: the bags that it is filling and emptying.
const EPOCH_KEEPS: u64 = 8 << 10;

/// Bytes that the epoch keeps for its brake: the last bags, of some 2 KB each, which hold the ends
/// of releases, and which nothing frees until more is passed on.
const BRAKE_KEEPS: u64 = 8 << 10;

/// Numbers by name.
pub(crate) type Numbers = BTreeMap<String, u64>;

/// The outcome of one run.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    name: &'static str,
    cpus: u16,
    seconds: u32,
    seed: u32,
    wall_seconds: f64,
    /// The victim's counts, by kind, and over all.
    victim: BTreeMap<String, Numbers>,
    /// The attacker's counts when they were largest.
    attacker: Numbers,
    /// The hypervisor's report as it made it.
    hypervisor: Value,
    checks: Vec<Check>,
}

object!(Verdict {
    passed,
    name,
    cpus,
    seconds,
    seed,
    wall_seconds,
    victim,
    attacker,
    hypervisor,
    checks,
});

impl Verdict {
    /// Judges a run.
    pub(super) fn new(setting: Setting, run: &Run) -> Self {
        let texts = run.lines.iter().map(|line| line.text.as_str());
        let mut verdict = Self {
            passed: false,
            name: setting.name,
            cpus: setting.cpus,
            seconds: setting.seconds,
            seed: setting.seed,
            wall_seconds: run.wall.as_secs_f64(),
            victim: BTreeMap::new(),
            attacker: Numbers::new(),
            hypervisor: Value::Null,
            checks: Vec::new(),
        };
        verdict.attacker = attacker(texts.clone(), "vm1");
        texts.for_each(|text| verdict.read(text));
        verdict.checks = verdict.check(setting, &run.ended);
        verdict.passed = verdict.checks.iter().all(|check| check.passed);
        verdict
    }

    /// Takes the counts, if there are any, from a line of the console.
    fn read(&mut self, text: &str) {
        if let Some(rest) = text.strip_prefix("vm0: @victim ") {
            let name = rest.split(' ').next().unwrap_or_default();
            self.victim.insert(name.to_owned(), numbers(rest));
        } else if let Some(json) = text.strip_prefix("@vgic ") {
            self.hypervisor = serde_json::from_str(json).unwrap_or_default();
        }
    }

    /// Checks everything that has to hold.
    fn check(&self, setting: Setting, ended: &Ended) -> Vec<Check> {
        let mut checks = vec![Check::equal(
            "the machine powered itself off",
            u64::from(*ended == Ended::PoweredOff),
            1,
            &format!("{ended}"),
        )];
        if ended.says_all() {
            return checks;
        }
        checks.push(Check::equal(
            "reports of the victim",
            self.victim.len() as u64,
            KINDS.len() as u64 + 1,
            "it did not get to its end",
        ));
        checks.push(Check::equal(
            "reports of the hypervisor",
            u64::from(self.hypervisor.is_object()),
            1,
            "it did not get to its end",
        ));

        let bound = self.number("/scheduler/wait_bound_us") * 1000;
        let enough = setting.enough * u64::from(setting.seconds);
        for kind in KINDS {
            let of = |name| self.victim(kind, name);
            let sent = of("sent");
            checks.extend([
                Check::at_least(
                    format!("{kind}: sent"),
                    sent,
                    enough,
                    "there was not enough to see",
                ),
                Check::equal(
                    format!("{kind}: received"),
                    of("received"),
                    sent,
                    "an interrupt was lost",
                ),
                Check::equal(
                    format!("{kind}: lost"),
                    of("lost"),
                    0,
                    "it did not come in time",
                ),
            ]);
            if setting.counted {
                checks.push(Check::within(
                    format!("{kind}: longest wait in ns"),
                    of("worst_ns"),
                    1,
                    bound + LONGEST_EXIT_NS,
                    "it waited for more than the other guest's turn",
                ));
            }
        }

        for (name, meaning) in [
            (
                "foreign",
                "an interrupt came that was not sent, or not there",
            ),
            ("spurious", "an interrupt was gone when it was acknowledged"),
            ("memory_changed", "somebody wrote to the guest's memory"),
            (
                "vectors_changed",
                "the guest's vector registers were not switched",
            ),
        ] {
            let found = self.victim("total", name);
            checks.push(Check::equal(name, found, 0, meaning));
        }

        let done = self.attacker.get("done").copied().unwrap_or(0);
        checks.push(Check::at_least(
            "attacks",
            done,
            enough,
            "the attacker was idle",
        ));
        self.check_hypervisor(setting, &mut checks);
        checks
    }

    /// Checks the hypervisor's counts.
    fn check_hypervisor(&self, setting: Setting, checks: &mut Vec<Check>) {
        for kind in KINDS {
            let of = |name: &str| self.number(&format!("/{name}/{kind}"));
            let gone = of("coalesced") + of("deliveries") + of("withdrawn");
            checks.push(Check::equal(
                format!("{kind} injections = coalesced + deliveries + withdrawn + pending"),
                of("injections"),
                gone + of("pending"),
                "an interrupt of either guest was lost, or delivered twice",
            ));
        }

        let of = |name: &str| self.number(&format!("/{name}"));
        checks.push(Check::equal(
            "locks taken by lookups",
            of("lookup_locks_taken"),
            0,
            "a lookup waited",
        ));
        for kind in ["list", "mapping", "migration"] {
            checks.push(Check::equal(
                format!("{kind} gets = {kind} puts"),
                of(&format!("{kind}_gets")),
                of(&format!("{kind}_puts")),
                "references were not given back",
            ));
        }

        for vm in 0..2 {
            checks.push(Check::equal(
                format!("vm{vm}: references left at teardown"),
                of(&format!("vms/{vm}/refs_at_teardown")),
                0,
                "an interrupt is referred to though its machine is gone",
            ));
            if setting.counted {
                checks.push(Check::within(
                    format!("vm{vm}: longest exit in instructions"),
                    of(&format!("vms/{vm}/longest_el2_time/ns")),
                    1,
                    LONGEST_EXIT_NS,
                    "a guest kept the hypervisor busy",
                ));
            }
        }

        checks.extend(heap(&self.hypervisor, 2, self.cpus));
    }

    /// Returns one of the victim's counts, 0 if it did not print it.
    fn victim(&self, kind: &str, name: &str) -> u64 {
        let counted = self.victim.get(kind).and_then(|numbers| numbers.get(name));
        counted.copied().unwrap_or(0)
    }

    /// Returns a number of the hypervisor's report, by JSON pointer; 0 if it has none there.
    fn number(&self, pointer: &str) -> u64 {
        let number = self.hypervisor.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or(0)
    }

    /// Prints the counts and the checks.
    pub(super) fn print(&self) {
        let columns = ["sent", "received", "lost", "mean_ns", "worst_ns"];
        let header = columns.map(|column| format!("{column:>12}")).concat();
        console::detail(format!("{:8}{header}", ""));
        for kind in KINDS {
            let cells = columns.map(|column| format!("{:>12}", self.victim(kind, column)));
            console::detail(format!("{kind:8}{}", cells.concat()));
        }

        let attacker: Vec<_> = (self.attacker.iter())
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        console::detail(format!("attacker: {}", attacker.join(", ")));

        for vm in 0..2 {
            console::detail(format!(
                "vm{vm}: the hypervisor was at work for {} us at most between an exit and the \
                 next entry",
                self.number(&format!("/vms/{vm}/longest_el2_time/ns")) / 1000
            ));
        }
        console::detail(format!(
            "heap of the hypervisor: {} bytes before, {} at most, {} at the end, {} without the \
             guests",
            self.number("/heap/before"),
            self.number("/heap/most"),
            self.number("/heap/end"),
            self.number("/heap/after")
        ));
        report::print_checks(&self.checks);
    }
}

/// Checks the use of the hypervisor's heap, by its report on a number of guests.
pub(crate) fn heap(report: &Value, guests: u64, cpus: u16) -> [Check; 2] {
    let of = |name: &str| {
        let number = report.pointer(&format!("/heap/{name}"));
        number.and_then(Value::as_u64).unwrap_or(0)
    };
    let before = of("before");
    [
        Check::within(
            "heap: most bytes",
            of("most"),
            1,
            before + HEAP_GROWTH * guests,
            "a guest took memory beyond its quotas",
        ),
        Check::within(
            "heap: bytes after the guests",
            of("after"),
            1,
            before + EPOCH_KEEPS * u64::from(cpus) + BRAKE_KEEPS,
            "memory was not given back",
        ),
    ]
}

/// Returns the counts that the attacker of this name has printed, when they were largest: it resets
/// itself, and begins anew.
pub(crate) fn attacker<'t>(texts: impl Iterator<Item = &'t str>, name: &str) -> Numbers {
    let prefix = format!("{name}: @attacker ");
    let counts = texts.filter_map(|text| text.strip_prefix(&prefix).map(numbers));
    counts
        .max_by_key(|counts| counts.get("done").copied())
        .unwrap_or_default()
}

/// Reads the numbers of a line `name a=1 b=2`.
pub(crate) fn numbers(text: &str) -> Numbers {
    let pairs = text.split(' ').filter_map(|word| word.split_once('='));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::boot::lines::Line;

    const SETTING: Setting = Setting {
        name: "counted",
        accelerator: &[],
        cpu: "max",
        counted: true,
        enough: 20,
        cpus: 1,
        seconds: 1,
        seed: 1,
    };

    const CONSOLE: &str = "\
vm1: @attacker done=207 interrupts=1186 exceptions=40
vm1: @attacker done=1 interrupts=25 exceptions=1
vm0: @victim sgi sent=100 received=100 lost=0 mean_ns=4000 worst_ns=2000400
vm0: @victim ppi sent=100 received=100 lost=0 mean_ns=4000 worst_ns=2000400
vm0: @victim spi sent=100 received=100 lost=0 mean_ns=4000 worst_ns=2000400
vm0: @victim lpi sent=100 received=100 lost=0 mean_ns=4000 worst_ns=2000400
vm0: @victim total vcpus=1 foreign=0 spurious=0 memory_changed=0 vectors_changed=0
@vgic {\"scheduler\":{\"wait_bound_us\":2000},\"vms\":[\
{\"refs_at_teardown\":0,\"longest_el2_time\":{\"ns\":83216}},\
{\"refs_at_teardown\":0,\"longest_el2_time\":{\"ns\":129904}}],\
\"pending\":{\"sgi\":3,\"ppi\":0,\"spi\":0,\"lpi\":0},\
\"injections\":{\"sgi\":10,\"ppi\":4,\"spi\":4,\"lpi\":4},\
\"coalesced\":{\"sgi\":1,\"ppi\":1,\"spi\":1,\"lpi\":1},\
\"deliveries\":{\"sgi\":4,\"ppi\":1,\"spi\":1,\"lpi\":1},\
\"withdrawn\":{\"sgi\":2,\"ppi\":2,\"spi\":2,\"lpi\":2},\
\"lookup_locks_taken\":0,\"mapping_gets\":9,\"mapping_puts\":9,\
\"migration_gets\":3,\"migration_puts\":3,\"list_gets\":300,\"list_puts\":300,\
\"heap\":{\"before\":1000,\"most\":1500,\"end\":1200,\"after\":900}}";

    /// Returns the names of the checks that fail on a console.
    fn failed(console: &str) -> Vec<String> {
        let lines = console.lines().map(|text| Line {
            at: Duration::ZERO,
            text: text.to_owned(),
        });
        let run = Run {
            ended: Ended::PoweredOff,
            wall: Duration::ZERO,
            lines: lines.collect(),
        };
        let verdict = Verdict::new(SETTING, &run);
        assert_eq!(
            verdict.passed,
            verdict.checks.iter().all(|check| check.passed)
        );
        let failed = verdict.checks.into_iter().filter(|check| !check.passed);
        failed.map(|check| check.name).collect()
    }

    #[test]
    fn a_good_run_passes() {
        assert_eq!(failed(CONSOLE), [""; 0]);
    }

    #[test]
    fn every_number_counts() {
        for (good, bad, check) in [
            (
                "lpi sent=100 received=100",
                "lpi sent=100 received=99",
                "lpi: received",
            ),
            (
                "spi sent=100 received=100 lost=0",
                "spi sent=100 received=100 lost=1",
                "spi: lost",
            ),
            ("foreign=0", "foreign=1", "foreign"),
            ("memory_changed=0", "memory_changed=1", "memory_changed"),
            ("vectors_changed=0", "vectors_changed=1", "vectors_changed"),
            ("done=207", "done=0", "attacks"),
            ("129904", "529904", "vm1: longest exit in instructions"),
            ("\"most\":1500", "\"most\":9000000", "heap: most bytes"),
            (
                "\"after\":900",
                "\"after\":17385",
                "heap: bytes after the guests",
            ),
            (
                "\"list_puts\":300",
                "\"list_puts\":299",
                "list gets = list puts",
            ),
            (
                "\"mapping_puts\":9",
                "\"mapping_puts\":8",
                "mapping gets = mapping puts",
            ),
            (
                "\"migration_puts\":3",
                "\"migration_puts\":2",
                "migration gets = migration puts",
            ),
        ] {
            assert!(CONSOLE.contains(good));
            assert_eq!(failed(&CONSOLE.replacen(good, bad, 1)), [check]);
        }
        let late = CONSOLE.replacen("worst_ns=2000400", "worst_ns=2600000", 1);
        assert_eq!(failed(&late), ["sgi: longest wait in ns"]);
    }

    #[test]
    fn missing_reports_fail() {
        let silent = failed("");
        for check in [
            "reports of the victim",
            "reports of the hypervisor",
            "sgi: sent",
            "attacks",
        ] {
            assert!(silent.iter().any(|failed| failed == check), "{silent:?}");
        }
    }
}
