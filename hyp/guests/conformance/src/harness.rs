//! Cases, their assertions, and the run of all cases, printed as TAP.
//!
//! The line of a case is `ok 3 - name [rule]`, with `{QEMU: reason}` behind if QEMU's own GIC is
//! known to deviate from the rule, and `{KVM: reason}` if that of Linux KVM is.

use core::panic::Location;

use crate::console::{print, println};
use crate::gic::interface::{self, NONE};
use crate::gic::reset::reset;
use crate::machine::Machine;
use crate::{cases, cpu, cpus, exception};

/// Microseconds that a case waits for an interrupt that must not arrive.
const SILENCE: u64 = 400;

/// Test of one rule.
pub(crate) struct Case {
    /// Name: `topic.rule`.
    pub(crate) name: &'static str,
    /// Register or section of IHI 0069 with the rule.
    pub(crate) rule: &'static str,
    /// CPUs that have to be on.
    pub(crate) cpus: Cpus,
    /// Reason why QEMU's own GIC fails, if it does.
    pub(crate) qemu: Option<&'static str>,
    /// Reason why the GIC of Linux KVM fails, if it does.
    pub(crate) kvm: Option<&'static str>,
    /// The test.
    pub(crate) run: fn(&Machine) -> Outcome,
}

/// CPUs that a case uses.
#[derive(Clone, Copy)]
pub(crate) enum Cpus {
    /// CPU 0.
    One,
    /// CPUs 0 and 1.
    Two,
    /// All CPUs, at least two.
    All,
}

impl Cpus {
    fn count(self, machine: &Machine) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::All => machine.cpus.max(2),
        }
    }
}

impl Case {
    /// Returns a case on CPU 0.
    pub(crate) const fn new(
        name: &'static str,
        rule: &'static str,
        run: fn(&Machine) -> Outcome,
    ) -> Self {
        Self {
            name,
            rule,
            cpus: Cpus::One,
            qemu: None,
            kvm: None,
            run,
        }
    }

    /// Returns the case with other CPUs.
    pub(crate) const fn on(mut self, cpus: Cpus) -> Self {
        self.cpus = cpus;
        self
    }

    /// Returns the case with a reason why QEMU's own GIC fails.
    pub(crate) const fn unlike_qemu(mut self, reason: &'static str) -> Self {
        self.qemu = Some(reason);
        self
    }

    /// Returns the case with a reason why the GIC of Linux KVM fails.
    pub(crate) const fn unlike_kvm(mut self, reason: &'static str) -> Self {
        self.kvm = Some(reason);
        self
    }
}

/// Result of a case that did not pass.
pub(crate) enum NotPassed {
    /// The value differs from the rule's.
    Failed(Failure),
    /// The case does not apply to this machine.
    Skipped(&'static str),
}

/// Assertion that failed.
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) found: u64,
    pub(crate) expected: u64,
    /// CPU that found it.
    pub(crate) cpu: usize,
    pub(crate) place: &'static Location<'static>,
}

/// Result of a case.
pub(crate) type Outcome = Result<(), NotPassed>;

/// Register or state that can be compared.
pub(crate) trait Value {
    /// Returns the value as a number.
    fn number(self) -> u64;
}

macro_rules! values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn number(self) -> u64 {
                self as u64
            }
        }
    )*};
}

values!(bool, u8, u16, u32, u64, usize, i32);

/// Fails unless `found` equals `expected`.
#[track_caller]
pub(crate) fn equal(what: &'static str, found: impl Value, expected: impl Value) -> Outcome {
    let (found, expected) = (found.number(), expected.number());
    if found == expected {
        return Ok(());
    }
    Err(NotPassed::Failed(Failure {
        what,
        found,
        expected,
        cpu: cpu::number(),
        place: Location::caller(),
    }))
}

/// Fails unless `found` is true.
#[track_caller]
pub(crate) fn holds(what: &'static str, found: bool) -> Outcome {
    equal(what, found, true)
}

/// Skips the case, for `reason`, unless `holds` is true.
pub(crate) fn skip_unless(reason: &'static str, holds: bool) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(NotPassed::Skipped(reason))
    }
}

/// Acknowledges the interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect(intid: u32) -> Outcome {
    equal("the interrupt that is taken", interface::take(), intid)
}

/// Acknowledges and ends the interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect_and_end(intid: u32) -> Outcome {
    expect(intid)?;
    interface::end(intid);
    Ok(())
}

/// Acknowledges the Group 0 interrupt that has to arrive now.
#[track_caller]
pub(crate) fn expect_0(intid: u32) -> Outcome {
    equal(
        "the Group 0 interrupt that is taken",
        interface::take_0(),
        intid,
    )
}

/// Fails if an interrupt arrives within [`SILENCE`].
#[track_caller]
pub(crate) fn expect_none() -> Outcome {
    let mut intid = NONE;
    cpu::spin_until(SILENCE, || {
        intid = interface::acknowledge();
        intid != NONE
    });
    equal("the interrupt that must not be taken", intid, NONE)
}

/// Number of cases by result.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Runs or lists the cases that the command line selects.
pub(crate) fn run(machine: &Machine) {
    let filter = machine.argument("filter").unwrap_or("");
    let listing = machine.argument("list").is_some();
    let lost = machine
        .argument("lost")
        .and_then(|number| number.parse().ok());
    let lost: u32 = lost.unwrap_or(0);
    let chosen = || {
        let all = cases::ALL.iter().flat_map(|topic| topic.iter());
        all.filter(|case| case.name.contains(filter) || case.rule.contains(filter))
    };

    println!("TAP version 14");
    println!("1..{}", chosen().count());

    let mut tally = Tally::default();
    for (number, case) in (1..).zip(chosen()).filter(|(number, _)| *number >= lost) {
        if listing {
            print_result("ok", number, case);
            println!(" # SKIP listed only");
        } else if number == lost {
            tally.failed += 1;
            print_result("not ok", number, case);
            println!("\n  # it did not come to its end");
        } else {
            run_one(machine, number, case, &mut tally);
        }
    }

    cpus::keep_on(machine, 1);
    println!(
        "# passed {}, failed {}, skipped {}",
        tally.passed, tally.failed, tally.skipped
    );
}

/// Runs one case and prints its result.
fn run_one(machine: &Machine, number: u32, case: &Case, tally: &mut Tally) {
    let needed = case.cpus.count(machine);
    let began = cpu::now();
    let outcome = if needed > machine.cpus {
        Err(NotPassed::Skipped("needs more CPUs"))
    } else if needed > 1 && machine.argument("alone").is_some() {
        Err(NotPassed::Skipped("needs CPUs that run at the same time"))
    } else {
        cpus::keep_on(machine, needed);
        reset(machine).and_then(|()| {
            exception::forget_taken();
            (case.run)(machine)
        })
    };

    let faults = (0..machine.cpus).map(exception::take_fault);
    let fault = faults.fold(None, Option::or);
    let microseconds = (cpu::now() - began) / cpu::ticks(1).max(1);

    match outcome {
        Ok(()) if fault.is_none() => {
            tally.passed += 1;
            print_result("ok", number, case);
            println!(" # time={microseconds}us");
        }
        Err(NotPassed::Skipped(reason)) => {
            tally.skipped += 1;
            print_result("ok", number, case);
            println!(" # SKIP {reason}");
        }
        outcome => {
            tally.failed += 1;
            print_result("not ok", number, case);
            println!(" # time={microseconds}us");
            if let Err(NotPassed::Failed(failure)) = outcome {
                let Failure {
                    what,
                    found,
                    expected,
                    cpu,
                    place,
                } = failure;
                println!("  # {what}: {found:#x}, not {expected:#x}, on CPU {cpu}");
                println!("  # {}:{}", place.file(), place.line());
            }
            if let Some(fault) = fault {
                let (syndrome, pc) = (fault.syndrome, fault.pc);
                println!("  # unexpected exception: ESR_EL1 {syndrome:#x} at {pc:#x}");
            }
        }
    }
}

fn print_result(result: &str, number: u32, case: &Case) {
    let Case { name, rule, .. } = case;
    print!("{result} {number} - {name} [{rule}]");
    for (by, reason) in [("QEMU", case.qemu), ("KVM", case.kvm)] {
        if let Some(reason) = reason {
            print!(" {{{by}: {reason}}}");
        }
    }
}
