//! The scenarios, and the faults that they have to notice.
//!
//! `cargo test -p states --profile loom -- --nocapture` prints the numbers of states; with
//! `--include-ignored` also those of larger scenarios, which take minutes and some gigabytes.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use states::Role::{
    Advancer, GroupReader, GroupWriter, Owner, Producer, Reader, Releaser, Teardown,
};
use states::{Fault, Role, Scenario};

/// Disables the first interrupt, of vCPU 0.
const FIRST: Role = Role::Writer {
    irq: 1,
    again: false,
};
/// Disables the second interrupt, of the last vCPU.
const SECOND: Role = Role::Writer {
    irq: 2,
    again: false,
};

/// Visits every state of a scenario. Each state has the properties, and each situation is there.
fn check(name: &str, scenario: Scenario) {
    let (cpus, vcpus) = (scenario.roles.len(), scenario.vcpus);
    let began = Instant::now();
    let checker = scenario.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, {cpus} CPUs, {vcpus} vCPUs, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        began.elapsed().as_secs_f32()
    );
    checker.assert_properties();
}

/// Has owners that move one vCPU between them, and producers of two interrupts.
fn kicks() -> Scenario {
    Scenario {
        roles: vec![Owner(1), Owner(1), Owner(1), Producer, Producer],
        vcpus: 1,
        irqs: 2,
        ..Scenario::default()
    }
}

/// Has owners that move one vCPU between them, and power the vCPU off and on.
fn power() -> Scenario {
    Scenario {
        roles: vec![Owner(1), Owner(1), Producer, Producer],
        vcpus: 1,
        irqs: 1,
        power: true,
        later: true,
        ..Scenario::default()
    }
}

/// Has owners that move one vCPU between them, and writers of two of its interrupts.
fn rwp() -> Scenario {
    Scenario {
        roles: vec![Owner(1), Owner(1), FIRST, SECOND],
        vcpus: 1,
        irqs: 2,
        pending: 0b11,
        ..Scenario::default()
    }
}

/// Has two vCPUs on a CPU each, a writer of an interrupt of one, and a reader.
fn rwp_of_two_vcpus() -> Scenario {
    Scenario {
        roles: vec![Owner(0b01), Owner(0b10), FIRST, Reader { irq: 1 }],
        vcpus: 2,
        irqs: 2,
        pending: 0b11,
        stays: true,
        ..Scenario::default()
    }
}

/// Has two vCPUs on a CPU each, a writer of the groups, and a reader.
fn rwp_of_groups() -> Scenario {
    Scenario {
        roles: vec![Owner(0b01), Owner(0b10), GroupWriter, GroupReader],
        ..rwp_of_two_vcpus()
    }
}

/// Has owners that move two vCPUs between them, deferred work, and the teardown of the VM.
fn end() -> Scenario {
    Scenario {
        roles: vec![
            Owner(0b11),
            Owner(0b11),
            Teardown,
            Releaser,
            Releaser,
            Advancer,
            Advancer,
        ],
        vcpus: 2,
        frees: 2,
        ..Scenario::default()
    }
}

/// Has owners, a writer, deferred work and the teardown at once.
fn all() -> Scenario {
    Scenario {
        roles: vec![Owner(1), Owner(1), FIRST, Teardown, Releaser, Advancer],
        vcpus: 1,
        irqs: 1,
        pending: 1,
        frees: 1,
        ..Scenario::default()
    }
}

#[test]
fn kicks_hold() {
    check("kicks", kicks());
}

#[test]
fn power_holds() {
    check("power", power());
}

#[test]
fn rwp_holds() {
    check("RWP", rwp());
}

#[test]
fn rwp_of_two_vcpus_holds() {
    check("RWP of two vCPUs", rwp_of_two_vcpus());
}

#[test]
fn rwp_of_groups_holds() {
    check("RWP of groups", rwp_of_groups());
}

#[test]
fn the_end_holds() {
    check("the end", end());
}

#[test]
fn all_at_once_holds() {
    check("all at once", all());
}

#[test]
#[ignore = "large"]
fn kicks_of_two_vcpus_hold() {
    check(
        "kicks of two vCPUs",
        Scenario {
            roles: vec![Owner(0b01), Owner(0b10), Producer],
            vcpus: 2,
            irqs: 2,
            ..Scenario::default()
        },
    );
}

#[test]
#[ignore = "large"]
fn rwp_of_two_vcpus_holds_with_two_writers() {
    check(
        "RWP of two vCPUs with two writers",
        Scenario {
            roles: vec![Owner(0b01), Owner(0b10), FIRST, SECOND, Reader { irq: 1 }],
            ..rwp_of_two_vcpus()
        },
    );
}

#[test]
#[ignore = "large"]
fn rwp_holds_while_interrupts_come() {
    check(
        "RWP while interrupts come",
        Scenario {
            roles: vec![Owner(1), FIRST, SECOND, Producer],
            pending: 0,
            ..rwp()
        },
    );
}

#[test]
#[ignore = "large"]
fn rwp_holds_again_and_again() {
    let writer = |irq| Role::Writer { irq, again: true };
    check(
        "RWP again and again",
        Scenario {
            roles: vec![Owner(0b01), Owner(0b10), writer(1), writer(2)],
            ..rwp_of_two_vcpus()
        },
    );
}

#[test]
#[ignore = "large"]
fn rwp_of_groups_holds_with_two_writers() {
    check(
        "RWP of groups with two writers",
        Scenario {
            roles: vec![
                Owner(0b01),
                Owner(0b10),
                GroupWriter,
                GroupWriter,
                GroupReader,
            ],
            ..rwp_of_groups()
        },
    );
}

#[test]
#[ignore = "large"]
fn all_at_once_holds_while_interrupts_come() {
    check(
        "all at once while interrupts come",
        Scenario {
            roles: vec![
                Owner(1),
                FIRST,
                Producer,
                Teardown,
                Releaser,
                Releaser,
                Advancer,
                Advancer,
            ],
            ..all()
        },
    );
}

/// Makes each fault in a scenario, and finds a state that lacks the property.
#[test]
fn faults_are_noticed() {
    const LOST: &str = "no wake-up is lost";
    const COUNT: &str = "the count covers the flags";
    const NOTED: &str = "deferred work is noted";

    for (fault, scenario, property) in [
        (Fault::LooksBeforePublishing, kicks(), LOST),
        (Fault::EntryDropsWork, kicks(), LOST),
        (Fault::EntersUnlooked, kicks(), LOST),
        (Fault::SleepsWithoutLooking, kicks(), LOST),
        (Fault::EveryProducerKicks, kicks(), "one kick for each stay"),
        (Fault::LoadedByStore, kicks(), "one owner"),
        (Fault::TornDownByStore, end(), "claims hold"),
        (Fault::ClaimKept, end(), "claims hold"),
        (Fault::FlagBeforeCount, rwp(), COUNT),
        (Fault::CountedOffFirst, rwp(), COUNT),
        (Fault::WaitingOverlooked, rwp(), "RWP waits"),
        (Fault::WriteNotCounted, rwp_of_two_vcpus(), "RWP waits"),
        (Fault::RwpBeforeEnables, rwp_of_groups(), "RWP waits"),
        (Fault::ExpectedBeforeRecall, rwp(), "RWP waits"),
        (Fault::ToldAfterEntry, rwp(), "RWP waits"),
        (Fault::EntersUnfolded, rwp(), "RWP waits"),
        (Fault::NotedBeforePushed, end(), NOTED),
        (Fault::TakenByStore, end(), NOTED),
        (Fault::LeftUnnoted, end(), NOTED),
    ] {
        let scenario = Scenario {
            fault: Some(fault),
            ..scenario
        };
        let found = HasDiscoveries::AnyOf([property].into());
        let checker = scenario.checker().finish_when(found).spawn_bfs().join();
        let states = checker.unique_state_count();
        match checker.discovery(property) {
            Some(path) => println!(
                "{fault:?}: {states} states, then one after {} steps that lacks: {property}",
                path.into_actions().len()
            ),
            None => panic!("{fault:?} is not noticed in {states} states"),
        }
    }
}
