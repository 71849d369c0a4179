//! The run of all cases, printed as TAP.
//!
//! The line of a case is `ok 3 - name [rule]`, with `{QEMU: reason}` behind if QEMU's own GIC is
//! known to deviate from the rule, and `{KVM: reason}` if that of Linux KVM is.

use crate::case::{Case, Failure, Machine, NotPassed};
use crate::console::{print, println};
use crate::{cpu, cpus, exception};

/// Number of cases by result.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Runs or lists the cases of these topics that the command line selects.
pub fn run<M: Machine>(machine: &M, topics: &[&[Case<M>]]) {
    let filter = machine.argument("filter").unwrap_or("");
    let listing = machine.argument("list").is_some();
    let lost = machine
        .argument("lost")
        .and_then(|number| number.parse().ok());
    let lost: u32 = lost.unwrap_or(0);
    let chosen = || {
        let all = topics.iter().flat_map(|topic| topic.iter());
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
fn run_one<M: Machine>(machine: &M, number: u32, case: &Case<M>, tally: &mut Tally) {
    let needed = case.cpus.count(machine);
    let began = cpu::now();
    let outcome = if needed > machine.cpus {
        Err(NotPassed::Skipped("needs more CPUs"))
    } else if needed > 1 && machine.argument("alone").is_some() {
        Err(NotPassed::Skipped("needs CPUs that run at the same time"))
    } else {
        cpus::keep_on(machine, needed);
        machine.reset().and_then(|()| {
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

fn print_result<M>(result: &str, number: u32, case: &Case<M>) {
    let Case { name, rule, .. } = case;
    print!("{result} {number} - {name} [{rule}]");
    for (by, reason) in [("QEMU", case.qemu), ("KVM", case.kvm)] {
        if let Some(reason) = reason {
            print!(" {{{by}: {reason}}}");
        }
    }
}
