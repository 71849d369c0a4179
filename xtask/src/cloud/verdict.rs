//! The verdict on a run: what the guests, the attacker and the hypervisor report, held against each
//! other.

use serde_json::{Map, Value};

use super::CloudOptions;
use super::guest::{Guest, LONGEST_WAIT_US};
use super::lives::{Life, lives};
use super::machine::ATTACKER;
use super::refused;
use crate::boot::checks::{self, Check};
use crate::boot::counters::{self, Counters};
use crate::boot::kinds::{KINDS, PerKind};
use crate::boot::report;
use crate::boot::run::{Ended, Run};
use crate::console;
use crate::isolation::verdict::{self as isolation, Numbers};

/// Attacks that a second needs at least for the run to say something.
const ATTACKS: u64 = 5;

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
    /// The attacker's counts when they were largest.
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

impl Verdict {
    /// Judges a run with attacks by `seed`.
    pub(super) fn new(options: &CloudOptions, seed: u32, run: &Run) -> Self {
        let of_hypervisor = |text: &str| text.starts_with("@vgic ").then(|| counters::parse(text));
        let texts = || run.lines.iter().map(|line| line.text.as_str());
        let reported = texts().filter_map(of_hypervisor).flatten().next_back();
        let attacker = isolation::attacker(texts(), ATTACKER);
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
            attacker,
            hypervisor,
            checks: Vec::new(),
        };
        verdict.guests = (options.names().into_iter().zip(&lives))
            .map(|(name, lives)| Guest::new(lives, verdict.vm(&name), name))
            .collect();
        verdict.checks = verdict.check(options, run, &lives, counters);
        verdict.passed = verdict.checks.iter().all(|check| check.passed);
        verdict
    }

    /// Returns the hypervisor's report on a VM.
    fn vm(&self, name: &str) -> Option<&Value> {
        let vms = self.hypervisor.get("vms")?.as_array()?;
        vms.iter()
            .find(|vm| vm.get("name").is_some_and(|it| it == name))
    }

    /// Returns a number of the hypervisor's report on its scheduler, 0 if there is none.
    fn scheduler(&self, count: &str) -> u64 {
        let scheduler = self.hypervisor.get("scheduler");
        let count = scheduler.and_then(|scheduler| scheduler.get(count)?.as_u64());
        count.unwrap_or(0)
    }

    /// Checks everything that has to hold.
    fn check(
        &self,
        options: &CloudOptions,
        run: &Run,
        lives: &[Vec<Life>],
        counters: Result<Counters, String>,
    ) -> Vec<Check> {
        let ended = &run.ended;
        let mut checks = vec![Check::equal(
            "the machine powered itself off",
            u64::from(*ended == Ended::PoweredOff),
            1,
            &format!("{ended}"),
        )];
        if ended.says_all() {
            return checks;
        }

        checks.extend(refused::check(run.lines.iter().map(|line| &*line.text)));
        for (guest, lives) in self.guests.iter().zip(lives) {
            let is_victim = options.victim().as_ref() == Some(&guest.name);
            checks.extend(guest.check(options, lives, is_victim));
        }

        checks.push(Check::at_least(
            "attacks",
            self.attacker.get("done").copied().unwrap_or(0),
            ATTACKS * u64::from(options.seconds.max(1)),
            "the attacker was idle",
        ));
        match counters {
            Ok(counters) => {
                if options.gic == 4 {
                    checks.extend(checks::virtual_pes(&counters));
                }
                self.check_hypervisor(&counters, &mut checks);
            }
            Err(why) => checks.push(Check::equal("reports of the hypervisor", 0, 1, &why)),
        }
        checks
    }

    /// Checks the hypervisor's counts, of all VMs.
    fn check_hypervisor(&self, counters: &Counters, checks: &mut Vec<Check>) {
        let vms = self.hypervisor.get("vms").and_then(Value::as_array);
        checks.push(Check::equal(
            "VMs of the hypervisor",
            vms.map_or(0, Vec::len) as u64,
            self.guests.len() as u64 + 1,
            "a VM is missing, or one was made that cannot be",
        ));
        for (name, all) in [
            ("injections", &counters.injections),
            ("deliveries", &counters.deliveries),
        ] {
            let of_vm = |vm: &Value| PerKind::read(vm.get(name)?);
            let of_vms: Vec<_> = vms.into_iter().flatten().filter_map(of_vm).collect();
            checks.extend(KINDS.map(|kind| {
                Check::equal(
                    format!("{kind} {name} of all VMs together"),
                    of_vms.iter().map(|counts| counts.of(kind)).sum(),
                    all.of(kind),
                    "an interrupt was counted for no VM, or for two",
                )
            }));
        }
        checks.extend(checks::books(counters));
        checks.push(Check::equal(
            "aborted accesses of devices",
            counters.dma_faults.unwrap_or(u64::MAX),
            0,
            "a device was told to reach what is not its VM's",
        ));
        checks.push(Check::within(
            "longest wait of a runnable vCPU in us",
            self.scheduler("longest_wait_us"),
            1,
            LONGEST_WAIT_US,
            "a vCPU was starved",
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
        for guest in &self.guests {
            console::detail(format!(
                "{}: longest time from an interrupt to its delivery {} us",
                guest.name, guest.longest_delay_us
            ));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::boot::lines::Line;
    use crate::cli::Options as _;

    /// The steps of a VM with Linux, as it prints them.
    const STEPS: &str = "\
@workload step=firmware status=skip ms=0
@workload step=uart status=ok ms=1
@workload step=dma status=skip ms=0
@workload step=blk status=ok ms=1
@workload step=intx status=skip ms=0
@workload step=net status=ok ms=1
@workload step=rng status=ok ms=1
@workload step=smp status=ok ms=1
@workload step=hotplug status=ok ms=1
@workload step=affinity status=ok ms=1
@workload step=rebind status=ok ms=1
@workload step=idle status=skip ms=0
@workload step=suspend status=skip ms=0
@workload table=begin when=after
  CPU0
IPI0: 90 Rescheduling interrupts
11: 190 GICv3 27 Level arch_timer
13: 28 GICv3 33 Level uart-pl011
20: 30 ITS-MSI 16384 Edge virtio0-config
Err: 0
@workload table=end
@workload sampling
@workload final sgi=100 ppi=201 spi=30 lpi=35 lpi_freed=5 other=0
";

    /// The hypervisor's report on `a`, `b` and the attacker.
    const REPORT: &str = "@vgic {\
\"injections\":{\"sgi\":210,\"ppi\":408,\"spi\":61,\"lpi\":87},\
\"coalesced\":{\"sgi\":3,\"ppi\":0,\"spi\":0,\"lpi\":5},\
\"deliveries\":{\"sgi\":204,\"ppi\":406,\"spi\":60,\"lpi\":80},\
\"withdrawn\":{\"sgi\":1,\"ppi\":2,\"spi\":0,\"lpi\":1},\
\"pending\":{\"sgi\":2,\"ppi\":0,\"spi\":1,\"lpi\":1},\
\"lookups\":50,\"lookup_locks_taken\":0,\"mapping_gets\":9,\"mapping_puts\":9,\
\"migration_gets\":3,\"migration_puts\":3,\
\"list_gets\":300,\"list_puts\":300,\"ich_lr_writes\":400,\"refs_at_teardown\":0,\
\"vpe_residencies\":0,\"doorbells\":0,\"direct_begins\":0,\"direct_ends\":0,\
\"direct_changes\":0,\
\"dma_faults\":0,\"vms\":[\
{\"name\":\"a\",\"deaths\":1,\"resets\":0,\"refs_at_teardown\":0,\
\"longest_delay_us\":3000,\
\"injections\":{\"sgi\":104,\"ppi\":203,\"spi\":30,\"lpi\":41},\
\"deliveries\":{\"sgi\":102,\"ppi\":202,\"spi\":30,\"lpi\":40}},\
{\"name\":\"b\",\"deaths\":1,\"resets\":0,\"refs_at_teardown\":0,\
\"longest_delay_us\":3000,\
\"injections\":{\"sgi\":103,\"ppi\":204,\"spi\":30,\"lpi\":42},\
\"deliveries\":{\"sgi\":101,\"ppi\":203,\"spi\":30,\"lpi\":40}},\
{\"name\":\"attacker\",\"deaths\":1,\"resets\":4,\"refs_at_teardown\":0,\
\"injections\":{\"sgi\":3,\"ppi\":1,\"spi\":1,\"lpi\":4},\
\"deliveries\":{\"sgi\":1,\"ppi\":1,\"spi\":0,\"lpi\":0}}],\
\"scheduler\":{\"longest_wait_us\":4000},\
\"heap\":{\"before\":1000,\"most\":1500,\"end\":1200,\"after\":900}}";

    /// Returns the lines of a VM that works to its end.
    fn life(name: &str) -> String {
        let lines = STEPS.lines().map(|line| format!("{name}: {line}\n"));
        lines.chain([format!("hyp: {name} is dead\n")]).collect()
    }

    /// Returns the console of a run in which everything holds.
    fn console() -> String {
        let attacker = "attacker: @attacker done=207 interrupts=1186 exceptions=40\n\
                        attacker: @attacker done=1 interrupts=3 exceptions=0\n";
        let refused = refused::before().into_iter().chain(refused::after());
        let refused: String = refused.map(|vm| vm.line() + "\n").collect();
        [&refused, attacker, &life("a"), &life("b"), REPORT].concat()
    }

    /// Returns the console of such a run in which `b` is killed once.
    fn console_with_kill() -> String {
        let first = "b: @workload step=blk status=ok ms=1\nb: torn\nhyp: b is dead\n";
        let console = console().replace("hyp: a is dead\n", &format!("hyp: a is dead\n{first}"));
        console.replace("\"b\",\"deaths\":1", "\"b\",\"deaths\":2")
    }

    /// Returns the verdict on a console whose lines are 4 ms apart.
    fn verdict(arguments: &[&str], console: &str, ended: Ended) -> Verdict {
        let arguments = [&["--vms", "2", "--vcpus", "2", "--seconds", "4"], arguments].concat();
        let options = CloudOptions::parsed(&arguments).unwrap();
        let lines = console.lines().zip(1..).map(|(text, number)| Line {
            at: Duration::from_millis(4) * number,
            text: text.to_owned(),
        });
        let run = Run {
            ended,
            wall: Duration::ZERO,
            lines: lines.collect(),
        };
        Verdict::new(&options, 1, &run)
    }

    /// Returns the names of the checks that fail on a console.
    fn failed(arguments: &[&str], console: &str) -> Vec<String> {
        let verdict = verdict(arguments, console, Ended::PoweredOff);
        let failed: Vec<_> = (verdict.checks.into_iter())
            .filter(|check| !check.passed)
            .map(|check| check.name)
            .collect();
        assert_eq!(verdict.passed, failed.is_empty());
        failed
    }

    /// Checks that one check fails if one text of a good console, from `place` on, is replaced.
    #[track_caller]
    fn assert_spoiled(arguments: &[&str], place: &str, from: &str, to: &str, name: &str) {
        let console = match arguments {
            [] => console(),
            _ => console_with_kill(),
        };
        let at = console.find(place).expect(place);
        let (head, tail) = console.split_at(at);
        assert!(tail.contains(from), "{from}");
        let failed = failed(arguments, &[head, &tail.replacen(from, to, 1)].concat());
        assert!(
            failed.len() == 1 && failed[0].contains(name),
            "{name}: {failed:?}"
        );
    }

    #[test]
    fn a_good_run_passes() {
        assert_eq!(failed(&[], &console()), [""; 0]);
        assert_eq!(failed(&["--kill"], &console_with_kill()), [""; 0]);
    }

    #[test]
    fn every_number_counts() {
        let of_vm = [
            (
                "a: ",
                "step=net status=ok",
                "step=net status=fail",
                "a: workload step net",
            ),
            (
                "b: ",
                "step=rng status=ok",
                "step=x status=ok",
                "b: workload step rng",
            ),
            (
                "a: Err",
                "Err: 0",
                "Err: 1",
                "a: interrupts that nobody handles",
            ),
            (
                "b: ",
                "b: @workload sampling",
                "b: [ 1.0] Call trace:",
                "b: faults",
            ),
            (
                "a: @workload final",
                "sgi=100",
                "sgi=103",
                "a: sgi deliveries",
            ),
            (
                "b: @workload final",
                "lpi_freed=5",
                "lpi_freed=4",
                "b: lpi deliveries",
            ),
        ];
        let of_hypervisor = [
            (
                "@vgic",
                "\"a\",\"deaths\":1",
                "\"a\",\"deaths\":2",
                "a: deaths by",
            ),
            ("\"b\",", "\"resets\":0", "\"resets\":1", "b: resets"),
            (
                "\"a\",",
                "\"refs_at_teardown\":0",
                "\"refs_at_teardown\":1",
                "a: references left",
            ),
            (
                "@vgic",
                "\"lookup_locks_taken\":0",
                "\"lookup_locks_taken\":1",
                "locks",
            ),
            (
                "@vgic",
                "\"mapping_puts\":9",
                "\"mapping_puts\":8",
                "mapping gets",
            ),
            (
                "@vgic",
                "\"withdrawn\":{\"sgi\":1",
                "\"withdrawn\":{\"sgi\":0",
                "sgi injections =",
            ),
            (
                "\"attacker\",",
                "\"ppi\":1",
                "\"ppi\":2",
                "ppi injections of all VMs",
            ),
            (
                "@vgic",
                "\"dma_faults\":0",
                "\"dma_faults\":1",
                "aborted accesses",
            ),
            ("@vgic", "_us\":4000", "_us\":20000001", "longest wait"),
            (
                "@vgic",
                "\"most\":1500",
                "\"most\":9000000",
                "heap: most bytes",
            ),
            (
                "@vgic",
                "\"after\":900",
                "\"after\":25577",
                "heap: bytes after",
            ),
            ("attacker: ", "done=207", "done=19", "attacks"),
            (
                "\"b\",",
                "_us\":3000",
                "_us\":0",
                "b: longest time from an interrupt",
            ),
            (
                "@vgic",
                "\"vms\":[",
                "\"vms\":[{\"name\":\"thief\"},",
                "VMs of the hypervisor",
            ),
            (
                "hyp: no VM",
                "belongs to a",
                "belongs to b",
                "lines that refuse \"hyp.name=thief",
            ),
        ];
        for (place, from, to, name) in of_vm.into_iter().chain(of_hypervisor) {
            assert_spoiled(&[], place, from, to, name);
        }
    }

    #[test]
    fn a_vm_that_is_killed_has_more_lives_and_the_others_one() {
        assert_spoiled(
            &["--kill"],
            "b: ",
            "b: torn",
            "b: Oops\nb: torn",
            "b: faults and failed",
        );
        let from = "step=blk status=ok";
        assert_spoiled(
            &["--kill"],
            "b: ",
            from,
            "step=blk status=fail",
            "b: faults and failed",
        );
        assert_spoiled(
            &["--kill"],
            "\"b\",",
            "\"deaths\":2",
            "\"deaths\":1",
            "b: deaths by",
        );
        // Nobody knows what the first life took, but its last one took so much.
        let place = "\"b\",\"deaths\":2";
        let console = console_with_kill();
        let at = console.find(place).unwrap();
        let (head, tail) = console.split_at(at);
        let tail = tail.replacen(
            "\"deliveries\":{\"sgi\":101",
            "\"deliveries\":{\"sgi\":99",
            1,
        );
        let failed_checks = failed(&["--kill"], &[head, &tail].concat());
        assert!(
            failed_checks[0].contains("b: sgi deliveries, at least"),
            "{failed_checks:?}"
        );

        let once = failed(&["--kill"], &self::console());
        assert_eq!(once, ["b: deaths"]);
        let twice = failed(&[], &console_with_kill());
        assert_eq!(twice, ["b: deaths"]);
    }

    #[test]
    fn direct_lpis_are_not_counted() {
        let direct = console()
            .replace("lpi=35", "lpi=9000")
            .replace("\"vpe_residencies\":0", "\"vpe_residencies\":7")
            .replace("\"direct_begins\":0", "\"direct_begins\":7");
        assert_eq!(failed(&["--gic", "4"], &direct), [""; 0]);
        assert_eq!(
            failed(&[], &direct),
            ["a", "b"].map(|name| format!(
                "{name}: lpi deliveries = what the guest took, + at most 0 moves, unbindings and \
                 vCPUs gone under load"
            ))
        );
        let fallen_back = failed(&["--gic", "4"], &console());
        assert_eq!(
            fallen_back,
            [
                "a: lpi injections beside direct ones",
                "b: lpi injections beside direct ones",
                "events that became direct",
                "residencies of virtual PEs",
            ]
        );
    }

    #[test]
    fn missing_reports_fail() {
        let silent = failed(&[], "");
        for name in [
            "a: lives",
            "b: deaths",
            "attacks",
            "reports of the hypervisor",
        ] {
            assert!(
                silent.iter().any(|failed| failed == name),
                "{name}: {silent:?}"
            );
        }
        let unknown = failed(&[], &console().replace("\"name\":\"a\"", "\"name\":\"x\""));
        let counts = "a: counts of the hypervisor";
        assert!(unknown.iter().any(|failed| failed == counts), "{unknown:?}");
    }

    #[test]
    fn an_end_that_says_all_is_the_only_check() {
        let verdict = verdict(&[], "", Ended::Panicked("no".to_owned()));
        assert_eq!(verdict.checks.len(), 1);
        assert!(!verdict.passed);
    }
}
